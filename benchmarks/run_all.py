"""Runs every benchmark of this folder, each in its own process, and says where the results are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
NO_BENCHMARKS = {"run_all", "record", "training_steps", "__init__"}
# Commands of their own: gpu is for a machine with one and at CPU sizes shows that it works, not how fast anything is;
# reuse, chaos and simulated_scale take longer than all others together; instances needs a data set.
ON_REQUEST = ("gpu", "reuse", "chaos", "simulated_scale", "instances")
LIMIT_S = 1200


def main() -> int:
    """Exit code: 0 if every script ended well."""
    failed = []
    for script in sorted(FOLDER.glob("*.py")):
        if script.stem in NO_BENCHMARKS or script.stem.startswith(ON_REQUEST):
            continue
        print(f"== benchmarks/{script.name}", flush=True)
        try:
            code = subprocess.run(
                [sys.executable, str(script)], cwd=FOLDER.parent, timeout=LIMIT_S, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            code = 124
        if code:
            failed.append(f"{script.name} ({code})")
    print("results: benchmarks/results/")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
