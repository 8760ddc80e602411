"""Keyed numbers of a batch on the host: which rows draw which operation of augmentation, and how strongly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from sage_ray.sections import LATER_OPERATIONS, AugmentConfig

_NAMES = (
    "block", "crop", "crop_row", "crop_column", "hflip", "vflip", "clahe", "jitter", "brightness", "contrast", "blur",
    "sigma", "sharpen", "noise", "noise_std",
)  # fmt: skip
_STRONG_NAMES = (
    "rotate", "angle", "scale", "factor", "elastic", "elastic_std", "gamma", "power", "low_resolution", "resolution",
)  # fmt: skip


class SampleDraws(Protocol):
    """The part of `training.draws.KeyedDraws` that augmentation asks for."""

    def row_uniform(self, name: str, count: int) -> list[list[float]]:
        """`count` host floats in [0, 1) per row, keyed by the row's sample."""
        ...

    def normal(self, name: str, shape: Sequence[int]) -> Tensor:
        """(B, *shape) float32 on the device, standard normal, each row keyed by its sample."""
        ...


class SampleNumbers:
    """The host numbers of a batch, by name, and which rows drew an operation.

    Operations that came after the first release draw under a name of their own, so that those of before stay as they
    were; where none is on nothing is drawn for them.

    Args:
        draws: of the batch.
        device: of the tensors that are made of the numbers.
        config: what is on.
    """

    def __init__(self, draws: SampleDraws, device: torch.device, config: AugmentConfig) -> None:
        self._values = [dict(zip(_NAMES, row, strict=True)) for row in draws.row_uniform("augment", len(_NAMES))]
        self._config, self._device = config, device
        self.strong = any(getattr(config, operation) for operation in LATER_OPERATIONS)
        if self.strong:
            more = draws.row_uniform("augment.strong", len(_STRONG_NAMES))
            for values, row in zip(self._values, more, strict=True):
                values.update(zip(_STRONG_NAMES, row, strict=True))

    def drew(self, name: str) -> list[int]:
        """Rows whose block and whose operation `name` are on."""
        chance, block = getattr(self._config, name), self._config.probability
        return [i for i, row in enumerate(self._values) if row["block"] < block and row[name] < chance]

    def numbers(self, rows: list[int], name: str, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(len(rows),) float32 on the device, uniform in [low, high)."""
        return self.sent(self.floats(rows, name, low, high))

    def floats(self, rows: list[int], name: str, low: float = 0.0, high: float = 1.0) -> list[float]:
        """One host float per row, uniform in [low, high)."""
        return [low + (high - low) * self._values[i][name] for i in rows]

    def index(self, rows: list[int]) -> Tensor:
        """(len(rows),) int64 on the device."""
        return self.sent(rows, torch.int64)

    def sent(self, values: Sequence[Any], dtype: torch.dtype = torch.float32) -> Tensor:
        """Host numbers as a tensor on the device."""
        tensor = torch.tensor(values, dtype=dtype)
        # From pinned memory the copy is queued; from pageable memory the host would wait for it.
        return tensor.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else tensor
