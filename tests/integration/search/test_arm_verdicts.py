"""The verdicts of a description in MLflow are the sentences that the report makes of the tables, on the same scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import yaml
from analysis_cases import write_design, write_run
from markdown_it import MarkdownIt

from sage_ray.analysis.arm_differences import compare_arms
from sage_ray.config import ExperimentConfig
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunLabels
from sage_ray.reports.arm_findings import finding_of
from sage_ray.search.arm_verdicts import arm_verdicts
from sage_ray.search.best import best
from sage_ray.search.parent_note import study_description
from sage_ray.search.parent_scores import arm_standings, best_arm
from sage_ray.search.study_status import RunStatus, StudyStatus, TrialStatus
from sage_ray.statistics.verdict_sentences import say

ARMS = {"full": 0.0, "plain": -0.2, "other": 0.01}
FACTS: dict[str, Any] = {
    "reference": "full",
    "arms": [
        *({"name": name, "label": None, "not_run": None} for name in ("other", "full")),
        {"name": "plain", "label": "Without mixing", "not_run": None},
        {"name": "away", "not_run": "no weights"},
    ],
}


def study_of(home: Home, seeds: int, images: int = 8, group: str | None = None, **shas: str) -> StudyStatus:
    """A finished ablation whose runs have read a locked test; `shas` name the images of an arm by another letter."""
    home.check_writable()
    draws, trials = np.random.default_rng(3), []
    for seed in range(seeds):
        for arm, shift in ARMS.items():
            run_id = f"parts-{arm}-s{seed}"
            config = ExperimentConfig().with_values({"seed": seed})
            folder = RunFolder.create(home.runs, run_id, config, RunLabels(study="parts", arm=arm))
            rows = {"part": "test", "checkpoint": "selected", "score": "dice", "definition": "d, at 8x8 pixels"}
            folder.write_per_image(
                rows
                | {"image_sha": f"{shas.get(arm, 'i')}{k}", "value": 0.7 + shift + draws.normal(0, 0.02)}
                | {"group": group and f"{group}{k // 2}"}
                for k in range(images)
            )
            folder.set_state("COMPLETE", test_reads=1)
            run = RunStatus(run_id, seed, None, "COMPLETE", 1, None, arm, test_reads=1)
            known = ({"arm": arm}, 0.7 + shift, "COMPLETE", 1, None, {}, None, 1, 1.0, (run,))
            trials.append(TrialStatus(len(trials), *known))
    count = len(trials)
    return StudyStatus(
        "parts", count, 0, 0, 0, tuple(trials), count, 1, "finished", "val/dice", "maximize", "", "ablation"
    )


def frame_of(home: Home, found: StudyStatus) -> pd.DataFrame:
    rows = [
        {"arm": run.arm, "seed": run.seed, "image": row["image_sha"], "value": row["value"], "group": row["group"]}
        for trial in found.trials
        for run in trial.runs
        for row in RunFolder(home.runs / run.run_id).per_image()
    ]
    return pd.DataFrame(rows).dropna(axis=1)


@pytest.mark.parametrize(("seeds", "group"), [(1, None), (2, None), (3, "m")])
def test_sentences_are_those_that_the_report_makes_of_the_tables(home: Home, seeds: int, group: str | None) -> None:
    found = study_of(home, seeds, group=group)
    lines = arm_verdicts(found, FACTS, home)
    called = {"plain": "Without mixing", "other": "other"}
    compared = {row.arm: row for row in compare_arms(frame_of(home, found), "full", claim="worse").rows}
    result = SimpleNamespace(scores=SimpleNamespace(score="dice", lower_is_better=False))
    runs = SimpleNamespace(facts=SimpleNamespace(called=lambda arm: called.get(arm, arm)))
    judged: Any = SimpleNamespace(runs=runs, part="test")
    said = {arm: say(finding_of(judged, cast(Any, result), row, 2)) for arm, row in compared.items()}
    assert lines[:2] == [f"- {said[arm].headline[:-1]}: {said[arm].numbers}." for arm in ("other", "plain")]
    if seeds > 1:
        assert compared["plain"].verdict == "supported"
        assert lines[1].startswith("- Without mixing is worse than full: Dice \N{MINUS SIGN}0.")
        assert "corrected for 2 comparisons (Holm)" in lines[3]
    else:
        assert lines[1].startswith("- One training each cannot tell Without mixing from full: Dice \N{MINUS SIGN}0.")
    assert lines[2] == "" and lines[3].endswith(" ".join(said["plain"].cautions)) and len(lines) == 4
    assert ("8 locked-test images of 4 micrographs" if group else "8 locked-test images, ") in lines[0]


def test_a_label_stands_in_the_description_as_it_was_written(home: Home) -> None:
    label = "No *mix* | <b>x</b>"
    arms = [arm | {"label": label} if arm["name"] == "plain" else arm for arm in FACTS["arms"]]
    found, facts = study_of(home, 2), {**FACTS, "arms": arms}
    note = study_description(found, {}, {}, arm_standings(found, facts, home), arm_verdicts(found, facts, home), {})
    page = MarkdownIt().enable("table").render(note)
    assert page.count("No *mix* | &lt;b&gt;x&lt;/b&gt;") == 2, "in the verdict, and in the table"


def test_what_cannot_be_judged_is_said(home: Home) -> None:
    found = study_of(home, 2)
    unread = {trial.number: tuple(replace(run, test_reads=0) for run in trial.runs) for trial in found.trials}
    trials = tuple(
        replace(trial, runs=unread[trial.number]) if trial.params["arm"] == "other" else trial for trial in found.trials
    )
    lines = arm_verdicts(replace(found, trials=trials), FACTS, home)
    assert lines[0].startswith("- Without mixing is worse than full") and len(lines) == 4
    assert lines[-1] == "Not compared, as no run of it has read the locked test: other."
    fewer = replace(found, trials=(*found.trials[:3], *trials[3:]))
    assert "the seeds that all of them have: 0." in arm_verdicts(fewer, FACTS, home)[-1]
    other = Home(home.path.parent / "other")
    assert arm_verdicts(study_of(other, 2, plain="j"), FACTS, other) == [
        "No verdict: the runs were not scored on the same images."
    ]
    empty = StudyStatus("parts", 0, 0, 0, 0, (), 3, 1, "finished", "val/dice", "maximize", "", "ablation")
    assert "has not been read" in arm_verdicts(empty, FACTS, home)[0]


def test_the_best_arm_is_one_whose_runs_have_all_finished(home: Home) -> None:
    found = study_of(home, 2)
    arms = arm_standings(found, FACTS, home)
    assert [(arm.name, arm.done, arm.wanted) for arm in arms] == [
        *(("other", 2, 2), ("full", 2, 2), ("plain", 2, 2), ("away", 0, 0)),
    ]
    best = best_arm(found, arms)
    assert best is not None and best.name == "other" and best.tests["test/dice"] == pytest.approx(0.7, abs=0.05)


def test_the_best_arm_is_told_with_the_labels_of_the_design(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    write_design(home, "parts", ["full", "plain"], "full", seeds=[0, 1])
    path = home.studies / "parts" / "design.yaml"
    arms = {"full": {"label": "The whole method"}, "plain": {"set": {"segmenter.dropout": 0.3}}}
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "arms": arms}))
    for trial, (arm, seed) in enumerate((arm, seed) for arm in arms for seed in (0, 1)):
        write_run(home, "parts", arm, seed, trial=trial, level=0.8 if arm == "full" else 0.6)
    choice = best("parts", home)
    assert choice.labels == {"full": "The whole method"}
    assert list(choice.frame()["label"]) == ["The whole method", "plain"]
