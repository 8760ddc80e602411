"""How the scores of particles are shown: mean over images and all images pooled, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage_ray.metrics.definitions import PARTICLE_SCORES
from sage_ray.terminal.display import with_interval


def pixel_scores(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The scores that are not about particles one by one."""
    return {name: line for name, line in scores.items() if name.removesuffix("_pooled") not in PARTICLE_SCORES}


def particle_score_lines(scores: Mapping[str, Any], beside: Mapping[str, Any] | None = None) -> list[str]:
    """The scores of particles, one per line: mean over images and pooled; those of Otsu in lines of their own below.

    What the particles are is said in the first line. A line fits 80 columns. Nothing if there are no such scores.
    """
    names = [name for name in PARTICLE_SCORES if name in scores]
    if not names:
        return []
    parts = scores[names[0]].definition.split(", ")
    told = "; ".join(part for part in parts if part.startswith(("particles are", "those under")))
    blocks = [("", scores), *([("Otsu", beside)] if beside else [])]
    cells = [row for title, lines in blocks for row in _block(title, lines, names)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(cells[0]))]
    rows = [" ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return [f"one by one: {told} (docs/scores.md explains each score)", *rows]


def _block(title: str, lines: Mapping[str, Any], names: list[str]) -> list[list[str]]:
    head = [title, "mean over images", "all images pooled"]
    return [head, *([name, *(_cell(lines.get(name + end)) for end in ("", "_pooled"))] for name in names)]


def _cell(line: Any) -> str:
    return "" if line is None else with_interval(line)
