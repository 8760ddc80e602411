"""Bringing storage, run records and scheduler to one state, before a sweep goes on and after it ended."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from sage_ray.followed import pull
from sage_ray.record.mlflow_follower import is_sending
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import State
from sage_ray.search.halving import Halving
from sage_ray.search.objectives import run_objectives
from sage_ray.search.storage import StudyStorage, TrialRow
from sage_ray.search.study_fault import is_study_fault
from sage_ray.search.study_folder import StudyFolder
from sage_ray.search.study_status import StudyStatus, status_of
from sage_ray.study.objective import reduce_reports
from sage_ray.study.spec import StudySpec

LOOK_S = 0.05
LATELY_S = 120.0
_STATE_OF_RUN: dict[str, State] = {"PRUNED": "PRUNED", "FAIL": "FAIL", "RUNNING": "INTERRUPTED"}


def take_up(storage: StudyStorage, folder: StudyFolder, spec: StudySpec) -> list[int]:
    """Tell the trials that ended while no driver listened; returns the numbers of those that must go on."""
    unfinished = []
    for row in storage.rows():
        if row.state != "RUNNING":
            continue
        runs = folder.run_folders(spec, row.number)
        records = [run.read() for run in runs]
        failed = [record for record in records if record.state == "FAIL" and not is_study_fault(record)]
        if failed:
            storage.tell_failed(row.number, f"{failed[0].run_id}: {failed[0].error or 'failed'}")
        elif len(records) == len(spec.run_grid(row.number)) and all(record.finished for record in records):
            tell_finished(storage, spec, row.number, runs)
        else:
            unfinished.append(row.number)
    return unfinished


def tell_finished(storage: StudyStorage, spec: StudySpec, number: int, runs: list[RunFolder]) -> None:
    """Tell a trial whose runs are all complete on disk: its reports and its objective."""
    objective = spec.objective
    reports = runs[0].metrics()
    for end, report in enumerate(reports, start=1):
        storage.report(number, int(report["epoch"]), reduce_reports(reports[:end], objective))
    each = [run_objectives(run.metrics(), run.config(), spec.objectives, run.read().pair_seconds) for run in runs]
    storage.tell_complete(number, [statistics.fmean(values) for values in zip(*each, strict=True)])


def settle(storage: StudyStorage, folder: StudyFolder, spec: StudySpec, *, patience_s: float = 0.0) -> list[RunFolder]:
    """Give each run that nobody computes any more the state of its trial: its process may have died before it could.

    Args:
        storage: the study's trials.
        folder: the study.
        spec: names the runs of a trial.
        patience_s: time that processes which still hold a run get, all together, to leave it: Ray tells them to go,
            and does not wait until they have.

    Returns:
        The runs that were changed.
    """
    deadline = time.monotonic() + patience_s
    changed = []
    for run, row in _unsettled(storage, folder, spec):
        if not _left(run, deadline):
            continue
        run.refresh(now=True)
        if run.read().state not in _settled(row):  # its process may have told how it ended while it was leaving
            run.set_state(_STATE_OF_RUN[row.state], error=row.error)
            changed.append(run)
    return changed


def await_left(storage: StudyStorage, folder: StudyFolder, spec: StudySpec, patience_s: float) -> None:
    """Wait, for at most `patience_s`, until the processes of trials that have ended early have written how.

    To be called while Ray still runs: it ends with the processes that it has.
    """
    deadline = time.monotonic() + patience_s
    for run, _ in _unsettled(storage, folder, spec):
        if not _left(run, deadline):
            return


def await_sent(storage: StudyStorage, folder: StudyFolder, spec: StudySpec, patience_s: float) -> None:
    """Wait, for at most `patience_s`, until the processes of trials that have just ended have sent that to MLflow.

    To be called while Ray still runs: a process that ends with it would keep a run from being sent by another one.
    """
    deadline = time.monotonic() + patience_s
    for run in lately_ended(folder, status_of(folder, spec, storage.rows())):
        while is_sending(run) and time.monotonic() < deadline:
            time.sleep(LOOK_S)


def _unsettled(storage: StudyStorage, folder: StudyFolder, spec: StudySpec) -> Iterator[tuple[RunFolder, TrialRow]]:
    """Runs whose state is not one that their trial, which is not complete, may leave them in."""
    pull(folder.home.runs)
    for row in storage.rows():
        if row.state == "COMPLETE":
            continue
        for run in folder.run_folders(spec, row.number):
            if run.read().state not in _settled(row):
                yield run, row


def _settled(row: TrialRow) -> tuple[State, ...]:
    return ("COMPLETE", "FAIL", _STATE_OF_RUN[row.state])


def lately_ended(folder: StudyFolder, status: StudyStatus) -> list[RunFolder]:
    """Runs that have changed in the last `LATELY_S` seconds: their processes may have ended before MLflow had them."""
    since = time.time() - LATELY_S
    found = []
    for run in (run for trial in status.trials for run in trial.runs):
        record = folder.home.runs / run.run_id / "record.json"
        with contextlib.suppress(OSError):
            if record.stat().st_mtime >= since:
                found.append(RunFolder(record.parent))
    return found


def _left(run: RunFolder, deadline: float) -> bool:
    while run.alive():
        if time.monotonic() >= deadline:
            return False
        time.sleep(LOOK_S)
    return True


def make_scheduler(spec: StudySpec, rows: list[TrialRow]) -> TrialScheduler:
    """The study's scheduler; ASHA's rungs are filled with what ended trials reported, as if it had never been away."""
    part = spec.scheduler
    if part.name == "fifo":
        return FIFOScheduler()  # type: ignore[no-untyped-call]
    scheduler = Halving(
        time_attr="epoch",
        metric="objective",
        mode="max" if spec.objective.maximize else "min",
        grace_period=part.grace_epochs,
        reduction_factor=part.reduction_factor,
        # Above any epoch, so that no trial is "stopped" for having reached its own end.
        max_t=max(spec.max_epochs() + 1, part.grace_epochs),
    )
    for row in rows:
        if row.state == "RUNNING":
            continue
        trial: Any = SimpleNamespace(config={"number": row.number})
        nobody: Any = None
        scheduler.on_trial_add(nobody, trial)
        judged = sorted(row.reports)[: -1 if row.state == "COMPLETE" else None]
        for epoch in judged:
            scheduler.on_trial_result(nobody, trial, {"epoch": epoch, "objective": row.reports[epoch]})
    return scheduler
