"""Regenerates the tables of recorded studies: every script of analysis/, and a report of every study of the home."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.reports.study_reports import report

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 600
FIRST = "collect"
"""Makes the tidy table that all others read."""


def scripts() -> list[Path]:
    """The scripts of analysis/, those files that can be run; the tidy table first."""
    found = [path for path in (ROOT / "analysis").glob("*.py") if '__name__ == "__main__"' in path.read_text("utf-8")]
    return sorted(found, key=lambda path: (path.stem != FIRST, path.stem))


def main() -> int:
    """Exit code: 0 if everything that there is could be made."""
    home = Home()
    names = home.study_names()
    if not names and not home.final_ids():
        print(f"no studies in {home.path}: nothing to tabulate (`sage-ray ablate` and `sage-ray sweep` make them)")
        return 0
    failed = []
    for script in scripts():
        print(f"== analysis/{script.name}", flush=True)
        command = [sys.executable, str(script), "--home", str(home.path)]
        try:
            code = subprocess.run(command, cwd=ROOT, timeout=LIMIT_S, check=False).returncode
        except subprocess.TimeoutExpired:
            code = 124
        if code:
            failed.append(f"{script.name} ({code})")
    for name in names:
        try:
            print(f"report: {report(name, home).html}")
        except UserError as error:
            failed.append(str(error))
    print(f"{len(scripts())} scripts in analysis/, {len(names)} studies in {home.path}")
    if failed:
        print("failed: " + "; ".join(failed), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
