"""Claim: 10,000 trials on 64 slots end within 10 % of the least time, at 20 ms of driver time per trial, flat.

Storage, searcher, queue of trials, ASHA and the driver's table are the real ones, on a home on disk; only the trials
are simulated, on a clock of their own. Each draws one of 50 settings of phase 1, which is trained once for all that
share it, and goes on through phase 2; an epoch takes its own time in each trial. The least time is what was trained,
divided by the slots. Driver time is this process' CPU time within calls of the real parts; what a worker writes is not
counted.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import yaml
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from benchmarks.record import save
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunLabels
from sage_ray.search.faults import Faults
from sage_ray.search.opening import write_study
from sage_ray.search.reconcile import make_scheduler
from sage_ray.search.sampling import drawn_blindly
from sage_ray.search.searcher import OptunaSearcher
from sage_ray.search.storage import Drawn, Progress, StudyStorage
from sage_ray.search.study_folder import StudyFolder
from sage_ray.search.study_status import status_of
from sage_ray.search.trainable import STAGE_PATIENCE_S
from sage_ray.search.trial_listener import TrialListener
from sage_ray.search.trial_queue import LOOK_S, TrialQueue
from sage_ray.study.space import Space, load_space
from sage_ray.watch import SilentWatch

LIMIT_MS, LIMIT_RATIO, LIMIT_GROWTH = 20.0, 1.10, 1.5
PRETRAIN, ADVERSARIAL = 8, 16
SETTINGS = 50
BLOCKS = 10


def main() -> int:
    """Exit code: 1 if the claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--sampler", default="random")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        space = make_space(Path(folder), options.trials, options.slots, options.sampler)
        cluster = Cluster(space, Home(Path(folder) / "home"), options.slots)
        cluster.run()
        look_ms = 1000 * cluster.look()
    rows = blocks(cluster.ended, options.trials)
    least = cluster.trained / options.slots
    ratio = cluster.now / least
    each = [row["driver ms per trial"] for row in rows]
    worst, growth = max(each[1:]), each[-2] / each[1]
    notes = [
        f"Simulated: {cluster.now / 3600:.1f} h on {options.slots} slots, least {least / 3600:.1f} h: "
        f"ratio {ratio:.3f}, claim {LIMIT_RATIO}. {cluster.waits} times a trial left its place, as its stage was being "
        f"computed.",
        f"Driver: at most {worst:.1f} ms of CPU per trial after the first tenth, claim {LIMIT_MS:g}; {growth:.2f} "
        f"times as much in the last tenth but one as in the second. The last one has fewer trials at a time.",
        f"A look at all trials takes {look_ms:.0f} ms at the end. States: {cluster.states}.",
    ]
    save("simulated_scale", "A study of 10,000 trials on a simulated cluster", rows, notes)
    return int(ratio > LIMIT_RATIO or worst > LIMIT_MS or growth > LIMIT_GROWTH)


def make_space(folder: Path, trials: int, slots: int, sampler: str) -> Space:
    """A search over phase 2 and over one of 50 settings of phase 1, judged by ASHA from epoch 10 on."""
    tree = {
        "name": "scale",
        "base": {
            "preset": "tiny_sage_gan",
            "set": {"pretrain.epochs": PRETRAIN, "adversarial.epochs": ADVERSARIAL, "runtime.device": "cpu"},
        },
        "space": {
            "pretrain.lr": {"categorical": [1e-4 * (1 + k) for k in range(SETTINGS)]},
            "adversarial.lr": {"float": [1e-5, 1e-3], "log": True},
            "adversarial.lambda_cycle": {"float": [0.1, 10.0], "log": True},
        },
        "points": [],
        "sampler": {"name": sampler},
        "scheduler": {"name": "asha", "grace_epochs": PRETRAIN + 2, "reduction_factor": 3},
        "trials": trials,
        "concurrency": slots,
    }
    path = folder / "scale.yaml"
    path.write_text(yaml.safe_dump(tree))
    return load_space(path)


