"""Phase 2: one step of the cycle training with the pretrained segmenter inside.

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
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sage_ray.losses.diff_augment import diff_augment
from sage_ray.losses.lsgan import lsgan_loss
from sage_ray.models.dropout import keyed_dropout
from sage_ray.models.norm import hold_statistics
from sage_ray.models.style_unet import mix_latents
from sage_ray.models.unet_plus_plus import mean_logits
from sage_ray.sections import AdversarialConfig
from sage_ray.training.batches import Batch
from sage_ray.training.draws import StepDraws
from sage_ray.training.recipe import Recipe
from sage_ray.training.state import TrainState
from sage_ray.training.supervision import head_logits, supervised_loss
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
        scalars["loss"] = _update(state, learning, cycles.terms, recipe)
    state.update_ema()

    # Image discriminator. fake_image is detached: the generator gets no gradient from this loss.
    if settings.weights.adv_image:
        loss_disc_image = disc_image_loss(state, batch, cycles.fake_image.detach(), draws, recipe)
        scalars["loss_disc_image"] = _update(state, ["disc_image"], {"loss_disc_image": loss_disc_image}, recipe)

    # Mask discriminator. pred_mask is detached: the segmenter gets no gradient from this loss.
    if settings.weights.adv_mask:
        loss_disc_mask = disc_mask_loss(state, batch, cycles.pred_mask.detach(), recipe)
        scalars["loss_disc_mask"] = _update(state, ["disc_mask"], {"loss_disc_mask": loss_disc_mask}, recipe)

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
    real_features = functools.cache(lambda: _features(real_image, recipe))  # for both images, if a term needs them

    with recipe.autocast():
        # Forward cycle. rec_mask trains the segmenter on synthetic steps. It trains a generator that learns at every
        # step, or on synthetic steps only (row 3).
        fake_image = generate(generator, real_mask, draws, recipe, "fake", extra_entry=True)
        feedback = settings.generator_feedback == "every_step" and not frozen
        if weights["rec_mask"] and (synthetic or feedback):
            with _synthetic_pass(segmenter, recipe, learns=synthetic), keyed_dropout(draws, "synthetic"):
                rec_logits = segmenter(fake_image)
            terms["rec_mask"] = weights["rec_mask"] * recipe.segmentation_loss(rec_logits, real_mask)

        # Backward cycle. While the generator is frozen, rec_image is made only if the segmenter learns from it.
        with keyed_dropout(draws, "real"):
            heads = head_logits(segmenter, real_image)
        pred_logits = mean_logits(heads)  # before id_mask: autograd adds up gradients in the order of the forward pass
        if weights["id_mask"]:
            terms["id_mask"] = weights["id_mask"] * supervised_loss(heads, real_mask, recipe)
        pred_mask = mask_of(pred_logits, settings.mask_path)
        through = settings.mask_path != "argmax" and settings.cycle_image_while_frozen
        if (weights["rec_image_l1"] or weights["rec_image_vgg"]) and (through or not frozen):
            rec_image = generate(generator, pred_mask, draws, recipe, "rec", extra_entry=False)
            terms |= _image_terms("rec_image", rec_image, real_image, real_features, weights, recipe)

        # What the discriminators say, and the generated image beside the real one.
        if weights["adv_image"] and not frozen:
            terms["adv_image"] = weights["adv_image"] * _judged_real(
                state.networks["disc_image"], _maybe_augment(fake_image, draws, recipe, "disc_image/generator")
            )
        if weights["adv_mask"]:
            # An arg-max mask trains nobody here, and so the pass leaves no trace in the statistics of disc_mask.
            held = settings.mask_path == "argmax"
            with hold_statistics(state.networks["disc_mask"]) if held else nullcontext():
                terms["adv_mask"] = weights["adv_mask"] * _judged_real(state.networks["disc_mask"], pred_mask)
        if not frozen:
            terms |= _image_terms("id_image", fake_image, real_image, real_features, weights, recipe)
    return Cycles({name: terms[name] for name in OBJECTIVE if name in terms}, fake_image, pred_mask)


def mixes(draws: StepDraws, settings: AdversarialConfig, epoch: int) -> bool:
    """Whether the segmenter also learns from generated images in the step of these draws, of phase-2 epoch `epoch`."""
    return draws.batch_uniform("mix", 1)[0] < settings.mix_probability(epoch)


def generate(
    generator: nn.Module, mask: Tensor, draws: StepDraws, recipe: Recipe, name: str, *, extra_entry: bool
) -> Tensor:
    """Images (B,1,H,W) in [-1,1] of masks (B,1,H,W), with the latents and the noise of pass `name` of the step."""
    levels = int(generator.levels)  # type: ignore[arg-type]
    latents = draw_latents(draws, recipe, levels, name, extra_entry=extra_entry)
    noise = draws.uniform(f"{name}/noise", (1, *mask.shape[-2:]))
    image: Tensor = generator(mask, latents.to(mask.device), noise.to(mask.device))
    return image


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


def disc_image_loss(state: TrainState, batch: Batch, fake_image: Tensor, draws: StepDraws, recipe: Recipe) -> Tensor:
    """Least-squares loss of D_X on real (target 1) and generated (target 0) images, mean of the two."""
    shared = recipe.adversarial.disc_augment_shared
    real_image = _maybe_augment(batch.image, draws, recipe, "disc_image/both" if shared else "disc_image/real")
    fake_image = _maybe_augment(fake_image, draws, recipe, "disc_image/both" if shared else "disc_image/fake")
    return _discriminator_loss(state.networks["disc_image"], real_image, fake_image, recipe)


def disc_mask_loss(state: TrainState, batch: Batch, pred_mask: Tensor, recipe: Recipe) -> Tensor:
    """Least-squares loss of D_Y on real (target 1) and predicted (target 0) masks, mean of the two."""
    return _discriminator_loss(state.networks["disc_mask"], batch.mask, pred_mask, recipe)


def draw_latents(draws: StepDraws, recipe: Recipe, levels: int, name: str, *, extra_entry: bool) -> Tensor:
    """(B, levels, style_dim) z codes: one code, or two that meet at a crossover level drawn once per batch.

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


