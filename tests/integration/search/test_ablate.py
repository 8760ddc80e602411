"""The end of an ablation, without Ray: each finished run reads the locked test once; arms are summed up."""

from __future__ import annotations

import json
import re
import shutil
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from sweep_cases import BASE, TOO_MUCH
from watch_cases import Heard

from sage_ray.config import dump
from sage_ray.data.prepare import prepare
from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.record.overview import overview
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunLabels
from sage_ray.registry.final_plan import make_plan
from sage_ray.reports.study_reports import report
from sage_ray.runtime.launch import run
from sage_ray.search import ablate as ablation
from sage_ray.search.ablate import ablate, read_ablation, resume_ablation
from sage_ray.search.best import best, read_trials
from sage_ray.search.storage import StudyStorage
from sage_ray.search.study_folder import StudyFolder, is_ablation
from sage_ray.search.study_status import status
from sage_ray.search.study_tables import run_table
from sage_ray.study.design import Design, load_design
from sage_ray.terminal.display import trial_table
from sage_ray.terminal.shell import Session
from sage_ray.terminal.study_answers import ablated
from sage_ray.terminal.verb_answers import resumed, status_of


def make_design(folder: Path, arms: dict[str, Any], base: dict[str, Any], **changes: Any) -> Design:
    values = {**BASE, "pretrain.epochs": 1, "adversarial.epochs": 1, **base}
    tree = {"base": {"preset": "tiny_sage_gan", "set": values}, "arms": arms, **changes}
    path = folder / f"{tree['name']}.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return load_design(path)


def train_untold(home: Home, design: Design) -> None:
    """A study as a driver leaves it that was killed when all runs had ended and none had been told."""
    home.check_writable()
    folder = StudyFolder(home, design.name)
    folder.path.mkdir()
    folder.base_path.write_text(dump(design.base))
    (folder.path / design.file_name).write_text(design.to_yaml("base.yaml"))
    fingerprint = prepare(design.base.data, home.cache).fingerprint
    meta = {"name": design.name, "space_hash": design.hash, "data_fingerprint": fingerprint, "starts": 1}
    folder.write_meta({**meta, **design.facts()})
    storage = StudyStorage(folder.path, design.name, design)
    storage.enqueue(design.fixed, design)
    for number in range(design.trials):
        sample = storage.draw(None, design).sample
        (place,) = design.run_grid(number)
        labels = RunLabels(study=design.name, trial=number, arm=place.arm, fold=place.fold)
        run(design.config(sample.values, place.seed, place.fold), home, place.run_id, labels=labels, mirror=False)