class Cluster:
    """Slots on a simulated clock, in which simulated trials run as the real searcher and scheduler say.

    Attributes:
        now: seconds on its clock.
        trained: seconds that trials have trained.
        waits: how often a trial left its place to wait for a stage.
        ended: driver seconds by the time that each trial ended.
    """

    def __init__(self, space: Space, home: Home, slots: int) -> None:
        self.now = self.trained = self._driver_s = 0.0
        self.waits = self._order = 0
        self.ended: list[float] = []
        self._space, self._slots, self._home = space, slots, home
        self._folder = StudyFolder(home, space.name)
        self._folder.path.mkdir(parents=True)
        write_study(self._folder, space, "0" * 16, [])
        self._storage = StudyStorage(self._folder.path, space.name, space)
        self._stages: dict[float, float] = {}
        """When the phase 1 of a setting is, or will be, done."""
        self._settings: dict[int, float] = {}
        self._live: dict[str, tuple[SimpleNamespace, Iterator[tuple[float, dict[str, Any]]]]] = {}
        self._events: list[tuple[float, int, str, dict[str, Any]]] = []
        self._searcher = OptunaSearcher(
            self._storage,
            space,
            queue=TrialQueue([], self._stage_is_done, lambda: self.now),
            payload=self._payload,
            progress=lambda number: Progress(),
            failed=self._storage.tell_failed,
            halted=lambda: False,
            limit=lambda: slots,
            blind=lambda number: drawn_blindly(space, number),
        )
        self._scheduler = make_scheduler(space, [])
        nodes: Any = SimpleNamespace(
            waiting=SimpleNamespace(look=lambda trials: None), faults=SimpleNamespace(trained=lambda number, node: None)
        )
        halt: Any = SimpleNamespace(want=lambda reason, detail: None)
        faults = Faults(self._storage.tell_failed, lambda reason: None, None)
        self._listener = TrialListener(self._folder, space, self._storage, faults, halt, SilentWatch(), nodes)

    @property
    def states(self) -> dict[str, int]:
        """How many trials ended in which state."""
        rows = self._storage.rows()
        return {state: sum(row.state == state for row in rows) for state in sorted({row.state for row in rows})}

    def look(self) -> float:
        """Seconds of one look at all trials, as the table is made from."""
        started = time.perf_counter()
        status_of(self._folder, self._space, self._storage.rows(), self._listener.ended)
        return time.perf_counter() - started

    def run(self) -> None:
        """Run the study to its end."""
        while True:
            self._fill()
            if not self._events:
                break
            self.now, _, trial_id, result = heapq.heappop(self._events)
            if trial_id:
                self._hear(trial_id, result)

    def _fill(self) -> None:
        """Start trials as long as the searcher has some."""
        while True:
            trial_id = f"x{self._order:07d}"
            with self._driver():
                given: Any = self._searcher.suggest(trial_id)
            if given is None or given == Searcher.FINISHED:
                # As Tune does: ask again later, at the latest when the queue looks at the stages again.
                if given is None and not any(event[2] == "" for event in self._events):
                    self._push(LOOK_S, "", {})
                return
            trial = SimpleNamespace(trial_id=trial_id, config=given, status="RUNNING")
            self._live[trial_id] = (trial, self._train(given["number"]))
            with self._driver():
                self._scheduler.on_trial_add(None, trial)  # type: ignore[arg-type]
                self._listener.on_trial_start(0, [], trial)  # type: ignore[arg-type]
            self._next(trial_id)

    def _next(self, trial_id: str) -> None:
        duration, result = next(self._live[trial_id][1])
        self._push(duration, trial_id, result)

    def _push(self, duration: float, trial_id: str, result: dict[str, Any]) -> None:
        self._order += 1
        heapq.heappush(self._events, (self.now + duration, self._order, trial_id, result))

    def _hear(self, trial_id: str, result: dict[str, Any]) -> None:
        trial = self._live[trial_id][0]
        done = "trial_complete" in result or "stage_busy" in result
        with self._driver():
            decision = self._scheduler.on_trial_result(None, trial, result)  # type: ignore[arg-type]
            self._searcher.on_trial_result(trial_id, result)
            self._listener.on_trial_result(0, [], trial, result)  # type: ignore[arg-type]
            if done or decision == TrialScheduler.STOP:
                self._scheduler.on_trial_complete(None, trial, result)  # type: ignore[arg-type]
                self._searcher.on_trial_complete(trial_id, result)
                self._listener.on_trial_complete(0, [], trial)  # type: ignore[arg-type]
        if not done and decision != TrialScheduler.STOP:
            self._next(trial_id)
            return
        del self._live[trial_id]
        if "stage_busy" in result:
            self.waits += 1
        else:
            self.ended.append(self._driver_s)

    def _train(self, number: int) -> Iterator[tuple[float, dict[str, Any]]]:
        """What a trial reports, each after the seconds that it takes: it trains, or waits, as a real one does."""
        draw = random.Random(number)
        pace, good = draw.lognormvariate(0.0, 0.3), draw.random()
        first, second = 60.0, 120.0 * pace
        setting = self._settings[number]
        done_at = self._stages.get(setting)
        if done_at is None:
            self._stages[setting] = self.now + PRETRAIN * first
        elif done_at > self.now:
            yield STAGE_PATIENCE_S, {"objective": math.nan, "trial_halted": 1, "stage_busy": 1}
            return
        for epoch in range(1, PRETRAIN + ADVERSARIAL + 1):
            seconds = (first if done_at is None else 0.0) if epoch <= PRETRAIN else second
            self.trained += seconds
            value = 0.5 + 0.4 * good * (1 - math.exp(-epoch / 6)) + draw.gauss(0, 0.01)
            result = {"objective": value, "step": epoch, "spent": seconds, "epoch_seconds": seconds, "node": ""}
            yield seconds, {**result, **({"epoch": epoch} if epoch < PRETRAIN + ADVERSARIAL else {})}
        yield 0.0, {"objective": value, "objectives": [value], "trial_complete": 1, "node": ""}

    def _payload(self, drawn: Drawn) -> dict[str, Any]:
        self._settings[drawn.number] = float(drawn.sample.values["pretrain.lr"])
        started = time.process_time()
        for place, config in zip(self._space.run_grid(drawn.number), drawn.configs, strict=True):
            RunFolder.create(self._home.runs, place.run_id, config, RunLabels())  # the worker's part
        self._driver_s -= time.process_time() - started
        return {}

    def _stage_is_done(self, number: int) -> bool:
        return self._stages[self._settings[number]] <= self.now

    @contextmanager
    def _driver(self) -> Iterator[None]:
        started = time.process_time()
        yield
        self._driver_s += time.process_time() - started


def blocks(ended: Sequence[float], trials: int) -> list[dict[str, Any]]:
    """Driver milliseconds per trial over each tenth of the trials."""
    size = max(trials // BLOCKS, 1)
    rows = []
    for first in range(0, len(ended) - size + 1, size):
        before = ended[first - 1] if first else 0.0
        rows.append(
            {
                "trials": f"{first + 1} to {first + size}",
                "driver ms per trial": round(1000 * (ended[first + size - 1] - before) / size, 2),
            }
        )
    return rows


if __name__ == "__main__":
    sys.exit(main())
