"""Claim: a study of 1,000 of the smallest trainings costs at most .15 s per trial beyond training, first to last.

One sweep with one slot and MLflow on, through the real path: records, storage, stage store, mirror. Beyond training is
the time from the start of a trial to the start of the next, less what the bare loop (`run_training` and its snapshots)
takes on the same configs in this process. For the first hundred trials and for every later hundred: seconds per trial,
seconds of the driver's own CPU per trial, and the driver's memory. Beside it, in the same run, plain Ray Tune with
reused actors over the bare loop: what Tune itself costs on this machine. `status` and `list` are timed at the end.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil
import yaml
from ray import tune

from benchmarks.record import save
from sage_ray.config import ExperimentConfig
from sage_ray.data.prepare import prepare
from sage_ray.record.home import Home
from sage_ray.record.overview import overview
from sage_ray.search.driver import sweep
from sage_ray.search.ray_session import environment, ray_session
from sage_ray.search.study_status import StudyStatus, status
from sage_ray.stages.store import StageStore
from sage_ray.study.space import Space, load_space
from sage_ray.training.context import LocalContext
from sage_ray.training.loop import run_training
from sage_ray.watch import SilentWatch

LIMIT_S = 0.15
QUICK_S = 1.0
BLOCK = 100


class Ticks(SilentWatch):
    """When each trial ended, with the driver's CPU seconds and memory by then."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, float, float, int]] = []

    def update(self, state: StudyStatus) -> None:
        ended = state.done + state.pruned + state.failed
        if not self.rows or ended > self.rows[-1][0]:
            memory = psutil.Process().memory_info().rss
            self.rows.append((ended, time.monotonic(), time.process_time(), memory))


def main() -> int:
    """Exit code: 1 if the claim does not hold (on an idle machine)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--plain", type=int, default=100, help="trials of plain Ray Tune")
    parser.add_argument("--name", default="overhead", help="name of the result files")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home, ticks = Home(Path(folder) / "home"), Ticks()
        space = make_space(Path(folder), options.trials)
        state = sweep(space, home, watch=ticks)
        assert state.done == options.trials, [t.error for t in state.trials][:3]
        bare = bare_seconds(space, Path(folder) / "bare")
        answers = {"status": timed(lambda: status("overhead", home)), "list": timed(lambda: overview(home))}
        plain = plain_tune(space, Path(folder) / "plain", options.plain)
    rows = [block(ticks.rows, first, bare) for first in range(0, options.trials, BLOCK)]
    rows[0]["note"] = "with the start of Ray and of the first actor"
    beyond = [row["s beyond training"] for row in rows[1:]] or [rows[0]["s beyond training"]]
    middle = statistics.median(beyond)
    notes = [
        f"Claim: at most {LIMIT_S} s per trial beyond training; here {middle:.3f} s, the median of blocks.",
        f"The bare loop takes {bare:.3f} s per trial, and plain Ray Tune over it {plain:.3f} s: a trial here takes "
        f"{(middle + bare) / plain:.1f} times as long, with records, storage, stages and MLflow.",
        f"`status` takes {answers['status']:.2f} s and `list` {answers['list']:.2f} s on {options.trials} trials.",
    ]
    save(options.name, "What a study of many small trials costs", rows, notes)
    return int(max(beyond) > LIMIT_S or max(answers.values()) > QUICK_S)


def make_space(folder: Path, trials: int) -> Space:
    """Trials of one epoch of a small U-Net, each with its own learning rate, so that nothing is shared."""
    values = {
        "data.path": "synthetic://ordered?num=8&size=16&seed=0",
        "data.image_size": [16, 16],
        "segmenter.width": 2,
        "segmenter.depth": 1,
        "pretrain.epochs": 1,
        "runtime.pictures": False,
        "runtime.threads": 1,
    }
    tree = {
        "name": "overhead",
        "base": {"preset": "tiny_unet", "set": values},
        "space": {"pretrain.lr": {"float": [1e-4, 1e-2], "log": True}},
        "points": [],
        "sampler": {"name": "random"},
        "trials": trials,
        "concurrency": 1,
    }
    path = folder / "overhead.yaml"
    path.write_text(yaml.safe_dump(tree))
    return load_space(path)


def block(rows: Sequence[tuple[int, float, float, int]], first: int, bare: float) -> dict[str, Any]:
    """Means per trial over the trials that ended from `first` on."""
    inside = [row for row in rows if first <= row[0] <= first + BLOCK]
    (n0, t0, c0, _), (n1, t1, c1, memory) = inside[0], inside[-1]
    count = max(n1 - n0, 1)
    return {
        "trials": f"{n0 + 1} to {n1}",
        "s per trial": round((t1 - t0) / count, 4),
        "s beyond training": round((t1 - t0) / count - bare, 4),
        "driver CPU s per trial": round((c1 - c0) / count, 4),
        "driver MiB": round(memory / 2**20),
    }


def bare_seconds(space: Space, folder: Path) -> float:
    """Median seconds of the bare loop on configs of the space."""
    seconds = []
    for k in range(12):
        started = time.perf_counter()
        train_bare(space.config({"pretrain.lr": 1e-3 * (1 + k / 100)}), folder)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[2:])


def train_bare(config: ExperimentConfig, folder: Path) -> None:
    """One training without a record, in the calling process."""
    data = prepare(config.data, folder / "cache")
    run_training(config, data, LocalContext(config.runtime), StageStore(str(folder / "stages")), cache_dir=folder)


def plain_tune(space: Space, folder: Path, trials: int) -> float:
    """Seconds per trial of plain Ray Tune with reused actors over the bare loop, one at a time."""
    ends: list[float] = []

    def trainable(values: dict[str, Any]) -> None:
        train_bare(space.config({"pretrain.lr": values["lr"]}), folder)
        tune.report({"done_here": 1})

    with environment(), ray_session():
        tune.run(
            tune.with_resources(trainable, {"cpu": 1}),
            config={"lr": tune.loguniform(1.1e-4, 9e-3)},
            num_samples=trials,
            max_concurrent_trials=1,
            reuse_actors=True,
            storage_path=str(folder / "ray"),
            callbacks=[_Unpickled(ends)],
            verbose=0,
        )
    return (ends[-1] - ends[4]) / (len(ends) - 5)


class _Unpickled(tune.Callback):
    """Notes when each trial ended, in a list that stays the caller's: Tune pickles its callbacks."""

    lists: list[list[float]] = []

    def __init__(self, ends: list[float]) -> None:
        self.lists[:] = [ends]

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note the time."""
        self.lists[0].append(time.monotonic())


def timed(work: Any) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
