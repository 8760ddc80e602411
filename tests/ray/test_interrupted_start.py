"""Ctrl-C while a local Ray is starting: kept until Ray stands, then raised, and nothing of Ray is left."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]

START = """
import os, signal, threading, time
import psutil
from sage_ray.runtime.ray_cluster import connect, disconnect, self_started

def press():
    me = psutil.Process()
    while not any("gcs_server" in child.name() for child in me.children(recursive=True)):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=press, daemon=True).start()
try:
    connect(num_cpus=1, num_gpus=0)
    print("LOST")
except KeyboardInterrupt as error:
    print("told:", error, self_started())
disconnect()
print("left:", [child.name() for child in psutil.Process().children(recursive=True)], self_started())
"""


def test_ctrl_c_while_ray_starts_is_raised_once_it_stands_and_leaves_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, timeout=150, check=False)
    assert done.stdout.splitlines() == ["told: SIGINT received True", "left: [] False"], (done.stdout, done.stderr)
