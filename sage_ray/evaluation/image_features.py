"""Features of images, in which sets of generated and real ones are compared: whose network, and which weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sage_ray.errors import UserError
from sage_ray.files import sha256_of
from sage_ray.imaging.model import Model
from sage_ray.models.blocks import Encoder, pad_to_multiple
from sage_ray.models.dinov2 import dinov2_weights, load_dinov2
from sage_ray.models.inception import inception_weights, load_inception
from sage_ray.models.value_range import to_network_range
from sage_ray.published_weights import PublishedWeights
from sage_ray.training.scoring import full_precision

BATCH = 8
"""Images at a time: on a CPU larger batches are no faster, and need more memory."""
FEATURES = ("judge", "inception", "dinov2")
JUDGE = "judge"


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """A network that makes features of images.

    Attributes:
        text: the network and the check sum of its weights, as definitions say it.
        of: features (N,d) float64 of images (N,H,W) uint8.
    """

    text: str
    of: Callable[[np.ndarray], np.ndarray]


def judge_features(judge: Model, training_images: np.ndarray, text: str) -> ImageFeatures:
    """Features of an independent segmenter's encoder: channel means of all its levels.

    Each is brought to mean 0 and deviation 1 over the images (N,H,W) uint8 that the judge was trained on, none of which
    is compared.

    Raises:
        UserError: a judge without an encoder of its own.
    """
    encoder = getattr(judge.segmenter, "encoder", None)
    if not isinstance(encoder, Encoder | nn.ModuleList):
        mend = (
            "name features that have a network of their own, or a judge that is residual_unet, unet or attention_unet"
        )
        raise UserError("judge without an encoder", text, mend)
    multiple = int(getattr(judge.segmenter, "multiple", 1))

    def means(grey: Tensor) -> Tensor:
        levels = _levels(encoder, pad_to_multiple(to_network_range(grey), multiple))
        return torch.cat([level.mean((2, 3)) for level in levels], 1)

    known = _in_batches(means, training_images, judge.device)
    centre, spread = known.mean(0), known.std(0)
    kept = spread > 1e-6 * max(float(spread.max()), 1e-12)  # dead channels say nothing

    def of(images: np.ndarray) -> np.ndarray:
        return np.asarray((_in_batches(means, images, judge.device) - centre)[:, kept] / spread[kept])

    return ImageFeatures(f"features of the encoder of judge {text}", of)


def _levels(encoder: Encoder | nn.ModuleList, image: Tensor) -> list[Tensor]:
    """Features of an encoder's levels, the finest first."""
    if isinstance(encoder, Encoder):
        middle, skips = encoder(image)
        return [*skips, middle]
    found = [image]
    for level in encoder:
        found.append(level(found[-1]))
    return found[1:]


def published_features(name: str, path: str | Path | None, cache_dir: Path, device: torch.device) -> ImageFeatures:
    """Features of a network that others have trained.

    Args:
        name: inception or dinov2.
        path: a file of its weights; None: those of an earlier download, else a download.
        cache_dir: where a download is kept.
        device: where features are computed.

    Raises:
        UserError: an unknown name, or no weights.
    """
    known: dict[str, tuple[PublishedWeights, Callable[..., torch.nn.Module]]] = {
        "inception": (inception_weights(), load_inception),
        "dinov2": (dinov2_weights(), load_dinov2),
    }
    if name not in known:
        raise UserError("no such features", name, f"choose one of {', '.join(FEATURES)}")
    weights, load = known[name]
    tensors = weights.load(path, cache_dir)
    network = load(tensors).to(device)
    sha = sha256_of(Path(path)) if path is not None else weights.sha256
    text = f"features of {weights.label}, weights {sha[:16]}"
    return ImageFeatures(text, lambda images: _in_batches(network, images, device))


def in_batches(count: int) -> list[slice]:
    """Slices of BATCH images each."""
    return [slice(start, start + BATCH) for start in range(0, count, BATCH)]


@torch.no_grad()
def _in_batches(network: Callable[[Tensor], Tensor], images: np.ndarray, device: torch.device) -> np.ndarray:
    """Outputs (N,d) float64 of a network for images (N,H,W) uint8, which it gets as (B,1,H,W) in [0,1]."""
    found = []
    with full_precision(device):
        for rows in in_batches(len(images)):
            grey = torch.from_numpy(np.array(images[rows])).to(device)[:, None].float() / 255
            found.append(network(grey).double().cpu().numpy())
    return np.concatenate(found)
