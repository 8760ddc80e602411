"""Several runs under Ray Train side by side, as many at a time as the machines hold."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sage_ray.config import ExperimentConfig
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunLabels, RunRecord
from sage_ray.runtime.devices import Machines, ray_machines, ray_nodes, resolve_runtime
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
    say: Callable[[str], None],
) -> list[RunRecord]:
    """Train all jobs under Ray Train and return their records, in the order of the jobs.

    The next one begins when there is room for it, on machines that joined meanwhile too; the first always begins. Once
    one has not finished none is begun any more, and those that train go on to their ends.

    Args:
        jobs: at least one.
        home: where they are kept.
        on_report: told each epoch of each job, in threads of their own.
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
    going: list[_Going] = []
    with _nodes(config, home, say) as checked, folded(say):
        try:
            while len(going) < len(jobs) or any(each.running for each in going):
                failed = any(each.failed for each in going)
                if failed and not any(each.running for each in going):
                    break
                while not failed and len(going) < len(jobs) and _has_room(config, sum(each.running for each in going)):
                    going.append(_Going(jobs[len(going)], home, on_report, say, checked, over))
                time.sleep(LOOK_S)
        except BaseException:
            over.set()
            for each in going:
                each.join(LEAVE_S)
            raise
    for each in going:
        if each.error is not None:
            raise each.error
    return [each.record for each in going if each.record is not None]


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


def _has_room(config: ExperimentConfig, running: int) -> bool:
    runtime = config.runtime
    gpus = float(runtime.gpus_per_worker) if runtime.device == "cuda" and runtime.gpus_per_worker != "auto" else 0.0
    return running < max(Machines(ray_nodes()).fit(runtime.cpus_per_worker, gpus, runtime.workers), 1)


class _Going:
    """A job that has begun, in a thread of its own; a daemon, so that a second Ctrl-C waits for nobody."""

    def __init__(
        self,
        job: Job,
        home: Home,
        on_report: Callable[[Job, Report], None],
        say: Callable[[str], None],
        checked: CheckedNodes,
        over: threading.Event,
    ) -> None:
        self.record: RunRecord | None = None
        self.error: BaseException | None = None
        self._job, self._home, self._on_report, self._say = job, home, on_report, say
        self._checked, self._over = checked, over
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
            self.record = run(
                self._job.config,
                self._home,
                self._job.run_id,
                labels=self._job.labels,
                on_report=lambda report: self._on_report(self._job, report),
                should_stop=self._interrupted,
                launcher="ray",
                say=self._say,
                checked=self._checked,
            )
        except BaseException as error:  # handed to the thread that waits
            self.error = error

    def _interrupted(self) -> bool:
        if self._over.is_set():
            raise KeyboardInterrupt
        return False
