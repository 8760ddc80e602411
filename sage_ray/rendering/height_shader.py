"""A height field shaded with the yield of an SEM, in plain torch: the control of the path tracer.

The secondary-electron yield grows with the tilt of the surface, about as 1/cos of it, as more of the beam's path lies
within reach of the surface; edges are bright, as electrons leave through two sides; what lies deep between neighbours
is dark. Each of the three has a strength that learns. Geometry carries no gradient: it is computed once per scene.

Source: Reimer, Scanning Electron Microscopy, 2nd ed. 1998, chapters 4 and 6, for the effects; the formula is our own.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from sage_ray.rendering.index_pass import visible
from sage_ray.rendering.kept_within import KeptWithin
from sage_ray.rendering.scenes import Scene
from sage_ray.rendering.views import SMALLER_SIDE, View

GRID = 2
"""Samples along each side of a pixel."""
STEEPEST = 5.0
"""Largest 1/cos of a tilt that still brightens."""
KEPT_BYTES = 1 << 30
"""Of reliefs that are kept for scenes that come again; those beyond are computed each time."""


@dataclass(frozen=True)
class _Relief:
    """Of a scene, each (H*GRID, W*GRID) float32: particle (0 or 1), tilt, edge, depth."""

    particle: Tensor
    tilt: Tensor
    edge: Tensor
    depth: Tensor

    @property
    def nbytes(self) -> int:
        """Memory of all four."""
        return 4 * self.depth.nbytes


class HeightShader:
    """The engine `shader`. Args: view of the images; device where they are computed."""

    def __init__(self, view: View, device: torch.device | str = "cpu") -> None:
        self.view, self.device = view, torch.device(device)
        self._fine = View(view.rows * GRID, view.columns * GRID)
        self._kept: KeptWithin[_Relief] = KeptWithin(KEPT_BYTES)

    def render(self, scene: Scene, materials: Mapping[str, Tensor], seed: int, name: Hashable | None = None) -> Tensor:
        """As `Renderer`; the seed is not used, as nothing is sampled."""
        relief = self._relief(scene) if name is None else self._kept.get(name, lambda: self._relief(scene))
        particle = materials["particle_base_color"] * (
            1 + materials["particle_tilt"] * relief.tilt + materials["particle_edge"] * relief.edge
        )
        bright = relief.particle * particle + (1 - relief.particle) * materials["stage_base_color"]
        shaded = bright * torch.exp(-materials["stage_shade"] * relief.depth)
        return shaded.reshape(self.view.rows, GRID, self.view.columns, GRID).mean(dim=(1, 3))

    def _relief(self, scene: Scene) -> _Relief:
        seen = visible(scene, self._fine)
        pixels_per_unit = min(self._fine.rows, self._fine.columns) / SMALLER_SIDE
        radius = float(np.median(scene.table[:, 3]))
        blurred = [gaussian_filter(seen.height, share * radius * pixels_per_unit) for share in (0.2, 0.8)]
        # Relative to the particles' size: 1 is a step of a radius.
        near, wide = ((seen.height - low) / radius for low in blurred)
        particle = seen.instances > 0
        edge = np.clip(3 * near, 0, 1) * particle
        depth = np.clip(-2 * wide, 0, 2)
        tilt = np.minimum(1 / seen.slope, STEEPEST) - 1
        made = (np.ascontiguousarray(value, np.float32) for value in (particle, tilt * particle, edge, depth))
        return _Relief(*(torch.from_numpy(value).to(self.device) for value in made))
