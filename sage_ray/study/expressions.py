"""Arithmetic over config paths, for ties ("1 - segmentation_loss.alpha") and the sides of constraints.

Parsed with `ast` and walked by hand: numbers, + - * /, parentheses and dotted paths, nothing that can run code.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sage_ray.errors import UserError

MAX_CHARACTERS = 500
SIGNIFICANT_DIGITS = 12
"""Results are rounded to these, so that 1 - 0.8 is 0.2 and hashes like it."""

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


@dataclass(frozen=True)
class Expression:
    """A parsed expression: `paths` are the config paths it reads, in order of appearance; errors call it `noun`."""

    text: str
    paths: tuple[str, ...]
    noun: str = "tie"

    def evaluate(self, lookup: Callable[[str], Any], where: str) -> float:
        """The value with each path replaced by `lookup(path)`, rounded to 12 significant digits.

        Raises:
            UserError: a division by 0, an overflow, or a path whose value is no number.
        """
        try:
            value = _walk(ast.parse(self.text, mode="eval").body, lookup)
            if not math.isfinite(value):
                raise OverflowError("the result is not finite")
            return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
        except ZeroDivisionError:
            raise UserError(
                "division by 0", f"{where}, {self.noun} {self.text!r}", "change the ranges it reads"
            ) from None
        except (TypeError, OverflowError) as error:
            where = f"{where}, {self.noun} {self.text!r}"
            raise UserError("no number", where, f"a {self.noun} takes numbers only ({error})") from None


def parse(text: str, where: str, noun: str = "tie") -> Expression:
    """The expression in `text`; `noun` is what errors call it.

    Raises:
        UserError: anything else than numbers, paths, + - * / and parentheses.
    """
    mend = "use numbers, config paths, + - * / and parentheses"
    if not isinstance(text, str) or len(text) > MAX_CHARACTERS:
        raise UserError(f"bad {noun}", f"{where}, {str(text)[:60]!r}", mend)
    try:
        tree = ast.parse(text, mode="eval").body
        paths = _paths(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UserError(f"bad {noun}", f"{where}, {text!r}", mend) from None
    return Expression(text, tuple(dict.fromkeys(paths)), noun)


def _paths(node: ast.expr) -> list[str]:
    match node:
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _paths(left) + _paths(right)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _paths(operand)
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool) and math.isfinite(value):
            return []
        case ast.Name() | ast.Attribute():
            return [_dotted(node)]
    raise ValueError("not arithmetic")


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    raise ValueError("not a path")


def _walk(node: ast.expr, lookup: Callable[[str], Any]) -> Any:
    match node:
        case ast.BinOp(left=left, op=op, right=right):
            return _BINARY[type(op)](_walk(left, lookup), _walk(right, lookup))
        case ast.UnaryOp(op=op, operand=operand):
            return _UNARY[type(op)](_walk(operand, lookup))
        case ast.Constant(value=value):
            return value
    value = lookup(_dotted(node))
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{_dotted(node)} is {value!r}")
    return value
