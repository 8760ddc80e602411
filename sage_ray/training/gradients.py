"""Which loss term gives which network a gradient: measured on one batch, with the trainer's own steps.

A network that a term's formula in the paper contains, and that the term gives nothing, is a dead pair. Which pairs are
dead depends on the settings, not on the pictures, their size or the weights: a small batch and new networks tell.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sage_ray.config import ExperimentConfig
from sage_ray.data.images import BadFile, read_image
from sage_ray.data.pair_masks import read_pair_mask
from sage_ray.data.pairs import load_folder
from sage_ray.data.preprocess import prepare_image, prepare_mask
from sage_ray.data.synth import DRAWN_PREFIX, DrawnSource
from sage_ray.losses.perceptual import VGG19Loss, cached_vgg19, load_vgg19, random_vgg19
from sage_ray.models.value_range import to_network_range
from sage_ray.sections import AdversarialConfig
from sage_ray.training import build
from sage_ray.training.batches import Batch
from sage_ray.training.context import LocalContext
from sage_ray.training.draws import KeyedDraws
from sage_ray.training.precision import use_precision
from sage_ray.training.pretrain import pretrain_step
from sage_ray.training.recipe import Recipe, build_recipe
from sage_ray.training.state import TrainState
from sage_ray.training.system_step import system_step
from sage_ray.training.terms import (
    ABSENT_TERMS,
    OBJECTIVE,
    PERCEPTUAL_TERMS,
    left_out_terms,
    objective_terms,
    term_weights,
    why_untrained,
)

IMAGE_SIZE = (64, 96)
"""Rows and columns in pixels."""
BATCH_SIZE = 2
REPEATS = 3
"""Times are the least of so many, or of fewer where they take more than `PATIENCE_S` in all."""
PATIENCE_S = 3.0

DISCRIMINATOR_LOSSES = {"loss_disc_image": ("disc_image",), "loss_disc_mask": ("disc_mask",)}

EXPECTED = OBJECTIVE | {"segmentation": ("segmenter",)} | DISCRIMINATOR_LOSSES
"""Each loss term and the networks that it should train: the objective of phase 2, phase 1's loss, and the
discriminators'. Source: docs/method/METHOD.md section 1."""

DETACHED = {
    ("adv_image", "disc_image"): "disc_image judges the generator here and learns from loss_disc_image alone",
    ("adv_mask", "disc_mask"): "disc_mask judges the segmenter here and learns from loss_disc_mask alone",
    ("loss_disc_image", "generator"): "the generated image is detached: it is there to train disc_image",
    ("loss_disc_mask", "segmenter"): "the predicted mask is detached: it is there to train disc_mask",
}
"""Pairs that get nothing because a GAN's two sides learn apart, and why."""

UNEXPLAINED = "its gradient is exactly zero, for no reason that the settings give: look at the networks"

Norms = dict[str, dict[str, float]]


@dataclass(frozen=True)
class UntrainedPair:
    """A loss term, a network that it gives nothing, and why."""

    term: str
    network: str
    why: str


@dataclass(frozen=True)
class StepGradients:
    """One kind of step.

    Attributes:
        name: for a person.
        frozen: whether the generator is frozen; None in phase 1.
        synthetic: whether the segmenter also learns from generated images; None in phase 1.
        norms: L2 norm of the gradient that each weighted term gives each network, all its parameters together.
        zeros: pairs of `EXPECTED` without a gradient.
        step_ms: milliseconds of the step as the trainer does it.
        left_out: terms that the trainer does not compute in this kind of step, as only a frozen generator would learn
            from them; their norms are 0.
    """

    name: str
    frozen: bool | None
    synthetic: bool | None
    norms: Norms
    zeros: list[UntrainedPair]
    step_ms: float
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class GradientReport:
    """What a config's loss terms give its networks.

    Attributes:
        steps: the kinds of step that the run has, as `step_kinds`, after one of phase 1.
        dead: pairs of `EXPECTED` that get nothing in any kind of step that has the term.
        on_purpose: pairs that get nothing in some kind of step, or ever, because the method has it so.
        off: terms that are not computed at all, and the setting that switches them off.
        data: where the pictures came from.
        perceptual: where the weights of the perceptual network came from; None without one.
        timed_on: whose milliseconds they are.
    """

    steps: list[StepGradients]
    dead: list[UntrainedPair]
    on_purpose: list[UntrainedPair]
    off: dict[str, str]
    data: str
    perceptual: str | None
    timed_on: str

    @property
    def norms(self) -> Norms:
        """Norms of each term in the first kind of step that has it: the generator learning, with synthetic images."""
        found: Norms = {}
        for step in self.steps:
            found |= {term: norms for term, norms in step.norms.items() if term not in found}
        return found


