"""The tree of a study's stages as an SVG: bars over the epochs of a run, each stage branching off where it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sage_ray.search.stage_tree import Branch, StageNode

ROWS = 40
"""Stages that are drawn; the others are counted."""
LEFT, RIGHT, TOP, BOTTOM, ROW, BAR, WIDTH = 24, 230, 96, 56, 36, 16, 960
"""Pixels: margins, the distance of two bars, the height of one, and the width of the picture."""
COLOURS = {"render": "#5b8c5a", "pretrain": "#33658a", "adversarial": "#c06c34"}
NAMES = {
    "render": "rendering: the materials",
    "pretrain": "phase 1: the segmenter alone",
    "adversarial": "phase 2: all networks",
}
INK, PALE, GRID = "#22303c", "#5d6d7a", "#e3e8ec"


@dataclass(frozen=True)
class _Row:
    """A stage at its place: the epoch of the run at which it starts, and the row of the stage that it goes on from."""

    branch: Branch
    offset: int
    above: int | None


def stage_picture(nodes: Sequence[StageNode], title: str) -> str:
    """The SVG of a tree; alike stages are one bar. In grey print the kinds of stages differ in brightness and place."""
    rows = _rows(nodes)
    shown = rows[:ROWS]
    last = max((row.offset + row.branch.node.ends[-1] for row in shown), default=1)
    scale = (WIDTH - LEFT - RIGHT) / last
    bottom = TOP + ROW * len(shown)
    height = bottom + BOTTOM + (20 if len(rows) > ROWS else 0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        _text(LEFT, 30, title, size=16, colour=INK, weight="bold"),
        *_legend({row.branch.node.phase for row in shown}),
        *_axis(last, scale, bottom),
        *(_link(row, at, row.above, scale) for at, row in enumerate(shown) if row.above is not None),
        *(part for at, row in enumerate(shown) for part in _bar(row, TOP + ROW * at, scale)),
    ]
    if len(rows) > ROWS:
        parts.append(_text(LEFT, bottom + 58, f"... and {len(rows) - ROWS} more", colour=PALE))
    return "\n".join([*parts, "</svg>", ""])


def _rows(nodes: Sequence[StageNode]) -> list[_Row]:
    from sage_ray.search.stage_tree import branches

    rows: list[_Row] = []

    def add(branch: Branch, offset: int, above: int | None) -> None:
        at = len(rows)
        rows.append(_Row(branch, offset, above))
        for child in branch.below:
            add(child, offset + child.node.start, at)

    for branch in branches(nodes):
        add(branch, 0, None)
    return rows


def _legend(phases: set[str]) -> list[str]:
    parts, x = [], LEFT
    for phase, name in NAMES.items():
        if phase in phases:
            parts.append(f'<rect x="{x}" y="46" width="14" height="12" rx="2" fill="{COLOURS[phase]}"/>')
            parts.append(_text(x + 20, 56, name, colour=PALE))
            x += 40 + 7 * len(name)
    parts.append(f'<line x1="{x + 4}" y1="45" x2="{x + 4}" y2="59" stroke="{INK}" stroke-width="2"/>')
    parts.append(_text(x + 14, 56, "kept: runs end here, or go on from here", colour=PALE))
    return parts


def _axis(last: int, scale: float, bottom: int) -> list[str]:
    parts = []
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10**9) if last / s <= 10)
    for epoch in range(0, last + 1, step):
        x = LEFT + epoch * scale
        parts.append(f'<line x1="{x:.1f}" y1="{TOP - 14}" x2="{x:.1f}" y2="{bottom}" stroke="{GRID}"/>')
        parts.append(_text(x, bottom + 18, str(epoch), colour=PALE, anchor="middle"))
    parts.append(_text(LEFT, bottom + 38, "epoch of a run, over all stages that it needs", colour=PALE))
    return parts


def _bar(row: _Row, y: int, scale: float) -> list[str]:
    node, count = row.branch.node, row.branch.count
    x, width = LEFT + row.offset * scale, max(node.ends[-1] * scale, 2.0)
    parts = [f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" rx="3" fill="{COLOURS[node.phase]}"/>']
    if count > 1:  # a second edge behind the bar: there are several of it
        behind = f'<rect x="{x + 3:.1f}" y="{y + 4}" width="{width:.1f}" height="{BAR}" rx="3" '
        parts.insert(0, behind + f'fill="{COLOURS[node.phase]}" opacity="0.35"/>')
    for end in node.ends:
        at = x + end * scale
        parts.append(
            f'<line x1="{at:.1f}" y1="{y - 3}" x2="{at:.1f}" y2="{y + BAR + 3}" stroke="{INK}" stroke-width="2"/>'
        )
    runs = f"{node.runs} run{'s' if node.runs > 1 else ''}"
    told = f"{count} stages, {runs} each" if count > 1 else runs
    parts.append(_text(x + width + 10, y + BAR - 4, f"{node.ends[-1]} epochs: {told}", colour=INK))
    return parts


def _link(row: _Row, at: int, above_at: int, scale: float) -> str:
    """From the end of the bar that a stage goes on from, down to its own beginning."""
    x = LEFT + row.offset * scale
    y, from_y = TOP + ROW * at + BAR / 2, TOP + ROW * above_at + BAR
    style = f'stroke="{PALE}" stroke-width="1.5" stroke-dasharray="2 3" fill="none"'
    return f'<path d="M {x:.1f} {from_y} V {y:.1f}" {style}/>'


def _text(
    x: float, y: float, text: str, *, colour: str, size: int = 12, anchor: str = "start", weight: str = "normal"
) -> str:
    style = f'fill="{colour}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'
