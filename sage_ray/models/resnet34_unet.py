"""U-Net whose encoder is a ResNet-34 that can start from weights published for photographs (ImageNet)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sage_ray.models.blocks import DoubleConv, pad_to_multiple
from sage_ray.models.norm import make_norm
from sage_ray.models.segmenter import Segmenter
from sage_ray.published_weights import RESNET34_SHA256, RESNET34_URL, PublishedWeights, published_shapes

PUBLISHED_WIDTH, PUBLISHED_DEPTH = 64, 5
"""Layout of the published network."""
_BLOCKS = (3, 4, 6, 3)
_GREY_MEAN, _GREY_STD = 0.449, 0.226
"""Means of ImageNet's three means and of its three standard deviations, of grey values in [0,1]."""
_HOW_TO_GO_ON = "give a file with segmenter.encoder_weights=PATH, or set segmenter.encoder_weights=none"


class BasicBlock(nn.Module):
    """Relu of x + [3x3 convolution, norm, relu, 3x3 convolution, norm](x); names of layers are torchvision's."""

    def __init__(self, channels: int, out_channels: int, *, stride: int, norm: str) -> None:
        """Args: stride is that of the first convolution, and of the 1x1 convolution that fits x where shapes differ."""
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = make_norm(norm, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = make_norm(norm, out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels != out_channels:
            fitted = nn.Conv2d(channels, out_channels, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(fitted, make_norm(norm, out_channels))

    def forward(self, features: Tensor) -> Tensor:
        """(N,C,H,W) to (N,out_channels,H/stride,W/stride)."""
        kept = self.downsample(features)
        features = F.relu(self.bn1(self.conv1(features)), inplace=True)
        return F.relu(kept + self.bn2(self.conv2(features)), inplace=True)


class ResNet34(nn.Module):
    """The convolutions of a ResNet-34 on grey images, up to `depth` halvings of the size.

    Source: He et al. 2016; names of tensors are torchvision's. The first convolution reads one channel: on a grey image
    the published one over red, green and blue is the sum of its three.
    """

    def __init__(self, channels: int, width: int, depth: int, *, norm: str) -> None:
        """Args: width is 64 and depth 5 in the published network."""
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = make_norm(norm, width)
        self.num_layers = depth - 1
        before = width
        for index, count in enumerate(_BLOCKS[: self.num_layers]):
            after = width * 2**index
            blocks = [BasicBlock(before, after, stride=1 if index == 0 else 2, norm=norm)]
            blocks += [BasicBlock(after, after, stride=1, norm=norm) for _ in range(count - 1)]
            self.add_module(f"layer{index + 1}", nn.Sequential(*blocks))
            before = after

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features of `image` (N,1,H,W) in [-1,1] at 1/2, 1/4, ... of its size, H and W multiples of 2^depth."""
        standard = ((image + 1) / 2 - _GREY_MEAN) / _GREY_STD
        features = [F.relu(self.bn1(self.conv1(standard)), inplace=True)]
        for index in range(self.num_layers):
            below = F.max_pool2d(features[-1], 3, stride=2, padding=1) if index == 0 else features[-1]
            features.append(self.get_submodule(f"layer{index + 1}")(below))
        return features


class UpStep(nn.Module):
    """Transposed 2x2 convolution, concatenation with a skip where there is one, double convolution."""

    def __init__(self, below: int, skip: int, width: int, *, dropout: float, norm: str) -> None:
        """Args: below, skip (0: none) and width are numbers of channels."""
        super().__init__()
        self.upsample = nn.ConvTranspose2d(below, width, 2, stride=2)
        self.block = DoubleConv(width + skip, width, norm=norm, dropout=dropout)

    def forward(self, features: Tensor, skip: Tensor | None) -> Tensor:
        """(N,below,h,w) and the skip (N,skip,2h,2w) to (N,width,2h,2w)."""
        features = self.upsample(features)
        merged: Tensor = self.block(features if skip is None else torch.cat([features, skip], dim=1))
        return merged


class ResNet34UNet(Segmenter):
    """U-Net of image to class logits over a ResNet-34: skips at 1/2, 1/4, ..., and a last step without one.

    Decoder levels have the channels of the encoder's of the same size, the last one half of the first. Parameters at
    width 64, depth 5: 24,446,434, of which the encoder has 21,278,400.

    Source: U-Nets over published encoders, as Iglovikov and Shvets 2018 (TernausNet) have them.
    """

    def __init__(self, **keywords: Any) -> None:
        """Make the network.

        Args:
            keywords: fields of `Layout`; `depth` is the number of halvings, at most 5 (the whole ResNet-34);
                `attention` is ignored.

        Raises:
            ValueError: depth above 5.
        """
        super().__init__(**keywords)
        layout = self.layout
        if not 1 <= layout.depth <= PUBLISHED_DEPTH or layout.width < 1:
            raise ValueError(f"depth {layout.depth} of a ResNet-34 must be 1 to {PUBLISHED_DEPTH}, width at least 1")
        self.encoder = ResNet34(layout.in_channels, layout.width, layout.depth, norm=layout.norm)
        widths = _widths(layout.width, layout.depth)
        last = max(layout.width // 2, 1)
        steps = zip(widths[::-1], [*widths[-2::-1], last], [*widths[-2::-1], 0], strict=True)
        self.decoder = nn.ModuleList(
            UpStep(below, skip, width, dropout=layout.dropout, norm=layout.norm) for below, width, skip in steps
        )
        self.head = nn.Conv2d(last, layout.classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Class logits (N,classes,H,W) of `image` (N,1,H,W) in [-1,1], any H, W >= 16."""
        height, width = image.shape[-2:]
        *skips, features = self.encoder(pad_to_multiple(image, self.multiple))
        for step in self.decoder:
            features = step(features, skips.pop() if skips else None)
        logits: Tensor = self.head(features)
        return logits[..., :height, :width]

    def published(self) -> PublishedWeights:
        """What the encoder takes of the published file (or of another one of the same names, at another width)."""
        shapes = published_shapes(self.encoder.state_dict())
        shapes["conv1.weight"] = (shapes["conv1.weight"][0], 3, *shapes["conv1.weight"][2:])
        return PublishedWeights(
            label="ResNet-34",
            stem="resnet34-encoder",
            url=RESNET34_URL,
            sha256=RESNET34_SHA256,
            shapes=shapes,
            how_to_go_on=_HOW_TO_GO_ON,
        )

    def take_published(self, weights: dict[str, Tensor]) -> None:
        """Start the encoder from the tensors that `published` describes; the first convolution is summed over RGB."""
        grey = {**weights, "conv1.weight": weights["conv1.weight"].sum(1, keepdim=True)}
        own = self.encoder.state_dict()
        self.encoder.load_state_dict({name: grey.get(name, value) for name, value in own.items()})


def _widths(width: int, depth: int) -> list[int]:
    """Channels of the encoder's features at 1/2, 1/4, ... of the image's size."""
    return [width, *(width * 2**index for index in range(depth - 1))]
