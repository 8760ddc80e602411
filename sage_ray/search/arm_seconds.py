"""Budgets in GPU-seconds: a run that follows another one's gets as many epochs as take the seconds that that one took.

Both are on record once the other run has ended: its seconds, and what an epoch of the arm takes, as another arm has the
same phase 1 (often the very stage). Extra pairs count on both sides: those of the run that is followed are part of its
seconds, and what the arm's own cost is taken off before its epochs are counted. What a run gets is written down before
it begins, so that it is the same whenever and by whatever driver the study goes on.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping
from typing import NamedTuple

from sage_ray.record.run_folder import RunFolder
from sage_ray.search.objectives import device_seconds, devices_of
from sage_ray.search.storage import StudyStorage
from sage_ray.search.study_folder import StudyFolder
from sage_ray.study.design import Design
from sage_ray.study.spec import RunPlace, StudySpec


class Ready(NamedTuple):
    """The study with all that the next trial needs to begin; `refusal` says why it never can, in one line."""

    spec: StudySpec
    refusal: str | None = None


class ArmSeconds:
    """What the next trial of a study is drawn by, once that is known.

    Args:
        folder: the study.
        spec: what it runs.
        storage: its trials.
        say: told what a run gets.
    """

    def __init__(self, folder: StudyFolder, spec: StudySpec, storage: StudyStorage, say: Callable[[str], None]) -> None:
        self._folder, self._spec, self._storage, self._say = folder, spec, storage, say

    def ready(self) -> Ready | None:
        """The study as the next trial is drawn by it; None if that trial has to wait for the end of another one."""
        spec = self._spec
        if not isinstance(spec, Design) or not any(arm.follows for arm in spec.arms):
            return Ready(spec)
        number = self._storage.next_number()
        if number >= spec.trials:
            return Ready(spec)
        arm, place = spec.cells[number]
        if arm.follows is None or place.run_id in spec.settled:
            return Ready(spec)
        like = spec.phase_one_like(arm)
        assert like is not None, "a design without one is refused"
        states = {row.number: row.state for row in self._storage.rows()}
        if not all(_ended(spec, name, states, place) for name in (arm.follows, like.name)):
            return None
        seconds = self._best(spec, arm.follows, place, states, _seconds)
        epoch_seconds = self._best(spec, like.name, place, states, _epoch_seconds)
        if seconds is None or epoch_seconds is None:
            if not all(_ended(spec, name, states) for name in (arm.follows, like.name)):
                return None
            lacking = arm.follows if seconds is None else like.name
            return Ready(spec, f"no run of {lacking} has finished, so that its seconds are not known")
        first = self._best(spec, like.name, place, states, _pair_seconds) or 0.0
        epochs = max(1, round((seconds - first) / epoch_seconds))
        took = {"seconds": round(seconds, 3), "epoch_seconds": round(epoch_seconds, 4)}
        took |= {"pair_seconds": round(first, 3)} if first else {}
        self._folder.note_budget(place.run_id, epochs=epochs, of=arm.follows, **took)
        less = f", {first:.1f} s of which make its extra pairs" if first else ""
        taken = f"{seconds:.1f} s{less}, at {epoch_seconds:.2f} s an epoch {epochs} epochs"
        self._say(f"{place.run_id} has the budget of {arm.follows}: {taken}")
        self._spec = dataclasses.replace(spec, settled={**spec.settled, place.run_id: epochs})
        return Ready(self._spec)

    def _best(
        self,
        spec: Design,
        name: str,
        place: RunPlace,
        states: Mapping[int, str],
        measure: Callable[[RunFolder], float | None],
    ) -> float | None:
        """The measure of the finished run of arm `name` with the same repeat; the mean over others if that failed.

        None if no run of the arm has finished.
        """
        found: dict[tuple[int, int | None, int | None], float] = {}
        for number, (arm, other) in enumerate(spec.cells):
            if arm.name == name and states.get(number) == "COMPLETE":
                value = measure(RunFolder(self._folder.home.runs / other.run_id))
                if value:
                    found[other.repeat] = value
        own = found.get(place.repeat)
        return own if own is not None else (statistics.fmean(found.values()) if found else None)


def _seconds(run: RunFolder) -> float:
    """Seconds of all epochs of a run and of its extra pairs, times the devices that it held."""
    return device_seconds(run.metrics(), run.config(), run.read().pair_seconds)


def _pair_seconds(run: RunFolder) -> float:
    """Seconds in which a run's extra pairs were made, times the devices that it held."""
    return device_seconds([], run.config(), run.read().pair_seconds)


def _epoch_seconds(run: RunFolder) -> float | None:
    """Mean seconds of an epoch of a run's phase 1, times the devices that it held; None without a phase 1."""
    seconds = [float(report["seconds"]) for report in run.metrics() if report["phase"] == "pretrain"]
    return statistics.fmean(seconds) * devices_of(run.config()) if seconds else None


def _ended(spec: Design, name: str, states: Mapping[int, str], place: RunPlace | None = None) -> bool:
    """Whether the runs of arm `name`, or that of the same repeat as `place`, have ended, whatever their end was."""
    return all(
        states.get(number, "WAITING") not in ("WAITING", "RUNNING")
        for number, (arm, its) in enumerate(spec.cells)
        if arm.name == name and (place is None or its.repeat == place.repeat)
    )
