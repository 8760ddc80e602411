"""All recorded runs of a home as one tidy table, HOME/tables/tidy.parquet: one row per value.

The run folders are the truth; a run that has not changed since the last time is not read again. With a tracking URI and
no home at hand, the same files are fetched from MLflow's artifacts first.

    python analysis/collect.py [--home DIR] [--tracking-uri URI]
"""

from __future__ import annotations

import argparse

from sage_ray.analysis.command import run_command, script_parser, tell
from sage_ray.analysis.tidy import collect


def main() -> int:
    """Write the table and say what is in it; the exit code."""
    return run_command(script_parser("collect", __doc__, studies=False), _collect)


def _collect(options: argparse.Namespace) -> int:
    tidy = collect(options.home, tracking_uri=options.tracking_uri, say=tell)
    tell(f"{tidy.read} runs read, {tidy.kept} unchanged, {len(tidy.studies())} studies: {tidy.path}")
    return 0
