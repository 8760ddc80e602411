"""U-Net generator without style: mask to image."""

from __future__ import annotations

import torch
from torch import Tensor

from sage_ray.models.unet import UNet


class PlainUNetGenerator(UNet):
    """The project's U-Net from mask to image, with tanh at the end; neither style nor noise nor dropout.

    Attributes:
        levels: 1, and
        style_dim: 1: latent codes and noise are taken as any generator takes them, and not looked at.
    """

    levels = 1
    style_dim = 1

    def __init__(
        self, *, in_channels: int = 1, out_channels: int = 1, width: int = 64, depth: int = 4, norm: str = "batch"
    ) -> None:
        """Make the network.

        Args:
            in_channels: channels of the mask.
            out_channels: channels of the image.
            width: channels of the first level; they double at each level.
            depth: number of down-sampling levels.
            norm: batch, group, frozen or instance.

        Raises:
            ValueError: a number below 1, or an unknown norm.
        """
        super().__init__(
            in_channels=in_channels, classes=out_channels, width=width, depth=depth, norm=norm, dropout=0.0
        )

    def forward(self, mask: Tensor, _latents: Tensor, _noise: Tensor) -> Tensor:  # type: ignore[override]
        """Generated image (N,out_channels,H,W) in [-1,1] of `mask` (N,1,H,W), any H, W >= 16."""
        return torch.tanh(self.forward_with_maps(mask)[0])
