"""Phase 2: one step of the cycle training with the pretrained segmenter inside.

Names: S segmenter (image to mask), G generator (mask to image), D_X disc_image, D_Y disc_mask; m real_mask, x
real_image.

    forward cycle    m -> fake_image = G(m, z)   -> rec_mask  = S(fake_image)
    backward cycle   x -> pred_mask  = S(x)      -> rec_image = G(pred_mask, z')

A term that can train nothing in a step (`objective.py`) is dead: it is left out of the update, and computed only where
the curves want it. The passes that only dead terms need hold the running statistics of their network, whether they are
computed or not, so that every weight, optimizer moment and buffer is the same to the bit.

Source: docs/method/METHOD.md section 1, table of the generator-and-segmenter objective; DISCREPANCIES.md beside it
for the rows named here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from sage_ray.training.draws import Draws
from sage_ray.training.recipe import Recipe
from sage_ray.training.state import TrainState
from sage_ray.training.supervision import head_logits, supervised_loss
from sage_ray.training.terms import CYCLE_IMAGE_TERMS, PERCEPTUAL_TERMS, StepPlan, plan_step, term_weights


@dataclass(frozen=True)
class Forward:
    """What the forward passes of a step give: the weighted terms that were computed, in the order of the sum.

    `rec_image` is None where no computed term needs it.
    """

    terms: dict[str, Tensor]
    fake_image: Tensor
    rec_image: Tensor | None
    pred_mask: Tensor


def adversarial_step(state: TrainState, batch: Batch, draws: Draws, recipe: Recipe) -> dict[str, Tensor]:
    """One update of generator and segmenter, then of disc_image, then of disc_mask; returns detached scalars.

    The generator is frozen while `state.phase_epoch` (from 0) is below `freeze_epochs`. `loss` is the sum of the terms
    that the update is made of; a dead term's own scalar is there in the steps that log it.
    """
    epoch = state.phase_epoch
    frozen = epoch < recipe.adversarial.freeze_epochs
    synthetic = mixes(draws, recipe.adversarial, epoch)
    plan = plan_step(
        recipe.adversarial,
        frozen=frozen,
        synthetic=synthetic,
        has_perceptual=recipe.perceptual is not None,
        skip_dead=recipe.skip_dead,
        log_dead=recipe.logs_dead(draws.step),
    )

    # Generator and segmenter; the discriminators judge but do not learn here.
    discriminators = [state.networks["disc_image"], state.networks["disc_mask"]]
    learning = ["segmenter"] if frozen else ["segmenter", "generator"]
    still = discriminators + ([state.networks["generator"]] if frozen else [])
    with without_gradient(*still):
        forward = forward_terms(state, batch, draws, recipe, plan)
        scalars = {f"loss_{name}": term.detach() for name, term in forward.terms.items()}
        updating = {name: term for name, term in forward.terms.items() if plan.in_update(name)}
        scalars["loss"] = _update(state, learning, updating, recipe)
    state.update_ema()

    # Discriminators; detached: neither generator nor segmenter gets a gradient from them.
    if recipe.adversarial.weights.adv_image:
        loss_disc_image = disc_image_loss(state, batch, forward.fake_image.detach(), draws, recipe)
        scalars["loss_disc_image"] = _update(state, ["disc_image"], {"loss_disc_image": loss_disc_image}, recipe)
    if recipe.adversarial.weights.adv_mask:
        loss_disc_mask = disc_mask_loss(state, batch, forward.pred_mask.detach(), recipe)
        scalars["loss_disc_mask"] = _update(state, ["disc_mask"], {"loss_disc_mask": loss_disc_mask}, recipe)

    state.synthetic_steps += int(synthetic)
    state.generator_updates += int(not frozen)
    return scalars


def forward_terms(state: TrainState, batch: Batch, draws: Draws, recipe: Recipe, plan: StepPlan) -> Forward:
    """Forward passes of a step and the weighted terms that its plan computes."""
    segmenter, generator = state.networks["segmenter"], state.networks["generator"]
    settings, weights = recipe.adversarial, term_weights(recipe.adversarial)
    real_image, real_mask = batch.image, batch.mask
    terms: dict[str, Tensor] = {}

    with recipe.autocast():
        # Where no term's gradient returns through it, the fake image is made without a graph.
        with nullcontext() if plan.fake_trains_generator else without_gradient(generator):
            fake_image = generate(generator, real_mask, draws, recipe, "fake", extra_entry=True)
        if plan.computes("rec_mask"):
            with _synthetic_pass(segmenter, recipe, learns=plan.synthetic), keyed_dropout(draws, "synthetic"):
                rec_logits = segmenter(fake_image)
            terms["rec_mask"] = weights["rec_mask"] * recipe.segmentation_loss(rec_logits, real_mask)

        with keyed_dropout(draws, "real"):
            heads = head_logits(segmenter, real_image)
        pred_logits = mean_logits(heads)
        if plan.computes("id_mask"):
            terms["id_mask"] = weights["id_mask"] * supervised_loss(heads, real_mask, recipe)
        pred_mask = mask_of(pred_logits, settings.mask_path)

        if plan.computes("adv_image"):
            shown = _maybe_augment(fake_image, draws, recipe, "disc_image/generator")
            with _pass_for(plan, ["adv_image"], state.networks["disc_image"]):
                scores = state.networks["disc_image"](shown)
            terms["adv_image"] = weights["adv_image"] * lsgan_loss(scores.float(), 1.0)
        if plan.computes("adv_mask"):
            with _pass_for(plan, ["adv_mask"], state.networks["disc_mask"]):
                scores = state.networks["disc_mask"](pred_mask)
            terms["adv_mask"] = weights["adv_mask"] * lsgan_loss(scores.float(), 1.0)

        real_features = None
        if recipe.perceptual is not None and plan.computes(*PERCEPTUAL_TERMS):
            real_features = recipe.perceptual.features(real_image)
        rec_image = None
        if plan.computes(*CYCLE_IMAGE_TERMS):
            shown_mask = pred_mask if plan.cycle_image_trains_segmenter else pred_mask.detach()
            with _pass_for(plan, CYCLE_IMAGE_TERMS, generator):
                rec_image = generate(generator, shown_mask, draws, recipe, "rec", extra_entry=False)
            terms |= _image_terms("rec_image", rec_image, real_image, real_features, weights, plan, recipe)
        terms |= _image_terms("id_image", fake_image, real_image, real_features, weights, plan, recipe)
    return Forward(terms, fake_image, rec_image, pred_mask)


def mixes(draws: Draws, settings: AdversarialConfig, epoch: int) -> bool:
    """Whether the segmenter also learns from generated images in the step of these draws, of phase-2 epoch `epoch`."""
    return draws.batch_uniform("mix", 1)[0] < settings.mix_probability(epoch)


def generate(
    generator: nn.Module, mask: Tensor, draws: Draws, recipe: Recipe, name: str, *, extra_entry: bool
) -> Tensor:
    """Images (B,1,H,W) in [-1,1] of masks (B,1,H,W), with the latents and the noise of pass `name` of the step."""
    levels = int(generator.levels)  # type: ignore[arg-type]
    latents = draw_latents(draws, recipe, levels, len(mask), name, extra_entry=extra_entry)
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


def _synthetic_pass(segmenter: nn.Module, recipe: Recipe, *, learns: bool) -> AbstractContextManager[object]:
    if learns and recipe.adversarial.synthetic_statistics == "update":
        return nullcontext()
    stack = ExitStack()
    stack.enter_context(hold_statistics(segmenter))
    if not learns:
        # The segmenter gets no gradient from this pass: it only tells the generator how its image is read.
        stack.enter_context(without_gradient(segmenter))
    return stack


@contextmanager
def _pass_for(plan: StepPlan, terms: Sequence[str], network: nn.Module) -> Iterator[None]:
    """The pass of a network that some terms need; if all are dead, it leaves no trace in the network."""
    with ExitStack() as stack:
        if not any(plan.is_live(term) for term in terms):
            stack.enter_context(hold_statistics(network))
        if not any(plan.in_update(term) for term in terms):
            stack.enter_context(torch.no_grad())
        yield


def _image_terms(
    name: str,
    image: Tensor,
    real_image: Tensor,
    real_features: list[Tensor] | None,
    weights: dict[str, float],
    plan: StepPlan,
    recipe: Recipe,
) -> dict[str, Tensor]:
    terms: dict[str, Tensor] = {}
    l1, vgg = f"{name}_l1", f"{name}_vgg"
    if plan.computes(l1):
        terms[l1] = weights[l1] * (image.float() - real_image).abs().mean()
    if plan.computes(vgg) and recipe.perceptual is not None and real_features is not None:
        terms[vgg] = weights[vgg] * recipe.perceptual.distance(image, real_features)
    return terms


def _maybe_augment(image: Tensor, draws: Draws, recipe: Recipe, name: str) -> Tensor:
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
        loss.backward()
    for name in names:
        recipe.average_gradients(state.networks[name].parameters())
        state.optimizers[name].step()
    return loss.detach()
