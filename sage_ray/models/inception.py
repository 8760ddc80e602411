"""Inception v3 as the published FID weights have it: features and class logits of images, for comparison with papers.

Source: Szegedy et al., arXiv 1512.00567; weights and the three departures from it (no zero padding in mean pools, a
max pool in the last block) are those of the network of Heusel et al. as the `pytorch-fid` project publishes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sage_ray.published_weights import WITHOUT_FEATURES, PublishedWeights, published_shapes

URL = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
SIDE = 299
"""Pixels that images are resized to."""
FEATURES, CLASSES = 2048, 1008

_Side = int | tuple[int, int]


class _Conv(nn.Module):
    """Convolution without bias, batch norm, relu."""

    def __init__(self, channels: int, out_channels: int, size: _Side, stride: int = 1, padding: _Side = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, size, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=0.001)

    def forward(self, features: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(features)), inplace=True)


def _mean_pool(features: Tensor) -> Tensor:
    return F.avg_pool2d(features, 3, stride=1, padding=1, count_include_pad=False)


class _BlockA(nn.Module):
    def __init__(self, channels: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = _Conv(channels, 64, 1)
        self.branch5x5_1 = _Conv(channels, 48, 1)
        self.branch5x5_2 = _Conv(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = _Conv(channels, 64, 1)
        self.branch3x3dbl_2 = _Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, padding=1)
        self.branch_pool = _Conv(channels, pooled, 1)

    def forward(self, features: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(features))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(features)))
        return torch.cat([self.branch1x1(features), five, three, self.branch_pool(_mean_pool(features))], 1)


class _BlockB(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3 = _Conv(channels, 384, 3, stride=2)
        self.branch3x3dbl_1 = _Conv(channels, 64, 1)
        self.branch3x3dbl_2 = _Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, stride=2)

    def forward(self, features: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(features)))
        return torch.cat([self.branch3x3(features), double, F.max_pool2d(features, 3, stride=2)], 1)


class _BlockC(nn.Module):
    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        flat: dict[str, Any] = {"size": (1, 7), "padding": (0, 3)}
        high: dict[str, Any] = {"size": (7, 1), "padding": (3, 0)}
        self.branch1x1 = _Conv(channels, 192, 1)
        self.branch7x7_1 = _Conv(channels, inner, 1)
        self.branch7x7_2 = _Conv(inner, inner, **flat)
        self.branch7x7_3 = _Conv(inner, 192, **high)
        self.branch7x7dbl_1 = _Conv(channels, inner, 1)
        self.branch7x7dbl_2 = _Conv(inner, inner, **high)
        self.branch7x7dbl_3 = _Conv(inner, inner, **flat)
        self.branch7x7dbl_4 = _Conv(inner, inner, **high)
        self.branch7x7dbl_5 = _Conv(inner, 192, **flat)
        self.branch_pool = _Conv(channels, 192, 1)

    def forward(self, features: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(features)))
        double = self.branch7x7dbl_2(self.branch7x7dbl_1(features))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(self.branch7x7dbl_3(double)))
        return torch.cat([self.branch1x1(features), seven, double, self.branch_pool(_mean_pool(features))], 1)


class _BlockD(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3_1 = _Conv(channels, 192, 1)
        self.branch3x3_2 = _Conv(192, 320, 3, stride=2)
        self.branch7x7x3_1 = _Conv(channels, 192, 1)
        self.branch7x7x3_2 = _Conv(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = _Conv(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = _Conv(192, 192, 3, stride=2)

    def forward(self, features: Tensor) -> Tensor:
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(features)))
        three = self.branch3x3_2(self.branch3x3_1(features))
        return torch.cat([three, self.branch7x7x3_4(seven), F.max_pool2d(features, 3, stride=2)], 1)


class _BlockE(nn.Module):
    def __init__(self, channels: int, *, max_pooled: bool) -> None:
        super().__init__()
        self.max_pooled = max_pooled
        self.branch1x1 = _Conv(channels, 320, 1)
        self.branch3x3_1 = _Conv(channels, 384, 1)
        self.branch3x3_2a = _Conv(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = _Conv(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = _Conv(channels, 448, 1)
        self.branch3x3dbl_2 = _Conv(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = _Conv(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = _Conv(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = _Conv(channels, 192, 1)

    def forward(self, features: Tensor) -> Tensor:
        three = self.branch3x3_1(features)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(features))
        pooled = F.max_pool2d(features, 3, stride=1, padding=1) if self.max_pooled else _mean_pool(features)
        parts = [self.branch1x1(features), self.branch3x3_2a(three), self.branch3x3_2b(three)]
        parts += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double), self.branch_pool(pooled)]
        return torch.cat(parts, 1)


class InceptionV3(nn.Module):
    """Pooled features (N,2048) and class logits (N,1008) of grey images."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = _Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = _Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = _Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = _Conv(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _BlockA(192, 32), _BlockA(256, 64), _BlockA(288, 64)
        self.Mixed_6a = _BlockB(288)
        self.Mixed_6b, self.Mixed_6c = _BlockC(768, 128), _BlockC(768, 160)
        self.Mixed_6d, self.Mixed_6e = _BlockC(768, 160), _BlockC(768, 192)
        self.Mixed_7a = _BlockD(768)
        self.Mixed_7b, self.Mixed_7c = _BlockE(1280, max_pooled=False), _BlockE(2048, max_pooled=True)
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Features (N,2048) of `image` (N,1,H,W) in [0,1], after the last mean pool."""
        features = F.interpolate(image.expand(-1, 3, -1, -1), size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        features = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(2 * features - 1)))
        features = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(features, 3, stride=2)))
        features = F.max_pool2d(features, 3, stride=2)
        for block in (
            *(self.Mixed_5b, self.Mixed_5c, self.Mixed_5d, self.Mixed_6a, self.Mixed_6b, self.Mixed_6c),
            *(self.Mixed_6d, self.Mixed_6e, self.Mixed_7a, self.Mixed_7b, self.Mixed_7c),
        ):
            features = block(features)
        return features.mean((2, 3))


def inception_weights() -> PublishedWeights:
    """Where the weights are published, and which tensors of theirs are wanted (95 MB)."""
    with torch.device("meta"):
        tensors = InceptionV3().state_dict()
    return PublishedWeights(
        label="Inception",
        stem="inception-v3-fid",
        url=URL,
        sha256=SHA256,
        shapes=published_shapes(tensors),
        how_to_go_on=WITHOUT_FEATURES,
    )


def load_inception(tensors: Mapping[str, Tensor]) -> InceptionV3:
    """The network in eval mode with the tensors of `inception_weights`."""
    network = InceptionV3()
    counters = {name: t for name, t in network.state_dict().items() if name.endswith("num_batches_tracked")}
    network.load_state_dict({**tensors, **counters})
    return network.eval().requires_grad_(False)
