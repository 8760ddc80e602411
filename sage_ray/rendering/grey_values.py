"""How far the grey values of a rendered image are from those of a set of real ones, whatever particles each shows.

Two images of equal materials have other grey histograms if one shows more particles, and materials that were learnt
from image against image lose contrast for it. So a rendered image stands for all scenes here: its particles and its
stage are weighted as if they covered what they cover on average, and it is held against the real images together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sage_ray.rendering.index_pass import visible
from sage_ray.rendering.kept_within import KeptWithin
from sage_ray.rendering.scenes import Scene
from sage_ray.rendering.views import View

LEVELS = 1024
"""Steps of the quantile function of the real images."""
COUNTED_SCENES = 64
"""Scenes that say what particles cover on average; more change little."""
KEPT_BYTES = 1 << 30
"""Of weights that are kept for scenes that come again."""


def grey_quantiles(images: Iterable[np.ndarray]) -> Tensor:
    """The quantile function of the grey values of real images together.

    Args:
        images: (H,W) uint8 each, at least one.

    Returns:
        (LEVELS + 1,) float32 in [0,1], rising: the values at 0, 1/LEVELS, ..., 1.
    """
    counts = sum(np.bincount(np.asarray(image).ravel(), minlength=256) for image in images)
    below = np.cumsum(counts) / np.sum(counts)
    levels = np.searchsorted(below, np.linspace(0, 1, LEVELS + 1) - 1e-9)
    return torch.from_numpy((levels / 255).astype(np.float32))


def scene_weights(particle: np.ndarray, coverage: float) -> Tensor:
    """Weight of each pixel of a scene's image, after which its particles cover as much as those of all scenes do.

    Args:
        particle: (H,W) bool, where a particle is seen.
        coverage: the mean share of the pixels that show a particle, over scenes.

    Returns:
        (H,W) float32, with sum 1. A scene that shows no particle, or nothing else, has equal weights.
    """
    own = float(particle.mean())
    if own in (0.0, 1.0):
        return torch.full(particle.shape, 1 / particle.size)
    weights = np.where(particle, coverage / own, (1 - coverage) / (1 - own)) / particle.size
    return torch.from_numpy(weights.astype(np.float32))


def distance_to_set(image: Tensor, weights: Tensor, quantiles: Tensor) -> Tensor:
    """Wasserstein-1 distance, a scalar, of an image's weighted grey values from a set's.

    Args:
        image: float32, of any shape.
        weights: of its pixels, of as many values, with sum 1; without gradient.
        quantiles: (LEVELS + 1,) of the set, as `grey_quantiles`.
    """
    values, order = torch.sort(image.flatten())
    mass = weights.flatten()[order]
    middle = (torch.cumsum(mass, 0) - mass / 2).clamp(0, 1) * (len(quantiles) - 1)
    left = middle.floor().long().clamp(max=len(quantiles) - 2)
    share = middle - left
    wanted = quantiles[left] * (1 - share) + quantiles[left + 1] * share
    return (mass * (values - wanted).abs()).sum()


class RealGreys:
    """What the grey values of rendered scenes are held against: all real images together.

    Args:
        real_images: (H,W) uint8 each, at least one.
        scene: the scene of a number.
        count: of scenes.
        view: of their images.
        device: of the rendered images.
    """

    def __init__(
        self,
        real_images: Iterable[np.ndarray],
        scene: Callable[[int], Scene],
        count: int,
        view: View,
        device: torch.device | str = "cpu",
    ) -> None:
        self._quantiles = grey_quantiles(real_images).to(device)
        self._scene, self._count, self._view, self._device = scene, count, view, device
        self._kept: KeptWithin[Tensor] = KeptWithin(KEPT_BYTES)

    @cached_property
    def coverage(self) -> float:
        """Share of the pixels that show a particle, a mean over the first scenes."""
        return float(np.mean([self._particle(n).mean() for n in range(min(self._count, COUNTED_SCENES))]))

    def distance(self, image: Tensor, number: int) -> Tensor:
        """Of the image (H,W) float32 in [0,1], any leading axes of 1, of scene `number`: as `distance_to_set`."""
        return distance_to_set(image, self.weights(number), self._quantiles)

    def weights(self, number: int) -> Tensor:
        """(H,W) float32 of a scene, as `scene_weights`, kept where there is room for them."""
        return self._kept.get(number, lambda: scene_weights(self._particle(number), self.coverage).to(self._device))

    def _particle(self, number: int) -> np.ndarray:
        return visible(self._scene(number), self._view).instances > 0
