"""What an engine does: a scene and its materials in, an image out, with gradients of the materials."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Protocol

from torch import Tensor

from sage_ray.rendering.scenes import Scene


class Renderer(Protocol):
    """An engine for images of one view."""

    def render(self, scene: Scene, materials: Mapping[str, Tensor], seed: int, name: Hashable | None = None) -> Tensor:
        """The image (H,W) float32 on the materials' device, linear and not yet clamped, without noise.

        Args:
            scene: to be seen.
            materials: scalars by name, through which gradients flow back; `noise` is not looked at.
            seed: of the samples; equal seeds give equal images.
            name: of a scene that will be rendered again: what is made of its geometry may then be kept.
        """
        ...
