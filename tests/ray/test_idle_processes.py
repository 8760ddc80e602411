"""A Ray of our own starts no process that has nothing to do: each would cost a second or two of a core, every run."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tiny_cases import tiny_config

from sage_ray.record.home import Home
from sage_ray.runtime.launch import run
from sage_ray.runtime.ray_cluster import connect, disconnect
from sage_ray.training.context import Report

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

NEEDED = {"TrainController", "SynchronizationActor", "RayTrainWorker", "_AutoscalingCoordinatorActor", "IDLE"}
"""What Ray Train 2.60 needs for a run of one worker, and workers without work. A later Ray may need others."""
AGENTS = {"DashboardAgent", "RuntimeEnvAgent"}
IDLE_PARTS = ("monitor.py", "log_monitor.py")


@pytest.fixture
def own_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", raising=False)
    connect(num_cpus=2)
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
    config = tiny_config("pretrain.epochs=3", "adversarial.epochs=0", "runtime.pictures=false")
    seen: set[str] = set()

    def look(report: Report) -> None:
        time.sleep(2)  # a process has its name once it has imported
        seen.update(actors())

    record = run(config, Home(tmp_path / "home"), "one", launcher="ray", mirror=False, on_report=look)
    assert record.state == "COMPLETE", record.error
    assert {"TrainController", "RayTrainWorker"} <= seen <= NEEDED | AGENTS, seen
    assert not [line for line in commands() if line.split(" --")[0].endswith(IDLE_PARTS)], commands()


@pytest.mark.usefixtures("own_ray")
def test_what_is_switched_off_for_a_ray_of_our_own_is_not_for_a_cluster_that_is_used_next() -> None:
    assert os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] == "0"
    disconnect()
    assert "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER" not in os.environ
