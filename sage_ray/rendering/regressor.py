"""The regressor: from the particles of a scene to the free parameters of its materials."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from sage_ray.models.dropout import KeyedDropout

HIDDEN_LAYERS = 4


class Regressor(nn.Module):
    """Four hidden layers with weight norm, ReLU and dropout; a sigmoid scales each output to its limits.

    Args:
        max_particles: most particles of a scene; fewer are filled up with zeros.
        low, high: limits of each output.
        width: of the hidden layers.
        dropout: probability.
        seed: of the initial weights (Xavier uniform; biases 0).

    Source: Possart et al. 2025.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        max_particles: int,
        low: Sequence[float],
        high: Sequence[float],
        *,
        width: int = 128,
        dropout: float = 0.2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.max_particles = max_particles
        sizes = [4 * max_particles, *[width] * HIDDEN_LAYERS, len(low)]
        layers = [nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)]
        generator = torch.Generator().manual_seed(seed)
        for layer in layers:
            bound = math.sqrt(6 / (layer.in_features + layer.out_features))
            with torch.no_grad():
                layer.weight.copy_((2 * torch.rand(layer.weight.shape, generator=generator) - 1) * bound)
                layer.bias.zero_()
        self.hidden = nn.ModuleList(weight_norm(layer) for layer in layers[:-1])
        self.head = layers[-1]
        self.dropout = KeyedDropout(dropout)
        self.register_buffer("low", torch.tensor(low, dtype=torch.float32), persistent=False)
        self.register_buffer("high", torch.tensor(high, dtype=torch.float32), persistent=False)

    def forward(self, table: Tensor) -> Tensor:
        """Parameters (P,) within their limits, of a scene's table (n,4) of x, y, z and radius."""
        flat = table.new_zeros(1, 4 * self.max_particles)
        flat[0, : table.numel()] = table.flatten()
        for layer in self.hidden:
            flat = self.dropout(torch.relu(layer(flat)))
        share: Tensor = torch.sigmoid(self.head(flat))[0]
        return self.low + share * (self.high - self.low)
