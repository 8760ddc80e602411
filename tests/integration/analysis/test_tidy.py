"""The tidy table tells what the run folders say, reads only what changed, and can be made from MLflow alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from analysis_cases import EPOCHS, FINGERPRINT, REPO, SPLIT, write_ablation, write_design, write_run, write_sweep

from sage_ray.analysis.run_rows import SCHEMA, read_settings
from sage_ray.analysis.study_facts import study_facts
from sage_ray.analysis.tidy import collect
from sage_ray.config import ExperimentConfig, dump, flatten
from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.record.mlflow_mirror import Mirror
from sage_ray.record.run_folder import RunFolder
from sage_ray.training.scoring import score_definitions


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Two arms of two seeds, a run that failed, and a search of two trials."""
    home = Home(tmp_path_factory.mktemp("recorded") / "home")
    write_ablation(home, "arms", {"full": 0.8, "bare": 0.6}, "full", seeds=(0, 1))
    write_run(home, "arms", "broken", 0, state="FAIL", error="diverged: non-finite loss")
    write_sweep(home, "search", {"adversarial.lambda_cycle": [0.5, 2.0]}, [0.7, 0.6])
    return home


def test_the_table_says_what_the_folders_say(recorded: Home) -> None:
    tidy = collect(recorded)
    assert pq.read_schema(tidy.path).equals(SCHEMA)
    assert tidy.studies() == ["arms", "search"]
    run = RunFolder.open(recorded.runs, "arms-bare-s1")
    own = tidy.rows(kind="epoch", run_ids=[run.run_id], part="val", scores=["dice"]).sort_values("epoch")
    assert own["value"].tolist() == [line["val/dice"] for line in run.metrics()] and len(own) == EPOCHS
    assert own["phase"].tolist() == ["pretrain"] * 5 + ["adversarial"] * 10
    assert set(own["study"]) == {"arms"} and set(own["arm"]) == {"bare"} and set(own["seed"]) == {1}
    images = tidy.rows(kind="image", run_ids=[run.run_id])
    stored = pd.DataFrame(run.per_image())
    keys = ["part", "checkpoint", "image", "score"]
    merged = images.merge(stored.rename(columns={"image_sha": "image"}), on=keys, suffixes=("", "_stored"))
    assert len(merged) == len(stored) == len(images) and (merged["value"] == merged["value_stored"]).all()


def test_facts_and_settings_of_a_run(recorded: Home) -> None:
    tidy = collect(recorded)
    runs = tidy.runs(["arms"]).set_index("run_id")
    record = RunFolder.open(recorded.runs, "arms-full-s0").read()
    row = runs.loc["arms-full-s0"]
    assert (row["data_fingerprint"], row["split_id"], row["commit"]) == (FINGERPRINT, SPLIT, record.commit)
    assert (row["seconds"], row["selected_epoch"], row["parameters_segmenter"]) == (20.0, EPOCHS, 123_456)
    assert json.loads(row["numerics"]) == record.numerics and row["dirty"] == 0 and row["missing"] is None
    broken = runs.loc["arms-broken-s0"]
    assert broken["state"] == "FAIL" and broken["error"] == "diverged: non-finite loss"
    settings = tidy.settings(["arms"], ["data.image_size", "segmenter.name", "pretrain.epochs", "segmenter.attention"])
    assert settings.loc["arms-full-s0"].to_dict() == {
        "data.image_size": [512, 768], "segmenter.name": "attention_unet", "pretrain.epochs": 5,
        "segmenter.attention": True,
    }  # fmt: skip


