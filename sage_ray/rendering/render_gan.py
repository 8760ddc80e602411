"""One step of DiffRenderGAN: a renderer whose materials learn against an adversary that sees real images.

    R    regressor, the particles of a scene to the free parameters of materials and noise
    D    disc_image, a PatchGAN
    x    real_image, a patch that needs no mask

    theta = R(scene)      fake_image = clamp(clamp(render(scene, theta)) + noise)

R minimises (D(fake_image) - 1)^2, and if wanted the distance of the two grey histograms; then D minimises
((D(x) - 1)^2 + D(fake_image)^2) / 2. The renderer itself has no weights, and geometry gets no gradient.

Source: Possart et al. 2025. Deviation: the histogram term, off by default.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from sage_ray.losses.lsgan import lsgan_loss
from sage_ray.models.dropout import DropoutDraws, keyed_dropout
from sage_ray.models.value_range import to_network_range
from sage_ray.rendering.grey_values import RealGreys
from sage_ray.rendering.materials import MaterialRanges, wasserstein, with_noise
from sage_ray.rendering.renderer import Renderer
from sage_ray.rendering.scenes import Scene


class RenderDraws(DropoutDraws, Protocol):
    """What a step asks for random numbers."""

    def normal(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """(B, *shape) float32, standard normal."""
        ...


@dataclass(frozen=True)
class RenderRecipe:
    """The fixed parts of a step.

    Attributes:
        renderer: the engine.
        ranges: of the free materials.
        adversarial_weight: of the adversary's term; 0: no adversary judges, and none learns.
        histogram_weight: of the distance of grey histograms.
        real_greys: all real images, which that distance is from; None: it is from the real image of the step.
    """

    renderer: Renderer
    ranges: MaterialRanges
    adversarial_weight: float
    histogram_weight: float
    real_greys: RealGreys | None = None


def render_step(
    networks: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    scene: Scene,
    real_image: Tensor,
    draws: RenderDraws,
    recipe: RenderRecipe,
    *,
    seed: int,
    number: int,
) -> dict[str, Tensor]:
    """One update of `regressor`, then one of `disc_image`; returns detached scalars.

    Args:
        networks, optimizers: `regressor` and `disc_image`.
        scene: to be rendered.
        real_image: (1,1,H,W) float32 in [0,1].
        draws: of the step, for dropout and noise.
        recipe: the rest.
        seed: of the engine's samples.
        number: of the scene, the same whenever it comes again.
    """
    regressor, disc = networks["regressor"], networks["disc_image"]
    table = torch.as_tensor(scene.table, dtype=torch.float32, device=real_image.device)
    with keyed_dropout(draws, "regressor"):
        values = regressor(table)
    fake_image, materials = rendered(values, scene, draws, recipe, seed=seed, name=number)

    # Regressor. The adversary judges but does not learn here.
    greys = recipe.real_greys
    distance = wasserstein(fake_image, real_image) if greys is None else greys.distance(fake_image, number)
    loss = recipe.histogram_weight * distance
    scalars = {"histogram_distance": distance.detach()}
    if recipe.adversarial_weight:
        disc.requires_grad_(False)
        loss_adv = lsgan_loss(disc(to_network_range(fake_image)), 1.0)
        loss = loss + recipe.adversarial_weight * loss_adv
        scalars["loss_regressor_adv"] = loss_adv.detach()
    optimizers["regressor"].zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    optimizers["regressor"].step()

    # Adversary. The regressor gets no gradient: the fake image is detached.
    if recipe.adversarial_weight:
        disc.requires_grad_(True)
        real_scores, fake_scores = (disc(to_network_range(image)) for image in (real_image, fake_image.detach()))
        loss_disc = (lsgan_loss(real_scores, 1.0) + lsgan_loss(fake_scores, 0.0)) / 2
        optimizers["disc_image"].zero_grad(set_to_none=True)
        torch.autograd.backward(loss_disc)
        optimizers["disc_image"].step()
        scalars["loss_disc_image"] = loss_disc.detach()
    return scalars | {f"material_{key}": materials[key].detach() for key in recipe.ranges.names}


def rendered(
    values: Tensor,
    scene: Scene,
    draws: RenderDraws,
    recipe: RenderRecipe,
    *,
    seed: int,
    name: Hashable | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The noisy image (1,1,H,W) float32 in [0,1] of a scene, and its materials by name.

    Args:
        values: (P,) free materials, within their limits.
        scene, draws, recipe, seed, name: as `render_step`.
    """
    materials = recipe.ranges.named(values)
    image = recipe.renderer.render(scene, materials, seed, name)
    normal = draws.normal("noise", tuple(image.shape))[0]
    return with_noise(image, materials["noise"], normal)[None, None], materials
