"""The settings of a run, as another process sees them."""

from __future__ import annotations

import subprocess
import sys

from sage_ray.config import resolve


def test_the_config_hash_is_the_same_in_another_process() -> None:
    code = "from sage_ray.config import resolve; print(resolve('tiny_sage_gan').config.config_hash())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert out.strip() == resolve("tiny_sage_gan").config.config_hash()