def measure_gradients(
    config: ExperimentConfig, cache_dir: Path, *, say: Callable[[str], None] = lambda _: None
) -> GradientReport:
    """Measure every loss term and network of a config, at its own widths, on one batch of `BATCH_SIZE` pairs.

    The pictures are those of `data.path`, resized to `IMAGE_SIZE`, or drawn particles if it is not there. The
    perceptual network has the weights of `adversarial.perceptual_weights` or of an earlier download, else random ones.

    Args:
        config: the run; weights of `pretrain.checkpoint` are not looked at.
        cache_dir: where an earlier download of the VGG19 weights lies.
        say: told what is being measured.

    Raises:
        UserError: unknown model names, unreadable pictures or perceptual weights.
    """
    # One thread unless told: on a busy machine several wait for each other many times longer than they compute.
    threads = config.runtime.threads or 1
    plain = {"pretrain.checkpoint": None, "runtime.compile": False, "runtime.precision": "fp32"}
    config = config.with_values({**plain, "runtime.threads": threads})
    context = LocalContext(config.runtime)
    use_precision("fp32", context.device)
    batch, data = _one_batch(config, context.device)
    perceptual, origin = _perceptual(config, context, cache_dir)
    bare = config.with_values({"adversarial.perceptual": "none"})
    recipe = replace(build_recipe(bare, context, cache_dir), perceptual=perceptual)
    steps: list[StepGradients] = []
    if config.pretrain.num_epochs:
        say("phase 1")
        steps.append(_measure_pretrain(config, context, batch, recipe))
    if config.adversarial.num_epochs:
        state = _still_state(config, "adversarial", context)
        for frozen, synthetic in step_kinds(config.adversarial):
            say(_name(config.adversarial, frozen, synthetic))
            steps.append(_measure_adversarial(config, state, batch, recipe, frozen=frozen, synthetic=synthetic))
    dead, on_purpose = _sorted_out(steps)
    on_gpu = context.device.type == "cuda"
    where = torch.cuda.get_device_name(context.device) if on_gpu else f"the processor's, on {threads} thread(s)"
    return GradientReport(steps, dead, on_purpose, _switched_off(config), data, origin, where)


def step_kinds(settings: AdversarialConfig) -> list[tuple[bool, bool]]:
    """(frozen, synthetic) of the kinds of step that a run's phase 2 has, the one that trains most first."""
    frozen_epochs = range(min(settings.freeze_epochs, settings.num_epochs))
    learning_epochs = range(len(frozen_epochs), settings.num_epochs)
    kinds: list[tuple[bool, bool]] = []
    for frozen, epochs in ((False, learning_epochs), (True, frozen_epochs)):
        shares = {settings.mix_probability(epoch) for epoch in epochs}
        kinds += [(frozen, True)] if any(share > 0 for share in shares) else []
        kinds += [(frozen, False)] if any(share < 1 for share in shares) else []
    return kinds


def gradient_norms(value: Tensor, networks: dict[str, nn.Module]) -> dict[str, float]:
    """L2 norm of the gradient of a scalar to each network's parameters that are to learn; 0.0 without a path.

    The graph is kept.
    """
    parameters = {name: [p for p in network.parameters() if p.requires_grad] for name, network in networks.items()}
    everything = [p for group in parameters.values() for p in group]
    if not value.requires_grad or not everything:
        return dict.fromkeys(networks, 0.0)
    gradients = iter(torch.autograd.grad(value, everything, retain_graph=True, allow_unused=True))
    norms = {}
    for name, group in parameters.items():
        found = [g for g in (next(gradients) for _ in group) if g is not None]
        squares = [torch.linalg.vector_norm(g, dtype=torch.float64).square() for g in found]
        norms[name] = float(torch.stack(squares).sum().sqrt()) if squares else 0.0
    return norms


