"""When the runs of a study begin and end: its trials in order on a number of slots, each stage computed once.

A trial has a slot until its last run has ended, or until it needs a stage which another one is computing: then its slot
goes to a trial that can run, and it gets one again when the other has passed the epoch that it needs, or has left the
stage.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sage_ray.search.epoch_cost import EpochSeconds


@dataclass(frozen=True)
class StageOfRun:
    """A stage that a run needs up to a number of epochs.

    `first`: it is trained for the run's extra pairs, by another config, at the `cost` of that one.
    """

    key: str
    phase: str
    epochs: int
    first: bool = False
    cost: EpochSeconds | None = None


@dataclass(frozen=True)
class RunOfPlan:
    """A run with its stages in order; `cost` is None where no time is known, `arm` where a study has none."""

    trial: int
    seed: int
    stages: tuple[StageOfRun, ...]
    cost: EpochSeconds | None = None
    arm: str | None = None


@dataclass(frozen=True)
class Schedule:
    """How long a study takes.

    Attributes:
        wall_s: from the first trial's start to the last one's end.
        held_s: seconds that trials hold their slots, all together.
        waiting_s: seconds beside these in which slots stand empty because a trial waits for a stage.
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


def schedule(
    runs: Sequence[RunOfPlan],
    slots: int,
    stored: Mapping[tuple[str, int], int],
    blind: Callable[[int], bool] = lambda place: True,
) -> Schedule:
    """The schedule of runs, which are in the order of their trials.

    Args:
        runs: each with its costs.
        slots: trials at a time.
        stored: for a stage and the epochs that a run needs of it, the newest stored epoch up to there.
        blind: whether the trial at a place in the order may be drawn while others wait (`search.searcher`).
    """
    trials: dict[int, list[RunOfPlan]] = {}
    for run in runs:
        trials.setdefault(run.trial, []).append(run)
    return _Simulation(list(trials.values()), slots, stored, blind).run()


_Steps = list[tuple[RunOfPlan, int]]
"""What is left of a trial: its runs, each with the index of a stage, or -1 for what it does beside its epochs."""


class _Simulation:
    """A study on a clock of its own; the rule by which slots are given away is that of `search.searcher`."""

    def __init__(
        self,
        trials: Sequence[list[RunOfPlan]],
        slots: int,
        stored: Mapping[tuple[str, int], int],
        blind: Callable[[int], bool],
    ) -> None:
        self._trials, self._slots, self._free, self._stored, self._blind = trials, slots, slots, stored, blind
        self._stages: dict[str, _Stage] = {}
        self._now, self._order, self._begun = 0.0, 0, 0
        self._events: list[tuple[float, int, _Steps | None]] = []
        """When a trial has done a step, or (None) one that waits may go on."""
        self._aside: list[tuple[float, int, _Steps]] = []

    def run(self) -> Schedule:
        held = waiting = 0.0
        self._fill()
        while self._events:
            time, _, steps = heapq.heappop(self._events)
            held += (self._slots - self._free) * (time - self._now)
            waiting += min(self._free, len(self._aside)) * (time - self._now)
            self._now = time
            if steps:
                self._step(steps)
            elif steps is not None:
                self._free += 1
            self._fill()
        return Schedule(self._now, held, waiting)

    def _step(self, steps: _Steps) -> None:
        """The next step of a trial: it computes until then, or leaves its slot and waits until then."""
        run, index = steps[0]
        until, done, waits = _advance(run, index, self._now, self._stages, self._stored)
        rest = steps[1:] if done else steps
        self._order += 1
        if waits:
            self._free += 1
            heapq.heappush(self._aside, (until, self._order, rest))
        heapq.heappush(self._events, (until, self._order, None if waits else rest))

    def _fill(self) -> None:
        """Give free slots to trials that may go on, then to those that may be drawn."""
        while self._free:
            if self._aside and self._aside[0][0] <= self._now:
                steps = heapq.heappop(self._aside)[2]
            elif self._begun < len(self._trials) and self._may_draw():
                steps = _steps(self._trials[self._begun])
                self._begun += 1
            else:
                return
            self._free -= 1
            self._order += 1
            heapq.heappush(self._events, (self._now, self._order, steps))

    def _may_draw(self) -> bool:
        ahead = self._slots if self._blind(self._begun) else 0
        return self._slots - self._free + len(self._aside) < self._slots + ahead


def _steps(runs: list[RunOfPlan]) -> _Steps:
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
    stage.since, stage.cost = now, wanted.cost or run.cost
    stage.free_at = now + stage.cost.between(wanted.phase, start, wanted.epochs)
    return stage.free_at, True, False
