"""Phase 2 of a plain conditional GAN: one step of generator and image discriminator alone.

    G    generator, mask to image        D_X  disc_image        x    real_image        m    real_mask

G minimises  adv_image  (D_X(fake_image) - 1)^2  with fake_image = G(m, z), then D_X minimises

    loss_disc_image   ((D_X(x) - 1)^2 + D_X(fake_image)^2) / 2

Neither cycle nor identity nor segmenter: nothing tells G that its image should show its mask.

Source: Mao et al. 2017 (least squares); baseline of arXiv 2505.18106; docs/systems.md.
"""

from __future__ import annotations

from torch import Tensor

from sage_ray.training.batches import Batch
from sage_ray.training.draws import StepDraws
from sage_ray.training.gan_parts import disc_image_loss, generate, judged_real, maybe_augment, update, without_gradient
from sage_ray.training.recipe import Recipe
from sage_ray.training.state import TrainState
from sage_ray.training.terms import term_weights


def gan_step(state: TrainState, batch: Batch, draws: StepDraws, recipe: Recipe) -> dict[str, Tensor]:
    """One update of the generator, then of disc_image; returns detached scalars."""
    disc_image, weight = state.networks["disc_image"], term_weights(recipe.adversarial)["adv_image"]

    # Generator. The discriminator judges but does not learn here.
    with without_gradient(disc_image):
        with recipe.autocast():
            fake_image = generate(state.networks["generator"], batch.mask, draws, recipe, "fake", extra_entry=True)
            shown = maybe_augment(fake_image, draws, recipe, "disc_image/generator")
            adv_image = weight * judged_real(disc_image, shown)
        scalars = {"loss_adv_image": adv_image.detach()}
        scalars["loss"] = update(state, ["generator"], {"adv_image": adv_image}, recipe)

    # Image discriminator. fake_image is detached: the generator gets no gradient from this loss.
    loss = disc_image_loss(state, batch, fake_image.detach(), draws, recipe)
    scalars["loss_disc_image"] = update(state, ["disc_image"], {"loss_disc_image": loss}, recipe)

    state.generator_updates += 1
    return scalars
