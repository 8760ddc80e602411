"""EpochReport: what a run tells of one epoch, and the plain form in which it is stored and handed on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

Report = dict[str, Any]
"""A line of metrics.jsonl, an entry of a snapshot's `history`, and what Ray Tune is told: `EpochReport.as_dict`."""

_BEFORE = ("epoch", "phase", "phase_epoch", "lr")
_AFTER = ("synthetic_steps", "generator_updates", "seconds", "replayed")


@dataclass(frozen=True)
class EpochReport:
    """One epoch of a run.

    Attributes:
        epoch: on the counter that runs on over both phases, from 1.
        phase: "pretrain" or "adversarial".
        phase_epoch: epoch of the phase, from 1.
        lr: learning rate of the epoch's steps.
        scores: means of the steps' scalars as `train/NAME`, then validation scores as `val/NAME`.
        synthetic_steps: steps of the phase so far that trained on generated images too.
        generator_updates: steps of the phase so far in which the generator learned.
        seconds: that the epoch took, scoring included.
        replayed: whether the epoch came from the stage store in this run.
    """

    epoch: int
    phase: str
    phase_epoch: int
    lr: float
    scores: Mapping[str, float]
    synthetic_steps: int
    generator_updates: int
    seconds: float
    replayed: bool = False

    def as_replayed(self) -> EpochReport:
        """The same report, marked as one that came from the stage store."""
        return replace(self, replayed=True)

    def as_dict(self) -> Report:
        """Plain data under the keys and in the order of every release."""
        before = {name: getattr(self, name) for name in _BEFORE}
        return {**before, **self.scores, **{name: getattr(self, name) for name in _AFTER}}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> EpochReport:
        """The report that `as_dict` made `plain` of."""
        named = {name: plain[name] for name in (*_BEFORE, *_AFTER)}
        return cls(scores={name: value for name, value in plain.items() if name not in named}, **named)
