"""Phase 2: one step of the cycle training with the pretrained segmenter inside.

Names: S segmenter (image to mask), G generator (mask to image), D_X disc_image, D_Y disc_mask; m real_mask, x
real_image.

    forward cycle    m -> fake_image = G(m, z)   -> rec_mask  = S(fake_image)
    backward cycle   x -> pred_mask  = S(x)      -> rec_image = G(pred_mask, z')

Source: METHOD.md section 1, table of the generator-and-segmenter objective; DISCREPANCIES.md for the rows named here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sage_ray.losses.adversarial import lsgan_loss
from sage_ray.losses.diff_augment import diff_augment
from sage_ray.models.dropout import keyed_dropout
from sage_ray.models.norm import hold_statistics
from sage_ray.models.style_unet import mix_latents
from sage_ray.training.batches import Batch
from sage_ray.training.draws import Draws
from sage_ray.training.recipe import Recipe
from sage_ray.training.state import TrainState


@dataclass(frozen=True)
class Forward:
    """What the forward passes of a step give; `terms` are weighted, in the order of METHOD.md's table."""

    terms: dict[str, Tensor]
    fake_image: Tensor
    rec_image: Tensor | None
    pred_mask: Tensor


def adversarial_step(state: TrainState, batch: Batch, draws: Draws, recipe: Recipe) -> dict[str, Tensor]:
    """One update of generator and segmenter, then of disc_image, then of disc_mask; returns detached scalars.

    The generator is frozen while `state.phase_epoch` (from 0) is below `freeze_epochs`.
    """
    epoch = state.phase_epoch
    frozen = epoch < recipe.adversarial.freeze_epochs
    synthetic = draws.batch_uniform("mix", 1)[0] < recipe.adversarial.mix_probability(epoch)

    # Generator and segmenter; the discriminators judge but do not learn here.
    discriminators = [state.networks["disc_image"], state.networks["disc_mask"]]
    learning = ["segmenter"] if frozen else ["segmenter", "generator"]
    still = discriminators + ([state.networks["generator"]] if frozen else [])
    with without_gradient(*still):
        forward = forward_terms(state, batch, draws, recipe, synthetic=synthetic, frozen=frozen)
        if recipe.observe is not None:
            recipe.observe(forward.terms, state.networks)
        loss = torch.stack([term.float() for term in forward.terms.values()]).sum()
        _update(state, learning, loss, recipe)
    state.update_ema()

    # Discriminators; detached: neither generator nor segmenter gets a gradient from them.
    scalars = {f"loss_{name}": term.detach() for name, term in forward.terms.items()}
    scalars["loss"] = loss.detach()
    if recipe.adversarial.weights.adv_image:
        loss_disc_image = disc_image_loss(state, batch, forward.fake_image.detach(), draws, recipe)
        _update(state, ["disc_image"], loss_disc_image, recipe)
        scalars["loss_disc_image"] = loss_disc_image.detach()
    if recipe.adversarial.weights.adv_mask:
        loss_disc_mask = disc_mask_loss(state, batch, forward.pred_mask.detach(), recipe)
        _update(state, ["disc_mask"], loss_disc_mask, recipe)
        scalars["loss_disc_mask"] = loss_disc_mask.detach()

    state.synthetic_steps += int(synthetic)
    state.generator_updates += int(not frozen)
    return scalars


def forward_terms(
    state: TrainState, batch: Batch, draws: Draws, recipe: Recipe, *, synthetic: bool, frozen: bool
) -> Forward:
    """Forward passes of a step and the weighted terms of the objective. A term of weight 0 is not computed."""
    segmenter, generator = state.networks["segmenter"], state.networks["generator"]
    settings, weights = recipe.adversarial, recipe.adversarial.weights
    real_image, real_mask = batch.image, batch.mask
    cycle = settings.lambda_cycle
    terms: dict[str, Tensor] = {}

    with recipe.autocast():
        fake_image = _generate(generator, real_mask, draws, recipe, "fake", extra_entry=True)
        feedback = settings.generator_feedback == "every_step" and not frozen
        if cycle * weights.rec_mask and (synthetic or feedback):
            with _synthetic_pass(segmenter, recipe, learns=synthetic), keyed_dropout(draws, "synthetic"):
                rec_logits = segmenter(fake_image)
            terms["rec_mask"] = cycle * weights.rec_mask * recipe.segmentation_loss(rec_logits, real_mask)

        with keyed_dropout(draws, "real"):
            pred_logits = segmenter(real_image)
        if weights.id_mask:
            terms["id_mask"] = weights.id_mask * recipe.segmentation_loss(pred_logits, real_mask)
        pred_mask = mask_of(pred_logits, settings.mask_path)

        if weights.adv_image:
            shown = _maybe_augment(fake_image, draws, recipe, "disc_image/generator")
            scores = state.networks["disc_image"](shown)
            terms["adv_image"] = weights.adv_image * lsgan_loss(scores.float(), 1.0)
        if weights.adv_mask:
            terms["adv_mask"] = weights.adv_mask * lsgan_loss(state.networks["disc_mask"](pred_mask).float(), 1.0)

        real_features = recipe.perceptual.features(real_image) if recipe.perceptual is not None else None
        rec_image = None
        if cycle * (weights.rec_image_l1 + weights.rec_image_vgg):
            rec_image = _generate(generator, pred_mask, draws, recipe, "rec", extra_entry=False)
            rec_weights = (cycle * weights.rec_image_l1, cycle * weights.rec_image_vgg)
            terms |= _image_terms("rec_image", rec_image, real_image, real_features, rec_weights, recipe)
        terms |= _image_terms(
            "id_image", fake_image, real_image, real_features, (weights.id_image_l1, weights.id_image_vgg), recipe
        )
    return Forward(terms, fake_image, rec_image, pred_mask)


