"""Parts that the U-shaped networks share: double convolution, encoder, padding to the size they need."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sage_ray.models.dropout import KeyedDropout
from sage_ray.models.norm import make_norm


class DoubleConv(nn.Module):
    """Twice [3x3 convolution with bias, normalisation, leaky relu], with dropout after the first."""

    def __init__(
        self, channels: int, out_channels: int, *, norm: str, slope: float = 0.0, dropout: float = 0.0
    ) -> None:
        """Args: slope is the leaky relu's on negative values (0: relu); dropout its probability."""
        super().__init__()
        self.conv_a = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.norm_a = make_norm(norm, out_channels)
        self.dropout = KeyedDropout(dropout)
        self.conv_b = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.norm_b = make_norm(norm, out_channels)
        self.slope = slope

    def forward(self, features: Tensor) -> Tensor:
        """(N,C,H,W) to (N,out_channels,H,W)."""
        features = self.dropout(self._activate(self.norm_a(self.conv_a(features))))
        return self._activate(self.norm_b(self.conv_b(features)))

    def _activate(self, features: Tensor) -> Tensor:
        if self.slope == 0:
            return F.relu(features, inplace=True)
        return F.leaky_relu(features, self.slope, inplace=True)


class ConvNorm(nn.Module):
    """Square convolution without bias, of odd size, normalisation, relu unless switched off."""

    def __init__(
        self, channels: int, out_channels: int, size: int, *, norm: str, groups: int = 1, relu: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, size, padding=size // 2, groups=groups, bias=False)
        self.norm = make_norm(norm, out_channels)
        self.relu = relu

    def forward(self, features: Tensor) -> Tensor:
        """(N,C,H,W) to (N,out_channels,H,W)."""
        features = self.norm(self.conv(features))
        return F.relu(features, inplace=True) if self.relu else features


class Encoder(nn.Module):
    """`depth` levels of double convolution and 2x2 max pooling, then the middle; widths double at each level."""

    def __init__(self, channels: int, width: int, depth: int, *, norm: str, slope: float = 0.0) -> None:
        super().__init__()
        widths = level_widths(width, depth)
        self.levels = nn.ModuleList(
            DoubleConv(before, after, norm=norm, slope=slope)
            for before, after in zip([channels, *widths], widths, strict=False)
        )
        self.middle = DoubleConv(widths[-1], 2 * widths[-1], norm=norm, slope=slope)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(middle features (N, 2^depth width, H/2^depth, W/2^depth), skips from the first level to the deepest)."""
        skips: list[Tensor] = []
        features = image
        for level in self.levels:
            features = level(features)
            skips.append(features)
            features = F.max_pool2d(features, 2)
        return self.middle(features), skips


def level_widths(width: int, depth: int) -> list[int]:
    """Channels of the levels from the first to the deepest. Raises ValueError unless width and depth are positive."""
    if width < 1 or depth < 1:
        raise ValueError(f"width {width} and depth {depth} must be at least 1")
    return [width * 2**level for level in range(depth)]


def pad_to_multiple(image: Tensor, multiple: int, smallest: int = 0) -> Tensor:
    """`image` (N,C,H,W) continued at the bottom and right to multiples of `multiple`, of at least `smallest` pixels.

    Reflected where the image is large enough for it, else the last row or column is repeated. An image that fits is
    returned as it is. The caller crops its output back.
    """
    height, width = image.shape[-2:]
    down = _missing(height, multiple, smallest)
    right = _missing(width, multiple, smallest)
    if down == 0 and right == 0:
        return image
    mode = "reflect" if down < height and right < width else "replicate"
    return F.pad(image, (0, right, 0, down), mode=mode)


def _missing(size: int, multiple: int, smallest: int) -> int:
    wanted = max(size, smallest)
    return -(-wanted // multiple) * multiple - size
