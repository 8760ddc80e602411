"""Half-UNet segmenter: equal channels at all levels, ghost modules, and a decoder that only adds the levels up."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sage_ray.models.blocks import ConvNorm, level_widths, pad_to_multiple
from sage_ray.models.dropout import KeyedDropout
from sage_ray.models.segmenter import Segmenter


class GhostModule(nn.Module):
    """Half of the channels by a 3x3 convolution, the other half from those by a 3x3 convolution of each channel alone.

    Source: Han et al. 2020 (GhostNet), ratio 2; both halves are normalised and pass a relu.
    """

    def __init__(self, channels: int, out_channels: int, *, norm: str) -> None:
        """Raises ValueError if out_channels is below 2. An odd number gets one ghost fewer than plain channels."""
        super().__init__()
        if out_channels < 2:
            raise ValueError(f"width {out_channels} must be at least 2: a ghost module makes one half from the other")
        self.ghosts = out_channels // 2
        self.primary = ConvNorm(channels, out_channels - self.ghosts, 3, norm=norm)
        self.cheap = ConvNorm(self.ghosts, self.ghosts, 3, norm=norm, groups=self.ghosts)

    def forward(self, features: Tensor) -> Tensor:
        """(N,C,H,W) to (N,out_channels,H,W)."""
        features = self.primary(features)
        return torch.cat([features, self.cheap(features[:, : self.ghosts])], dim=1)


class GhostPair(nn.Module):
    """Two ghost modules, with dropout between them."""

    def __init__(self, channels: int, out_channels: int, *, norm: str, dropout: float = 0.0) -> None:
        super().__init__()
        self.ghost_a = GhostModule(channels, out_channels, norm=norm)
        self.dropout = KeyedDropout(dropout)
        self.ghost_b = GhostModule(out_channels, out_channels, norm=norm)

    def forward(self, features: Tensor) -> Tensor:
        """(N,C,H,W) to (N,out_channels,H,W)."""
        features = self.ghost_b(self.dropout(self.ghost_a(features)))
        return features


class HalfUNet(Segmenter):
    """Half-UNet of image to class logits: depth + 1 levels of one width, brought to full size, added, read once.

    Source: Lu et al. 2022 (Front. Neuroinform. 16, 911679): unified channel numbers, full-scale feature fusion by
    addition, ghost modules. Up-sampling is bilinear. Departure: the paper has no dropout; it stands where our U-Net has
    it, in the decoder, which is one pair of ghost modules here.

    Parameters at width 64, depth 4: 208,162. The public SAGE-GAN code's variant has 294,562: it concatenates the levels
    (320 channels) instead of adding them, makes ghosts by a convolution of each channel and one over all channels,
    without normalisation, and up-samples to the nearest neighbour; it cannot be evaluated as published (DISCREPANCIES
    row 31).
    """

    def __init__(self, **keywords: Any) -> None:
        """Make the network.

        Args:
            keywords: fields of `Layout`; all levels have `width` channels, at least 2, and `attention` is ignored, as
                there are no skips to gate.
        """
        super().__init__(**keywords)
        layout = self.layout
        before = [layout.in_channels] + [layout.width] * len(level_widths(layout.width, layout.depth))
        self.levels = nn.ModuleList(GhostPair(channels, layout.width, norm=layout.norm) for channels in before)
        self.decoder = GhostPair(layout.width, layout.width, norm=layout.norm, dropout=layout.dropout)
        self.head = nn.Conv2d(layout.width, layout.classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Class logits (N,classes,H,W) of `image` (N,1,H,W) in [-1,1], any H, W >= 16."""
        height, width = image.shape[-2:]
        features = self.levels[0](pad_to_multiple(image, self.multiple))
        fused = features
        for level in self.levels[1:]:
            features = level(F.max_pool2d(features, 2))
            fused = fused + F.interpolate(features, size=fused.shape[-2:], mode="bilinear", align_corners=False)
        logits: Tensor = self.head(self.decoder(fused))
        return logits[..., :height, :width]
