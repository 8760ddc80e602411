"""Constraints on what may be combined: "segmentation_loss.w_ce + segmentation_loss.w_dice > 0".

A configuration that violates one is never drawn. What is told to Optuna is the amount by which a constraint is missed,
at most 0 where it is kept.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sage_ray.errors import UserError
from sage_ray.study.expressions import Expression, parse

STRICT = 1e-9
"""By how much a strict comparison of two equal sides is missed: a miss of 0 would count as kept."""

_HOLDS: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_SMALLER_FIRST = (ast.Lt, ast.LtE)


@dataclass(frozen=True)
class Constraint:
    """A parsed constraint: each side compared with the next, as in "0 < a + b <= 1"."""

    text: str
    sides: tuple[Expression, ...]
    comparisons: tuple[type[ast.cmpop], ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """The config paths that it reads, in order of appearance."""
        return tuple(dict.fromkeys(path for side in self.sides for path in side.paths))

    def missed_by(self, lookup: Callable[[str], Any], where: str) -> float:
        """By how much the constraint is missed with each path replaced by `lookup(path)`; at most 0 if it holds.

        Raises:
            UserError: a division by 0, an overflow, or a path whose value is no number.
        """
        values = [side.evaluate(lookup, where) for side in self.sides]
        return max(
            _missed(kind, left, right) for kind, left, right in zip(self.comparisons, values, values[1:], strict=False)
        )


def _missed(kind: type[ast.cmpop], left: float, right: float) -> float:
    distance = left - right if kind in _SMALLER_FIRST else right - left
    return distance if _HOLDS[kind](left, right) else max(distance, STRICT)


def parse_constraint(text: str, where: str) -> Constraint:
    """The constraint in `text`.

    Raises:
        UserError: anything else than expressions of config paths with <, <=, > or >= between them.
    """
    mend = "compare expressions of config paths with <, <=, > or >=, such as 'a.b + a.c <= 1'"
    try:
        tree = ast.parse(text, mode="eval").body if isinstance(text, str) else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        tree = None
    if not isinstance(tree, ast.Compare) or any(type(kind) not in _HOLDS for kind in tree.ops):
        raise UserError("bad constraint", f"{where}, {str(text)[:60]!r}", mend)
    sides = tuple(parse(ast.unparse(side), where, "constraint") for side in (tree.left, *tree.comparators))
    return Constraint(text, sides, tuple(type(kind) for kind in tree.ops))
