"""What runs in a Tune actor: one trial, its runs (seeds and folds) one after another, through `runtime.launch.run`."""

from __future__ import annotations

import gc
import math
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch
from pydantic import BaseModel, ConfigDict
from ray import tune

from sage_ray.config import ExperimentConfig
from sage_ray.data.prepare import prepare
from sage_ray.errors import NodeUnfit, NoSpace, SnapshotFailed, StageBusy, StoreRefused, UserError
from sage_ray.followed import exists
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunLabels, RunRecord
from sage_ray.runtime import launch
from sage_ray.runtime.home_signs import CheckedNodes, sign_missing
from sage_ray.runtime.surroundings import Surroundings
from sage_ray.search.faults import is_node_fault
from sage_ray.search.objectives import devices_of, run_objectives
from sage_ray.search.study_fault import is_study_fault
from sage_ray.search.study_folder import STOP_FILE
from sage_ray.study.file_schema import ObjectivePart
from sage_ray.study.objective import reduce_reports

STILL_HERE_S = 20.0
"""Longest time between two signs of life of a run that has no epoch to report: it waits for a shared stage or for its
workers, or trains what makes its extra pairs. A fourth of `runtime.silence_minutes` where that is shorter."""
STAGE_PATIENCE_S = 5.0
"""How long a trial waits in its place for a stage that another one computes, before it leaves the place to others."""
LEAVE_S = 20.0
LOOK_S = 0.2
COLLECT_S = 0.02
"""What has survived a collection of garbage that took longer is not looked through again."""


class TrialRun(BaseModel):
    """One run of a trial: its name, arm, fold and complete config."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    arm: str | None
    fold: int | None
    config: ExperimentConfig


class TrialTask(BaseModel):
    """All that an actor needs for one trial; Ray pickles it, configs included, so that none is built again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: str
    number: int
    home: str
    objectives: tuple[ObjectivePart, ...]
    runs: tuple[TrialRun, ...]
    checked: CheckedNodes = CheckedNodes()

    def __repr__(self) -> str:
        """Short: Tune writes what a trial gets into names and notes of its own, again and again."""
        return f"TrialTask({self.study}, {self.number})"

    __str__ = __repr__

    @property
    def objective(self) -> ObjectivePart:
        """The first objective, by which a scheduler compares."""
        return self.objectives[0]


class _Reporter:
    """Reports the epochs of one run to Tune.

    Every report carries `objective`: the mean over the trial's finished runs and the present value of this one. The
    scheduler compares trials by reports with `epoch`. Only the trial's first run gives them, and not for its last
    epoch, since stopping the run there would save nothing.
    """

    def __init__(self, task: TrialTask, index: int, finished: list[float]) -> None:
        self._task, self._first, self._finished = task, index == 0, finished
        config = task.runs[index].config
        self._devices = devices_of(config)
        self._last_epoch = config.num_epochs
        self._reports: list[dict[str, Any]] = []
        silence = config.runtime.silence_minutes
        self._sign_s = STILL_HERE_S if silence is None else min(STILL_HERE_S, 60 * silence / 4)
        self._last_sent = time.monotonic()
        self._spent_first = 0.0
        self.stopped_by_tune = False

    def __call__(self, report: dict[str, Any]) -> None:
        self._reports.append(report)
        value = reduce_reports(self._reports, self._task.objective)
        result: dict[str, Any] = {"objective": statistics.fmean([*self._finished, value])}
        result["epoch_seconds"], result["node"] = float(report["seconds"]), _node()
        result["spent"] = 0.0 if report["replayed"] else float(report["seconds"]) * self._devices
        if self._first:
            result["step"] = report["epoch"]
            if report["epoch"] < self._last_epoch and report["phase"] != "render":
                result["epoch"] = report["epoch"]
        self._send(result)

    def maker(self, progress: dict[str, Any]) -> None:
        """Count what the run spends on what it trains first; Tune hears it with the next sign of life or report."""
        self._spent_first += 0.0 if progress["replayed"] else float(progress["seconds"]) * self._devices
        self.waits()

    def waits(self) -> None:
        """Tell Tune, now and then, that a run which has no epoch to report is alive and does not hang."""
        if time.monotonic() - self._last_sent >= self._sign_s:
            self._send({"objective": math.nan, "waits": 1})

    def _send(self, result: dict[str, Any]) -> None:
        self._last_sent = time.monotonic()
        if self._spent_first:
            result["spent_first"], self._spent_first = self._spent_first, 0.0
        try:
            tune.report(result)
        except SystemExit:
            self.stopped_by_tune = True
            raise


def run_trial(config: dict[str, Any], surroundings: Surroundings | None = None) -> None:
    """Tune trainable: trains the task in `config["task"]` and reports how it ended.

    The last report has `trial_complete` (with the objective), `trial_failed` (one line why) or `trial_halted` (it goes
    on later: the study is being stopped, or has to be because of `study_fault`, which no trial would survive, or the
    machine is at fault: `node_fault`, and `node_shared` where the driver should see the same; or it needs a stage that
    another trial computes: `stage_busy`). When Tune stops the trial, the thread ends with the report it stood in.
    """
    with _stays_until_written():
        _work(config["task"], surroundings)


@contextmanager
def _stays_until_written() -> Iterator[None]:
    """The process does not end before the body has, nor later than `LEAVE_S` from when Tune drops it.

    Tune runs a trial in a daemon thread, which would be cut off in the middle of what it writes as it is stopped.
    """
    written = threading.Event()

    def stay() -> None:
        while threading.main_thread().is_alive():
            if written.wait(LOOK_S):
                return
        written.wait(LEAVE_S)

    threading.Thread(target=stay, name="stays", daemon=False).start()
    try:
        yield
    finally:
        written.set()


