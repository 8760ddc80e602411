"""The stages of a study as a tree: what is trained once, up to which epochs, and which runs go on from where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sage_ray.search.schedule import RunOfPlan

SHOWN = 20
"""Lines of the tree in a text."""


@dataclass
class StageNode:
    """A distinct stage.

    Attributes:
        phase: "render", "pretrain" or "adversarial".
        key: of the stage in the store.
        start: epoch of the stage above that it goes on from; 0: from the first weights, or a given segmenter.
        ends: epochs at which some run leaves it, ascending; the last one is how far it is trained.
        runs: runs that need it.
        seeds: of these.
        below: stages that go on from it, by the epoch that they start from.
        on_pairs: its own weights are new: it learns from pairs that the stage above made at epoch `start`.
    """

    phase: str
    key: str
    start: int = 0
    ends: list[int] = field(default_factory=list)
    runs: int = 0
    seeds: list[int] = field(default_factory=list)
    below: list[StageNode] = field(default_factory=list)
    on_pairs: bool = False


def stage_tree(runs: Sequence[RunOfPlan]) -> list[StageNode]:
    """The roots of the tree, in the order of the runs that need them first."""
    nodes: dict[str, StageNode] = {}
    roots: list[StageNode] = []
    for run in runs:
        above: StageNode | None = None
        start, makes_pairs = 0, False
        for stage in run.stages:
            node = nodes.get(stage.key)
            if node is None:
                on_pairs = makes_pairs and not stage.first
                node = nodes[stage.key] = StageNode(stage.phase, stage.key, start, on_pairs=on_pairs)
                (roots if above is None else above.below).append(node)
            node.runs += 1
            node.ends = sorted({*node.ends, stage.epochs})
            node.seeds = sorted({*node.seeds, run.seed})
            above, start, makes_pairs = node, stage.epochs, stage.first or stage.phase == "render"
    for node in nodes.values():
        node.below.sort(key=lambda child: child.start)
    return roots


@dataclass(frozen=True)
class Branch:
    """Stages that are alike, as one line: how many, one of them, all their seeds, and what goes on from each."""

    count: int
    node: StageNode
    seeds: tuple[int, ...]
    below: tuple[Branch, ...]

    @property
    def shape(self) -> tuple[object, ...]:
        """What two branches have in common that are shown as one."""
        below = tuple((child.count, child.shape) for child in self.below)
        return (self.node.phase, self.node.start, self.node.on_pairs, tuple(self.node.ends), self.node.runs, below)

    @property
    def lines(self) -> int:
        """Lines of the branch in a text."""
        return 1 + sum(child.lines for child in self.below)


def branches(nodes: Sequence[StageNode]) -> tuple[Branch, ...]:
    """Nodes with those that are alike put together: the same phase, epochs, number of runs, and stages below."""
    found: dict[tuple[object, ...], Branch] = {}
    for node in nodes:
        branch = Branch(1, node, tuple(node.seeds), branches(node.below))
        known = found.get(branch.shape)
        if known is None:
            found[branch.shape] = branch
        else:
            seeds = tuple(sorted({*known.seeds, *branch.seeds}))
            found[branch.shape] = Branch(known.count + 1, known.node, seeds, known.below)
    return tuple(found.values())


def tree_lines(nodes: Sequence[StageNode], at_most: int = SHOWN) -> list[str]:
    """The tree as text; after `at_most` lines the rest is counted."""
    lines: list[str] = []
    for branch in branches(nodes):
        _draw(branch, "", "", lines, parent=None)
    if len(lines) > at_most:
        lines = [*lines[:at_most], f"... and {len(lines) - at_most} more"]
    return lines


def _draw(branch: Branch, first: str, rest: str, lines: list[str], parent: Branch | None) -> None:
    lines.append(f"{first}{branch_text(branch, parent)}")
    for position, child in enumerate(branch.below):
        last = position == len(branch.below) - 1
        _draw(child, f"{rest}{'└─ ' if last else '├─ '}", f"{rest}{'   ' if last else '│  '}", lines, branch)


def branch_text(branch: Branch, parent: Branch | None = None) -> str:
    """A branch in words, such as "4 x phase 2, 16 epochs, from epoch 8: 1 run each"."""
    node = branch.node
    ends = ", ".join(map(str, node.ends[:-1]))
    kept = f" (kept at {ends})" if ends else ""
    many = f"{branch.count} x " if branch.count > 1 else ""
    start = f", from epoch {node.start}" if node.start else ""
    start = f", on pairs made at epoch {node.start}" if node.on_pairs else start
    runs = f"{node.runs} run{'s' if node.runs > 1 else ''}{' each' if branch.count > 1 else ''}"
    seeds = ""
    if parent is None:
        seeds = f", seed{'s' if len(branch.seeds) > 1 else ''} {', '.join(map(str, branch.seeds[:8]))}"
        seeds += ", ..." if len(branch.seeds) > 8 else ""
    phase = {"render": "rendering", "pretrain": "phase 1"}.get(node.phase, "phase 2")
    return f"{many}{phase}{start}, {node.ends[-1]} epochs{kept}: {runs}{seeds}"
