"""Attention U-Net segmenter: a U-Net with an additive attention gate on every skip."""

from __future__ import annotations

from typing import Any

from sage_ray.models.unet import UNet


class AttentionUNet(UNet):
    """U-Net whose skips pass attention gates of half the level's width.

    Source: Oktay et al. 2018; docs/method/METHOD.md section 1.
    """

    gated = True

    def __init__(self, *, attention: bool = True, **keywords: Any) -> None:
        """As `UNet`; with `attention=False` the gates are absent and every skip passes whole (DISCREPANCIES row 25).

        Args:
            attention: whether skips are gated.
            keywords: the other fields of `Layout`.
        """
        super().__init__(attention=attention, **keywords)
