"""Trials that share a stage: it is trained once, and the places of those that wait for it go to others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sweep_cases import write_space

from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.search.driver import sweep
from sage_ray.search.study_status import status
from sage_ray.search.trainable import STAGE_PATIENCE_S
from sage_ray.study.space import load_space

pytestmark = pytest.mark.ray
EPOCHS = 250
"""Of phase 1, which must take much longer than `STAGE_PATIENCE_S`."""


class States:
    """Keeps the states in which each trial was seen."""

    def __init__(self) -> None:
        self.of: dict[int, list[str]] = {}

    def update(self, state: Any) -> None:
        for trial in state.trials:
            seen = self.of.setdefault(trial.number, [])
            if seen[-1:] != [trial.state]:
                seen.append(trial.state)

    def line(self, text: str) -> None:
        """Nothing is kept of it."""


def test_a_trial_that_waits_for_a_shared_stage_leaves_its_place_to_the_next(tmp_path: Path) -> None:
    home, seen = Home(tmp_path / "home"), States()
    path = write_space(
        tmp_path,
        {"pretrain.epochs": EPOCHS, "adversarial.epochs": 1},
        space={
            "adversarial.lambda_cycle": {"categorical": [1.0, 2.0]},
            "pretrain.lr": {"categorical": [1e-3, 2e-3]},
        },
        # The first two share phase 1, the third has its own.
        points=[
            {"adversarial.lambda_cycle": 1.0, "pretrain.lr": 1e-3},
            {"adversarial.lambda_cycle": 2.0, "pretrain.lr": 1e-3},
            {"adversarial.lambda_cycle": 1.0, "pretrain.lr": 2e-3},
        ],
        trials=3,
        concurrency=2,
    )
    found = sweep(load_space(path), home, watch=seen)
    assert (found.done, found.failed) == (3, 0)
    runs = [RunFolder.open(home.runs, trial.runs[0].run_id) for trial in found.trials]
    times = [[line["time_ms"] for line in run.metrics() if line["epoch"] <= EPOCHS] for run in runs]
    trains, waits = sorted((0, 1), key=lambda number: times[number][-1] - times[number][0], reverse=True)
    assert times[trains][-1] - times[trains][0] > 2000 * STAGE_PATIENCE_S, "phase 1 is too short for this test"
    assert runs[trains].read().reused_epochs == 0 and runs[waits].read().reused_epochs == EPOCHS
    assert times[2][0] < times[trains][-1], "the third trial trained while the second waited"
    assert "PENDING" in seen.of[waits] and seen.of[waits][-1] == "COMPLETE"
    assert [trial.attempts for trial in status("tiny", home).trials] == [1, 1, 1]
    assert runs[0].read().stage_keys["pretrain"] == runs[1].read().stage_keys["pretrain"]
