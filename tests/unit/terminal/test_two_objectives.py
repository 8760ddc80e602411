"""What is shown of a study with two objectives: both values of each trial, and which trials are on the Pareto front."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sage_ray.reports.page_parts import Grid
from sage_ray.reports.study_words import objectives_text
from sage_ray.reports.trial_tables import front_grid, trial_grid
from sage_ray.search.objectives import on_front
from sage_ray.search.study_status import StudyStatus, TrialStatus
from sage_ray.study.file_schema import ObjectivePart
from sage_ray.terminal.display import trial_table
from sage_ray.terminal.study_answers import study_lines

BOTH = (ObjectivePart(metric="val/dice"), ObjectivePart(metric="gpu_seconds"))
VALUES = [(0.7, 20.0), (0.8, 30.0), (0.7, 30.0), (0.6, 10.04)]


def trial(number: int, dice: float, seconds: float) -> TrialStatus:
    return TrialStatus(
        number=number,
        params={"adversarial.epochs": number},
        value=dice,
        state="COMPLETE",
        epoch=2,
        weights_sha=None,
        values={},
        error=None,
        attempts=1,
        seconds=None,
        runs=(),
        objectives={"val/dice": dice, "gpu_seconds": seconds},
    )


@pytest.fixture
def status() -> StudyStatus:
    return StudyStatus(
        study="two",
        done=4,
        pruned=0,
        failed=0,
        running=0,
        trials=tuple(trial(number, *values) for number, values in enumerate(VALUES)),
        target=4,
        epochs=2,
        state="finished",
        metric="val/dice",
        direction="maximize",
        path="two",
        objectives={"val/dice": "maximize", "gpu_seconds": "minimize"},
        front=(0, 1, 3),
    )


def test_the_front_is_what_nothing_beats() -> None:
    assert on_front(VALUES, BOTH) == [True, True, False, True]
    assert on_front([], BOTH) == [] and on_front([(0.5, 1.0), (0.5, 1.0)], BOTH) == [True, True]


def test_a_table_has_both_objectives_and_marks_the_front(status: StudyStatus) -> None:
    table = trial_table(status, status.trials, None)
    assert table.header.split() == ["trial", "state", "epoch", "score", "gpu_seconds", "epochs"]
    assert [row.split()[0] for row in table.rows] == ["*0", "*1", "2", "*3"]
    assert [row.split()[4] for row in table.rows] == ["20.0", "30.0", "30.0", "10.0"]
    one = replace(status, objectives={"val/dice": "maximize"}, front=())
    alone = trial_table(one, one.trials, None)
    assert "gpu_seconds" not in alone.header and [row.split()[0] for row in alone.rows] == ["0", "*1", "2", "3"]
    assert objectives_text(status) == "val/dice, maximize; gpu_seconds, minimize"
    told = [line for line in study_lines(status) if "Pareto" in line]
    assert told and not [line for line in study_lines(one) if "Pareto" in line]


def test_a_report_has_both_objectives_and_the_front_best_score_first(status: StudyStatus) -> None:
    (front,) = front_grid(status)
    assert isinstance(front, Grid)
    assert [list(row[:3]) for row in front.rows] == [
        ["1", "0.8000", "30.0"],
        ["0", "0.7000", "20.0"],
        ["3", "0.6000", "10.0"],
    ]
    assert "gpu_seconds" in trial_grid(status, None).head
    assert front_grid(replace(status, front=())) == []