def _synthetic_pass(segmenter: nn.Module, recipe: Recipe, *, learns: bool) -> AbstractContextManager[object]:
    if learns and recipe.adversarial.synthetic_statistics == "update":
        return nullcontext()
    stack = ExitStack()
    stack.enter_context(hold_statistics(segmenter))
    if not learns:
        # The segmenter gets no gradient from this pass: it only tells the generator how its image is read.
        stack.enter_context(without_gradient(segmenter))
    return stack


def _judged_real(discriminator: nn.Module, shown: Tensor) -> Tensor:
    """(D(shown) - 1)^2, a mean over the patches: how far a discriminator is from taking for real what it is shown."""
    return lsgan_loss(discriminator(shown).float(), 1.0)


def _image_terms(
    name: str,
    image: Tensor,
    real_image: Tensor,
    real_features: Callable[[], list[Tensor]],
    weights: dict[str, float],
    recipe: Recipe,
) -> dict[str, Tensor]:
    """NAME_l1 and NAME_vgg, weighted: how far an image (B,1,H,W) is from the real one, pixel by pixel and in VGG19."""
    terms: dict[str, Tensor] = {}
    l1, vgg = f"{name}_l1", f"{name}_vgg"
    if weights[l1]:
        terms[l1] = weights[l1] * (image.float() - real_image).abs().mean()
    if recipe.perceptual is not None and weights[vgg]:
        terms[vgg] = weights[vgg] * recipe.perceptual.distance(image, real_features())
    return terms


def _features(image: Tensor, recipe: Recipe) -> list[Tensor]:
    return [] if recipe.perceptual is None else recipe.perceptual.features(image)


def _maybe_augment(image: Tensor, draws: StepDraws, recipe: Recipe, name: str) -> Tensor:
    if draws.batch_uniform(name, 1)[0] >= recipe.adversarial.disc_augment:
        return image
    return diff_augment(image, draws, name)


def _discriminator_loss(discriminator: nn.Module, real: Tensor, fake: Tensor, recipe: Recipe) -> Tensor:
    with recipe.autocast():
        on_real, on_fake = discriminator(real), discriminator(fake)
    return (lsgan_loss(on_real.float(), 1.0) + lsgan_loss(on_fake.float(), 0.0)) / 2


def _update(state: TrainState, names: list[str], terms: dict[str, Tensor], recipe: Recipe) -> Tensor:
    """One optimizer step of the named networks on the sum of the terms, which is returned, detached.

    Where no term trains any of them (a frozen generator beside an objective without `id_mask`), nothing moves.
    """
    if recipe.observe is not None:
        recipe.observe(terms, state.networks)
    parameter = next(state.networks[names[0]].parameters())
    loss = torch.stack([term.float() for term in terms.values()]).sum() if terms else parameter.new_zeros(())
    for name in names:
        state.optimizers[name].zero_grad(set_to_none=True)
    if loss.requires_grad:
        torch.autograd.backward(loss)
    for name in names:
        recipe.average_gradients(state.networks[name].parameters())
        state.optimizers[name].step()
    return loss.detach()
