"""Phase 2 of CycleGAN: one step, on images and masks that need not belong together.

    G    generator, mask to image in [-1,1]                                             D_X  disc_image
    F    image to mask in [0,1]; it has the segmenter's place, and is any segmenter     D_Y  disc_mask
    x    real_image        m    real_mask        F(x) = foreground probability = sigmoid of the logits' difference

    forward cycle    m -> fake_image = G(m)   -> rec_mask  = F(fake_image)
    backward cycle   x -> fake_mask  = F(x)   -> rec_image = G(fake_mask)
    identity         x -> G(x), m -> F(m): what is of the wanted kind already should stay as it is

G and F together minimise, with the weights of `adversarial.weights` (lambda = 10, identity half of it),

    adv_image   (D_X(fake_image) - 1)^2          adv_mask       (D_Y(fake_mask) - 1)^2
    rec_mask    lambda |rec_mask - m|            rec_image_l1   lambda |rec_image - x|
    id_mask     lambda/2 |F(m) - m|              id_image_l1    lambda/2 |G(x) - x|

then D_X and D_Y minimise theirs, on fakes of now and of before from a pool (`replay_pool.py`):

    loss_disc_image   ((D_X(x) - 1)^2 + D_X(shown image)^2) / 2
    loss_disc_mask    ((D_Y(m) - 1)^2 + D_Y(shown mask)^2) / 2

No term compares an image with its own mask. A term of weight 0 is not computed.

Source: arXiv 1703.10593, section 3 and appendix 7.1; docs/systems.md.
"""

from __future__ import annotations

from torch import Tensor, nn

from sage_ray.models.dropout import keyed_dropout
from sage_ray.models.norm import hold_statistics
from sage_ray.training.batches import Batch
from sage_ray.training.draws import StepDraws
from sage_ray.training.gan_parts import (
    disc_image_loss,
    disc_mask_loss,
    generate,
    judged_real,
    mask_of,
    maybe_augment,
    show_from_pool,
    synthetic_pass,
    update,
    without_gradient,
)
from sage_ray.training.recipe import Recipe
from sage_ray.training.state import TrainState
from sage_ray.training.terms import OBJECTIVE, term_weights


def cyclegan_step(state: TrainState, batch: Batch, draws: StepDraws, recipe: Recipe) -> dict[str, Tensor]:
    """One update of both generators, then of disc_image, then of disc_mask; returns detached scalars."""
    weights, networks = recipe.adversarial.weights, state.networks

    # Both generators. The discriminators judge but do not learn here.
    with without_gradient(networks["disc_image"], networks["disc_mask"]):
        terms, fake_image, fake_mask = cyclegan_terms(state, batch, draws, recipe)
        scalars = {f"loss_{name}": term.detach() for name, term in terms.items()}
        scalars["loss"] = update(state, ["segmenter", "generator"], terms, recipe)
    state.update_ema()

    # Image discriminator. fake_image is detached: the generator gets no gradient from this loss.
    if weights.adv_image:
        shown = show_from_pool(state.pools.get("image"), fake_image.detach(), draws, recipe)
        loss = disc_image_loss(state, batch, shown, draws, recipe)
        scalars["loss_disc_image"] = update(state, ["disc_image"], {"loss_disc_image": loss}, recipe)

    # Mask discriminator. fake_mask is detached: the image-to-mask generator gets no gradient from this loss.
    if weights.adv_mask:
        shown = show_from_pool(state.pools.get("mask"), fake_mask.detach(), draws, recipe)
        loss = disc_mask_loss(state, batch, shown, recipe)
        scalars["loss_disc_mask"] = update(state, ["disc_mask"], {"loss_disc_mask": loss}, recipe)

    state.synthetic_steps += 1
    state.generator_updates += 1
    return scalars


def cyclegan_terms(
    state: TrainState, batch: Batch, draws: StepDraws, recipe: Recipe
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """(weighted terms in the order of the sum, fake_image of about [-1,1], fake_mask in [0,1], both (B,1,H,W))."""
    networks, real_image, real_mask = state.networks, batch.image, batch.mask
    to_mask, generator = networks["segmenter"], networks["generator"]
    weights = term_weights(recipe.adversarial)
    terms: dict[str, Tensor] = {}

    with recipe.autocast():
        # Forward cycle. Batch statistics, where there are any, are those of real images, which masks are made of later.
        fake_image = generate(generator, real_mask, draws, recipe, "fake", extra_entry=True)
        if weights["rec_mask"]:
            with synthetic_pass(to_mask, recipe, learns=True):
                rec_mask = _mask(to_mask, fake_image, draws, "synthetic")
            terms["rec_mask"] = weights["rec_mask"] * (rec_mask - real_mask).abs().mean()

        # Backward cycle.
        fake_mask = _mask(to_mask, real_image, draws, "real")
        if weights["rec_image_l1"]:
            rec_image = generate(generator, fake_mask, draws, recipe, "rec", extra_entry=False)
            terms["rec_image_l1"] = weights["rec_image_l1"] * (rec_image.float() - real_image).abs().mean()

        # Identity: a mask stays a mask, an image stays an image.
        if weights["id_mask"]:
            with hold_statistics(to_mask):
                same_mask = _mask(to_mask, real_mask, draws, "identity")
            terms["id_mask"] = weights["id_mask"] * (same_mask - real_mask).abs().mean()
        if weights["id_image_l1"]:
            with hold_statistics(generator):
                same_image = generate(generator, real_image, draws, recipe, "identity", extra_entry=False)
            terms["id_image_l1"] = weights["id_image_l1"] * (same_image.float() - real_image).abs().mean()

        # What the discriminators say.
        if weights["adv_image"]:
            shown = maybe_augment(fake_image, draws, recipe, "disc_image/generator")
            terms["adv_image"] = weights["adv_image"] * judged_real(networks["disc_image"], shown)
        if weights["adv_mask"]:
            terms["adv_mask"] = weights["adv_mask"] * judged_real(networks["disc_mask"], fake_mask)
    return {name: terms[name] for name in OBJECTIVE if name in terms}, fake_image, fake_mask


def _mask(to_mask: nn.Module, image: Tensor, draws: StepDraws, name: str) -> Tensor:
    with keyed_dropout(draws, name):
        logits = to_mask(image)
    return mask_of(logits, "soft")
