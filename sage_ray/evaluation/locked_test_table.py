"""The locked-test table: scores of each seed and of all seeds together, as a frame and as lines of a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from sage_ray.evaluation.score_tables import PRIMARY, ScoreLine
from sage_ray.metrics.definitions import POOLED, label

HEADLINE = (PRIMARY, "f1_object_50", POOLED)
"""Scores of the table, as in those of ablations; all others are in the report of `compare`."""
ALL = "all"
"""What stands for a seed in the row of all seeds."""
Scores = Mapping[str, ScoreLine]
"""Scores by their name."""


def locked_test_frame(seeds: Mapping[str, Scores], whole: Scores) -> pd.DataFrame:
    """One row per seed, then that of all seeds: seed, images, and each score with its bounds.

    Args:
        seeds: scores of each seed, by its name; intervals over images.
        whole: scores over all seeds; intervals over images crossed with seeds.
    """
    named = _rows_of(seeds, whole)
    return pd.DataFrame(
        [{"seed": name, "images": lines[PRIMARY].images, **_cells(lines)} for name, lines in named.items()]
    )


def _rows_of(seeds: Mapping[str, Scores], whole: Scores) -> dict[str, Scores]:
    """Each seed, then all together; a single seed is all."""
    return {**seeds, **({ALL: whole} if len(seeds) != 1 else {})}


def _texts(seeds: Mapping[str, Scores], whole: Scores) -> list[list[str]]:
    """The cells of the table, the names of the columns first."""
    rows = [["seed", *(label(name) for name in HEADLINE)]]
    return rows + [
        [name, *(_text(lines[score]) for score in HEADLINE)] for name, lines in _rows_of(seeds, whole).items()
    ]


def _cells(lines: Mapping[str, ScoreLine]) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for name in HEADLINE:
        line = lines[name]
        cells[name] = line.mean
        if name != POOLED:  # no single image has a pooled score, so that it never has an interval
            cells |= {f"{name}_low": line.low, f"{name}_high": line.high}
    return cells


def basis(line: ScoreLine) -> str:
    """What the intervals of a row are over, as a sentence; or why there are none."""
    if line.level is None:
        return f"No interval: {line.over.partition(':')[0]}."
    return f"{line.level:.0%} intervals over {line.over}; those of a single seed are over its images alone."


def locked_test_lines(seeds: Mapping[str, Scores], whole: Scores) -> list[str]:
    """The table in at most 80 columns."""
    rows = _texts(seeds, whole)
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def locked_test_markdown(seeds: Mapping[str, Scores], whole: Scores) -> list[str]:
    """The table as lines of markdown."""
    head, *rows = _texts(seeds, whole)
    return [f"| {' | '.join(row)} |" for row in (head, ["---", *["---:"] * len(HEADLINE)], *rows)]


def _text(line: ScoreLine) -> str:
    interval = "" if line.low is None or line.high is None else f" [{line.low:.3f}, {line.high:.3f}]"
    return f"{line.mean:.3f}{interval}"