def _measure_pretrain(config: ExperimentConfig, context: LocalContext, batch: Batch, recipe: Recipe) -> StepGradients:
    state = _still_state(config, "pretrain", context)
    norms: Norms = {}
    draws = KeyedDraws(config.seed, "pretrain", 0, 0, range(len(batch.image)), context.device)
    pretrain_step(state, batch, draws, replace(recipe, observe=_observer(norms)))
    (milliseconds,) = _least_ms([partial(pretrain_step, state, batch, draws, recipe)], context.device)
    dead = [term for term, found in norms.items() if found["segmenter"] == 0.0]
    zeros = [UntrainedPair(term, "segmenter", UNEXPLAINED) for term in dead]
    return StepGradients("phase 1", None, None, norms, zeros, milliseconds)


def _measure_adversarial(
    config: ExperimentConfig, state: TrainState, batch: Batch, recipe: Recipe, *, frozen: bool, synthetic: bool
) -> StepGradients:
    settings = config.adversarial
    # Every step is of this kind; the rate is 0, so that all kinds meet the same weights.
    share = float(synthetic)
    mixing = {"mix_start": share, "mix_step": 0.0, "mix_max": share, "mix_while_frozen": True}
    recipe = replace(recipe, adversarial=settings.model_copy(update=mixing))
    state.phase_epoch = 0 if frozen else settings.freeze_epochs
    device = batch.image.device
    draws = KeyedDraws(config.seed, "adversarial", state.phase_epoch, 0, range(len(batch.image)), device)

    measured: Norms = {}
    system_step(state, batch, draws, replace(recipe, observe=_observer(measured)))
    # A term that the step leaves out gives no network anything.
    weights = term_weights(settings, has_perceptual=recipe.perceptual is not None)
    terms = [term for term in objective_terms(settings, frozen=frozen, synthetic=synthetic) if weights[term]]
    left_out = [term for term in terms if term in left_out_terms(settings, frozen=frozen)]
    norms: Norms = measured | {term: dict.fromkeys(state.networks, 0.0) for term in left_out}
    assert not set(left_out) & set(measured), f"the trainer computes {sorted(measured)}"
    norms = {term: norms[term] for term in (*terms, *DISCRIMINATOR_LOSSES) if term in norms}
    (step_ms,) = _least_ms([partial(system_step, state, batch, draws, recipe)], device)
    zeros = _zeros(norms, settings, frozen=frozen, synthetic=synthetic)
    return StepGradients(_name(settings, frozen, synthetic), frozen, synthetic, norms, zeros, step_ms, left_out)


def _zeros(norms: Norms, settings: AdversarialConfig, *, frozen: bool, synthetic: bool) -> list[UntrainedPair]:
    zeros: list[UntrainedPair] = []
    for term, found in norms.items():
        for network in EXPECTED[term]:
            why = why_untrained(term, network, settings, frozen=frozen, synthetic=synthetic)
            assert found[network] == 0.0 or why is None, f"the trainer takes {term} -> {network} for dead: {why}"
            if found[network] == 0.0:
                zeros.append(UntrainedPair(term, network, why or UNEXPLAINED))
    return zeros


def _sorted_out(steps: list[StepGradients]) -> tuple[list[UntrainedPair], list[UntrainedPair]]:
    """Dead pairs, and those that get nothing on purpose: a GAN's two sides, and what only some kinds of step train."""
    dead: list[UntrainedPair] = []
    on_purpose: list[UntrainedPair] = []
    seen: set[tuple[str, str]] = set()
    for pair in (pair for step in steps for pair in step.zeros):
        if (pair.term, pair.network) in seen:
            continue
        seen.add((pair.term, pair.network))
        trained = any(step.norms.get(pair.term, {}).get(pair.network, 0.0) != 0.0 for step in steps)
        (on_purpose if trained else dead).append(pair)
    computed = {term for step in steps for term in step.norms}
    on_purpose += [UntrainedPair(term, network, why) for (term, network), why in DETACHED.items() if term in computed]
    return dead, on_purpose


