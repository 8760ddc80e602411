"""A Ray of our own starts no process that has nothing to do: each would cost a second or two of a core, every run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from ray.train.v2._internal.data_integration.dataset_manager import DatasetManager
from ray.train.v2._internal.execution.controller.placement_group_cleaner import PlacementGroupCleaner
from ray.train.v2._internal.execution.preemption import PreemptionWatcher
from tiny_cases import tiny_config

from sage_ray.record.home import Home
from sage_ray.runtime.launch import run
from sage_ray.runtime.ray_cluster import connect, disconnect

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

IDLE = {cls.__name__ for cls in (DatasetManager, PlacementGroupCleaner, PreemptionWatcher)}
"""Ray Train's actors that have nothing to do in a run on a Ray of our own."""
IDLE_PARTS = ("monitor.py", "log_monitor.py")


@pytest.fixture
def own_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    connect(num_cpus=2)
    assert signal.getsignal(signal.SIGTERM) is before, "Ray's own handler raises SystemExit anywhere"
    try:
        yield
    finally:
        disconnect()


def commands() -> list[str]:
    """Command lines of all processes that this one, or one of them, has started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            found.append(" ".join(process.cmdline()).strip())
        except psutil.Error:
            continue
    return found


def actors() -> set[str]:
    """Classes of Ray's actors among them."""
    return {match[1] for line in commands() if (match := re.match(r"ray::(\w+)", line))}


@pytest.mark.usefixtures("own_ray")
def test_a_run_under_ray_train_has_the_processes_that_it_needs_alone(tmp_path: Path) -> None:
    config = tiny_config("pretrain.epochs=5", "adversarial.epochs=0", "runtime.pictures=false")
    seen: set[str] = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.1):
            seen.update(actors())

    looking = threading.Thread(target=look)
    looking.start()
    try:
        record = run(config, Home(tmp_path / "home"), "one", launcher="ray", mirror=False)
    finally:
        ended.set()
        looking.join()
    assert record.state == "COMPLETE", record.error
    assert {"TrainController", "RayTrainWorker"} <= seen and not seen & IDLE, seen
    assert not [line for line in commands() if line.split(" --")[0].endswith(IDLE_PARTS)], commands()


@pytest.mark.usefixtures("own_ray")
def test_what_is_switched_off_for_a_ray_of_our_own_is_not_for_a_cluster_that_is_used_next() -> None:
    assert os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] == "0"
    disconnect()
    assert "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER" not in os.environ


@pytest.mark.parametrize("after_s", [1.0, 4.0])
def test_a_study_that_is_told_to_end_while_ray_starts_ends_in_one_line(after_s: float, tmp_path: Path) -> None:
    words = ["sweep", "search_tiny", "--name", "tiny", "--home", str(tmp_path / "home")]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with subprocess.Popen(
        [sys.executable, "-m", "sage_ray", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as sweep:
        deadline = time.monotonic() + 120
        while not (tmp_path / "home" / "studies" / "tiny" / "study.json").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(after_s)  # Ray takes some seconds to start, more on a busy machine; any moment has the same answer
        sweep.send_signal(signal.SIGTERM)
        _, said = sweep.communicate(timeout=300)
    assert sweep.returncode == 130, said
    assert "Traceback" not in said and "SystemExit" not in said and "sage-ray resume tiny" in said
