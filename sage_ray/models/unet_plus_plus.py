"""U-Net++ segmenter: a U-Net whose skips are nested, dense blocks, with an optional head on each nested output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sage_ray.models.blocks import DoubleConv, Encoder, level_widths, pad_to_multiple
from sage_ray.models.segmenter import Segmenter


class NestedNode(nn.Module):
    """Node X[i,j]: transposed 2x2 convolution of X[i+1,j-1], concatenation with X[i,0..j-1], double convolution."""

    def __init__(self, width: int, num_skips: int, *, dropout: float, norm: str) -> None:
        """Args: width is level i's number of channels, the level below has twice as many; num_skips is j."""
        super().__init__()
        self.upsample = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.block = DoubleConv((num_skips + 1) * width, width, norm=norm, dropout=dropout)

    def forward(self, skips: list[Tensor], below: Tensor) -> Tensor:
        """Features (N,width,2h,2w) of `skips`, each (N,width,2h,2w), and `below` (N,2 width,h,w)."""
        features: Tensor = self.block(torch.cat([self.upsample(below), *skips], dim=1))
        return features


class UNetPlusPlus(Segmenter):
    """U-Net++ of image to class logits: depth (depth + 1) / 2 nested nodes over the encoder of the U-Net.

    Source: Zhou et al. 2018 (DLMIA) and 2020 (IEEE TMI 39(6)). Node X[i,j] takes all earlier nodes of its level and the
    up-sampled node below; X[0,1] to X[0,depth] have the image's size. Departures: normalisation after every
    convolution and relu, as in our U-Net (the authors' first code has elu, no normalisation, and dropout .5 after both
    convolutions of every block); dropout after the first convolution of each nested node, as our U-Net has it in its
    decoder levels. The authors' first level has 32 channels: without norms, with one class, ours has their 9,041,601
    parameters at that width.

    Parameters at width 64, depth 4: 36,171,458; with deep supervision 36,171,848.

    The public SAGE-GAN code's variant has no dense skips (a node reads its left neighbour and the node below), no deep
    supervision and no dropout. The file with its blocks is missing, so that it cannot be evaluated as published
    (DISCREPANCIES row 31). With the common blocks (bilinear up-sampling, double convolution that narrows half-way) it
    has 27,109,442 parameters without and 27,116,290 with biases; its default, transposed convolutions, cannot run.

    Attributes:
        deep_supervision: whether every nested output X[0,j] has its own head.
    """

    def __init__(self, *, deep_supervision: bool = False, **keywords: Any) -> None:
        """Make the network.

        Args:
            deep_supervision: a head on every nested output instead of on the last alone.
            keywords: fields of `Layout`; `depth` is also the number of nested outputs, and `attention` is ignored, as
                the skips have no gates.
        """
        super().__init__(**keywords)
        self.deep_supervision = deep_supervision
        layout = self.layout
        self.encoder = Encoder(layout.in_channels, layout.width, layout.depth, norm=layout.norm)
        widths = level_widths(layout.width, layout.depth)
        self.columns = nn.ModuleList(
            nn.ModuleList(
                NestedNode(level, column, dropout=layout.dropout, norm=layout.norm)
                for level in widths[: layout.depth - column + 1]
            )
            for column in range(1, layout.depth + 1)
        )
        num_heads = layout.depth if deep_supervision else 1
        self.heads = nn.ModuleList(nn.Conv2d(layout.width, layout.classes, 1) for _ in range(num_heads))

    def forward(self, image: Tensor) -> Tensor:
        """Class logits (N,classes,H,W) of `image` (N,1,H,W) in [-1,1], any H, W >= 16.

        With deep supervision the mean over the heads, the paper's accurate mode (which averages probabilities).
        """
        return mean_logits(self.forward_deep(image))

    def forward_deep(self, image: Tensor) -> list[Tensor]:
        """Logits (N,classes,H,W) of every head, shallowest first; a single one without deep supervision."""
        height, width = image.shape[-2:]
        middle, skips = self.encoder(pad_to_multiple(image, self.multiple))
        rows = [[features] for features in (*skips, middle)]
        for column in self.columns:
            # Level i of this column reads level i + 1 of the column before, which is the last one there so far.
            for level, node in enumerate(column.children()):
                rows[level].append(node(rows[level], rows[level + 1][-1]))
        outputs = rows[0][-len(self.heads) :]
        return [head(features)[..., :height, :width] for head, features in zip(self.heads, outputs, strict=True)]


def mean_logits(heads: list[Tensor]) -> Tensor:
    """Mean over the logits (N,classes,H,W) of one or more heads; of a single one itself."""
    return heads[0] if len(heads) == 1 else torch.stack(heads).mean(0)
