"""U-Net with a residual encoder, and heads of lower resolution for deep supervision: that of the strong recipe."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sage_ray.models.blocks import DoubleConv, pad_to_multiple
from sage_ray.models.norm import make_norm
from sage_ray.models.segmenter import Segmenter

SLOPE = 0.01
"""Of the leaky relu on negative values."""
LARGEST = 16
"""Levels have at most so many times the channels of the first one."""
_BLOCKS = (1, 2, 3, 4)
"""Residual blocks of the first levels; deeper ones and the middle have as many as the last of these."""


class ResidualBlock(nn.Module):
    """Leaky relu of x + [3x3 convolution, norm, leaky relu, 3x3 convolution, norm](x); x fits or is fitted."""

    def __init__(self, channels: int, out_channels: int, *, stride: int, norm: str) -> None:
        """Args: stride (1 or 2) is that of the first convolution; x is then averaged over as many pixels."""
        super().__init__()
        self.conv_a = nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm_a = make_norm(norm, out_channels)
        self.conv_b = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm_b = make_norm(norm, out_channels)
        self.stride = stride
        fits = channels == out_channels
        self.fitted = nn.Identity() if fits else nn.Conv2d(channels, out_channels, 1, bias=False)
        self.fitted_norm = nn.Identity() if fits else make_norm(norm, out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """(N,C,H,W) to (N,out_channels,H/stride,W/stride)."""
        kept = F.avg_pool2d(features, self.stride) if self.stride > 1 else features
        kept = self.fitted_norm(self.fitted(kept))
        features = F.leaky_relu(self.norm_a(self.conv_a(features)), SLOPE, inplace=True)
        return F.leaky_relu(kept + self.norm_b(self.conv_b(features)), SLOPE, inplace=True)


class DecoderStep(nn.Module):
    """Transposed 2x2 convolution, concatenation with the skip, double convolution with leaky relus."""

    def __init__(self, below: int, width: int, *, dropout: float, norm: str) -> None:
        """Args: below and width are the channels of the level below and of this one."""
        super().__init__()
        self.upsample = nn.ConvTranspose2d(below, width, 2, stride=2)
        self.block = DoubleConv(2 * width, width, norm=norm, slope=SLOPE, dropout=dropout)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        """(N,below,h,w) and (N,width,2h,2w) to (N,width,2h,2w)."""
        merged: Tensor = self.block(torch.cat([self.upsample(features), skip], dim=1))
        return merged


class ResidualUNet(Segmenter):
    """U-Net of image to class logits whose encoder has residual blocks and strided convolutions in place of pooling.

    Source: in the spirit of nnU-Net (Isensee et al. 2021, Nature Methods 18) and its residual encoder (Isensee et al.
    2024): leaky relu, strided convolutions, more blocks in deeper levels, heads on all decoder levels but the
    coarsest. Departures: double convolutions in the decoder and dropout inside them, as our U-Net has it
    (nnU-Net: none; set `segmenter.dropout` to 0); the norm is the setting's (nnU-Net: instance). Parameters at width
    32, depth 5, deeply supervised: 53,321,832.

    Attributes:
        deep_supervision: whether the decoder's coarser levels have heads of their own.
    """

    def __init__(self, *, deep_supervision: bool = False, **keywords: Any) -> None:
        """Make the network.

        Args:
            deep_supervision: heads on the decoder levels of 1, 1/2, 1/4, ... of the image's size, but the coarsest
                level (and none but the first at depth 1), instead of on the first alone.
            keywords: fields of `Layout`; channels double at each level up to `LARGEST` times `width`; `attention` is
                ignored.
        """
        super().__init__(**keywords)
        self.deep_supervision = deep_supervision
        layout = self.layout
        if layout.width < 1 or layout.depth < 1:
            raise ValueError(f"width {layout.width} and depth {layout.depth} must be at least 1")
        widths = [layout.width * min(2**level, LARGEST) for level in range(layout.depth + 1)]
        self.encoder = nn.ModuleList(
            _level(before, width, level, layout.norm)
            for level, (before, width) in enumerate(zip([layout.in_channels, *widths], widths, strict=False))
        )
        self.decoder = nn.ModuleList(
            DecoderStep(below, width, dropout=layout.dropout, norm=layout.norm)
            for width, below in reversed(list(zip(widths, widths[1:], strict=False)))
        )
        num_heads = max(layout.depth - 1, 1) if deep_supervision else 1
        self.heads = nn.ModuleList(nn.Conv2d(width, layout.classes, 1) for width in reversed(widths[:num_heads]))

    def forward(self, image: Tensor) -> Tensor:
        """Class logits (N,classes,H,W) of `image` (N,1,H,W) in [-1,1], any H, W >= 16: those of the finest head."""
        return self._logits(image, self.heads[-1:])[0]

    def forward_deep(self, image: Tensor) -> list[Tensor]:
        """Logits of every head, coarsest first: (N,classes,ceil(H/s),ceil(W/s)) for s = ..., 4, 2, 1."""
        return self._logits(image, self.heads)

    def _logits(self, image: Tensor, heads: nn.ModuleList) -> list[Tensor]:
        height, width = image.shape[-2:]
        features, skips = pad_to_multiple(image, self.multiple), []
        for level in self.encoder:
            features = level(features)
            skips.append(features)
        features = skips.pop()
        found: list[Tensor] = []
        first = len(self.decoder) - len(heads)
        for index, step in enumerate(self.decoder):
            features = step(features, skips.pop())
            if index >= first:
                scale = 2 ** (len(self.decoder) - 1 - index)
                logits = heads[index - first](features)
                found.append(logits[..., : -(-height // scale), : -(-width // scale)])
        return found


def _level(channels: int, width: int, level: int, norm: str) -> nn.Sequential:
    """The residual blocks of an encoder level; all but the first level begin with a stride of 2."""
    count = _BLOCKS[min(level, len(_BLOCKS) - 1)]
    first = ResidualBlock(channels, width, stride=1 if level == 0 else 2, norm=norm)
    return nn.Sequential(first, *(ResidualBlock(width, width, stride=1, norm=norm) for _ in range(count - 1)))
