"""The two ways of `benchmarks/reuse.py` to run the same trials: a study of this platform, and plain Ray Tune."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from ray import tune

from sage_ray.config import ExperimentConfig
from sage_ray.data.prepare import prepare
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.search.driver import sweep
from sage_ray.stages.store import StageStore
from sage_ray.study.file_schema import ObjectivePart
from sage_ray.study.objective import reduce_reports
from sage_ray.study.space import Space
from sage_ray.training.context import LocalContext
from sage_ray.training.loop import run_training

SAMPLE_S = 0.5
"""Seconds between two looks at the processes: what one burns after the last look before its end is not counted."""


@dataclass(frozen=True)
class TrialResult:
    """What one trial came to: its objective, its weights, and the scores of its last phase, epoch by epoch."""

    objective: float
    weights_sha: str
    scores: tuple[float, ...]


@dataclass
class Arm:
    """What one way of running the trials cost, and what came of it.

    Attributes:
        trials: results by number, of the trials that ran to their end.
        trained: epochs that were trained, by phase.
        told: epochs of all trials up to where each ended, those from the stage store too.
        seconds: of the epochs that were trained, by phase.
        wall_s: from the call to its return, with a Ray that was there before.
        start_s: of that, before the first trial began.
        cpu_s: processor time of all processes: driver, Ray and trials.
    """

    trials: dict[int, TrialResult] = field(default_factory=dict)
    trained: dict[str, int] = field(default_factory=dict)
    told: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    wall_s: float = 0.0
    start_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def epochs(self) -> int:
        """Epochs that were trained."""
        return sum(self.trained.values())

    @property
    def beyond_s(self) -> float:
        """Wall seconds that were neither an epoch nor before the first trial."""
        return self.wall_s - self.start_s - sum(self.seconds.values())

    def add_epochs(self, reports: Sequence[dict[str, Any]]) -> None:
        """Count the epochs of one run."""
        self.told += len(reports)
        for report in reports:
            if not report.get("replayed"):
                phase = report["phase"]
                self.trained[phase] = self.trained.get(phase, 0) + 1
                self.seconds[phase] = self.seconds.get(phase, 0.0) + float(report["seconds"])


def run_here(space: Space, home: Home) -> Arm:
    """The trials of a space as a study of an empty home, with records, storage, stages and MLflow; Ray is there."""
    arm = Arm()
    with _metered(arm) as began:
        state = sweep(space, home)
    assert not state.failed, [trial.error for trial in state.trials]
    for trial in state.trials:
        run = RunFolder.open(home.runs, trial.runs[0].run_id)
        reports = run.metrics()
        arm.add_epochs(reports)
        if trial.number == 0:
            arm.start_s = (run.path / "config.yaml").stat().st_mtime - began
        if trial.state == "COMPLETE":
            assert trial.value is not None and trial.weights_sha is not None
            arm.trials[trial.number] = TrialResult(
                trial.value, trial.weights_sha, _last_phase(reports, space.objective)
            )
    return arm


def run_plain(configs: Sequence[ExperimentConfig], objective: ObjectivePart, folder: Path, cache: Path) -> Arm:
    """The configs as trials of plain Ray Tune with reused actors over the bare loop, one at a time.

    Each trial has a stage store of its own, so that nothing is shared. Ray is there, and the data are decoded.
    """

    def trainable(task: dict[str, Any]) -> None:
        began = time.time()
        reports, weights_sha = train_alone(configs[task["number"]], folder / f"trial-{task['number']}", cache)
        value = reduce_reports(reports, objective)
        tune.report({"began": began, "objective": value, "weights_sha": weights_sha, "reports": reports})

    arm = Arm()
    with _metered(arm) as began:
        analysis = tune.run(
            tune.with_resources(trainable, {"cpu": 1}),
            config={"number": tune.grid_search(list(range(len(configs))))},
            max_concurrent_trials=1,
            reuse_actors=True,
            storage_path=str(folder / "ray"),
            verbose=0,
        )
    results = {trial.config["number"]: trial.last_result for trial in analysis.trials}
    arm.start_s = min(result["began"] for result in results.values()) - began
    for number, result in sorted(results.items()):
        arm.add_epochs(result["reports"])
        scores = _last_phase(result["reports"], objective)
        arm.trials[number] = TrialResult(result["objective"], result["weights_sha"], scores)
    return arm


def train_alone(config: ExperimentConfig, folder: Path, cache: Path) -> tuple[list[dict[str, Any]], str]:
    """Reports and weights of one training without a record; its stage store in `folder` is removed at the end."""
    data = prepare(config.data, cache)
    store = StageStore(str(folder))
    result = run_training(config, data, LocalContext(config.runtime), store, cache_dir=cache)
    shutil.rmtree(folder)
    return [dict(report) for report in result.history], result.weights_sha


def _last_phase(reports: Sequence[dict[str, Any]], objective: ObjectivePart) -> tuple[float, ...]:
    return tuple(float(r[objective.metric]) for r in reports if r["phase"] == reports[-1]["phase"])


@contextmanager
def _metered(arm: Arm) -> Iterator[float]:
    """Measures the body's wall and processor seconds; yields the time of its beginning."""
    began, started = time.time(), time.perf_counter()
    with processor_seconds() as spent:
        yield began
        arm.wall_s = time.perf_counter() - started
    arm.cpu_s = sum(spent.values())


@contextmanager
def processor_seconds() -> Iterator[dict[int, float]]:
    """Processor seconds of this process and all below it during the body, by process; complete when it has ended."""
    before = _processor_times()
    spent: dict[int, float] = {}
    over = threading.Event()

    def look() -> None:
        for pid, seconds in _processor_times().items():
            spent[pid] = seconds - before.get(pid, 0.0)

    def watch() -> None:
        while not over.wait(SAMPLE_S):
            look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield spent
    finally:
        over.set()
        watcher.join()
        look()


def _processor_times() -> dict[int, float]:
    me = psutil.Process()
    times = {}
    for process in (me, *me.children(recursive=True)):
        try:
            used = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        times[process.pid] = used.user + used.system
    return times
