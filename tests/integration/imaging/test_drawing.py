"""Importing the drawing module leaves matplotlib's global state alone."""

from __future__ import annotations

import subprocess
import sys


def test_no_global_plotting_state_is_touched() -> None:
    code = "import sys, sage_ray.imaging.drawing; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "False\n"
