"""One dimension of a search space, and one configuration drawn from a space."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sage_ray.errors import UserError
from sage_ray.study.expressions import Expression
from sage_ray.study.file_schema import is_finite_number


@dataclass(frozen=True)
class Dimension:
    """One searched or tied config path.

    `choices` are normalised by the config (a list becomes what the field holds); `log` and `step` as in Optuna.
    """

    path: str
    kind: Literal["float", "int", "categorical", "tie"]
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] = ()
    expression: Expression | None = None
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def contains(self, value: Any) -> bool:
        """Whether `value` can be drawn from this dimension."""
        if self.kind == "categorical":
            return any(value == choice and type(value) is type(choice) for choice in self.choices)
        if not is_finite_number(value) or not self.low <= value <= self.high:
            return False
        if self.kind == "int" and value != int(value):
            return False
        if self.step is None:
            return True
        steps = (value - self.low) / self.step
        return bool(abs(steps - round(steps)) < 1e-8)

    def grid(self) -> list[Any]:
        """All values, in order. Raises UserError for a float without `step`."""
        if self.kind == "categorical":
            return list(self.choices)
        step = self.step or (1.0 if self.kind == "int" and not self.log else None)
        if step is None:
            raise UserError("no grid", f"space.{self.path}", "give step (no log), or categorical, for sampler grid")
        count = int((self.high - self.low) / step + 1e-8) + 1
        values = [float(f"{self.low + step * k:.12g}") for k in range(count)]
        return [int(value) for value in values] if self.kind == "int" else values

    def encode(self, choice: Any) -> Any:
        """A choice as Optuna can store it: numbers, text, booleans and None as they are, others as JSON."""
        return choice if choice is None or isinstance(choice, bool | int | float | str) else json.dumps(choice)

    def decode(self, stored: Any) -> Any:
        """The choice, or the number, that `encode` stored."""
        if self.kind != "categorical":
            return stored
        return next(choice for choice in self.choices if self.encode(choice) == stored)


@dataclass(frozen=True)
class Sample:
    """One configuration of a space.

    Attributes:
        params: value of each active dimension, ties included, by path; what tables show.
        values: the overrides of the base that make the config; {} is the base itself.
        drawn: those of `params` that lie in their dimension, so that Optuna can be told.
    """

    params: dict[str, Any]
    values: dict[str, Any]
    drawn: dict[str, Any]
