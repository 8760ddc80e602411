"""Regenerates the tables of recorded studies: every script of analysis/, and a report of every study of the home."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sage_ray.errors import UserError
from sage_ray.report import write_report
from sage_ray.runtime.home import Home
from sage_ray.search.study import study_names

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 600


def main() -> int:
    """Exit code: 0 if everything that there is could be made."""
    failed = []
    scripts = sorted((ROOT / "analysis").glob("*.py"))
    for script in scripts:
        print(f"== analysis/{script.name}", flush=True)
        if subprocess.run([sys.executable, str(script)], cwd=ROOT, timeout=LIMIT_S, check=False).returncode:
            failed.append(script.name)
    home = Home()
    names = study_names(home)
    for name in names:
        try:
            print(f"report: {write_report(name, home)}")
        except UserError as error:
            failed.append(str(error))
    print(f"{len(scripts)} scripts in analysis/, {len(names)} studies in {home.path}")
    if failed:
        print("failed: " + "; ".join(failed), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
