"""Phase 2 of F-ANcGAN: one step. All networks learn from the first step on, from both cycles in every step.

    S    segmenter, image to mask        D_X  disc_image
    G    generator, mask to image        D_Y  disc_mask
    x    real_image                      m    real_mask

    forward cycle    m -> fake_image = G(m, z)   -> rec_mask  = S(fake_image)
    backward cycle   x -> pred_mask  = S(x)      -> rec_image = G(pred_mask, z')

G and S together minimise, with the weights of `adversarial.weights`,

    adv_image   (D_X(fake_image) - 1)^2          rec_mask    L_seg(rec_mask, m), weight 100
    adv_mask    (D_Y(pred_mask) - 1)^2           rec_image   |rec_image - x| and VGG(rec_image, x)
    id_mask     L_seg(pred_mask, m), weight 50   id_image    |fake_image - x| and VGG(fake_image, x)

with L_seg = .5 focal cross entropy + Tversky loss, then D_X and D_Y minimise theirs:

    loss_disc_image   ((D_X(x) - 1)^2 + D_X(fake_image)^2) / 2
    loss_disc_mask    ((D_Y(m) - 1)^2 + D_Y(pred_mask)^2) / 2

Nothing is frozen or mixed in little by little: the segmenter learns from generated images at every step. A term of
weight 0 is not computed.

Source: arXiv 2505.18106; docs/systems.md.
"""

from __future__ import annotations

import functools

from torch import Tensor

from sage_ray.models.dropout import keyed_dropout
from sage_ray.training.batches import Batch
from sage_ray.training.draws import StepDraws
from sage_ray.training.gan_parts import (
    disc_image_loss,
    disc_mask_loss,
    generate,
    image_features,
    image_terms,
    judged_real,
    mask_judged_real,
    maybe_augment,
    predicted_mask,
    synthetic_pass,
    update,
    without_gradient,
)
from sage_ray.training.recipe import Recipe
from sage_ray.training.state import TrainState
from sage_ray.training.terms import OBJECTIVE, term_weights


def f_ancgan_step(state: TrainState, batch: Batch, draws: StepDraws, recipe: Recipe) -> dict[str, Tensor]:
    """One update of generator and segmenter, then of disc_image, then of disc_mask; returns detached scalars."""
    weights, networks = recipe.adversarial.weights, state.networks

    # Generator and segmenter. The discriminators judge but do not learn here.
    with without_gradient(networks["disc_image"], networks["disc_mask"]):
        terms, fake_image, pred_mask = f_ancgan_terms(state, batch, draws, recipe)
        scalars = {f"loss_{name}": term.detach() for name, term in terms.items()}
        scalars["loss"] = update(state, ["segmenter", "generator"], terms, recipe)
    state.update_ema()

    # Image discriminator. fake_image is detached: the generator gets no gradient from this loss.
    if weights.adv_image:
        loss = disc_image_loss(state, batch, fake_image.detach(), draws, recipe)
        scalars["loss_disc_image"] = update(state, ["disc_image"], {"loss_disc_image": loss}, recipe)

    # Mask discriminator. pred_mask is detached: the segmenter gets no gradient from this loss.
    if weights.adv_mask:
        loss = disc_mask_loss(state, batch, pred_mask.detach(), recipe)
        scalars["loss_disc_mask"] = update(state, ["disc_mask"], {"loss_disc_mask": loss}, recipe)

    state.synthetic_steps += 1
    state.generator_updates += 1
    return scalars


def f_ancgan_terms(
    state: TrainState, batch: Batch, draws: StepDraws, recipe: Recipe
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """(weighted terms in the order of the sum, fake_image of about [-1,1], pred_mask in [0,1], both (B,1,H,W))."""
    networks, settings, real_image, real_mask = state.networks, recipe.adversarial, batch.image, batch.mask
    segmenter, generator = networks["segmenter"], networks["generator"]
    weights = term_weights(settings, has_perceptual=recipe.perceptual is not None)
    terms: dict[str, Tensor] = {}
    real_features = functools.cache(lambda: image_features(real_image, recipe))

    with recipe.autocast():
        # Forward cycle.
        fake_image = generate(generator, real_mask, draws, recipe, "fake", extra_entry=True)
        if weights["rec_mask"]:
            with synthetic_pass(segmenter, recipe, learns=True), keyed_dropout(draws, "synthetic"):
                rec_logits = segmenter(fake_image)
            terms["rec_mask"] = weights["rec_mask"] * recipe.segmentation_loss(rec_logits, real_mask)

        # Backward cycle.
        pred_mask, compared = predicted_mask(segmenter, batch, draws, weights, recipe)
        terms |= compared
        if weights["rec_image_l1"] or weights["rec_image_vgg"]:
            rec_image = generate(generator, pred_mask, draws, recipe, "rec", extra_entry=False)
            terms |= image_terms("rec_image", rec_image, real_image, real_features, weights, recipe)

        # What the discriminators say, and the generated image beside the real one.
        if weights["adv_image"]:
            shown = maybe_augment(fake_image, draws, recipe, "disc_image/generator")
            terms["adv_image"] = weights["adv_image"] * judged_real(networks["disc_image"], shown)
        if weights["adv_mask"]:
            seen = mask_judged_real(networks["disc_mask"], pred_mask, settings.mask_path)
            terms["adv_mask"] = weights["adv_mask"] * seen
        terms |= image_terms("id_image", fake_image, real_image, real_features, weights, recipe)
    return {name: terms[name] for name in OBJECTIVE if name in terms}, fake_image, pred_mask
