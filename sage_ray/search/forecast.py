"""What a study is expected to take, written down when it begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from sage_ray.errors import UserError
from sage_ray.files import write_json
from sage_ray.record.home import Home
from sage_ray.search.placement import Placement
from sage_ray.search.planned_runs import Clock, StudyData, count_epochs, planned_runs, trial_place
from sage_ray.search.planned_taken import FILE, FORMAT_VERSION, read_forecast, trained_before
from sage_ray.search.recorded_epochs import recorded_epochs
from sage_ray.search.sampling import simulate
from sage_ray.search.schedule import RunOfPlan
from sage_ray.search.study_folder import StudyFolder
from sage_ray.stages.store import StageStore
from sage_ray.study.spec import StudySpec

COUNTED = 200
"""Trials that are counted one by one; of a longer study the others are taken to be like these."""
RUNS_READ = 24
"""Recorded runs that are read for it: a driver does not wait for more."""


def note_forecast(spec: StudySpec, folder: StudyFolder, placement: Placement) -> None:
    """Write plan.json into the folder of a study that begins: epochs and hours that it is expected to take.

    What is there already stays, so that a study is compared with what was said before it began. If the study has
    changed, it is written anew, and what was trained by then counts as planned. Nothing is measured; hours are null
    where no recorded run is alike. A study never fails of its forecast: one that cannot be counted has none.

    Args:
        spec: the placed study.
        folder: of the study; the caller is its driver.
        placement: of its trials.
    """
    path = folder.path / FILE
    known = read_forecast(path)
    # A forecast of before this release does not say which file it is of.
    if known is not None and known.get("trials") == spec.trials and known.get("file_hash", spec.hash) == spec.hash:
        return
    with suppress(UserError, OSError):
        before = {} if known is None else trained_before(folder, spec)
        write_json(path, _forecast(spec, folder.home, placement) | before, durable=False)


def _forecast(spec: StudySpec, home: Home, placement: Placement) -> dict[str, Any]:
    samples = simulate(spec, min(spec.trials, COUNTED))
    planned = list(planned_runs(spec, samples, StudyData(home)))
    store = StageStore(spec.base.runtime.stage_store or home.stage_store)
    measured = recorded_epochs(home, trial_place(spec.base, placement), RUNS_READ)
    clock = Clock(spec, placement, measured, store, count_flops=False)
    timed = clock.timed(planned) if measured else None
    counted = [each.run for each in planned]
    half = len(samples) // 2
    beyond = (spec.trials - len(samples)) / max(len(samples) - half, 1)

    def whole(count: Callable[[Sequence[RunOfPlan]], float], runs: Sequence[RunOfPlan]) -> float:
        """What all trials take: those that are not counted are like the second half of the others."""
        known = count(runs)
        return known + (beyond * (known - count([run for run in runs if run.trial < half])) if beyond else 0.0)

    def hours(name: str) -> float | None:
        if timed is None or getattr(clock.hours(timed), name) is None:
            return None
        return round(whole(lambda runs: float(getattr(clock.hours(runs), name)), timed), 6)

    return {
        "format_version": FORMAT_VERSION,
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "trials": spec.trials,
        "file_hash": spec.hash,
        "counted": len(samples),
        "epochs_without_reuse": round(whole(lambda runs: count_epochs(runs, store).without_reuse, counted)),
        "epochs_with_reuse": round(whole(lambda runs: count_epochs(runs, store).with_reuse, counted)),
        "epochs_stored": count_epochs(counted, store).stored,
        "upper_bound": spec.scheduler.name == "asha",
        "wall_hours": hours("wall"),
        "worker_hours": hours("worker"),
        "gpu_hours": hours("gpu"),
        "measured": list(dict.fromkeys(m.source for m in clock.used)),
    }
