"""The step of phase 2 of each system: a new system is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sage_ray.training.adversarial import adversarial_step
from sage_ray.training.batches import Batch
from sage_ray.training.cyclegan import cyclegan_step
from sage_ray.training.draws import StepDraws
from sage_ray.training.f_ancgan import f_ancgan_step
from sage_ray.training.gan import gan_step
from sage_ray.training.recipe import Recipe
from sage_ray.training.state import TrainState

SYSTEM_STEPS: dict[str, Callable[[TrainState, Batch, StepDraws, Recipe], dict[str, Tensor]]] = {
    "sage_gan": adversarial_step,
    "f_ancgan": f_ancgan_step,
    "cyclegan": cyclegan_step,
    "gan": gan_step,
}


def system_step(state: TrainState, batch: Batch, draws: StepDraws, recipe: Recipe) -> dict[str, Tensor]:
    """One step of the system of the recipe (`adversarial.system`)."""
    return SYSTEM_STEPS[recipe.adversarial.system](state, batch, draws, recipe)
