"""Attention: additive gates on the skips of a U-Net, and linear self-attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sage_ray.models.norm import make_norm


class ProjectedNorm(nn.Module):
    """1x1 convolution with bias, then normalisation."""

    def __init__(self, channels: int, out_channels: int, norm: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, 1)
        self.norm = make_norm(norm, out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """(N,C,H,W) to (N,out_channels,H,W)."""
        projected: Tensor = self.norm(self.conv(features))
        return projected


class AttentionGate(nn.Module):
    """Additive attention gate: coefficients sigmoid(psi(relu(W_g g + W_x x))) weigh the encoder's features.

    Source: Oktay et al. 2018; normalisation on all three 1x1 convolutions as in SAGE-GAN's code (DISCREPANCIES row 24).
    """

    def __init__(self, channels: int, inner: int, norm: str = "batch") -> None:
        """Args: channels of decoder and encoder features; inner width of the gate; norm as in `make_norm`."""
        super().__init__()
        self.from_decoder = ProjectedNorm(channels, inner, norm)
        self.from_encoder = ProjectedNorm(channels, inner, norm)
        self.score = ProjectedNorm(inner, 1, norm)

    def forward(self, decoder: Tensor, encoder: Tensor) -> tuple[Tensor, Tensor]:
        """(encoder (N,C,H,W) times the coefficients, coefficients (N,1,H,W) in (0,1))."""
        coefficients = torch.sigmoid(self.score(F.relu(self.from_decoder(decoder) + self.from_encoder(encoder))))
        return encoder * coefficients, coefficients


class LinearAttention(nn.Module):
    """Self-attention over all pixels at a cost linear in their number, without the residual.

    q is a 1x1 convolution; k, v a depthwise 3x3 and a 1x1 convolution. q: softmax over the head's channels, scaled by
    head_dim^-0.5; k: softmax over the positions; context = k v^T; out = conv(gelu(context q)). Channels are ordered
    (head, dim).
    """

    def __init__(self, channels: int, heads: int = 8, head_dim: int = 64) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads, self.head_dim = heads, head_dim
        self.q = nn.Conv2d(channels, inner, 1, bias=False)
        self.kv_depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.kv_pointwise = nn.Conv2d(channels, 2 * inner, 1, bias=False)
        self.out = nn.Conv2d(inner, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(N,C,H,W) to (N,C,H,W)."""
        n, _, height, width = features.shape
        by_head = (n, self.heads, self.head_dim, height * width)
        keys, values = self.kv_pointwise(self.kv_depthwise(features)).chunk(2, dim=1)
        queries = self.q(features).reshape(by_head).softmax(dim=2) * self.head_dim**-0.5
        context = keys.reshape(by_head).softmax(dim=3) @ values.reshape(by_head).transpose(2, 3)
        attended = context.transpose(2, 3) @ queries
        mixed: Tensor = self.out(F.gelu(attended.reshape(n, -1, height, width)))
        return mixed
