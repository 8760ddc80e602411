"""What the steps of several systems share: generated images, what discriminators say of them, and one update.

Each system's step is a file of its own (`adversarial.py`, `f_ancgan.py`, `cyclegan.py`, `gan.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from sage_ray.losses.diff_augment import diff_augment
from sage_ray.losses.lsgan import lsgan_loss
from sage_ray.models.dropout import keyed_dropout
from sage_ray.models.norm import hold_statistics
from sage_ray.models.style_unet import mix_latents
from sage_ray.training.batches import Batch
from sage_ray.training.draws import StepDraws
from sage_ray.training.recipe import Recipe
from sage_ray.training.replay_pool import ReplayPool
from sage_ray.training.state import TrainState
from sage_ray.training.supervision import head_logits, predicted_logits, supervised_loss


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


def predicted_mask(
    segmenter: nn.Module, batch: Batch, draws: StepDraws, weights: dict[str, float], recipe: Recipe
) -> tuple[Tensor, dict[str, Tensor]]:
    """S(x), and the term that compares it with the real mask.

    Returns:
        pred_mask (B,1,H,W) in [0,1], by `adversarial.mask_path`; and id_mask, weighted, or nothing if its weight is 0.
    """
    with keyed_dropout(draws, "real"):
        heads = head_logits(segmenter, batch.image)
    # Before id_mask: autograd adds up gradients in the order of the forward pass.
    pred_logits = predicted_logits(heads)
    terms: dict[str, Tensor] = {}
    if weights["id_mask"]:
        terms["id_mask"] = weights["id_mask"] * supervised_loss(heads, batch.mask, recipe)
    return mask_of(pred_logits, recipe.adversarial.mask_path), terms


def disc_image_loss(state: TrainState, batch: Batch, fake_image: Tensor, draws: StepDraws, recipe: Recipe) -> Tensor:
    """Least-squares loss of D_X on real (target 1) and generated (target 0) images, mean of the two.

    The real ones are the batch's, or others that need no masks (`data.split.unlabelled`).
    """
    shared = recipe.adversarial.disc_augment_shared
    real_image = maybe_augment(batch.judged_image, draws, recipe, "disc_image/both" if shared else "disc_image/real")
    fake_image = maybe_augment(fake_image, draws, recipe, "disc_image/both" if shared else "disc_image/fake")
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


def synthetic_pass(segmenter: nn.Module, recipe: Recipe, *, learns: bool) -> AbstractContextManager[object]:
    """The context of a segmenter's pass over generated images: whether it learns there, and its statistics move."""
    if learns and recipe.adversarial.synthetic_statistics == "update":
        return nullcontext()
    stack = ExitStack()
    stack.enter_context(hold_statistics(segmenter))
    if not learns:
        # The segmenter gets no gradient from this pass: it only tells the generator how its image is read.
        stack.enter_context(without_gradient(segmenter))
    return stack


def judged_real(discriminator: nn.Module, shown: Tensor) -> Tensor:
    """(D(shown) - 1)^2, a mean over the patches: how far a discriminator is from taking for real what it is shown."""
    return lsgan_loss(discriminator(shown).float(), 1.0)


def mask_judged_real(disc_mask: nn.Module, pred_mask: Tensor, mask_path: str) -> Tensor:
    """(D_Y(pred_mask) - 1)^2 as `judged_real`.

    An arg-max mask trains nobody here, and so the pass leaves no trace in the statistics of disc_mask.
    """
    with hold_statistics(disc_mask) if mask_path == "argmax" else nullcontext():
        return judged_real(disc_mask, pred_mask)


def image_terms(
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


def image_features(image: Tensor, recipe: Recipe) -> list[Tensor]:
    """VGG19 features of an image (B,1,H,W); none without a perceptual network."""
    return [] if recipe.perceptual is None else recipe.perceptual.features(image)


def maybe_augment(image: Tensor, draws: StepDraws, recipe: Recipe, name: str) -> Tensor:
    """The image, or, with probability `disc_augment`, one that is differentiably augmented by the draws of `name`."""
    if draws.batch_uniform(name, 1)[0] >= recipe.adversarial.disc_augment:
        return image
    return diff_augment(image, draws, name)


def _discriminator_loss(discriminator: nn.Module, real: Tensor, fake: Tensor, recipe: Recipe) -> Tensor:
    with recipe.autocast():
        on_real, on_fake = discriminator(real), discriminator(fake)
    return (lsgan_loss(on_real.float(), 1.0) + lsgan_loss(on_fake.float(), 0.0)) / 2


def update(state: TrainState, names: list[str], terms: dict[str, Tensor], recipe: Recipe) -> Tensor:
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


def show_from_pool(pool: ReplayPool | None, fakes: Tensor, draws: StepDraws, recipe: Recipe) -> Tensor:
    """What this worker's discriminator is shown in place of its fakes (B,1,H,W); without a pool these themselves."""
    if pool is None:
        return fakes
    shown = pool.show(recipe.gather(fakes.float()), draws)
    return shown[recipe.rank * len(fakes) :][: len(fakes)]
