"""DC-UNet segmenter: blocks of two parallel sequences of convolutions, and skips of residual convolutions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sage_ray.models.blocks import ConvNorm, level_widths, pad_to_multiple
from sage_ray.models.dropout import KeyedDropout
from sage_ray.models.norm import make_norm
from sage_ray.models.segmenter import Segmenter

WIDENING = 1.67
"""Channels of a block over those of the U-Net's level, as in MultiResUNet (Ibtehaz and Rahman 2020)."""
SHARES = (0.167, 0.333, 0.5)
"""Shares of a block's channels that its first, second and third convolution have."""


def block_widths(width: int) -> tuple[int, int, int]:
    """Channels of the three convolutions of a sequence, at least 1 each, where a U-Net's level has `width`."""
    first, second, third = (max(int(WIDENING * width * share), 1) for share in SHARES)
    return first, second, third


class ConvSequence(nn.Module):
    """Three 3x3 convolutions in a row, their outputs concatenated and normalised: fields of 3, 5 and 7 pixels."""

    def __init__(self, channels: int, width: int, *, norm: str) -> None:
        """Args: width is that of the U-Net's level; the output has sum(block_widths(width)) channels."""
        super().__init__()
        widths = block_widths(width)
        self.convs = nn.ModuleList(
            ConvNorm(before, after, 3, norm=norm) for before, after in zip((channels, *widths[:2]), widths, strict=True)
        )
        self.norm = make_norm(norm, sum(widths))

    def forward(self, features: Tensor) -> Tensor:
        """(N,C,H,W) to (N,sum(block_widths),H,W)."""
        outputs: list[Tensor] = []
        for conv in self.convs:
            features = conv(features)
            outputs.append(features)
        normalised: Tensor = self.norm(torch.cat(outputs, dim=1))
        return normalised


class DualChannelBlock(nn.Module):
    """Two sequences of convolutions side by side, added, relu, normalisation; no residual connection."""

    def __init__(self, channels: int, width: int, *, norm: str, dropout: float = 0.0) -> None:
        """Args: width is that of the U-Net's level; dropout falls on the input."""
        super().__init__()
        self.dropout = KeyedDropout(dropout)
        self.sequence_a = ConvSequence(channels, width, norm=norm)
        self.sequence_b = ConvSequence(channels, width, norm=norm)
        self.norm = make_norm(norm, sum(block_widths(width)))

    def forward(self, features: Tensor) -> Tensor:
        """(N,C,H,W) to (N,sum(block_widths),H,W)."""
        features = self.dropout(features)
        output: Tensor = self.norm(F.relu(self.sequence_a(features) + self.sequence_b(features)))
        return output


class ResidualStep(nn.Module):
    """3x3 convolution beside a 1x1 convolution, added, relu, normalisation."""

    def __init__(self, channels: int, out_channels: int, *, norm: str) -> None:
        super().__init__()
        self.wide = ConvNorm(channels, out_channels, 3, norm=norm)
        self.shortcut = ConvNorm(channels, out_channels, 1, norm=norm, relu=False)
        self.norm = make_norm(norm, out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """(N,C,H,W) to (N,out_channels,H,W)."""
        output: Tensor = self.norm(F.relu(self.wide(features) + self.shortcut(features)))
        return output


def residual_path(channels: int, width: int, length: int, *, norm: str) -> nn.Sequential:
    """Skip of `length` residual steps, (N,channels,H,W) to (N,width,H,W)."""
    return nn.Sequential(*(ResidualStep(width if step else channels, width, norm=norm) for step in range(length)))


class DCUNet(Segmenter):
    """DC-UNet of image to class logits.

    Source: Lou et al. 2021 (SPIE 11596, arXiv 2006.00414) and the authors' first code: a U-Net with dual-channel blocks
    and skips of depth, ..., 2, 1 residual steps from the first level to the deepest. Departures: norms have a gain as
    well as a shift; the head is a plain 1x1 convolution (theirs is normalised); the paper has no dropout; it stands in
    every decoder level, as in our U-Net, on the block's input, where the authors' later code has it. The authors' first
    level is 32.

    Parameters at width 64, depth 4: 40,276,460; at the authors' width 32: 10,046,834.

    The public SAGE-GAN code's variant has 6,078,530 (one class 6,078,497): its first level is 32, its block is one
    channel of parallel 1x1, 3x3 and 5x5 convolutions, its skips have two 3x3 convolutions a step, it up-samples
    bilinearly; it cannot be evaluated as published (DISCREPANCIES row 31).
    """

    def __init__(self, **keywords: Any) -> None:
        """Make the network.

        Args:
            keywords: fields of `Layout`; `width` is the first level's of the U-Net that this one is laid out by (see
                `block_widths`), and `attention` is ignored, as the skips have no gates.
        """
        super().__init__(**keywords)
        layout = self.layout
        widths = level_widths(layout.width, layout.depth)
        outs = [sum(block_widths(level)) for level in (*widths, 2 * widths[-1])]
        self.levels = nn.ModuleList(
            DualChannelBlock(before, level, norm=layout.norm)
            for before, level in zip((layout.in_channels, *outs), (*widths, 2 * widths[-1]), strict=False)
        )
        self.skips = nn.ModuleList(
            residual_path(out, level, layout.depth - index, norm=layout.norm)
            for index, (out, level) in enumerate(zip(outs, widths, strict=False))
        )
        self.upsamples = nn.ModuleList(
            nn.ConvTranspose2d(below, level, 2, stride=2) for below, level in zip(outs[1:], widths, strict=True)
        )
        self.decoder = nn.ModuleList(
            DualChannelBlock(2 * level, level, norm=layout.norm, dropout=layout.dropout) for level in widths
        )
        self.head = nn.Conv2d(outs[0], layout.classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Class logits (N,classes,H,W) of `image` (N,1,H,W) in [-1,1], any H, W >= 16."""
        height, width = image.shape[-2:]
        features = self.levels[0](pad_to_multiple(image, self.multiple))
        skips: list[Tensor] = []
        for level, skip in zip(self.levels[1:], self.skips, strict=True):
            skips.append(skip(features))
            features = level(F.max_pool2d(features, 2))
        for index in reversed(range(len(skips))):
            merged = torch.cat([self.upsamples[index](features), skips[index]], dim=1)
            features = self.decoder[index](merged)
        logits: Tensor = self.head(features)
        return logits[..., :height, :width]
