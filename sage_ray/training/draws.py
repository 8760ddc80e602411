"""Random draws keyed by what they are for, so that no generator state has to be saved or shared.

A run that resumes, or that is spread over more workers, draws the same numbers: each row of a draw depends only on
(seed, phase, epoch, name, sample id), and batch-level draws on (seed, phase, epoch, step, name).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class StepDraws(Protocol):
    """What a training step asks for random numbers."""

    step: int
    """Step of the epoch that the draws belong to, from 0."""

    def uniform(self, name: str, shape: Sequence[int]) -> Tensor:
        """(B, *shape) float32 in [0, 1)."""
        ...

    def normal(self, name: str, shape: Sequence[int]) -> Tensor:
        """(B, *shape) float32, standard normal."""
        ...

    def batch_uniform(self, name: str, count: int) -> list[float]:
        """`count` floats in [0, 1), one set for the whole batch of all workers."""
        ...


class KeyedDraws:
    """Draws of one training step, keyed by global sample index.

    Args:
        seed: the run's seed.
        phase: "pretrain" or "adversarial".
        epoch: epoch of the phase, from 0.
        step: step of the epoch, from 0.
        sample_ids: position of each row of this worker's batch in the epoch's global order.
        device: where tensors are drawn. CPU and GPU draw different numbers (`numerics` is part of stage keys).
    """

    def __init__(
        self,
        seed: int,
        phase: str,
        epoch: int,
        step: int,
        sample_ids: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.step = step
        self._epoch_key = f"{seed}/{phase}/{epoch}"
        self._step_key = f"{self._epoch_key}/step{step}"
        self._sample_ids = tuple(sample_ids)
        self._generator = torch.Generator(self.device)

    def uniform(self, name: str, shape: Sequence[int]) -> Tensor:
        """(B, *shape) float32 in [0, 1)."""
        return self._rows(torch.rand, name, shape)

    def normal(self, name: str, shape: Sequence[int]) -> Tensor:
        """(B, *shape) float32, standard normal."""
        return self._rows(torch.randn, name, shape)

    def batch_uniform(self, name: str, count: int) -> list[float]:
        """`count` floats in [0, 1), equal on every worker; host numbers, so that no device has to be read."""
        digest = hashlib.blake2b(f"{self._step_key}/{name}".encode(), digest_size=8 * min(count, 8)).digest()
        values = [int.from_bytes(digest[8 * i : 8 * i + 8], "little") / 2**64 for i in range(min(count, 8))]
        return values if count <= 8 else values + self.batch_uniform(f"{name}+", count - 8)

    def row_uniform(self, name: str, count: int) -> list[list[float]]:
        """`count` floats in [0, 1) per row, keyed as rows of `uniform` are; host numbers, equal on every device."""
        keys = (f"{self._epoch_key}/{name}/{sample_id}" for sample_id in self._sample_ids)
        return [_host_floats(key, count) for key in keys]

    def _rows(self, sample: object, name: str, shape: Sequence[int]) -> Tensor:
        rows = torch.empty((len(self._sample_ids), *shape), device=self.device)
        for row, sample_id in zip(rows, self._sample_ids, strict=True):
            self._generator.manual_seed(keyed_seed(self._epoch_key, name, sample_id))
            sample(row.shape, out=row, generator=self._generator)  # type: ignore[operator]
        return rows


def _host_floats(key: str, count: int) -> list[float]:
    digest = hashlib.shake_256(key.encode()).digest(8 * count)
    # 53 bits fill a float exactly, so that no value rounds up to 1.
    return [(int.from_bytes(digest[8 * i : 8 * i + 8], "little") >> 11) / 2**53 for i in range(count)]


def keyed_seed(*parts: object) -> int:
    """A 63-bit seed from the parts' text; equal in every process."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def epoch_rows(num_images: int, wanted: int, seed: int, phase: str, epoch: int) -> Tensor:
    """(wanted,) int64: rows that an epoch takes, in order, from one keyed pass over all images after another.

    The first pass is `epoch_order`, so that an epoch of at most one pass takes what it says.
    """
    passes = [epoch_order(num_images, seed, phase, epoch)]
    while len(passes) * num_images < wanted:
        generator = torch.Generator().manual_seed(keyed_seed(seed, phase, epoch, "order", len(passes)))
        passes.append(torch.randperm(num_images, generator=generator))
    return torch.cat(passes)[:wanted]


def epoch_order(num_images: int, seed: int, phase: str, epoch: int) -> Tensor:
    """(num_images,) int64 permutation: the global order of an epoch."""
    generator = torch.Generator().manual_seed(keyed_seed(seed, phase, epoch, "order"))
    return torch.randperm(num_images, generator=generator)
