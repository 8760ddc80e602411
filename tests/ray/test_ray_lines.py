"""What Ray prints of itself reaches the driver as one line per kind, however many workers die or print."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
import ray

from sage_ray.runtime.ray_cluster import connect, disconnect
from sage_ray.runtime.ray_lines import folded

pytestmark = pytest.mark.ray


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_workers_that_are_killed_are_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Fails if a later Ray prints its messages by another way than the one that is folded."""
    said: list[str] = []
    connect(num_cpus=1)
    try:
        with folded(said.append):
            for _ in range(3):
                with contextlib.suppress(ray.exceptions.WorkerCrashedError):
                    ray.get(ray.remote(die).options(max_retries=0).remote(), timeout=60)
            deadline = time.monotonic() + 20
            while not said and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(1)
    finally:
        disconnect()
    assert said[0].startswith("(raylet) A worker died or was killed"), said
    assert len(said) == 2 and said[1].startswith("2 more of: (raylet) A worker died"), said
    assert "raylet" not in "".join(capsys.readouterr())


PRINTING = """
import sys
import ray, time
ray.init(address="local", num_cpus=1, include_dashboard=False)  # as a user does: workers' lines come to the driver
from sage_ray.runtime.ray_lines import folded

def talk(number):
    for line in range(100):
        print(f"line {line} of {number}")

said = []
with folded(said.append):
    ray.get([ray.remote(talk).remote(n) for n in range(3)])
    deadline = time.monotonic() + 150  # the lines come some time after the result
    while not any("(talk)" in line for line in said) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(3)
ray.shutdown()
print("SAID", said)
"""


def test_workers_that_print_are_told_once_where_a_user_has_connected() -> None:
    done = subprocess.run([sys.executable, "-c", PRINTING], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    (last,) = [line for line in done.stdout.splitlines() if line.startswith("SAID")]
    said = eval(last.removeprefix("SAID"))
    said = [line for line in said if "(talk)" in line]  # Ray's autoscaler has something to say too
    assert said == ["(talk) line of", "299 more of: (talk) line of"], said
    assert "line 5" not in done.stdout + done.stderr
