"""Phase 2 of SAGE-GAN: one step of the cycle training with the pretrained segmenter inside.

    S    segmenter, image to mask        D_X  disc_image
    G    generator, mask to image        D_Y  disc_mask
    x    real_image                      m    real_mask

    forward cycle    m -> fake_image = G(m, z)   -> rec_mask  = S(fake_image)
    backward cycle   x -> pred_mask  = S(x)      -> rec_image = G(pred_mask, z')

G and S together minimise, with the weights of `adversarial.weights`, then D_X and D_Y minimise theirs:

    adv_image   (D_X(fake_image) - 1)^2          rec_mask    L_seg(rec_mask, m)
    adv_mask    (D_Y(pred_mask) - 1)^2           rec_image   |rec_image - x| and VGG(rec_image, x)
    id_mask     L_seg(pred_mask, m)              id_image    |fake_image - x| and VGG(fake_image, x)

    loss_disc_image   ((D_X(x) - 1)^2 + D_X(fake_image)^2) / 2
    loss_disc_mask    ((D_Y(m) - 1)^2 + D_Y(pred_mask)^2) / 2

A term of weight 0 is not computed. While G is frozen, the terms that only G would learn from are not computed either.

Source: docs/method/METHOD.md section 1, table of the generator-and-segmenter objective; DISCREPANCIES.md beside it
for the rows named here. `training/terms.py` says which term trains which network, and why not.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from torch import Tensor

from sage_ray.models.dropout import keyed_dropout
from sage_ray.sections import AdversarialConfig
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


@dataclass(frozen=True)
class Cycles:
    """What both cycles of a step give: the weighted terms, in the order of the sum, and what the discriminators judge.

    fake_image (B,1,H,W) is of about [-1,1], pred_mask (B,1,H,W) in [0,1].
    """

    terms: dict[str, Tensor]
    fake_image: Tensor
    pred_mask: Tensor


def adversarial_step(state: TrainState, batch: Batch, draws: StepDraws, recipe: Recipe) -> dict[str, Tensor]:
    """One update of generator and segmenter, then of disc_image, then of disc_mask; returns detached scalars.

    The generator is frozen while `state.phase_epoch` (from 0) is below `freeze_epochs`. The scalars are each computed
    term, weighted, their sum `loss`, and the losses of the discriminators.
    """
    settings, networks = recipe.adversarial, state.networks
    frozen = state.phase_epoch < settings.freeze_epochs
    synthetic = mixes(draws, settings, state.phase_epoch)

    # Generator and segmenter. The discriminators judge but do not learn here; a frozen generator does not either.
    learning, still = ["segmenter", "generator"], [networks["disc_image"], networks["disc_mask"]]
    if frozen:
        learning, still = ["segmenter"], [*still, networks["generator"]]
    with without_gradient(*still):
        cycles = run_cycles(state, batch, draws, recipe, frozen=frozen, synthetic=synthetic)
        scalars = {f"loss_{name}": term.detach() for name, term in cycles.terms.items()}
        scalars["loss"] = update(state, learning, cycles.terms, recipe)
    state.update_ema()

    # Image discriminator. fake_image is detached: the generator gets no gradient from this loss.
    if settings.weights.adv_image:
        loss_disc_image = disc_image_loss(state, batch, cycles.fake_image.detach(), draws, recipe)
        scalars["loss_disc_image"] = update(state, ["disc_image"], {"loss_disc_image": loss_disc_image}, recipe)

    # Mask discriminator. pred_mask is detached: the segmenter gets no gradient from this loss.
    if settings.weights.adv_mask:
        loss_disc_mask = disc_mask_loss(state, batch, cycles.pred_mask.detach(), recipe)
        scalars["loss_disc_mask"] = update(state, ["disc_mask"], {"loss_disc_mask": loss_disc_mask}, recipe)

    state.synthetic_steps += int(synthetic)
    state.generator_updates += int(not frozen)
    return scalars


def run_cycles(
    state: TrainState, batch: Batch, draws: StepDraws, recipe: Recipe, *, frozen: bool, synthetic: bool
) -> Cycles:
    """Both cycles of a step, and the terms of the generator-and-segmenter objective."""
    segmenter, generator = state.networks["segmenter"], state.networks["generator"]
    settings, real_image, real_mask = recipe.adversarial, batch.image, batch.mask
    weights = term_weights(settings, has_perceptual=recipe.perceptual is not None)
    terms: dict[str, Tensor] = {}
    real_features = functools.cache(lambda: image_features(real_image, recipe))  # for both images, if a term needs them

    with recipe.autocast():
        # Forward cycle. rec_mask trains the segmenter on synthetic steps. It trains a generator that learns at every
        # step, or on synthetic steps only (row 3).
        fake_image = generate(generator, real_mask, draws, recipe, "fake", extra_entry=True)
        feedback = settings.generator_feedback == "every_step" and not frozen
        if weights["rec_mask"] and (synthetic or feedback):
            with synthetic_pass(segmenter, recipe, learns=synthetic), keyed_dropout(draws, "synthetic"):
                rec_logits = segmenter(fake_image)
            terms["rec_mask"] = weights["rec_mask"] * recipe.segmentation_loss(rec_logits, real_mask)

        # Backward cycle. While the generator is frozen, rec_image is made only if the segmenter learns from it.
        pred_mask, compared = predicted_mask(segmenter, batch, draws, weights, recipe)
        terms |= compared
        through = settings.mask_path != "argmax" and settings.cycle_image_while_frozen
        if (weights["rec_image_l1"] or weights["rec_image_vgg"]) and (through or not frozen):
            rec_image = generate(generator, pred_mask, draws, recipe, "rec", extra_entry=False)
            terms |= image_terms("rec_image", rec_image, real_image, real_features, weights, recipe)

        # What the discriminators say, and the generated image beside the real one.
        if weights["adv_image"] and not frozen:
            terms["adv_image"] = weights["adv_image"] * judged_real(
                state.networks["disc_image"], maybe_augment(fake_image, draws, recipe, "disc_image/generator")
            )
        if weights["adv_mask"]:
            seen = mask_judged_real(state.networks["disc_mask"], pred_mask, settings.mask_path)
            terms["adv_mask"] = weights["adv_mask"] * seen
        if not frozen:
            terms |= image_terms("id_image", fake_image, real_image, real_features, weights, recipe)
    return Cycles({name: terms[name] for name in OBJECTIVE if name in terms}, fake_image, pred_mask)


def mixes(draws: StepDraws, settings: AdversarialConfig, epoch: int) -> bool:
    """Whether the segmenter also learns from generated images in the step of these draws, of phase-2 epoch `epoch`."""
    return draws.batch_uniform("mix", 1)[0] < settings.mix_probability(epoch)
