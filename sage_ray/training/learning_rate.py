"""Learning-rate rules of a phase: constant, plateau, drops and poly; none depends on the run's number of epochs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from sage_ray.errors import UserError
from sage_ray.sections import ScheduleConfig


@dataclass
class Plateau:
    """When to drop: after more than `patience` epochs in a row that are no better than the best so far.

    An epoch is better by more than a ten-thousandth of the best score. It is torch's ReduceLROnPlateau with its
    defaults, which also keeps a learning rate and stops at the 26th halving of it, as the step is below its epsilon
    then; here nothing but epochs is counted.
    """

    mode: str
    patience: int
    best: float = math.nan
    bad_epochs: int = 0

    THRESHOLD: ClassVar[float] = 1e-4

    def __post_init__(self) -> None:
        if math.isnan(self.best):
            self.best = math.inf if self.mode == "min" else -math.inf

    def drops(self, score: float) -> bool:
        """Count one epoch; whether the learning rate drops after it."""
        if self._is_better(score):
            self.best, self.bad_epochs = score, 0
        else:
            self.bad_epochs += 1
        if self.bad_epochs <= self.patience:
            return False
        self.bad_epochs = 0
        return True

    def _is_better(self, score: float) -> bool:
        # The products are torch's, so that scores on the very edge fall on the same side.
        if self.mode == "min":
            return score < self.best * (1.0 - self.THRESHOLD)
        return score > self.best * (self.THRESHOLD + 1.0)


def polynomial_rate(first: float, epochs: int, total: int, power: float) -> float:
    """first (1 - epochs / total)^power: the rate after `epochs` of `total`, at least 0.

    Source: Chen et al. 2017 (DeepLab), power .9; nnU-Net (Isensee et al. 2021) has it per epoch.
    """
    return float(first * max(1.0 - epochs / total, 0.0) ** power)


class LearningRate:
    """The learning-rate rule of one phase, over all its optimizers; remembers the epochs at which it dropped.

    `plateau` is `Plateau` (mode `min` on a score where higher is better is what the public code does).
    """

    def __init__(self, schedule: ScheduleConfig, optimizers: dict[str, torch.optim.Adam], lr: float) -> None:
        self.schedule, self.optimizers, self.lr = schedule, optimizers, lr
        self._first = lr
        self.drops: list[int] = []
        plateau = schedule.rule == "plateau"
        self._plateau = Plateau(schedule.mode, schedule.patience) if plateau else None

    def after_epoch(self, phase_epoch: int, metrics: dict[str, Any]) -> None:
        """Apply the rule after phase epoch `phase_epoch` (from 1) with its metrics.

        Raises:
            UserError: rule `plateau` and the metric is not among the scores.
        """
        if self.schedule.rule == "poly":
            self.set(polynomial_rate(self._first, phase_epoch, self.schedule.total_epochs, self.schedule.power))
            return
        if self._plateau is not None:
            if self.schedule.metric not in metrics:
                scores = ", ".join(k for k in metrics if k.startswith("val/"))
                raise UserError("no such score", f"schedule.metric={self.schedule.metric}", f"choose one of {scores}")
            dropped = self._plateau.drops(float(metrics[self.schedule.metric]))
        else:
            dropped = self.schedule.rule == "drops" and phase_epoch in self.schedule.drops
        if dropped:
            self.drops.append(phase_epoch)
            self.set(self.lr * self.schedule.factor)

    def set(self, lr: float) -> None:
        """Use this learning rate from now on."""
        self.lr = lr
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = lr

    def state(self) -> dict[str, Any]:
        """Plain data that `load` takes."""
        plateau = None
        if self._plateau is not None:
            plateau = {"best": self._plateau.best, "num_bad_epochs": self._plateau.bad_epochs}
        return {"lr": self.lr, "drops": list(self.drops), "plateau": plateau}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self.drops = list(state["drops"])
        self.set(state["lr"])
        if self._plateau is not None:
            # The names are those of the first release, which kept torch's counters.
            self._plateau.best = state["plateau"]["best"]
            self._plateau.bad_epochs = state["plateau"]["num_bad_epochs"]
