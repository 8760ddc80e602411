"""Claim: a single-worker trial costs at most 0.3 s beyond its training, with records, MLflow, Optuna and Tune.

One sweep of trials that share nothing, one at a time in a reused actor: seconds from the start of a trial to the
start of the next, less the seconds of its epochs. The bare loop has such a rest too (networks, snapshots, last
evaluation); it is measured on the same configs in this process and taken off. The first trials, which pay for imports
and for the creation of the MLflow store, are left out. Pictures are off: they are no part of orchestration.
`--workers 2` shows the seconds of trials that nest Ray Train.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import optuna
import yaml

from benchmarks.record import save
from sage_ray.data.prepare import prepare
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.search.driver import sweep
from sage_ray.search.study_status import trial_config
from sage_ray.stages.store import StageStore
from sage_ray.study.space import Space, load_space
from sage_ray.training.context import LocalContext
from sage_ray.training.loop import run_training

LIMIT_S = 0.3
WARM_UP = 2


def main() -> int:
    """Exit code: 1 if the claim does not hold (on an idle machine)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=4, help="of each phase")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--name", default="orchestration", help="name of the result files")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home")
        space = make_space(Path(folder), options)
        state = sweep(space, home)
        assert state.done == options.trials, [t.error for t in state.trials]
        rows = [trial_seconds(home, number) for number in range(WARM_UP, options.trials - 1)]
        inline = range(WARM_UP, options.trials) if options.workers == 1 else ()
        rests = [bare_rest(space, home, number, Path(folder)) for number in inline]
    row: dict[str, Any] = {"workers": options.workers, "trials": options.trials}
    row |= {"s a trial": statistics.median(total for total, _ in rows)}
    row |= {"s of its epochs": statistics.median(epochs for _, epochs in rows)}
    notes = []
    if rests:
        row |= {"s of the bare loop beside its epochs": statistics.median(rests)}
        row |= {"s beyond training": statistics.median(t - e for t, e in rows) - statistics.median(rests)}
        notes = [f"Claim: at most {LIMIT_S} s beyond training; medians over all trials but the first {WARM_UP}."]
    save(options.name, "What orchestration costs a trial", [row], notes)
    return int(bool(rests) and row["s beyond training"] > LIMIT_S)


def make_space(folder: Path, options: argparse.Namespace) -> Space:
    """A space whose trials differ in the first phase already, so that nothing is shared."""
    values = {
        "data.path": "synthetic://ordered?num=32&size=48&seed=0",
        "data.image_size": [48, 48],
        "pretrain.epochs": options.epochs,
        "adversarial.epochs": options.epochs,
        "runtime.pictures": False,
        **{f"{network}.norm": "group" for network in ("segmenter", "generator", "discriminators")},
    }
    tree = {
        "name": "orchestration",
        "base": {"preset": "tiny_sage_gan", "set": values},
        "space": {"pretrain.lr": {"float": [1e-4, 1e-2], "log": True}},
        "sampler": {"name": "tpe", "startup": 4},
        "scheduler": {"name": "asha", "grace_epochs": 100},
        "trials": options.trials,
        "concurrency": 1,
        "resources": {"cpu": 1, "workers": options.workers},
    }
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(tree))
    return load_space(path)


def trial_seconds(home: Home, number: int) -> tuple[float, float]:
    """(seconds from the start of a trial to the start of the next, seconds of its epochs)."""
    storage = f"sqlite:///{home.studies}/orchestration/optuna.db"
    trials = optuna.load_study(study_name="orchestration", storage=storage).trials
    first, second = trials[number].datetime_start, trials[number + 1].datetime_start
    assert first is not None and second is not None
    run = RunFolder.open(home.runs, f"orchestration-t{number:04d}-s0")
    return (second - first).total_seconds(), sum(line["seconds"] for line in run.metrics())


def bare_rest(space: Space, home: Home, number: int, folder: Path) -> float:
    """Seconds of the bare loop on a trial's config beside those of its epochs, with a stage store of its own."""
    config = trial_config(space.name, home, number)
    data = prepare(config.data, home.cache)
    store = StageStore(folder / "bare-stages")
    started = time.perf_counter()
    result = run_training(config, data, LocalContext(config.runtime), store, cache_dir=home.cache)
    return time.perf_counter() - started - sum(report["seconds"] for report in result.history)


if __name__ == "__main__":
    sys.exit(main())