def test_what_has_not_changed_is_not_read_again(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    write_ablation(home, "arms", {"full": 0.8, "bare": 0.6}, "full", seeds=(0, 1))
    first = collect(home)
    whole = pq.read_table(first.path)
    assert (first.read, first.kept) == (4, 0)
    # A folder that cannot be read any more must not be looked at again while its files are as they were.
    again = collect(home)
    assert (again.read, again.kept) == (0, 4)
    RunFolder.open(home.runs, "arms-full-s1").update(test_reads=7)
    write_run(home, "arms", "late", 0, level=0.5)
    third = collect(home)
    assert (third.read, third.kept) == (2, 3)
    assert third.runs().set_index("run_id").loc["arms-full-s1", "test_reads"] == 7
    assert len(third.rows(kind="epoch", run_ids=["arms-bare-s0"])) == len(
        [1 for run, kind in zip(whole["run_id"].to_pylist(), whole["kind"].to_pylist(), strict=True)
         if run == "arms-bare-s0" and kind == "epoch"]
    )  # fmt: skip
    for path in sorted((home.runs / "arms-late-s0").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    assert "arms-late-s0" not in set(collect(home).runs()["run_id"])


def test_a_damaged_record_is_left_out_and_named_and_a_lost_file_is_noted(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    write_ablation(home, "arms", {"full": 0.8, "bare": 0.6}, "full", seeds=(0,))
    (home.runs / "arms-bare-s0" / "record.json").write_text("{")
    (home.runs / "arms-full-s0" / "per_image.parquet").unlink()
    said: list[str] = []
    tidy = collect(home, say=said.append)
    assert len(said) == 1 and "damaged record" in said[0] and "arms-bare-s0" in said[0]
    assert tidy.runs()["missing"].tolist() == ["per_image.parquet"]
    assert collect(home).unreadable == tidy.unreadable  # and it is remembered


def test_sections_of_a_config_are_read_as_the_whole(tmp_path: Path) -> None:
    config = ExperimentConfig().with_values({"segmenter.width": 8, "pretrain.schedule.drops": [3, 5], "seed": 4})
    path = tmp_path / "config.yaml"
    path.write_text(dump(config))
    whole = flatten(yaml.safe_load(path.read_text()))
    assert read_settings(path).values == whole
    assert {name: json.loads(text) for name, text in read_settings(path).texts.items()} == whole
    path.write_text("# by hand\na: [1,\n2]\nb: {c: 3}\n")
    assert read_settings(path).values == {"a": [1, 2], "b.c": 3}
    path.write_text("a: [")
    assert read_settings(path).values == {}


@pytest.mark.parametrize(
    "values", [{}, {"data.mask_erosion": 2, "data.min_object_pixels": 15, "evaluation.boundary_tolerance": 3.0}]
)
def test_definitions_are_equal_in_both_parts_and_beside_curves(tmp_path: Path, values: dict[str, float]) -> None:
    config = ExperimentConfig().with_values(values)
    home = Home(tmp_path / "home")
    write_run(home, "one", "arm", 0, values=values)
    rows = collect(home).rows(kind="image")
    by_part = {part: dict(zip(own["score"], own["definition"], strict=True)) for part, own in rows.groupby("part")}
    assert by_part["val"] == by_part["test"]
    curves = collect(home).rows(kind="epoch", part="val", scores=["dice", "f1_pixel"])
    meant = score_definitions(config)
    assert set(curves["definition"]) == {meant["dice"], meant["f1_pixel"]}


def test_from_mlflow_alone_the_same_table_comes_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path / "home")
    write_ablation(home, "arms", {"full": 0.8, "bare": 0.6}, "full", seeds=(0,))
    mirror = Mirror(home)
    for run_id in home.run_ids():
        mirror.push(RunFolder.open(home.runs, run_id))
    for name in ("study.json", "design.yaml"):
        mirror.log_parent_artifact("arms", home.studies / "arms" / name)
    elsewhere = tmp_path / "elsewhere"
    said: list[str] = []
    remote = collect(elsewhere, tracking_uri=home.mlflow_uri, say=said.append)
    assert "3 runs and studies fetched" in said[0] and remote.home.path.is_relative_to(elsewhere)
    assert study_facts(remote, "arms").reference == "full"
    order = ["run_id", "part", "image", "score", "epoch"]
    for kind in ("epoch", "image"):
        here = collect(home).rows(kind=kind).sort_values(order, ignore_index=True)
        there = remote.rows(kind=kind).sort_values(order, ignore_index=True)
        pd.testing.assert_frame_equal(here, there)
    said.clear()
    collect(elsewhere, tracking_uri=home.mlflow_uri, say=said.append)
    assert "0 runs and studies fetched" in said[0]
    with pytest.raises(UserError, match="no such MLflow database"):
        collect(elsewhere, tracking_uri=f"sqlite:///{tmp_path}/none.db")


def test_no_home_and_no_such_study_are_one_clear_error_each(recorded: Home, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such home"):
        collect(tmp_path / "none")
    with pytest.raises(UserError, match="did you mean arms?"):
        collect(recorded, ["armz"])
    empty = Home(tmp_path / "empty")
    empty.check_writable()
    assert collect(empty).studies() == [] and collect(empty).runs().empty


def test_a_study_without_files_is_known_by_its_runs(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    for arm in ("b", "a"):
        write_run(home, "bare", arm, 0, trial=0 if arm == "b" else 1)
    facts = study_facts(collect(home), "bare")
    assert (facts.kind, facts.arms, facts.reference) == ("ablation", ("b", "a"), None)
    write_design(home, "bare", ["a", "b", "c"], "b", not_run={"c": "no weights"}, seeds=[0])
    facts = study_facts(collect(home), "bare")
    assert (facts.arms, facts.reference, facts.not_run) == (("a", "b", "c"), "b", {"c": "no weights"})
    (home.studies / "bare" / "study.json").write_text("{")
    with pytest.raises(UserError, match="damaged study"):
        study_facts(collect(home), "bare")


def test_nothing_of_the_analysis_pulls_in_torch_or_ray() -> None:
    scripts = [f"analysis.{path.stem}" for path in (REPO / "analysis").glob("*.py")]
    library = [f"sage_ray.analysis.{path.stem}" for path in (REPO / "sage_ray" / "analysis").glob("*.py")]
    assert len(scripts) > 10 and len(library) > 20
    names = {name.removesuffix(".__init__") for name in scripts + library}
    # Importances are computed by optuna; nothing else of the analysis needs it.
    with_optuna = {"analysis.importance", "sage_ray.analysis.setting_importance"}
    heavy = "print([name for name in ('torch', 'ray', 'mlflow', 'optuna') if name in sys.modules])\n"
    lines = [*sorted(names - with_optuna), "", *sorted(names & with_optuna), ""]
    code = "import sys\n" + "".join(f"import {name}\n" if name else heavy for name in lines)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split("\n") == ["[]", "['optuna']", ""]


def test_values_that_are_not_finite_are_kept_as_missing(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    write_run(home, "one", "arm", 0, curve=[0.1, 0.2, float("nan"), float("inf"), 0.5, 0.6])
    values = collect(home).rows(kind="epoch", part="val", scores=["dice"])["value"].to_numpy(float)
    assert np.isnan(values).tolist() == [False, False, True, True, False, False]
