"""Several runs under Ray Train side by side, as many at a time as the machines hold."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from sage_ray.config import ExperimentConfig
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunLabels, RunRecord
from sage_ray.runtime.devices import Machines, gpus_held, ray_machines, ray_nodes, resolve_runtime
from sage_ray.runtime.home_signs import CheckedNodes
from sage_ray.runtime.launch import run
from sage_ray.runtime.ray_cluster import connect, self_started
from sage_ray.runtime.ray_lines import folded
from sage_ray.runtime.ray_train import checked_nodes
from sage_ray.training.context import Report

LOOK_S = 0.2
LEAVE_S = 120.0
"""Time that the runs get to record their end once they are interrupted."""


@dataclass(frozen=True)
class Job:
    """One of the runs. They differ in seed or values, and not in what they compute on."""

    run_id: str
    config: ExperimentConfig
    labels: RunLabels


def run_side_by_side(
    jobs: Sequence[Job],
    home: Home,
    *,
    on_report: Callable[[Job, Report], None],
    on_maker: Callable[[Job, Report], None] | None = None,
    say: Callable[[str], None],
) -> list[RunRecord]:
    """Train all jobs under Ray Train and return their records, in the order of the jobs.

    The next one begins when there is room for it, on machines that joined meanwhile too; the first always begins. Once
    one has not finished none is begun any more, and those that train go on to their ends.

    Args:
        jobs: at least one.
        home: where they are kept.
        on_report: told each epoch of each job, in threads of their own.
        on_maker: likewise each epoch of what a job trains first for its extra pairs.
        say: told lines for the user, likewise.

    Raises:
        UserError: as `runtime.launch.run`; of several jobs, what the first of them raised.
        KeyboardInterrupt: interrupted; the records of those that trained say so.
    """
    if all(_is_finished(job, home) for job in jobs):  # nothing is trained, so that no Ray is needed
        return [run(job.config, home, job.run_id, labels=job.labels, launcher="ray", say=say) for job in jobs]
    connect()
    config = jobs[0].config.with_sections(runtime=resolve_runtime(jobs[0].config.runtime, ray_machines))
    over = threading.Event()

    def interrupted() -> bool:
        if over.is_set():
            raise KeyboardInterrupt
        return False

    with _nodes(config, home, say) as checked, folded(say):

        def run_it(job: Job) -> RunRecord:
            return run(
                job.config,
                home,
                job.run_id,
                labels=job.labels,
                on_report=partial(on_report, job),
                on_maker=None if on_maker is None else partial(on_maker, job),
                should_stop=interrupted,
                launcher="ray",
                say=say,
                checked=checked,
                beside=min(len(jobs), _places(config)) - 1,
            )

        going = _begin_and_wait(jobs, run_it, config, over)
    for each in going:
        if each.error is not None:
            raise each.error
    return [each.record for each in going if each.record is not None]


def _begin_and_wait(
    jobs: Sequence[Job], run_it: Callable[[Job], RunRecord], config: ExperimentConfig, over: threading.Event
) -> list[_Going]:
    """The jobs that were begun, once all of them have ended; `over` is set if this process is interrupted."""
    going: list[_Going] = []
    try:
        while True:
            running = sum(each.running for each in going)
            wanted = len(going) < len(jobs) and not any(each.failed for each in going)
            if not running and not wanted:
                return going
            if wanted and running < _places(config):
                going.append(_Going(jobs[len(going)], run_it))
            else:
                time.sleep(LOOK_S)
    except BaseException:
        over.set()
        for each in going:
            each.join(LEAVE_S)
        raise


def _is_finished(job: Job, home: Home) -> bool:
    folder = RunFolder(home.runs / job.run_id)
    return (folder.path / "record.json").is_file() and folder.read().finished


@contextmanager
def _nodes(config: ExperimentConfig, home: Home, say: Callable[[str], None]) -> Iterator[CheckedNodes]:
    if self_started():
        yield CheckedNodes()
        return
    with checked_nodes(config, home, say) as checked:
        yield checked


def _places(config: ExperimentConfig) -> int:
    """How many of the runs the machines hold now; at least 1, for a run itself refuses or awaits what does not fit."""
    runtime = config.runtime
    gpus = gpus_held(runtime) / runtime.workers
    return max(Machines(ray_nodes()).fit(runtime.cpus_per_worker, gpus, runtime.workers), 1)


class _Going:
    """A job that has begun, in a thread of its own; a daemon, so that a second Ctrl-C waits for nobody."""

    def __init__(self, job: Job, work: Callable[[Job], RunRecord]) -> None:
        self.record: RunRecord | None = None
        self.error: BaseException | None = None
        self._job, self._run = job, work
        self._thread = threading.Thread(target=self._work, name=f"run {job.run_id}", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    @property
    def failed(self) -> bool:
        return self.error is not None or (self.record is not None and not self.record.finished)

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def _work(self) -> None:
        try:
            self.record = self._run(self._job)
        except BaseException as error:  # handed to the thread that waits
            self.error = error
