"""Fakes of before that a discriminator is shown again, so that it does not forget them.

The pool is part of what resumes, and its choices are keyed. It is the same on every worker: the fakes of all workers
enter it in the global order of the batch, so that 2 workers show what 1 worker shows.

Source: Shrivastava et al. 2017; arXiv 1703.10593, section 4 (50 images).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sage_ray.training.draws import StepDraws


class ReplayPool:
    """Up to `size` fakes (n,1,H,W) of one kind.

    Attributes:
        name: "image" or "mask"; its draws are keyed by it.
        size: largest number of fakes.
        held: the fakes, float32; None before the first.
    """

    def __init__(self, name: str, size: int) -> None:
        self.name, self.size = name, size
        self.held: Tensor | None = None

    def show(self, fakes: Tensor, draws: StepDraws) -> Tensor:
        """What a discriminator is shown in place of `fakes` (B,1,H,W) of all workers, in their global order.

        While the pool fills, each fake enters it and is shown. From then on, with probability 1/2 each, a fake is
        shown and does not enter, or one of the pool is shown and the fake takes its place.
        """
        shown: list[Tensor] = []
        fakes = fakes.detach().float()
        numbers = draws.batch_uniform(f"pool/{self.name}", 2 * len(fakes))
        for row, (chance, where) in enumerate(zip(numbers[::2], numbers[1::2], strict=True)):
            fake = fakes[row : row + 1]
            if self.held is None or len(self.held) < self.size:
                self.held = fake.clone() if self.held is None else torch.cat([self.held, fake])
                shown.append(fake)
            elif chance < 0.5:
                shown.append(fake)
            else:
                place = int(where * self.size)
                shown.append(self.held[place : place + 1].clone())
                self.held[place] = fake[0]
        return torch.cat(shown)