ARMS: dict[str, Any] = {
    "full": {},
    "no_cycle": {"set": {"adversarial.lambda_cycle": 0}},
    "broken": {"set": {"adversarial.lambda_cycle": TOO_MUCH}},
    "perceptual": {"set": {"adversarial.perceptual": "vgg19"}, "not_run": "no weights"},
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Two good arms, one that diverges and one that is not run, two seeds each; the locked test has been read."""
    folder = tmp_path_factory.mktemp("ended")
    home = Home(folder / "home")
    train_untold(home, make_design(folder, ARMS, {}, name="ab", reference="full", seeds=[0, 1]))
    assert all(RunFolder.open(home.runs, run_id).read().test_reads == 0 for run_id in home.run_ids())
    assert read_ablation("ab", home).states == {"INTERRUPTED": 6}
    resume_ablation("ab", home)
    return home


def ledger_of(home: Home) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (home.path / "test_reads.jsonl").read_text().splitlines()]


GOOD = [f"ab-{arm}-s{seed}" for arm in ("full", "no_cycle") for seed in (0, 1)]


def test_every_finished_run_and_no_other_has_read_the_test_once(ended: Home) -> None:
    result = read_ablation("ab", ended)
    assert (result.status.state, result.states, result.reference) == ("finished", {"COMPLETE": 4, "FAIL": 2}, "full")
    assert {run.run_id: run.test_reads for run in result.runs if run.state == "COMPLETE"} == dict.fromkeys(GOOD, 1)
    assert all(run.test_reads == 0 and "diverged" in (run.error or "") for run in result.runs if run.arm == "broken")
    assert sorted(row["reader"] for row in ledger_of(ended)) == sorted(GOOD)
    assert {row["purpose"] for row in ledger_of(ended)} == {"ablation ab"}
    (found,) = result.readings
    assert (found.total, found.by_this_home, found.stores) == (4, 4, ()) and found.text in ablated(
        result, Session("status", ended.path, quiet=True)
    ).lines
    for run_id in GOOD:
        folder = RunFolder.open(ended.runs, run_id)
        assert {(row["part"], row["checkpoint"]) for row in folder.per_image()} == {("val", "best"), ("test", "best")}
        record = folder.read()
        assert (record.study, record.arm, record.seed) == ("ab", run_id.split("-")[1], int(run_id[-1]))


def test_arms_are_means_over_their_finished_runs(ended: Home) -> None:
    arms = {arm.arm: arm for arm in read_ablation("ab", ended).arms}
    values = {trial.runs[0].run_id: trial.value for trial in status("ab", ended).trials}
    full = arms["full"]
    assert full.value == pytest.approx(statistics.fmean(v for k, v in values.items() if "full" in k and v is not None))
    rows = [row for run_id in GOOD[:2] for row in RunFolder.open(ended.runs, run_id).per_image()]
    dice = [row["value"] for row in rows if row["part"] == "test" and row["score"] == "dice"]
    assert full.test == pytest.approx(statistics.fmean(dice)) and (full.wanted, full.done, full.tested) == (2, 2, 2)
    broken, idle = arms["broken"], arms["perceptual"]
    assert (broken.done, broken.failed, broken.value, broken.test) == (0, 2, None, None)
    assert (idle.wanted, idle.done, idle.not_run) == (0, 0, "no weights")
    assert full.definitions == arms["no_cycle"].definitions and "Dice" in full.definitions["test/dice"]


def test_a_second_start_changes_nothing(ended: Home) -> None:
    files = [
        ended.path / "test_reads.jsonl",
        *ended.runs.glob("*/record.json"),
        *ended.runs.glob("*/per_image.parquet"),
    ]
    before = {path: path.stat().st_mtime_ns for path in files}
    assert resume_ablation("ab", ended) == read_ablation("ab", ended)
    assert {path: path.stat().st_mtime_ns for path in files} == before


def test_a_kill_while_the_test_is_read_costs_no_second_read(ended: Home) -> None:
    path = ended.path / "test_reads.jsonl"
    scores = {run_id: RunFolder.open(ended.runs, run_id).per_image() for run_id in GOOD}
    lines = path.read_text().splitlines(keepends=True)
    # Killed after the record was written but before the ledger, and after the rows but before the record.
    killed = [json.loads(line)["reader"] for line in lines[-2:]]
    path.write_text("".join(lines[:-2]))
    RunFolder.open(ended.runs, killed[1]).update(test_reads=0)
    resume_ablation("ab", ended)
    assert sorted(row["reader"] for row in ledger_of(ended)) == sorted(GOOD)
    assert {row["read"] for row in ledger_of(ended)} == {1}
    for run_id in GOOD:
        folder = RunFolder.open(ended.runs, run_id)
        assert folder.read().test_reads == 1 and folder.per_image() == scores[run_id]


def test_best_and_final_choose_among_whole_arms(ended: Home) -> None:
    trials = read_trials("ab", ended)
    assert [c.params for c in trials.candidates] == [{"arm": "full"}, {"arm": "no_cycle"}]
    assert all(sorted(c.seed_values) == [0, 1] for c in trials.candidates)
    choice = best("ab", ended)
    assert choice.params["arm"] in ("full", "no_cycle") and len(choice.run_ids) == 2
    by_hand = {c.params["arm"]: c.trial for c in trials.candidates}
    base = make_plan("ab", ended, trial="base", seeds=(0,), model_name="m")
    assert base.trial == by_hand["full"] and "reference arm" in base.rule
    chosen = make_plan("ab", ended, trial=by_hand["no_cycle"], seeds=(0,), model_name="m")
    assert chosen.config["adversarial"]["lambda_cycle"] == 0
    with pytest.raises(UserError, match="no such complete trial"):
        make_plan("ab", ended, trial=5, seeds=(0,), model_name="m")


def test_the_verbs_tell_arms_reasons_and_failures(ended: Home) -> None:
    session = Session("status", ended.path, quiet=True)
    answer = status_of("ab", session)
    assert (
        answer.lines
        == resumed("ab", session, [], False, []).lines
        == ablated(read_ablation("ab", ended), session).lines
    )
    text = "\n".join(answer.lines)
    assert "full *" in text and "not run: no weights" in text and "ab-broken-s1 failed: " in text
    assert "another definition" not in text
    assert {"study", "arms", "runs", "states", "trials", "not_run", "reference", "kind"} <= set(answer.fields)
    assert answer.next[0].endswith("make tables") and is_ablation("ab", ended) and not is_ablation("no", ended)
    assert [line.kind for line in overview(ended).studies] == ["ablation"]
    page = report("ab", ended).markdown.read_text()
    assert "# Ablation ab" in page and "not run: no weights" in page
    assert re.search(r"\| full \(reference\) \| [^|]*\| 2 of 2 \| 0 \|", page)
    assert "has been read 4 times in this home." in page


def test_arms_of_other_definitions_are_told_apart_and_a_lost_model_is_one_line(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = {"truth": {}, "eroded": {"set": {"data.mask_erosion": 2}}, "smooth": {"set": {"segmenter.dropout": 0.3}}}
    base = {"adversarial.epochs": 0}
    train_untold(home, make_design(tmp_path, arms, base, name="eval", reference="truth"))
    shutil.rmtree(home.runs / "eval-truth-s0" / "artifacts" / "model")
    monkeypatch.setattr(ablation, "TOLD_READINGS", 1)
    heard = Heard()
    with pytest.raises(UserError, match="run has no model: eval-truth-s0"):
        resume_ablation("eval", home, watch=heard)
    read = [line for line in heard.lines if line.startswith("locked test read")]
    assert read == ["locked test read by eval-smooth-s0 (3 of 3 runs)"], (
        "not a line for each, none of what was not read"
    )
    result = read_ablation("eval", home)
    assert [arm.tested for arm in result.arms] == [0, 1, 1], "the other runs are scored all the same"
    lines = ablated(result, Session("status", home.path, quiet=True)).lines
    (told,) = [line for line in lines if "not to be compared" in line]
    assert told.startswith("° ") and told.endswith(": eroded")
    assert [line.split("  ")[0] for line in lines if "/1 " in line] == ["truth *", "eroded °", "smooth"]
    with pytest.raises(UserError, match="different definitions of val/dice") as caught:
        best("eval", home)
    assert "\n" not in str(caught.value)
    assert make_plan("eval", home, trial=2, seeds=(0,), model_name="m").trial == 2


def test_weights_that_cannot_be_had_are_refused_before_any_training(home: Home, tmp_path: Path) -> None:
    lost = {"adversarial.perceptual": "vgg19", "adversarial.perceptual_weights": str(tmp_path / "no.safetensors")}
    design = make_design(tmp_path, {"full": {}, "vgg": {"set": lost}}, {}, name="vgg", reference="full")
    with pytest.raises(UserError, match="no such file of VGG19 weights: arm vgg, .*arms.vgg.not_run=REASON") as caught:
        ablate(design, home)
    assert "\n" not in str(caught.value) and home.run_ids() == [] and not (home.studies / "vgg").exists()


def test_labels_of_arms_stand_wherever_an_arm_is_named_and_names_beside_them(ended: Home) -> None:
    labels = {"full": "The whole method", "perceptual": "Perceptual loss"}
    found = read_ablation("ab", ended)
    named = replace(
        found,
        status=replace(found.status, labels=labels),
        arms=[replace(arm, label=labels.get(arm.arm)) for arm in found.arms],
    )
    lines = ablated(named, Session("status", ended.path, quiet=True)).lines
    plain = ablated(found, Session("status", ended.path, quiet=True)).lines
    assert lines[1].endswith("  called") and not plain[1].endswith("called")
    (full,) = [line for line in lines if line.startswith("full *")]
    assert full.endswith("  The whole method") and len(full) <= 80
    assert any(line.endswith("not run: no weights (called Perceptual loss)") for line in lines)
    trials = trial_table(named.status, named.status.trials, 80).rows
    assert sum("The whole method" in row for row in trials) == 2 and any("no_cycle" in row for row in trials)
    frame, runs = named.status.frame(), run_table(named.status, ended)
    for table in (frame, runs):
        assert list(table.columns).index("label") == list(table.columns).index("arm") + 1
        assert set(zip(table["arm"], table["label"], strict=True)) >= {
            ("full", "The whole method"),
            ("broken", "broken"),
        }
    assert "label" not in found.status.frame() and "The whole method" in named._repr_html_()
    design = make_design(
        ended.path, {"a": {"label": "One"}, "b": {"set": {"segmenter.dropout": 0.3}}}, {}, name="two", reference="a"
    )
    assert design.labels() == {"a": "One"} and design.details()[0] == "2 arms, compared with One (a): One (a); b"
