"""VGG19 perceptual loss, and where its weights come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sage_ray.published_weights import DOWNLOAD_TIMEOUT_S, PublishedWeights

VGG19_URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
VGG19_SHA256 = "dcbb9e9d"  # first digits; the published file carries them in its name
_HOW_TO_GO_ON = "give a file with adversarial.perceptual_weights, or set adversarial.perceptual=none"

# Convolutions up to conv5_1: index in torchvision's `features`, input and output channels, pooled before, tapped after.
_LAYERS = (
    (0, 3, 64, False, True),
    (2, 64, 64, False, False),
    (5, 64, 128, True, True),
    (7, 128, 128, False, False),
    (10, 128, 256, True, True),
    (12, 256, 256, False, False),
    (14, 256, 256, False, False),
    (16, 256, 256, False, False),
    (19, 256, 512, True, True),
    (21, 512, 512, False, False),
    (23, 512, 512, False, False),
    (25, 512, 512, False, False),
    (28, 512, 512, True, True),
)
VGG19 = PublishedWeights(
    label="VGG19",
    stem="vgg19-features",
    url=VGG19_URL,
    sha256=VGG19_SHA256,
    shapes={
        f"features.{index}.{part}": shape
        for index, channels, out_channels, _, _ in _LAYERS
        for part, shape in (("weight", (out_channels, channels, 3, 3)), ("bias", (out_channels,)))
    },
    how_to_go_on=_HOW_TO_GO_ON,
)
TAP_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class VGG19Loss(nn.Module):
    """L1 distance of VGG19 features after relu1_1, 2_1, 3_1, 4_1, 5_1, weights 1/32, 1/16, 1/8, 1/4, 1.

    Source: docs/method/METHOD.md section 1; DISCREPANCIES row 21.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: Mapping[str, Tensor], normalise: bool = False) -> None:
        """Make the frozen network.

        Args:
            weights: torchvision's `features.N.weight` and `features.N.bias`, as `load_vgg19` gives them.
            normalise: map [-1,1] to [0,1] and normalise with the ImageNet statistics first (the public code does not).

        Raises:
            ValueError: a missing tensor or a wrong shape.
        """
        super().__init__()
        VGG19.check(weights)
        self.convs = nn.ModuleList()
        for index, channels, out_channels, _, _ in _LAYERS:
            conv = nn.Conv2d(channels, out_channels, 3, padding=1)
            conv.load_state_dict({part: weights[f"features.{index}.{part}"] for part in ("weight", "bias")})
            self.convs.append(conv)
        self.requires_grad_(False)
        self.normalise = normalise
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, fake: Tensor, real: Tensor) -> Tensor:
        """Scalar loss between `fake` and `real` (N,1,H,W) in [-1,1], H, W >= 16; no gradient reaches `real`."""
        return self.distance(fake, self.features(real.detach()))

    def features(self, image: Tensor) -> list[Tensor]:
        """The five tapped features of `image` (N,1,H,W) in [-1,1]; reuse a real image's for several distances."""
        features = image.expand(-1, 3, -1, -1)
        if self.normalise:
            features = ((features + 1) / 2 - self.mean) / self.std
        tapped: list[Tensor] = []
        for conv, (_, _, _, pooled, tap) in zip(self.convs, _LAYERS, strict=True):
            features = F.relu(conv(F.max_pool2d(features, 2) if pooled else features))
            if tap:
                tapped.append(features)
        return tapped

    def distance(self, fake: Tensor, real_features: list[Tensor]) -> Tensor:
        """Scalar loss of `fake` (N,1,H,W) in [-1,1] against features of real images, which get no gradient."""
        terms = self.layer_terms(fake, real_features)
        return torch.stack([weight * term for weight, term in zip(TAP_WEIGHTS, terms, strict=True)]).sum()

    def layer_terms(self, fake: Tensor, real_features: list[Tensor]) -> list[Tensor]:
        """Unweighted mean absolute difference of each tapped feature, float32 (float64 for float64 input)."""
        wide = torch.float64 if fake.dtype == torch.float64 else torch.float32
        pairs = zip(self.features(fake), real_features, strict=True)
        return [(ours - real.detach()).abs().mean(dtype=wide) for ours, real in pairs]


def load_vgg19(
    path: str | Path | None,
    cache_dir: str | Path,
    *,
    url: str = VGG19_URL,
    sha256: str = VGG19_SHA256,
    timeout_s: float = DOWNLOAD_TIMEOUT_S,
) -> dict[str, Tensor]:
    """The convolution weights up to conv5_1 as torchvision names them, float32 on the CPU.

    Args:
        path: a local file (`PublishedWeights.load`). None: an earlier download in `cache_dir`, else a download.
        cache_dir: folder that keeps the downloaded convolution weights (about 52 MB).
        url: where to download from.
        sha256: leading hex digits of the download's sha256.
        timeout_s: limit on the connection and on each read.

    Raises:
        UserError: no such file, unreadable or unsafe contents, missing tensors or wrong shapes, a failed or corrupted
            download; the message says how to go on.
    """
    return replace(VGG19, url=url, sha256=sha256).load(path, cache_dir, timeout_s=timeout_s)


def cached_vgg19(cache_dir: str | Path, sha256: str = VGG19_SHA256) -> Path:
    """Where `load_vgg19` keeps what it downloaded; the file need not be there."""
    return replace(VGG19, sha256=sha256).cached(cache_dir)


def random_vgg19(seed: int = 0) -> dict[str, Tensor]:
    """Weights as `load_vgg19` gives them, but drawn (He normal, zero bias): for what depends on the shapes alone."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for index, channels, out_channels, _, _ in _LAYERS:
        spread = (2 / (9 * channels)) ** 0.5
        tensors[f"features.{index}.weight"] = torch.randn(out_channels, channels, 3, 3, generator=generator) * spread
        tensors[f"features.{index}.bias"] = torch.zeros(out_channels)
    return tensors