def mask_of(logits: Tensor, path: str) -> Tensor:
    """(N,1,H,W) float32 mask from logits (N,2,H,W), the image-to-mask path of rows 1 and 2.

    argmax: {0,1}, no gradient reaches the segmenter; soft: foreground probability; straight_through: the arg-max mask
    forward, the probability's gradient backward.
    """
    probs = logits.float().softmax(1)[:, 1:2]
    if path == "soft":
        return probs
    hard = logits.argmax(1, keepdim=True).to(probs.dtype)
    return hard if path == "argmax" else hard + probs - probs.detach()


def disc_image_loss(state: TrainState, batch: Batch, fake_image: Tensor, draws: Draws, recipe: Recipe) -> Tensor:
    """Least-squares loss of D_X on real (target 1) and generated (target 0) images, mean of the two."""
    shared = recipe.adversarial.disc_augment_shared
    real_image = _maybe_augment(batch.image, draws, recipe, "disc_image/both" if shared else "disc_image/real")
    fake_image = _maybe_augment(fake_image, draws, recipe, "disc_image/both" if shared else "disc_image/fake")
    return _discriminator_loss(state.networks["disc_image"], real_image, fake_image, recipe)


def disc_mask_loss(state: TrainState, batch: Batch, pred_mask: Tensor, recipe: Recipe) -> Tensor:
    """Least-squares loss of D_Y on real (target 1) and predicted (target 0) masks, mean of the two."""
    return _discriminator_loss(state.networks["disc_mask"], batch.mask, pred_mask, recipe)


def draw_latents(draws: Draws, recipe: Recipe, levels: int, batch_size: int, name: str, *, extra_entry: bool) -> Tensor:
    """(B, levels, style_dim) z codes: one code, or two that meet at a crossover level drawn once a batch.

    `mixing_points: public` draws the crossover among the public code's entries (one more than the levels in the first
    pass, from 0), so that it may fall outside the used ones (row 26); `levels` draws it between two used levels.
    """
    settings = recipe.generator
    first = draws.normal(f"{name}/z_first", (settings.style_dim,))
    mixes, where = draws.batch_uniform(f"{name}/mixing", 2)
    if mixes >= settings.style_mixing:
        return mix_latents([first], [levels], levels)
    second = draws.normal(f"{name}/z_second", (settings.style_dim,))
    if settings.mixing_points == "public":
        entries = levels + int(extra_entry)
        crossover = int(where * entries)
        return mix_latents([first, second], [crossover, entries - crossover], levels)
    crossover = 1 + int(where * (levels - 1)) if levels > 1 else 1
    return mix_latents([first, second], [crossover, levels - crossover], levels)


@contextmanager
def without_gradient(*networks: nn.Module) -> Iterator[None]:
    """Inside, the parameters of these networks get no gradient; gradients still flow through to their inputs."""
    switched = [p for network in networks for p in network.parameters() if p.requires_grad]
    for parameter in switched:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in switched:
            parameter.requires_grad_(True)


def _generate(
    generator: nn.Module, mask: Tensor, draws: Draws, recipe: Recipe, name: str, *, extra_entry: bool
) -> Tensor:
    levels = int(generator.levels)  # type: ignore[arg-type]
    latents = draw_latents(draws, recipe, levels, len(mask), name, extra_entry=extra_entry)
    noise = draws.uniform(f"{name}/noise", (1, *mask.shape[-2:]))
    image: Tensor = generator(mask, latents.to(mask.device), noise.to(mask.device))
    return image


def _synthetic_pass(segmenter: nn.Module, recipe: Recipe, *, learns: bool) -> AbstractContextManager[object]:
    if learns and recipe.adversarial.synthetic_statistics == "update":
        return nullcontext()
    stack = ExitStack()
    stack.enter_context(hold_statistics(segmenter))
    if not learns:
        # The segmenter gets no gradient from this pass: it only tells the generator how its image is read.
        stack.enter_context(without_gradient(segmenter))
    return stack


def _image_terms(
    name: str,
    image: Tensor,
    real_image: Tensor,
    real_features: list[Tensor] | None,
    weights: tuple[float, float],
    recipe: Recipe,
) -> dict[str, Tensor]:
    terms: dict[str, Tensor] = {}
    if weights[0]:
        terms[f"{name}_l1"] = weights[0] * (image.float() - real_image).abs().mean()
    if weights[1] and recipe.perceptual is not None and real_features is not None:
        terms[f"{name}_vgg"] = weights[1] * recipe.perceptual.distance(image, real_features)
    return terms


def _maybe_augment(image: Tensor, draws: Draws, recipe: Recipe, name: str) -> Tensor:
    if draws.batch_uniform(name, 1)[0] >= recipe.adversarial.disc_augment:
        return image
    return diff_augment(image, draws, name)


def _discriminator_loss(discriminator: nn.Module, real: Tensor, fake: Tensor, recipe: Recipe) -> Tensor:
    with recipe.autocast():
        on_real, on_fake = discriminator(real), discriminator(fake)
    return (lsgan_loss(on_real.float(), 1.0) + lsgan_loss(on_fake.float(), 0.0)) / 2


def _update(state: TrainState, names: list[str], loss: Tensor, recipe: Recipe) -> None:
    for name in names:
        state.optimizers[name].zero_grad(set_to_none=True)
    loss.backward()
    for name in names:
        recipe.average_gradients(state.networks[name].parameters())
        state.optimizers[name].step()