def _switched_off(config: ExperimentConfig) -> dict[str, str]:
    settings = config.adversarial
    if not settings.num_epochs:
        return {}
    off: dict[str, str] = {}
    for term, weight in term_weights(settings).items():
        if term in ABSENT_TERMS[settings.system]:
            off[term] = f"adversarial.system={settings.system}"
        elif not weight:
            alone = getattr(settings.weights, term) == 0
            off[term] = f"adversarial.weights.{term}=0" if alone else "adversarial.lambda_cycle=0"
        elif term in PERCEPTUAL_TERMS and settings.perceptual == "none":
            off[term] = "adversarial.perceptual=none"
    for name, term in (("loss_disc_image", "adv_image"), ("loss_disc_mask", "adv_mask")):
        if term in off:
            off[name] = off[term]
    return off


def _name(settings: AdversarialConfig, frozen: bool, synthetic: bool) -> str:
    until = min(settings.freeze_epochs, settings.num_epochs)
    part = f"generator frozen (up to epoch {until})" if frozen else "generator learning"
    return f"phase 2, {part}, {'step with synthetic images' if synthetic else 'real images only'}"


def _observer(norms: Norms) -> Callable[[dict[str, Tensor], dict[str, nn.Module]], None]:
    def observe(terms: dict[str, Tensor], networks: dict[str, nn.Module]) -> None:
        norms.update({name: gradient_norms(term, networks) for name, term in terms.items()})

    return observe


def _still_state(config: ExperimentConfig, phase: str, context: LocalContext) -> TrainState:
    """A state whose networks stay as they are: at a learning rate of 0 all kinds of step meet the same weights."""
    state = build.build_state(config, phase, context)
    state.learning_rate.set(0.0)
    return state


def _least_ms(works: Sequence[Callable[[], object]], device: torch.device) -> list[float]:
    """Milliseconds of each, taking turns; on a CPU the processor's, to which other work on the machine adds little."""
    on_gpu = device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    wait: Callable[[], object] = torch.cuda.synchronize if on_gpu else lambda: None
    least = [math.inf] * len(works)
    begun = time.perf_counter()
    for repeat in range(REPEATS):
        if repeat and time.perf_counter() - begun > PATIENCE_S:
            break
        for index, work in enumerate(works):
            wait()
            start = clock()
            work()
            wait()
            least[index] = min(least[index], 1000 * (clock() - start))
    return least


def _one_batch(config: ExperimentConfig, device: torch.device) -> tuple[Batch, str]:
    """A batch, neither cleaned nor augmented, and where it came from."""
    path, crop = config.data.path, config.data.crop_bottom
    drawn = path.startswith("synthetic://")
    if not drawn and Path(path).expanduser().is_dir():
        pairs = load_folder(path, crop, config.data.masks)[:BATCH_SIZE]
        arrays = []
        for pair in pairs:
            try:
                picture = read_image(pair.image)
                arrays.append((picture, read_pair_mask(pair, picture.shape, config.data.foreground).foreground))
            except BadFile as bad:
                raise bad.problem.error() from None
        origin = path
    else:
        origin = path if drawn else f"drawn particles, as {path} is not here"
        source = DrawnSource.parse(path if drawn else f"{DRAWN_PREFIX}?num={BATCH_SIZE}&size={max(IMAGE_SIZE)}")
        crop = crop if drawn else 0
        arrays = [(pair.image, pair.mask) for pair in map(source.draw, range(BATCH_SIZE))]
    images = np.stack([prepare_image(image, IMAGE_SIZE, crop, stretch_rule=config.data.stretch) for image, _ in arrays])
    masks = np.stack([prepare_mask(mask, IMAGE_SIZE, crop) for _, mask in arrays])
    image = to_network_range(torch.from_numpy(images).unsqueeze(1).float() / 255)
    return Batch(image.to(device), torch.from_numpy(masks).unsqueeze(1).float().to(device)), origin


def _perceptual(
    config: ExperimentConfig, context: LocalContext, cache_dir: Path
) -> tuple[VGG19Loss | None, str | None]:
    settings = config.adversarial
    if not build.needs_perceptual(config):
        return None, None
    cached = cached_vgg19(cache_dir)
    path = settings.perceptual_weights or (str(cached) if cached.is_file() else None)
    # Which pairs are dead does not depend on the weights: no measurement is worth a download.
    features = load_vgg19(path, cache_dir) if path else random_vgg19(config.seed)
    perceptual = VGG19Loss(features, normalise=settings.perceptual_normalise)
    context.prepare(perceptual)
    return perceptual, path or "random weights, as none are here (dead pairs do not depend on them, norms do)"
