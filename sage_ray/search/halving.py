"""Which trials are stopped early: asynchronous successive halving as Ray Tune has it, for studies of many trials."""

from __future__ import annotations

import math
from bisect import insort
from dataclasses import dataclass, field
from itertools import islice
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler


class Halving(AsyncHyperBandScheduler):
    """Asynchronous successive halving that knows a trial by its number, and keeps the scores of a rung in order.

    Tune has a new name for a trial each time it goes on, on another node or once a stage is there; under each name what
    it reports again would be one more trial to compare with. And it sorts all scores of a rung anew for each trial that
    reaches it.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        # With a Ray that has no such attributes, its own and slower way to the same number is left in place.
        for bracket in getattr(self, "_brackets", ()):
            bracket.cutoff = Rungs(self._reduction_factor).cutoff

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial begins or goes on."""
        super().on_trial_add(tune_controller, _by_number(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """What becomes of a trial with this report."""
        return super().on_trial_result(tune_controller, _by_number(trial), result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """A trial has ended, for now or for good."""
        super().on_trial_complete(tune_controller, _by_number(trial), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """A trial is given up."""
        super().on_trial_remove(tune_controller, _by_number(trial))


@dataclass
class _Rung:
    recorded: dict[str, float]
    """What Ray has of it."""
    ordered: list[float] = field(default_factory=list)
    counted: int = 0


class Rungs:
    """The scores of each rung in order, to which new ones are added.

    Args:
        reduction_factor: one trial in so many goes on.
    """

    def __init__(self, reduction_factor: float) -> None:
        percent = (1 - 1 / reduction_factor) * 100
        self._share = percent / 100  # as Ray asks for it and numpy takes it, to the last bit
        self._rungs: dict[int, _Rung] = {}

    def cutoff(self, recorded: dict[str, float]) -> float | None:
        """The score that a trial needs at a rung to go on: numpy's `nanpercentile` of those recorded there.

        Args:
            recorded: score of each trial that has reached the rung; from one call to the next it only grows.

        Returns:
            None if no score is known.
        """
        rung = self._rungs.get(id(recorded))
        if rung is None or rung.recorded is not recorded:
            rung = self._rungs[id(recorded)] = _Rung(recorded)
        for score in islice(reversed(recorded.values()), len(recorded) - rung.counted):
            if not math.isnan(score):
                insort(rung.ordered, score)
        rung.counted = len(recorded)
        return between(rung.ordered, self._share) if rung.ordered else None


def between(ordered: list[float], share: float) -> float:
    """The value that `share` of ordered numbers are below, linear between two of them, computed as numpy does."""
    position = (len(ordered) - 1) * share
    below = math.floor(position)
    part = position - below
    low, high = ordered[below], ordered[min(below + 1, len(ordered) - 1)]
    return high - (high - low) * (1 - part) if part >= 0.5 else low + (high - low) * part


def _by_number(trial: Any) -> Any:
    """All that the rule reads of a trial: a name."""
    return SimpleNamespace(trial_id=str(trial.config["number"]))
