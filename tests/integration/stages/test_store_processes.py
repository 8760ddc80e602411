"""The stage store and its leases when other processes hold, die and end."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sage_ray.errors import RunStopped
from sage_ray.stages.lease import held, stage_lease
from sage_ray.stages.store import StageStore


def _hold(root: str, started: object, seconds: float) -> None:
    with stage_lease(StageStore(root), "k", lambda: False):
        started.set()  # type: ignore[attr-defined]
        time.sleep(seconds)


def test_a_lease_is_exclusive_and_passes_on_when_its_owner_is_killed(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("spawn")
    started = fork.Event()
    process = fork.Process(target=_hold, args=(str(tmp_path), started, 60.0))
    process.start()
    assert started.wait(120)
    said: list[str] = []
    with (
        pytest.raises(RunStopped),
        stage_lease(StageStore(tmp_path), "k", lambda: False, should_stop=lambda: bool(said), say=said.append),
    ):
        pytest.fail("the lease was given out twice")
    assert "waiting" in said[0]
    process.kill()
    process.join()
    with stage_lease(StageStore(tmp_path), "k", lambda: False):
        assert held(StageStore(tmp_path), "k")
    assert not held(StageStore(tmp_path), "k")


AT_THE_END = """
import concurrent.futures.thread as pool, sys, threading, time
import torch
from sage_ray.stages.store import Snapshot, StageStore
from sage_ray.stages.writer import SnapshotWriter

writer = SnapshotWriter(StageStore(sys.argv[1]))

def leave():
    while not pool._shutdown:
        time.sleep(0.01)
    writer.put(Snapshot("k" * 16, 3, {"network.a": torch.ones(2)}, {"best_epoch": 3}))
    writer.close()

threading.Thread(target=leave).start()
"""


def test_a_thread_that_outlives_its_process_still_stores_its_epoch(tmp_path: Path) -> None:
    """As the thread of a trial does that Tune stops while the actor is going."""
    done = subprocess.run(
        [sys.executable, "-c", AT_THE_END, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert StageStore(tmp_path).epochs("k" * 16) == [3]
