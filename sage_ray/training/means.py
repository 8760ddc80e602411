"""Means of what the steps of an epoch return, added up where they are computed and read once."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sage_ray.training.context import RunContext


@dataclass
class EpochMeans:
    """Means over the steps of an epoch, and the first step with a number that is not finite.

    Attributes:
        device: where everything is added up.
        totals: sum of each scalar over the steps that have it.
        counts: number of those steps.
        steps: so far.
        first_bad: the first step with a number that is not finite; -1 if there is none.
    """

    device: torch.device
    totals: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    first_bad: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.first_bad = torch.full((), -1, device=self.device)

    def add(self, scalars: dict[str, Tensor]) -> None:
        """Add the scalars of the next step."""
        for name, value in scalars.items():
            self.totals[name] = self.totals[name] + value if name in self.totals else value
            self.counts[name] = self.counts.get(name, 0) + 1
        bad = ~torch.isfinite(torch.stack(list(scalars.values())).sum())
        self.first_bad = torch.where((self.first_bad < 0) & bad, self.steps, self.first_bad)
        self.steps += 1

    def read(self, ctx: RunContext) -> tuple[dict[str, float], int | str | None]:
        """(mean of each scalar over steps and workers, first bad step or None), with one read of the device."""
        flag = (self.first_bad >= 0).double()
        means = [total.double() / self.counts[name] for name, total in self.totals.items()]
        *values, num_bad, first_bad = ctx.all_reduce(torch.stack([*means, flag, self.first_bad.double()])).tolist()
        bad_step = None if not num_bad else int(first_bad) if ctx.world_size == 1 else "(of a worker)"
        return {name: value / ctx.world_size for name, value in zip(self.totals, values, strict=True)}, bad_step
