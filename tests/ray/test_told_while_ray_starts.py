"""A study that is told to end while its Ray starts: one line, exit code 130, and Ray's own handler is kept out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sage_ray.runtime.ray_cluster import connect, disconnect

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def test_ray_sets_no_handler_of_its_own() -> None:
    before = signal.getsignal(signal.SIGTERM)
    connect(num_cpus=1)
    try:
        assert signal.getsignal(signal.SIGTERM) is before, "Ray's own raises SystemExit anywhere"
    finally:
        disconnect()


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
