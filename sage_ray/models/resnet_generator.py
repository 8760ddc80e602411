"""CycleGAN's residual network: from mask to image, and, as a segmenter, from image to mask."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sage_ray.models.blocks import pad_to_multiple
from sage_ray.models.norm import make_norm
from sage_ray.models.segmenter import Segmenter

_MULTIPLE = 4
_SMALL_SIDE = 256


def blocks_for(rows: int, columns: int) -> int:
    """Residual blocks for images of this size in pixels: 6 where the shorter side is below 256, else 9.

    Source: arXiv 1703.10593, appendix 7.2 (6 blocks for 128x128, 9 for 256x256 and larger).
    """
    return 6 if min(rows, columns) < _SMALL_SIDE else 9


class MirroredConv(nn.Module):
    """Square convolution of odd size over features that are continued by their mirror image at the edges."""

    def __init__(self, channels: int, out_channels: int, size: int) -> None:
        super().__init__()
        self.margin = size // 2
        self.conv = nn.Conv2d(channels, out_channels, size)

    def forward(self, features: Tensor) -> Tensor:
        """(N,C,H,W), both sides longer than the margin, to (N,out_channels,H,W)."""
        convolved: Tensor = self.conv(mirrored(features, self.margin))
        return convolved


class ResNetBlock(nn.Module):
    """Two mirrored 3x3 convolutions with normalisation, relu after the first, added to what they are given."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.conv_a, self.norm_a = MirroredConv(channels, channels, 3), make_norm(norm, channels)
        self.conv_b, self.norm_b = MirroredConv(channels, channels, 3), make_norm(norm, channels)

    def forward(self, features: Tensor) -> Tensor:
        """(N,C,H,W) to (N,C,H,W)."""
        inner = F.relu(self.norm_a(self.conv_a(features)))
        added: Tensor = features + self.norm_b(self.conv_b(inner))
        return added


class ResidualMapper(nn.Module):
    """7x7 convolution, two halvings, residual blocks, two doublings, 7x7 convolution; no activation at the end."""

    def __init__(self, channels: int, out_channels: int, *, width: int, blocks: int, norm: str) -> None:
        """Args: width is the number of channels at full size, doubled at each halving; at least one block."""
        super().__init__()
        if width < 1 or blocks < 1:
            raise ValueError(f"width {width} and blocks {blocks} must be at least 1")
        self.first, self.first_norm = MirroredConv(channels, width, 7), make_norm(norm, width)
        self.down_a, self.norm_a = nn.Conv2d(width, 2 * width, 3, 2, 1), make_norm(norm, 2 * width)
        self.down_b, self.norm_b = nn.Conv2d(2 * width, 4 * width, 3, 2, 1), make_norm(norm, 4 * width)
        self.blocks = nn.ModuleList(ResNetBlock(4 * width, norm) for _ in range(blocks))
        self.up_a, self.norm_c = nn.ConvTranspose2d(4 * width, 2 * width, 3, 2, 1, 1), make_norm(norm, 2 * width)
        self.up_b, self.norm_d = nn.ConvTranspose2d(2 * width, width, 3, 2, 1, 1), make_norm(norm, width)
        self.last = MirroredConv(width, out_channels, 7)

    def forward(self, image: Tensor) -> Tensor:
        """(N,channels,H,W), any H, W >= 16, to (N,out_channels,H,W)."""
        height, width = image.shape[-2:]
        features = F.relu(self.first_norm(self.first(pad_to_multiple(image, _MULTIPLE))))
        features = F.relu(self.norm_a(self.down_a(features)))
        features = F.relu(self.norm_b(self.down_b(features)))
        for block in self.blocks:
            features = block(features)
        features = F.relu(self.norm_c(self.up_a(features)))
        features = F.relu(self.norm_d(self.up_b(features)))
        mapped: Tensor = self.last(features)
        return mapped[..., :height, :width]


class ResNetGenerator(nn.Module):
    """Generator of images from masks: residual network and tanh, without style and noise.

    Attributes:
        levels: 1, and
        style_dim: 1: latent codes and noise are taken as any generator takes them, and not looked at.

    Source: arXiv 1703.10593, appendix 7.2.
    """

    levels = 1
    style_dim = 1

    def __init__(
        self, *, in_channels: int = 1, out_channels: int = 1, width: int = 64, blocks: int = 9, norm: str = "instance"
    ) -> None:
        """Make the network.

        Args:
            in_channels: channels of the mask.
            out_channels: channels of the image.
            width: channels at full size; they double at each of two halvings.
            blocks: number of residual blocks; see `blocks_for`.
            norm: batch, group, frozen or instance.

        Raises:
            ValueError: a number below 1, or an unknown norm.
        """
        super().__init__()
        self.mapper = ResidualMapper(in_channels, out_channels, width=width, blocks=blocks, norm=norm)

    def forward(self, mask: Tensor, _latents: Tensor, _noise: Tensor) -> Tensor:
        """Generated image (N,out_channels,H,W) in [-1,1] of `mask` (N,1,H,W), any H, W >= 16."""
        return torch.tanh(self.mapper(mask))


class ResNetSegmenter(Segmenter):
    """The same network from image to mask, as a segmenter: its output t is the foreground's logit.

    The background's logit is 0, so that the foreground's probability is sigmoid(t), CycleGAN's mask in [0,1], and the
    arg-max is that mask above .5. `depth`, `attention` and `dropout` of the layout are not looked at.
    """

    def __init__(self, *, blocks: int = 9, **keywords: Any) -> None:
        """Make the network: `blocks` residual blocks; the other keywords are the fields of `Layout`."""
        super().__init__(**keywords)
        self.multiple = _MULTIPLE
        layout = self.layout
        self.mapper = ResidualMapper(
            layout.in_channels, layout.classes - 1, width=layout.width, blocks=blocks, norm=layout.norm
        )

    def forward(self, image: Tensor) -> Tensor:
        """Class logits (N,classes,H,W) of `image` (N,1,H,W) in [-1,1], any H, W >= 16."""
        foreground = self.mapper(image)
        return torch.cat([torch.zeros_like(foreground[:, :1]), foreground], dim=1)


def mirrored(features: Tensor, margin: int) -> Tensor:
    """`features` (N,C,H,W) continued by `margin` pixels of their mirror image on all sides, without the edge itself.

    As `F.pad` with mode reflect, whose backward has no fixed order of addition on a GPU.
    """
    for axis in (2, 3):
        size = features.shape[axis]
        before = features.narrow(axis, 1, margin).flip(axis)
        after = features.narrow(axis, size - margin - 1, margin).flip(axis)
        features = torch.cat([before, features, after], dim=axis)
    return features
