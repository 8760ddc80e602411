"""Dropout whose keep masks come from keyed draws, so that no generator's state and no number of workers matters.

A network that runs eagerly draws where the layer is called. `torch.compile` cannot trace a draw (a context variable, a
hash of a name), and would break its graph at each. Layers of a network that `number_dropouts` has seen therefore call
an operator of our own, which a graph holds as one opaque node. Both draw the same numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DropoutDraws(Protocol):
    """The part of the keyed draws that dropout needs."""

    def uniform(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """(B, *shape) float32, uniform in [0, 1)."""
        ...


class _Source:
    """Draws of one context and the number of layers that have drawn in it."""

    def __init__(self, draws: DropoutDraws, prefix: str) -> None:
        self.draws, self.prefix, self.calls = draws, prefix, 0

    def next_uniform(self, shape: tuple[int, ...]) -> Tensor:
        self.calls += 1
        return self.uniform(self.calls - 1, shape)

    def uniform(self, number: int, shape: tuple[int, ...]) -> Tensor:
        return self.draws.uniform(f"{self.prefix}/dropout{number}", shape)


_source: ContextVar[_Source | None] = ContextVar("keyed_dropout", default=None)


@contextmanager
def keyed_dropout(draws: DropoutDraws, prefix: str) -> Iterator[None]:
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
    """Dropout: in train mode elements are dropped with probability p and the others divided by 1 - p.

    Attributes:
        p: probability.
        number: None, or the layer's place among the calls of a network that is compiled (`number_dropouts`).
    """

    def __init__(self, p: float) -> None:
        """Raises ValueError unless 0 <= p < 1."""
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout {p} must be at least 0 and below 1")
        self.p = p
        self.number: int | None = None

    def forward(self, features: Tensor) -> Tensor:
        """`features` (N,...) with dropout in train mode, unchanged in eval mode or with p = 0."""
        if not self.training or self.p == 0:
            return features
        if self.number is not None:
            return self._thinned(features, torch.ops.sage_ray.keyed_uniform(features.detach(), self.number))
        source = _source.get()
        if source is None:
            return F.dropout(features, self.p, True)
        return self._thinned(features, source.next_uniform(tuple(features.shape[1:])))

    def _thinned(self, features: Tensor, uniform: Tensor) -> Tensor:
        assert uniform.shape == features.shape, f"draws for {tuple(uniform.shape)}, features {tuple(features.shape)}"
        return features * ((uniform >= self.p) / (1 - self.p)).to(features.dtype)

    def extra_repr(self) -> str:
        """The probability, as torch shows it in the text of a network."""
        return f"p={self.p}"


def number_dropouts(network: nn.Module, in_channels: int = 1) -> None:
    """Number the dropout layers of a network that will be compiled, in the order in which a pass calls them.

    The k-th layer then draws what the k-th call draws in a network that is run eagerly. Found by one pass in eval mode,
    which changes nothing else.

    Args:
        network: of images (N,in_channels,H,W); left alone if it has no dropout.
        in_channels: channels of its image.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, KeyedDropout) and layer.p]
    if not layers:
        return
    _register_draw()
    called: list[nn.Module] = []
    hooks = [layer.register_forward_hook(lambda layer, _args, _out: called.append(layer)) for layer in layers]
    training = network.training
    parameter = next(network.parameters())
    with torch.no_grad():
        network.eval()(torch.zeros((1, in_channels, 64, 64), device=parameter.device, dtype=parameter.dtype))
    network.train(training)
    for hook in hooks:
        hook.remove()
    assert len(called) == len(set(called)) == len(layers), "a dropout layer is called twice or never"
    for number, layer in enumerate(called):
        assert isinstance(layer, KeyedDropout)
        layer.number = number


@functools.cache
def _register_draw() -> None:
    """Make `torch.ops.sage_ray.keyed_uniform(features, number)`: uniform numbers in the shape of the features.

    Its tag keeps torch.compile from merging two calls, and from drawing a second time in the backward pass.
    """
    tag = torch.Tag.nondeterministic_seeded
    schema = "(Tensor features, int number) -> Tensor"
    operator = torch.library.custom_op("sage_ray::keyed_uniform", _drawn, mutates_args=(), schema=schema, tags=tag)
    operator.register_fake(lambda features, number: torch.empty_like(features, dtype=torch.float32).contiguous())


def _drawn(features: Tensor, number: int) -> Tensor:
    source = _source.get()
    if source is None:
        return torch.rand(features.shape, device=features.device)
    return source.uniform(number, tuple(features.shape[1:])).contiguous()
