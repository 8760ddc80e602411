"""Claim: a study whose processes are killed at random, 100 times, loses nothing, doubles nothing and leaves no process.

A search of 40 trials that share four settings of phase 1, two at a time, first left alone, then with kills: every few
seconds one process of the command gets SIGKILL. Its kind is drawn first, of those that are there: the driver, Ray's own
processes, and with triple weight those that train, as the first seconds of a command have the driver alone. Whenever
the command has ended the next one resumes the study. At the end, in comparison with the study that was left alone:
every trial is complete, with the same parameters and the same weights; every run has every epoch once; no process is
left. Leases of 5 s (`SAGE_LEASE_SECONDS`), so that the wait after a kill is short.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil
import yaml

from benchmarks.record import save
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.search.study_status import StudyStatus, status

MARK = "SAGE_CHAOS"
NAME = "chaos"
PAUSE_S = (2.0, 25.0)
"""Long enough for Ray and a trial to begin, most times."""
HUNG_S = 400.0
"""A command that has trained no epoch for so long, with nobody killed meanwhile, hangs."""
EPOCHS = (6, 8)
WEIGHTS = {"driver": 1, "trial": 3, "gcs_server": 1, "raylet": 1, "agent": 1, "other": 1}


def main() -> int:
    """Exit code: 1 if the claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        space = write_space(Path(folder), options.trials)
        alone = Study(space, Path(folder) / "alone")
        alone.run(0, random.Random(0))
        study = Study(space, Path(folder) / "killed")
        study.run(options.kills, random.Random(options.seed))
        wrong = differences(study.home, status(NAME, study.home), status(NAME, alone.home))
        left = study.left()
    rows = [{"process": kind, "kills": study.killed[kind]} for kind in WEIGHTS if study.killed[kind]]
    total = sum(study.killed.values())
    notes = [
        f"{total} kills in {study.seconds / 60:.0f} minutes and {study.starts} starts; left alone it takes "
        f"{alone.seconds / 60:.1f} minutes. {study.hung} commands hung, {left} processes are left.",
        f"Lost, doubled or different: {len(wrong)}.",
        *wrong[:10],
    ]
    save("chaos", "A study whose processes are killed at random", rows, notes)
    return int(bool(wrong) or bool(left) or bool(study.hung) or total < options.kills)


def write_space(folder: Path, trials: int) -> Path:
    """A seeded random search of tiny trials over phase 2, and over four settings of phase 1."""
    values = {
        "data.path": "synthetic://ordered?num=8&size=32&seed=0",
        "data.image_size": [32, 32],
        "pretrain.epochs": EPOCHS[0],
        "adversarial.epochs": EPOCHS[1],
        "runtime.pictures": False,
        "runtime.threads": 1,
        "runtime.snapshot_seconds": 0.0,
    }
    tree = {
        "name": NAME,
        "base": {"preset": "tiny_sage_gan", "set": values},
        "space": {
            "pretrain.lr": {"categorical": [5e-4, 1e-3, 2e-3, 4e-3]},
            "adversarial.lr": {"float": [1e-4, 1e-3], "log": True},
        },
        "points": [],
        "sampler": {"name": "random", "seed": 1},
        "trials": trials,
        "concurrency": 2,
    }
    path = folder / f"{NAME}.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


