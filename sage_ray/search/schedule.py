"""When the runs of a study begin and end: its trials in order on a number of slots, each stage computed once.

A trial has a slot until its last run has ended. A run that needs a stage which another one is computing waits, holding
its slot, as `stages.lease` has it: until the other one has passed the epoch that it needs, or has left the stage.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sage_ray.search.epoch_cost import EpochSeconds


@dataclass(frozen=True)
class StageOfRun:
    """A stage that a run needs up to a number of epochs."""

    key: str
    phase: str
    epochs: int


@dataclass(frozen=True)
class RunOfPlan:
    """A run with its stages in order; `cost` is None where no time is known."""

    trial: int
    seed: int
    stages: tuple[StageOfRun, ...]
    cost: EpochSeconds | None = None


@dataclass(frozen=True)
class Schedule:
    """How long a study takes.

    Attributes:
        wall_s: from the first trial's start to the last one's end.
        held_s: seconds that trials hold their slots, all together, waiting included.
        waiting_s: of these, seconds in which they wait for a stage that another trial computes.
    """

    wall_s: float
    held_s: float
    waiting_s: float


@dataclass
class _Stage:
    """A stage as trials see it: epochs that the store has, ranges that were trained, and the one that is being trained.

    Within a range every epoch that a run needs is kept: the open study names them (`search.study_budgets`).
    """

    stored: set[int] = field(default_factory=lambda: {0})
    trained: list[tuple[int, int]] = field(default_factory=list)
    since: float = 0.0
    free_at: float = 0.0
    cost: EpochSeconds | None = None

    def newest(self, epochs: int) -> int:
        """The newest epoch up to `epochs` that a run can start from, once nobody trains the stage."""
        passed = [min(end, epochs) for start, end in self.trained if start < epochs]
        return max(*passed, *(epoch for epoch in self.stored if epoch <= epochs), 0)


def schedule(runs: Sequence[RunOfPlan], slots: int, stored: Mapping[tuple[str, int], int]) -> Schedule:
    """The schedule of runs, which are in the order of their trials.

    Args:
        runs: each with its costs.
        slots: trials at a time.
        stored: for a stage and the epochs that a run needs of it, the newest stored epoch up to there.
    """
    trials: dict[int, list[RunOfPlan]] = {}
    for run in runs:
        trials.setdefault(run.trial, []).append(run)
    waiting_trials = list(reversed(trials.values()))
    stages: dict[str, _Stage] = {}
    held = waited = now = 0.0
    # (time, order, steps left of the trial as (run, index of its stage), start of the trial)
    events: list[tuple[float, int, list[tuple[RunOfPlan, int]], float]] = []
    order = 0
    for _ in range(min(slots, len(trials))):
        heapq.heappush(events, (0.0, order := order + 1, _steps(waiting_trials.pop()), 0.0))
    while events:
        now, _, steps, began = heapq.heappop(events)
        if not steps:
            held += now - began
            if waiting_trials:
                heapq.heappush(events, (now, order := order + 1, _steps(waiting_trials.pop()), now))
            continue
        run, index = steps[0]
        until, done, waits = _advance(run, index, now, stages, stored)
        waited += until - now if waits else 0.0
        heapq.heappush(events, (until, order := order + 1, steps[1:] if done else steps, began))
    return Schedule(now, held, waited)


def _steps(runs: list[RunOfPlan]) -> list[tuple[RunOfPlan, int]]:
    """The stages of a trial's runs, each run followed by what it does beside its epochs (index -1)."""
    return [(run, index) for run in runs for index in (*range(len(run.stages)), -1)]


def _advance(
    run: RunOfPlan, index: int, now: float, stages: dict[str, _Stage], stored: Mapping[tuple[str, int], int]
) -> tuple[float, bool, bool]:
    """Until when a run is busy with a step, whether the step is then done, and whether it only waits."""
    assert run.cost is not None
    if index < 0:
        return now + run.cost.rest_s, True, False
    wanted = run.stages[index]
    stage = stages.setdefault(wanted.key, _Stage())
    stage.stored.add(stored.get((wanted.key, wanted.epochs), 0))
    busy = now < stage.free_at
    before = stage.trained[-1] if busy else (0, 0)
    if wanted.epochs in stage.stored or any(s < wanted.epochs <= e for s, e in stage.trained[: -1 if busy else None]):
        return now, True, False
    if busy and before[0] < wanted.epochs <= before[1]:
        assert stage.cost is not None
        passed = stage.since + stage.cost.between(wanted.phase, before[0], wanted.epochs)
        return max(passed, now), True, passed > now
    if busy:
        return stage.free_at, False, True
    start = stage.newest(wanted.epochs)
    stage.trained.append((start, wanted.epochs))
    stage.since, stage.cost = now, run.cost
    stage.free_at = now + run.cost.between(wanted.phase, start, wanted.epochs)
    return stage.free_at, True, False
