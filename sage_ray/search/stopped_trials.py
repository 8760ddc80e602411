"""Trials that a scheduler stopped early although they stood higher than the chosen one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StoppedTrial:
    """A trial that the scheduler stopped early, with the objective at its last epoch; it is not chosen among."""

    trial: int
    value: float
    epoch: int
    params: dict[str, Any]


def stopped_higher(stopped: Sequence[StoppedTrial], value: float, *, maximize: bool) -> list[StoppedTrial]:
    """Those of the stopped trials that stood better than `value`, the best first."""
    sign = 1.0 if maximize else -1.0
    above = [trial for trial in stopped if sign * trial.value > sign * value]
    return sorted(above, key=lambda trial: -sign * trial.value)