class Study:
    """A study that is run by commands, as a user has them, until it is finished.

    Attributes:
        killed: kills by the kind of process.
        starts: commands that were started.
        hung: commands that hung, and were ended.
        seconds: from the first start to the last end.
    """

    def __init__(self, space: Path, home: Path) -> None:
        self.home, self.killed = Home(home), Counter[str]()
        self.starts = self.hung = 0
        self.seconds = 0.0
        self._space, self._mark = space, uuid.uuid4().hex

    def run(self, kills: int, draw: random.Random) -> None:
        """Run it to its end, with so many kills on the way."""
        began = time.monotonic()
        while True:
            with self._command() as process:
                self._disturb(process, kills, draw)
            if process.returncode == 0:
                break
            if self.starts > 3 * kills + 10:
                raise RuntimeError("it does not end")
        self.seconds = time.monotonic() - began

    @contextlib.contextmanager
    def _command(self) -> Iterator[subprocess.Popen[str]]:
        begun = (self.home.studies / NAME / "study.json").is_file()
        words = ["resume", NAME] if begun else ["sweep", str(self._space)]
        command = [sys.executable, "-m", "sage_ray", *words, "--home", str(self.home.path), "--json", "--quiet"]
        environment = {**os.environ, MARK: self._mark, "SAGE_LEASE_SECONDS": "5", "OMP_NUM_THREADS": "1"}
        self.starts += 1
        with (self.home.path.parent / f"{self.home.path.name}.log").open("a") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, text=True, env=environment, start_new_session=True
            )
            yield process

    def _disturb(self, process: subprocess.Popen[str], kills: int, draw: random.Random) -> None:
        """Kill a process now and then until the command ends."""
        moment, seen, since = time.monotonic() + draw.uniform(*PAUSE_S), -1, time.monotonic()
        while process.poll() is None:
            time.sleep(0.1)
            if sum(self.killed.values()) < kills and time.monotonic() >= moment:
                self._kill_one(process, draw)
                moment = time.monotonic() + draw.uniform(*PAUSE_S)
                since = time.monotonic()
            if (size := self._written()) != seen:
                seen, since = size, time.monotonic()
            if time.monotonic() - since > HUNG_S:
                self.hung += 1
                process.kill()
                process.wait()

    def _kill_one(self, process: subprocess.Popen[str], draw: random.Random) -> None:
        found = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        kinds: dict[str, list[psutil.Process]] = {}
        for one in found:
            with contextlib.suppress(psutil.Error):
                kinds.setdefault(_kind(one, process.pid), []).append(one)
        # By kind, as Ray has many processes that do little.
        (kind,) = draw.choices(sorted(kinds), [WEIGHTS[kind] for kind in sorted(kinds)])
        with contextlib.suppress(psutil.Error):
            draw.choice(sorted(kinds[kind], key=lambda one: one.pid)).kill()
            self.killed[kind] += 1

    def _written(self) -> int:
        return sum(path.stat().st_size for path in self.home.runs.glob("*/metrics.jsonl"))

    def left(self) -> int:
        """Processes that still live, half a minute after the last command has ended."""
        deadline = time.monotonic() + 45
        while (count := self._marked()) and time.monotonic() < deadline:
            time.sleep(1)
        return count

    def _marked(self) -> int:
        count = 0
        for one in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                count += one.environ().get(MARK) == self._mark and one.status() != psutil.STATUS_ZOMBIE
        return count


def _kind(process: psutil.Process, driver: int) -> str:
    if process.pid == driver:
        return "driver"
    title = " ".join(process.cmdline())
    if title.startswith("ray::") and "IDLE" not in title and "Agent" not in title:
        return "trial"
    if process.name() in ("gcs_server", "raylet"):
        return process.name()
    return "agent" if "agent" in title.lower() else "other"


def differences(home: Home, found: StudyStatus, alone: StudyStatus) -> list[str]:
    """What of a study is lost, doubled, or otherwise than in the one that was left alone."""
    wrong = []
    if len(found.trials) != len(alone.trials):
        wrong.append(f"{len(found.trials)} trials, not {len(alone.trials)}")
    for one, other in zip(found.trials, alone.trials, strict=False):
        facts: list[tuple[str, Any, Any]] = [
            ("state", one.state, "COMPLETE"),
            ("parameters", one.params, other.params),
            ("value", one.value, other.value),
            ("weights", one.weights_sha, other.weights_sha),
        ]
        wrong += [f"trial {one.number}: {what} {a}, not {b}" for what, a, b in facts if a != b]
    for run_id in home.run_ids():
        epochs = [line["epoch"] for line in RunFolder(home.runs / run_id).metrics()]
        if epochs != list(range(1, sum(EPOCHS) + 1)):
            wrong.append(f"{run_id}: epochs {epochs}")
    if len(home.run_ids()) != len(alone.trials):
        wrong.append(f"{len(home.run_ids())} runs")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
