"""Ray Train when workers die or wait: killed ones go on, at whatever moment, and waiting ones are let be."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
import torch
from ray.util.placement_group import placement_group_table
from tiny_cases import tiny_config

from sage_ray.config import ExperimentConfig
from sage_ray.data.prepare import prepare
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunRecord
from sage_ray.runtime import ray_cluster
from sage_ray.runtime.launch import run
from sage_ray.runtime.worker_signs import WorkerSigns
from sage_ray.stages.keys import stage_keys
from sage_ray.stages.lease import stage_lease
from sage_ray.stages.store import StageStore
from sage_ray.training.context import numerics

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def tiny(*sets: str) -> ExperimentConfig:
    return tiny_config("pretrain.epochs=2", "adversarial.epochs=2", "runtime.snapshot_seconds=0", *sets)


def with_workers(config: ExperimentConfig, workers: int) -> ExperimentConfig:
    return config.with_values({"runtime.workers": workers})


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.delenv("RAY_ADDRESS", raising=False)
    # Workers get the paths that Ray was started with, so a Ray that an earlier module left running will not do.
    ray_cluster.disconnect()
    ray_cluster.connect(num_cpus=4)
    yield
    ray_cluster.disconnect()
    patch.undo()


def train_workers() -> list[psutil.Process]:
    """Training worker processes of this test's own Ray, oldest first."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            title = " ".join(process.cmdline())
            if title.startswith("ray::") and "RayTrainWorker" in title:
                found.append((process.create_time(), process.pid, process))
        except psutil.Error:
            continue
    return [process for *_, process in sorted(found, key=lambda item: item[:2])]


def nothing_is_held() -> bool:
    """Whether Ray holds no places, which it says a moment after they were given back."""
    deadline = time.monotonic() + 20
    while held := [group for group in placement_group_table().values() if group["state"] != "REMOVED"]:
        if time.monotonic() > deadline:
            print(held)
            return False
        time.sleep(0.1)
    return True


@pytest.mark.slow
def test_killed_workers_go_on_from_the_last_snapshot(ray_here: None, home: Home) -> None:
    config = with_workers(tiny("runtime.max_retries=3"), 2)
    killed: list[int] = []

    def kill(report: dict[str, Any]) -> None:
        if report["epoch"] == len(killed) * 2 + 1 and len(killed) < 2:
            workers = train_workers()
            assert workers, "no worker found to kill"
            victim = workers[-1 if killed else 0]
            os.kill(victim.pid, signal.SIGKILL)
            killed.append(victim.pid)

    record = run(config, home, "killed", on_report=kill, mirror=False)
    assert len(killed) == 2
    assert (record.state, record.attempt) == ("COMPLETE", 3)
    assert record.reused_epochs >= 1
    log = (home.runs / "killed" / "log.txt").read_text()
    assert [f"attempt {number} on" in log for number in (1, 2, 3, 4)] == [True, True, True, False]
    lines = RunFolder(home.runs / "killed").metrics()
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    undisturbed = run(config, Home(home.path / "other"), "undisturbed", mirror=False)
    assert (undisturbed.attempt, undisturbed.reused_epochs) == (1, 0)
    assert undisturbed.weights_sha == record.weights_sha


def test_workers_that_get_further_after_each_kill_are_never_given_up(ray_here: None, home: Home) -> None:
    config = with_workers(tiny("runtime.max_retries=1", "adversarial.epochs=5"), 2)
    killed: list[int] = []

    def kill(report: dict[str, Any]) -> None:
        if report["epoch"] == 2 * len(killed) + 2 and len(killed) < 2:
            victim = train_workers()[1]
            os.kill(victim.pid, signal.SIGKILL)
            killed.append(victim.pid)

    record = run(config, home, "spot", on_report=kill, mirror=False)
    assert len(killed) == 2 and (record.state, record.attempt, record.epoch) == ("COMPLETE", 3, 7)


def run_and_kill(home: Home, name: str, kill: Callable[[], bool]) -> RunRecord:
    """Train two workers with one restart, while `kill` is called again and again until it is done (returns True)."""
    over = threading.Event()

    def disturb() -> None:
        while not over.wait(0.01) and not kill():
            pass

    killer = threading.Thread(target=disturb)
    killer.start()
    try:
        return run(with_workers(tiny("runtime.max_retries=1"), 2), home, name, mirror=False)
    finally:
        over.set()
        killer.join()


@pytest.mark.parametrize("after_s", [0.5, *(pytest.param(s, marks=pytest.mark.slow) for s in (0.0, 1.0, 1.5, 2.0))])
def test_a_worker_that_dies_while_it_starts_is_tried_again(ray_here: None, home: Home, after_s: float) -> None:
    """At whatever moment: Ray Train itself gives up where torch's process group is being made."""
    killed: list[int] = []

    def kill_the_first() -> bool:
        if workers := train_workers():
            time.sleep(after_s)
            killed.append(workers[-1].pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(workers[-1].pid, signal.SIGKILL)
        return bool(killed)

    record = run_and_kill(home, "again", kill_the_first)
    assert (record.state, record.error, len(killed)) == ("COMPLETE", None, 1)
    assert nothing_is_held()


def test_workers_that_get_no_further_are_given_up_with_the_reason(ray_here: None, home: Home) -> None:
    placed, seen, killed = home.path / "ray" / "gone" / "placed.json", [0], set[int]()

    def kill_whoever_is_placed() -> bool:
        if placed.exists() and placed.stat().st_mtime_ns != seen[-1]:
            seen.append(placed.stat().st_mtime_ns)
            for worker in train_workers():
                os.kill(worker.pid, signal.SIGKILL)
                killed.add(worker.pid)
        return False

    record = run_and_kill(home, "gone", kill_whoever_is_placed)
    assert record.state == "FAIL" and record.epoch == 0 and len(killed) >= 4
    assert "out of retries; worker" in str(record.error)
    assert nothing_is_held()


def test_waiting_for_a_stage_is_told_and_training_is_not(ray_here: None, home: Home) -> None:
    key = run(tiny(), home, "before", launcher="ray", mirror=False).stage_keys["pretrain"]
    shutil.rmtree(home.stages)
    signs, folder = WorkerSigns(home, "waits"), RunFolder(home.runs / "waits")
    with contextlib.ExitStack() as held:
        held.enter_context(stage_lease(StageStore(home.stages), key, lambda: False))
        told: list[bool] = []

        def waiting() -> None:
            told.append(signs.waited_at() > 0)
            if sum(told) == 3:
                held.close()
            elif sum(told) > 3:
                assert not folder.metrics(), "no epoch has been trained while it still says that it waits"

        record = run(tiny(), home, "waits", launcher="ray", mirror=False, on_waiting=waiting)
    assert record.state == "COMPLETE" and record.epoch == 4
    assert told[0] is False, "the workers were not placed yet"
    assert 3 <= sum(told) <= 6
    assert not (home.path / "ray" / "waits").exists()


def test_workers_leave_a_stage_that_another_run_computes(ray_here: None, home: Home) -> None:
    config = with_workers(tiny(), 2)
    data, numbers = prepare(config.data, home.cache), numerics(config.runtime, torch.device("cpu"), 2)
    key = stage_keys(config, data.fingerprint, data.split.split_id, numbers)["pretrain"]
    with stage_lease(StageStore(home.stages), key, lambda: False):
        record = run(config, home, "r", mirror=False, stage_patience_s=1.0)
    assert record.state == "INTERRUPTED" and record.error is not None and key in record.error
    assert not train_workers(), "their places are free"
    assert run(config, home, "r", mirror=False, stage_patience_s=1.0).state == "COMPLETE"
