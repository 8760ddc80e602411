"""PatchGAN discriminator with residual linear attention in its first block."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sage_ray.models.attention import LinearAttention
from sage_ray.models.blocks import pad_to_multiple
from sage_ray.models.norm import ChannelNorm, make_norm

_SLOPE = 0.2
_SMALLEST_INPUT = 24  # pixels; below it no patch is left after five 4x4 convolutions


class PatchGAN(nn.Module):
    """Scores every patch of an image as real (1) or fake (0), without activation.

    One class serves images and masks.

    Source: Isola et al. 2017; the attention as in SAGE-GAN (docs/method/METHOD.md section 1).
    """

    def __init__(
        self,
        *,
        in_channels: int = 1,
        width: int = 64,
        attention: bool = True,
        heads: int = 8,
        head_dim: int = 64,
        norm: str = "batch",
    ) -> None:
        """Make the network.

        Args:
            in_channels: channels of the image or mask.
            width: channels of the first block; they double three times.
            attention: whether the first block ends in residual linear attention.
            heads: number of heads of the attention.
            head_dim: channels per head.
            norm: batch, group or frozen.

        Raises:
            ValueError: unknown norm.
        """
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 4, stride=2, padding=1)
        self.attention_norm = ChannelNorm(width) if attention else None
        self.attention = LinearAttention(width, heads, head_dim) if attention else None
        self.conv2 = nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False)
        self.norm2 = make_norm(norm, 2 * width)
        self.conv3 = nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1, bias=False)
        self.norm3 = make_norm(norm, 4 * width)
        self.conv4 = nn.Conv2d(4 * width, 8 * width, 4, stride=1, padding=1, bias=False)
        self.norm4 = make_norm(norm, 8 * width)
        self.head = nn.Conv2d(8 * width, 1, 4, stride=1, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Patch scores (N,1,h,w), h about H/8 - 2, of `image` (N,1,H,W); smaller than 24 pixels it is padded to 24."""
        features = F.leaky_relu(self.conv1(pad_to_multiple(image, 1, _SMALLEST_INPUT)), _SLOPE)
        if self.attention is not None and self.attention_norm is not None:
            features = features + self.attention(self.attention_norm(features))
        for conv, norm in ((self.conv2, self.norm2), (self.conv3, self.norm3), (self.conv4, self.norm4)):
            features = F.leaky_relu(norm(conv(features)), _SLOPE, inplace=True)
        scores: Tensor = self.head(features)
        return scores
