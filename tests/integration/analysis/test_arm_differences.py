"""The comparison of arms is imported without its heavy neighbours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_importing_it_needs_neither_torch_nor_ray(repo: Path) -> None:
    code = (
        "import sys, sage_ray.analysis.arm_differences; "
        "print([m for m in ('torch', 'ray', 'mlflow', 'optuna') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repo, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
