"""U-Net segmenter, and the decoder level that U-Net and Attention U-Net share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sage_ray.models.attention import AttentionGate
from sage_ray.models.blocks import DoubleConv, Encoder, level_widths, pad_to_multiple
from sage_ray.models.segmenter import Segmenter


class DecoderLevel(nn.Module):
    """Transposed 2x2 convolution, an optional gate on the skip, concatenation (decoder first), double convolution."""

    def __init__(self, width: int, *, gated: bool, dropout: float, norm: str) -> None:
        """Args: width is the level's number of channels; the level below has twice as many."""
        super().__init__()
        self.upsample = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.gate = AttentionGate(width, max(width // 2, 1), norm) if gated else None
        self.block = DoubleConv(2 * width, width, norm=norm, dropout=dropout)

    def forward(self, features: Tensor, skip: Tensor) -> tuple[Tensor, Tensor | None]:
        """(features (N,width,2h,2w), gate coefficients (N,1,2h,2w) or None without a gate)."""
        features = self.upsample(features)
        coefficients = None
        if self.gate is not None:
            skip, coefficients = self.gate(features, skip)
        return self.block(torch.cat([features, skip], dim=1)), coefficients


class UNet(Segmenter):
    """U-Net of image to class logits. Source: Ronneberger et al. 2015, padded, with normalisation."""

    gated = False

    def __init__(self, **keywords: Any) -> None:
        """Make the network; keywords are the fields of `Layout`. Only `AttentionUNet` has gates."""
        super().__init__(**keywords)
        layout = self.layout
        self.encoder = Encoder(layout.in_channels, layout.width, layout.depth, norm=layout.norm)
        self.decoder = nn.ModuleList(
            DecoderLevel(level, gated=self.gated and layout.attention, dropout=layout.dropout, norm=layout.norm)
            for level in reversed(level_widths(layout.width, layout.depth))
        )
        self.head = nn.Conv2d(layout.width, layout.classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Class logits (N,classes,H,W) of `image` (N,1,H,W) in [-1,1], any H, W >= 16."""
        return self.forward_with_maps(image)[0]

    def forward_with_maps(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(logits (N,classes,H,W), gate coefficients (N,1,h,w) in (0,1), deepest first; [] without gates)."""
        height, width = image.shape[-2:]
        features, skips = self.encoder(pad_to_multiple(image, self.multiple))
        maps: list[Tensor] = []
        for level, skip in zip(self.decoder, reversed(skips), strict=True):
            features, coefficients = level(features, skip)
            if coefficients is not None:
                factor = self.multiple // 2 ** (len(maps) + 1)
                maps.append(coefficients[..., : -(-height // factor), : -(-width // factor)])
        return self.head(features)[..., :height, :width], maps

    @torch.no_grad()
    def attention_maps(self, image: Tensor) -> list[Tensor]:
        """Gate coefficients (N,1,h,w) in (0,1) of `image`, deepest first; present mode, no gradient."""
        return self.forward_with_maps(image)[1]
