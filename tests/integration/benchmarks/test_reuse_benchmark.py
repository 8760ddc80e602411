"""`benchmarks/reuse.py` at a size of seconds: both ways run the same trials, and counts and verdicts are right."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import reuse
from benchmarks.reuse_arms import Arm, TrialResult, processor_seconds
from sage_ray.search.ray_session import environment, ray_session

SMALL = reuse.Size(8, 32, 1, 4, pretrain=(1, 2), adversarial=(1, 2), lambdas=(0.5,))


def result(objective: float, sha: str = "a", scores: tuple[float, ...] = ()) -> TrialResult:
    return TrialResult(objective, sha, scores)


@pytest.mark.ray
@pytest.mark.slow
def test_a_grid_and_a_study_with_asha_are_measured_beside_plain_tune(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = dataclasses.replace(SMALL, adversarial=(4, 6), lambdas=(0.1, 1.0, 10.0), trials=8, grace=3)
    monkeypatch.setattr(reuse, "GRID", SMALL)
    monkeypatch.setattr(reuse, "ASHA", drawn)
    with environment(), ray_session():
        grid = reuse.kept(tmp_path / "grid.json", "grid", tmp_path)
        asha = reuse.kept(tmp_path / "asha-0.json", "asha-0", tmp_path)
    # Four chains of 1 or 2 and 1 or 2 epochs; phase 1 of 2 epochs holds that of 1, phase 2 depends on where it starts.
    assert (grid["rows"][0]["epochs plain"], grid["rows"][0]["epochs here"]) == (12, 6)
    assert "8 of 8 trials have the score" in grid["notes"][0]
    row, gentle = asha["rows"]
    assert (row["part"], gentle["part"]) == ("asha, seed 0, factor 3", "asha, seed 0, factor 2")
    assert row["epochs plain"] == gentle["epochs plain"] and row["best plain"] == gentle["best plain"]
    assert row["epochs here"] < row["epochs plain"] / row["fewer by reuse alone"]
    assert row["fewer by stopping alone"] > 1 and row["fewer by reuse alone"] > 1
    assert 0 < row["share of reuse"] < 1
    for part in (grid["rows"][0], row):
        assert part["CPU s here"] > 0 and part["wall s here"] > 0 and part["CPU s plain"] > 0
    # A part that was kept is read, not run again: no Ray is there any more.
    assert reuse.kept(tmp_path / "grid.json", "grid", tmp_path) == grid


def test_one_line_of_help_names_the_parts() -> None:
    script = Path(reuse.__file__)
    environment = {**os.environ, "PYTHONPATH": str(script.parents[1])}
    done = subprocess.run(
        [sys.executable, str(script), "--help"], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert "--only" in done.stdout and "grid,asha-0,asha-1,asha-2" not in done.stderr


def test_equal_means_score_and_weights() -> None:
    plain = Arm(trials={0: result(0.5), 1: result(0.6)})
    assert reuse.equal_trials(plain, Arm(trials={0: result(0.5), 1: result(0.6)})) == 2
    assert reuse.equal_trials(plain, Arm(trials={0: result(0.5, "b"), 1: result(0.6 + 1e-15)})) == 0


def test_the_error_of_a_plateau_is_that_of_the_median_of_its_epochs() -> None:
    scores = (0.1,) * 8 + (0.5, 0.7)  # the last fifth of ten epochs
    assert reuse.plateau_error(result(0.6, scores=scores)) == pytest.approx(1.25 * math.sqrt(0.02) / math.sqrt(2))
    assert reuse.plateau_error(result(0.6, scores=(0.6,))) == 0.0


def test_what_is_saved_is_shared_out_between_reuse_and_stopping() -> None:
    assert reuse.reuse_share(100, 25, 100, 25) == pytest.approx(1)  # nothing was stopped
    assert reuse.reuse_share(100, 100, 25, 25) == pytest.approx(0)  # nothing was reused
    assert reuse.reuse_share(100, 50, 50, 25) == pytest.approx(0.5)


def test_epochs_that_are_worth_less_are_worth_less() -> None:
    plain = Arm(trained={"pretrain": 10, "adversarial": 10}, seconds={"pretrain": 1.0, "adversarial": 9.0})
    here = Arm(trained={"pretrain": 1, "adversarial": 9})
    assert reuse.worth(plain, here) == pytest.approx(10 / (0.1 + 8.1))


def test_processor_seconds_are_those_of_processes_below_too() -> None:
    busy = "import time\nwhile time.process_time() < 1.5: pass"
    with processor_seconds() as spent:
        child = subprocess.Popen([sys.executable, "-c", busy])
        child.wait(timeout=120)
    assert spent[child.pid] >= 0.5
    with processor_seconds() as idle:
        time.sleep(0.2)
    assert sum(idle.values()) < 0.5


def test_replayed_epochs_are_told_and_not_trained() -> None:
    lines: list[dict[str, Any]] = json.loads(
        '[{"phase": "pretrain", "seconds": 2, "replayed": true}, {"phase": "adversarial", "seconds": 3}]'
    )
    arm = Arm()
    arm.add_epochs(lines)
    assert (arm.epochs, arm.told, arm.seconds) == (1, 2, {"adversarial": 3.0})
