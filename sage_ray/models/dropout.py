"""Dropout whose keep masks come from keyed draws, so that no generator's state and no number of workers matters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn


class UniformDraws(Protocol):
    """The part of the keyed draws that dropout needs."""

    def uniform(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """(B, *shape) float32, uniform in [0, 1)."""
        ...


class _Source:
    """Draws of one context and the number of layers that have drawn in it."""

    def __init__(self, draws: UniformDraws, prefix: str) -> None:
        self.draws, self.prefix, self.calls = draws, prefix, 0

    def next_uniform(self, shape: tuple[int, ...]) -> Tensor:
        name = f"{self.prefix}/dropout{self.calls}"
        self.calls += 1
        return self.draws.uniform(name, shape)


_source: ContextVar[_Source | None] = ContextVar("keyed_dropout", default=None)


@contextmanager
def keyed_dropout(draws: UniformDraws, prefix: str) -> Iterator[None]:
    """Within the context, `KeyedDropout` layers in train mode draw from `draws`.

    The k-th call of a layer (from 0) draws `draws.uniform(f"{prefix}/dropout{k}", shape of one sample)`; a value below
    p drops the element. Use one context with its own prefix for each forward pass. Explicit keep masks are injected by
    a `draws` object that returns them as 0 (drop) and 1 (keep).
    """
    token = _source.set(_Source(draws, prefix))
    try:
        yield
    finally:
        _source.reset(token)


class KeyedDropout(nn.Module):
    """Dropout: in train mode elements are dropped with probability p and the others divided by 1 - p."""

    def __init__(self, p: float) -> None:
        """Raises ValueError unless 0 <= p < 1."""
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout {p} must be at least 0 and below 1")
        self.p = p

    def forward(self, features: Tensor) -> Tensor:
        """`features` (N,...) with dropout in train mode, unchanged in eval mode or with p = 0."""
        if not self.training or self.p == 0:
            return features
        source = _source.get()
        if source is None:
            return F.dropout(features, self.p, True)
        uniform = source.next_uniform(tuple(features.shape[1:]))
        assert uniform.shape == features.shape, f"draws for {tuple(uniform.shape)}, features {tuple(features.shape)}"
        return features * ((uniform >= self.p) / (1 - self.p)).to(features.dtype)

    def extra_repr(self) -> str:
        return f"p={self.p}"
