"""Claim: the command line answers at once, and a trial begins sooner with `startup.start_quickly` than without.

Seconds of `sage-ray --help`, of a bad command, of single imports, and of all that a trial and a driver import.
"""

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
QUICKLY = "from sage_ray.startup import start_quickly; start_quickly(); "
for _name, _module in (("trial", "sage_ray.search.trainable"), ("driver", "sage_ray.search.driver")):
    CASES[f"all that a {_name} imports, garbage collected as Python does"] = ["-c", f"import {_module}"]
    CASES[f"all that a {_name} imports, as we do"] = ["-c", f"{QUICKLY}import {_module}"]


def main() -> None:
    """Time each case in fresh processes and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(repeats):  # in turns, so that a busy moment of the machine meets all of them
        for name, command in CASES.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *command], capture_output=True, timeout=120, check=False)
            seconds[name].append(time.perf_counter() - start)
    rows = [{"case": name, "best s": min(s), "median s": statistics.median(s)} for name, s in seconds.items()]
    save("import_time", "Seconds until the command line answers", rows)


if __name__ == "__main__":
    main()