def _work(task: TrialTask, surroundings: Surroundings | None) -> None:
    if surroundings is not None:
        surroundings.take_on()
    lacks = _lacks_home(task)
    if lacks is not None:
        _blame_node(lacks, shared=True)
        return
    finished: list[list[float]] = []
    for index in range(len(task.runs)):
        values = _one_run(task, index, [first for first, *_ in finished])
        if values is None:
            return
        finished.append(values)
    means = [statistics.fmean(values) for values in zip(*finished, strict=True)]
    tune.report({"objective": means[0], "objectives": means, "trial_complete": 1, "node": _node()})


def _one_run(task: TrialTask, index: int, finished: list[float]) -> list[float] | None:
    """The objectives of one run; None if the trial ended with it or before it, which is then reported."""
    run = task.runs[index]
    if exists(_stop_path(task), every_s=0.0):
        _end(trial_halted=1)
        return None
    reporter = _Reporter(task, index, finished)
    try:
        record = _launch(task, run, reporter)
    except UserError as error:
        _end_refused(task, run, error)
        return None
    except OSError as error:  # the run's own folder could not be written
        if not _blamed_node(task, f"{type(error).__name__}: {error}"):
            raise
        return None
    finally:
        _leave_no_trace()
    if reporter.stopped_by_tune:
        # Tune waits for this thread to end and takes no further report.
        sys.exit(0)
    if record.state == "INTERRUPTED" and StageBusy.is_told_by(record.error):
        _end(trial_halted=1, stage_busy=1)
    elif record.state in ("PRUNED", "INTERRUPTED"):
        _end(trial_halted=1)
    elif record.state == "FAIL" and _blamed_node(task, record.error or ""):
        pass
    elif is_study_fault(record):
        _end(trial_halted=1, study_fault=f"{run.run_id}: {record.error}")
    elif record.state != "COMPLETE":
        _end(trial_failed=f"{run.run_id}: {record.error or record.state}")
    if record.state != "COMPLETE":
        return None
    reports = RunFolder(Home(task.home).runs / run.run_id).metrics()
    return run_objectives(reports, run.config, task.objectives, record.pair_seconds)


def _launch(task: TrialTask, run: TrialRun, reporter: _Reporter) -> RunRecord:
    home = Home(task.home)
    # A process of an earlier start of the study may be left, on a node that its driver had lost.
    RunFolder(home.runs / run.run_id).end_other_process(reporter.waits)
    return launch.run(
        run.config,
        home,
        run.run_id,
        labels=RunLabels(study=task.study, trial=task.number, arm=run.arm, fold=run.fold, parent=task.study),
        on_report=reporter,
        on_maker=reporter.maker,
        on_waiting=reporter.waits,
        pause_path=_stop_path(task),
        stage_patience_s=STAGE_PATIENCE_S,
        mirror="behind",
        launcher="ray" if run.config.runtime.workers > 1 else "inline",
        checked=task.checked,
    )


def _stop_path(task: TrialTask) -> Path:
    return Home(task.home).studies / task.study / STOP_FILE


def _end_refused(task: TrialTask, run: TrialRun, error: UserError) -> None:
    """Data that went away, lost stores and full disks end the study, or blame the node; the rest is the trial's own."""
    if isinstance(error, NoSpace | StoreRefused):
        _end(trial_halted=1, study_fault=str(error))
        return
    if isinstance(error, NodeUnfit):
        _end(trial_halted=1, node_fault=str(error), node=error.node_id)
        return
    runtime = run.config.runtime
    if runtime.device == "cuda" and runtime.workers == 1 and not torch.cuda.is_available():
        _blame_node("torch sees no CUDA device, and trials compute on a GPU")
        return
    try:
        prepare(run.config.data, Home(task.home).cache)
    except UserError as problem:
        _blame_node(str(problem), shared=True)
    else:
        _end(trial_failed=f"{run.run_id}: {error}")


def _lacks_home(task: TrialTask) -> str | None:
    """What is wrong with the home on this machine; None: it is the driver's."""
    wrong = None if task.checked.sign is None else sign_missing(task.home, task.checked.sign)
    return None if wrong is None else f"home {wrong}"


def _blamed_node(task: TrialTask, error: str) -> bool:
    """Whether this machine is at fault for a failure, which is then reported."""
    lacks = _lacks_home(task)
    if lacks is not None:
        _blame_node(f"{lacks}; {error}", shared=True)
        return True
    if not is_node_fault(error):
        return False
    try:
        Home(task.home).check_writable()
    except UserError as problem:
        _blame_node(str(problem), shared=True)
        return True
    if SnapshotFailed.is_told_by(error):  # in a home that can be written: it is full, for everybody
        return False
    _blame_node(error)
    return True


def _blame_node(reason: str, *, shared: bool = False) -> None:
    _end(trial_halted=1, node_fault=reason, node=_node(), **({"node_shared": 1} if shared else {}))


def _node() -> str:
    """Ray's name of this machine; "" outside Ray."""
    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else ""


def _end(**ending: Any) -> None:
    tune.report({"objective": math.nan, **ending})


def _leave_no_trace() -> None:
    """The actor is used again: give back what a trial leaves in the process."""
    started = time.perf_counter()
    gc.collect()
    if time.perf_counter() - started > COLLECT_S:
        # What is left is imported code, part of it MLflow's; looking through it again costs each trial half a second.
        gc.freeze()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
