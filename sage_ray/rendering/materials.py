"""The parameters of materials: what each can be at all, where it starts, and between which limits it learns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

INF = math.inf
_NATURAL: dict[str, tuple[float, float, float]] = {
    # lowest, highest, start
    "particle_base_color": (0.0, INF, 0.5),
    "particle_roughness": (0.05, 1.0, 0.5),
    "particle_sheen": (0.0, 1.0, 0.0),
    "particle_sheen_tint": (0.0, 1.0, 0.0),
    "particle_spec_tint": (0.0, 1.0, 0.0),
    "particle_tilt": (0.0, 2.0, 0.4),
    "particle_edge": (0.0, 2.0, 0.5),
    "stage_base_color": (0.0, INF, 0.2),
    "stage_roughness": (0.05, 1.0, 0.5),
    "stage_sheen": (0.0, 1.0, 0.0),
    "stage_sheen_tint": (0.0, 1.0, 0.0),
    "stage_spec_tint": (0.0, 1.0, 0.0),
    "stage_shade": (0.0, 2.0, 0.5),
    "noise": (0.0, 1.0, 0.02),
}


@dataclass(frozen=True)
class MaterialRanges:
    """The free parameters of a stage of rendering, in the order in which the regressor gives them.

    Attributes:
        names: of the free ones.
        low, high: of each.
        fixed: values of those that are not free.
    """

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    fixed: Mapping[str, float]

    def named(self, values: Tensor) -> dict[str, Tensor]:
        """All parameters by name, scalars; `values` (P,) are the free ones, within their limits."""
        fixed = {name: values.new_tensor(value) for name, value in self.fixed.items()}
        return fixed | {name: values[i] for i, name in enumerate(self.names)}


def material_ranges(
    of_engine: Sequence[str],
    free: Sequence[str],
    particle: tuple[float, float],
    stage: tuple[float, float],
    noise: tuple[float, float],
) -> MaterialRanges:
    """The ranges of the free parameters of an engine.

    Args:
        of_engine: all that the engine has.
        free: those that learn.
        particle, stage, noise: limits asked for; each parameter keeps to what it can be at all.
    """
    low, high = [], []
    for name in free:
        asked = noise if name == "noise" else particle if name.startswith("particle") else stage
        least, most, _ = _NATURAL[name]
        low.append(min(max(asked[0], least), most))
        high.append(max(min(asked[1], most), least))
    fixed = {name: _NATURAL[name][2] for name in of_engine if name not in free}
    return MaterialRanges(tuple(free), tuple(low), tuple(high), fixed)


def with_noise(image: Tensor, noise: Tensor, normal: Tensor) -> Tensor:
    """The image clamped to [0, 1], with noise of a standard deviation added, clamped again; all of one shape.

    Gradients pass the clamps: a particle that is too bright everywhere would otherwise never learn to be darker.
    """
    return _clamped(_clamped(image) + noise * normal)


def _clamped(image: Tensor) -> Tensor:
    return image + (image.clamp(0, 1) - image).detach()


def wasserstein(one: Tensor, other: Tensor) -> Tensor:
    """Distance of two grey histograms: mean |difference| of sorted grey values of equally many pixels, a scalar."""
    sorted_one, sorted_other = torch.sort(one.flatten()).values, torch.sort(other.flatten()).values
    return (sorted_one - sorted_other).abs().mean()
