"""Claim: the command line answers at once. Seconds of `sage-ray --help`, a bad command, and single imports."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.record import save

CASES = {
    "sage-ray --help": ["-m", "sage_ray.terminal.cli", "--help"],
    "sage-ray config show": ["-m", "sage_ray.terminal.cli", "config", "show"],
    "bad command line": ["-m", "sage_ray.terminal.cli", "trian"],
    "import sage_ray": ["-c", "import sage_ray"],
    "import torch": ["-c", "import torch"],
    "import ray.tune": ["-c", "import ray.tune"],
    "import mlflow": ["-c", "import mlflow"],
}


def main() -> None:
    """Time each case in fresh processes and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    rows = []
    for name, command in CASES.items():
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            subprocess.run([sys.executable, *command], capture_output=True, timeout=120, check=False)
            seconds.append(time.perf_counter() - start)
        rows.append({"case": name, "best s": min(seconds), "median s": statistics.median(seconds)})
    save("import_time", "Seconds until the command line answers", rows)


if __name__ == "__main__":
    main()
