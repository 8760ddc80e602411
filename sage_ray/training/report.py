"""What a run tells of one epoch, its own or one of what it trains first, and the plain form that is handed on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

Report = dict[str, Any]
"""A line of metrics.jsonl, an entry of a snapshot's `history`, and what Ray Tune is told: `EpochReport.as_dict`."""

_BEFORE = ("epoch", "phase", "phase_epoch", "lr")
_AFTER = ("synthetic_steps", "generator_updates", "seconds", "replayed")


@dataclass(frozen=True)
class EpochReport:
    """One epoch of a run.

    Attributes:
        epoch: on the counter that runs on over all stages, from 1.
        phase: "render", "pretrain" or "adversarial".
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


MAKING = "pairs"
"""Phase of what is trained first while it makes the pairs."""


@dataclass(frozen=True)
class MakerProgress:
    """How far a run is that trains first what makes its extra pairs: an epoch of it, or the pairs at its end.

    Attributes:
        maker: what is trained, such as "preset tiny_sage_gan".
        phase: "render", "pretrain", "adversarial", or `MAKING`.
        epoch: that has ended, on the counter that runs on over its stages.
        epochs: that it will have.
        seconds: that the epoch, or the making of the pairs, took; 0 as the making begins.
        replayed: whether the epoch came from the stage store.
    """

    maker: str
    phase: str
    epoch: int
    epochs: int
    seconds: float
    replayed: bool = False

    def as_dict(self) -> Report:
        """Plain data."""
        return asdict(self)
