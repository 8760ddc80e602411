"""The validation of a run, and of one without a segmenter: how far images are from the real ones of their masks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sage_ray.models.value_range import to_network_range
from sage_ray.sections import EvaluationConfig
from sage_ray.training.batches import Pictures
from sage_ray.training.context import RunContext
from sage_ray.training.draws import KeyedDraws
from sage_ray.training.gan_parts import generate
from sage_ray.training.recipe import Recipe
from sage_ray.training.scoring import full_precision, mean_loss, validate
from sage_ray.training.state import TrainState

VALIDATION_SEED = 0


def validate_state(
    state: TrainState, pictures: Pictures, settings: EvaluationConfig, recipe: Recipe, ctx: RunContext
) -> dict[str, float]:
    """Validation scores of a state by name: of its segmenter, or of its generator where there is no segmenter."""
    if "segmenter" in state.networks:
        return validate(state.evaluated, pictures, settings, recipe, ctx)[0]
    return validate_generator(state.networks["generator"], pictures, settings, recipe, ctx)


def validate_generator(
    generator: nn.Module, pictures: Pictures, settings: EvaluationConfig, recipe: Recipe, ctx: RunContext
) -> dict[str, float]:
    """`loss`: mean over batches of |G(m, z) - x|, images in [-1,1], with the same z of each mask at every epoch.

    The generator runs in eval mode and is left in train mode. Whole batches are shared out over workers, so that the
    score is the same however many there are. It is no measure of how real the images look: a blurred image is near to
    many.
    """
    losses: list[Tensor] = []
    generator.eval()
    with torch.no_grad(), full_precision(pictures.device):
        for rows in torch.split(torch.arange(len(pictures)), settings.batch_size)[ctx.rank :: ctx.world_size]:
            image, mask = pictures.take(rows)
            draws = KeyedDraws(VALIDATION_SEED, "validation", 0, 0, rows.tolist(), pictures.device)
            fake = generate(generator, mask, draws, recipe, "validation", extra_entry=False)
            losses.append((fake - to_network_range(image)).abs().mean())
    generator.train()
    return {"loss": mean_loss(losses, ctx)}
