"""Which places of a batch extra pairs take, and which of them: a pure function of seed, share and step."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from sage_ray.training.draws import keyed_seed

_UNIT = 1 << 30


def extra_rows(num: int, seed: int, share: float, step: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """(places, rows), both (n,) int64: places of the global batch that extra pairs take, and the pair at each.

    n is `share * batch_size`, in turns rounded up and down where that is no whole number, so that the share holds over
    any number of steps. The pairs are taken in order, a new one for each pass over them, so that all are shown equally
    often (to one).

    Args:
        num: number of extra pairs.
        seed: of the run.
        share: of each batch, in [0, 1].
        step: of the phase, from 0, counted over epochs.
        batch_size: of all workers together.
    """
    start, end = (_taken(seed, share, each, batch_size) for each in (step, step + 1))
    generator = torch.Generator().manual_seed(keyed_seed(seed, "extra", "places", step))
    places = torch.randperm(batch_size, generator=generator)[: end - start]
    rows = [_order(num, seed, position // num)[position % num] for position in range(start, end)]
    return places, torch.tensor(rows, dtype=torch.int64)


def _taken(seed: int, share: float, steps: int, batch_size: int) -> int:
    """How many extra pairs the first `steps` steps show, in whole numbers so that no rounding adds up."""
    return (steps * batch_size * round(share * _UNIT) + keyed_seed(seed, "extra", "offset") % _UNIT) // _UNIT


@functools.lru_cache(maxsize=8)
def _order(num: int, seed: int, turn: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(keyed_seed(seed, "extra", "order", turn))
    return tuple(torch.randperm(num, generator=generator).tolist())
