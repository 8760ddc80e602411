"""label_scarcity: planted curves and the labels saved, runs of many splits on one locked test, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from analysis_cases import run_script, write_design, write_run

from sage_ray.analysis.arms import arm_runs, image_scores
from sage_ray.analysis.study_facts import study_facts
from sage_ray.analysis.tidy import collect
from sage_ray.record.home import Home

COUNTS = {"n4": 4, "n8": 8, "n16": 16, "all": 32}
AHEAD = {"plain": 0, "helped": 1, "idle": -9}
"""Doublings of labels that a method is ahead of the plain one."""
LAST = {"evaluation.select": "last", "pretrain.handoff": "last"}
STEPS = {"pretrain.steps": 100, "pretrain.epochs": 0, "adversarial.epochs": 0}


def write_study(
    home: Home, name: str = "scarce", methods: Sequence[str] = tuple(AHEAD), seeds: int = 3, **changed: Any
) -> None:
    """Methods at 4 numbers of labels with seeds and 3 subsets; Dice is .5 + .05 log2 of the labels."""
    arms = [f"{method}_{count}" for method in methods for count in COUNTS]
    write_design(home, name, arms, "plain_all", seeds=range(seeds))
    for arm in arms:
        method, count = arm.split("_")
        number = COUNTS[count]
        level = 0.5 + 0.05 * (number.bit_length() - 1 + AHEAD[method])
        for seed in range(seeds):
            for subset in range(3):
                own = {"segmenter.width": 8 + AHEAD[method] % 7, "data.split.labels": 0 if count == "all" else number}
                write_run(
                    home, name, arm, seed, level=level + 0.002 * ((seed + 2 * subset) % 3 - 1), noise=0.002,
                    subset=subset, values={**LAST, **STEPS, **own, "data.split.subset": subset, **changed},
                    split_id=f"{number if count != 'all' else 0:08x}{subset if count != 'all' else 0:08x}",
                    parts={"train": number, "validation": 6, "test": 6, "unlabelled": 32 - number},
                )  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    write_study(home)
    return home


def test_planted_curves_give_the_labels_saved(home: Home) -> None:
    done = run_script("label_scarcity", "--home", home.path)
    assert done.returncode == 0, done.stderr
    out = home.path / "tables" / "scarce"
    numbers = pd.read_csv(out / "label_scarcity.csv", comment="#").set_index(["score", "method", "labels"]).loc["dice"]
    assert numbers.loc[("plain", 16.0), "value"] == pytest.approx(0.5 + 0.05 * 4 + 0.025, abs=0.002)
    assert (numbers["seeds"] == 3).all() and (numbers["subsets"] == 3).all() and (numbers["images"] == 6).all()
    saved = numbers.loc[("helped", 16.0)]
    assert saved["saved"] == pytest.approx(8, abs=0.7) and saved["saved_low"] <= 8 <= saved["saved_high"] < 12
    assert numbers.loc[("helped", 4.0), "saved"] == float("inf")
    assert numbers.loc[("idle", 4.0), "saved"] == float("-inf")
    text = (out / "label_scarcity.md").read_text()
    assert "Labels saved against plain" in text and "not reached at 32" in text
    assert "no validation label chooses anything" in text
    assert "plain 100 (100 + 0)" in text and "3 seeds and 3 subsets" in text
    assert (out / "label_scarcity.png").stat().st_size > 10_000
    other = run_script("label_scarcity", "--home", home.path, "--supervised", "helped", "--score", "dice")
    assert other.returncode == 0 and "Labels saved against helped" in (out / "label_scarcity.md").read_text()


def test_arms_of_many_splits_pair_on_one_locked_test_over_subsets(home: Home) -> None:
    tidy = collect(home)
    runs = arm_runs(tidy, study_facts(tidy, "scarce"))
    assert len(runs.units) == 9 and "seed 2, subset 1" in runs.units and runs.runs["split_id"].nunique() == 10
    frame = image_scores(tidy, runs, "test", "dice").frame
    # Runs of one subset are no independent repeats: their mean over seeds is one.
    assert sorted(frame["seed"].unique()) == ["subset 0", "subset 1", "subset 2"]
    assert len(frame) == 12 * 6 * 3
    each = image_scores(tidy, runs, "test", "dice", each_run=True).frame
    assert len(each) == 12 * 6 * 9 and each["value"].mean() == pytest.approx(frame["value"].mean())


def test_validation_labels_that_choose_count(tmp_path: Path) -> None:
    home = Home(tmp_path)
    write_study(home, methods=("plain", "helped"), seeds=1, **{"evaluation.select": "best"})
    done = run_script("label_scarcity", "--home", home.path, "--score", "dice")
    assert done.returncode == 0, done.stderr
    numbers = pd.read_csv(home.path / "tables" / "scarce" / "label_scarcity.csv", comment="#")
    assert sorted(numbers["labels"].unique()) == [10, 14, 22, 38]
    text = (home.path / "tables" / "scarce" / "label_scarcity.md").read_text()
    assert "6 validation labels count in N, as they choose by evaluation.select=best" in text


def test_other_splits_and_other_tests_are_refused(tmp_path: Path) -> None:
    home = Home(tmp_path)
    for number, (arm, values) in enumerate({"one": {}, "two": {"data.split.labels": 4}}.items()):
        write_run(home, "odd", arm, 0, trial=number, values={**LAST, **values}, split_id=arm * 5)
    tidy = collect(home)
    assert len(arm_runs(tidy, study_facts(tidy, "odd"), "one").arms) == 2
    write_run(home, "odd", "three", 0, trial=2, values={**LAST, "data.split.test": 0.3}, split_id="three")
    done = run_script("label_scarcity", "--home", home.path, "--study", "odd")
    assert done.returncode == 2 and "mixed splits" in done.stderr
    unlabelled = run_script("label_scarcity", "--home", home.path, "--study", "none")
    assert unlabelled.returncode == 2
    write_run(home, "plain", "a", 0, trial=0)
    refused = run_script("label_scarcity", "--home", home.path, "--study", "plain")
    assert refused.returncode == 2 and "do not differ in data.split.labels" in refused.stderr


def test_a_method_that_is_not_there_is_named(home: Home) -> None:
    refused = run_script("label_scarcity", "--home", home.path, "--supervised", "plane")
    assert refused.returncode == 2 and "no such method" in refused.stderr and "plain" in refused.stderr
    pooled = run_script("label_scarcity", "--home", home.path, "--score", "f1_pixel")
    assert pooled.returncode == 2 and "one number per run" in pooled.stderr
