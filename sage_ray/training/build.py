"""What the trainer works with, made from one ExperimentConfig: networks, states of a phase, losses, the product."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sage_ray.config import ExperimentConfig
from sage_ray.errors import UserError
from sage_ray.imaging.pickle_guard import refuse_pickle
from sage_ray.losses.perceptual import VGG19Loss, load_vgg19
from sage_ray.losses.segmentation import segmentation_loss
from sage_ray.models import DISCRIMINATORS, GENERATORS, SEGMENTERS
from sage_ray.models.dropout import number_dropouts
from sage_ray.models.init import initialise
from sage_ray.models.norm import BatchNorm
from sage_ray.training.context import RunContext
from sage_ray.training.draws import keyed_seed
from sage_ray.training.learning_rate import LearningRate
from sage_ray.training.precision import resolve_precision
from sage_ray.training.state import TrainState, weights_of
from sage_ray.training.terms import PERCEPTUAL_TERMS, term_weights

SegLoss = Callable[[Tensor, Tensor], Tensor]


def check_names(config: ExperimentConfig) -> None:
    """Raise UserError if a network name of the config is not registered, or its segmenter cannot do what is asked."""
    for section, name, table in (
        ("segmenter", config.segmenter.name, SEGMENTERS),
        ("generator", config.generator.name, GENERATORS),
        ("discriminators", config.discriminators.name, DISCRIMINATORS),
    ):
        if name not in table:
            raise UserError("unknown model", f"{section}.name={name}", "choose one of " + ", ".join(sorted(table)))
    if config.segmenter.deep_supervision and not hasattr(SEGMENTERS[config.segmenter.name], "forward_deep"):
        able = ", ".join(sorted(name for name, network in SEGMENTERS.items() if hasattr(network, "forward_deep")))
        raise UserError(
            "no deep supervision",
            f"segmenter.deep_supervision=true, segmenter.name={config.segmenter.name}",
            f"set segmenter.deep_supervision to false, or segmenter.name to {able}",
        )


def network_kwargs(config: ExperimentConfig) -> dict[str, dict[str, Any]]:
    """Constructor keywords of each network; they also travel inside a registered model."""
    # Networks without several heads do not know the keyword: it is given only where it is on.
    off = set() if config.segmenter.deep_supervision else {"deep_supervision"}
    segmenter = config.segmenter.model_dump(exclude={"name"} | off)
    generator = config.generator.model_dump(exclude={"name", "style_mixing", "mixing_points"})
    discriminators = config.discriminators.model_dump(exclude={"name"})
    return {"segmenter": segmenter, "generator": generator, "discriminators": discriminators}


def build_segmenter(config: ExperimentConfig, ctx: RunContext) -> nn.Module:
    """The segmenter, initialised from the seed, or from `pretrain.checkpoint`, on the context's device."""
    check_names(config)
    segmenter = SEGMENTERS[config.segmenter.name](**network_kwargs(config)["segmenter"])
    initialise(segmenter, keyed_seed(config.seed, "segmenter"))
    if config.pretrain.checkpoint:
        load_segmenter_file(segmenter, Path(config.pretrain.checkpoint))
    return _prepare(segmenter, config, ctx)


def build_gan(config: ExperimentConfig, ctx: RunContext) -> dict[str, nn.Module]:
    """generator, disc_image and disc_mask, initialised from the seed, on the context's device."""
    check_names(config)
    kwargs = network_kwargs(config)
    discriminator = DISCRIMINATORS[config.discriminators.name]
    networks = {
        "generator": GENERATORS[config.generator.name](**kwargs["generator"]),
        "disc_image": discriminator(**kwargs["discriminators"]),
        "disc_mask": discriminator(**kwargs["discriminators"]),
    }
    for name, network in networks.items():
        initialise(network, keyed_seed(config.seed, name))
    return {name: _prepare(network, config, ctx) for name, network in networks.items()}


def build_state(
    config: ExperimentConfig,
    phase: str,
    ctx: RunContext,
    *,
    handed: Mapping[str, Tensor] | None = None,
    networks: dict[str, nn.Module] | None = None,
) -> TrainState:
    """The state of a phase at its epoch 0: networks, Adam of each, learning-rate rule, moving average.

    Args:
        config: of the run.
        phase: "pretrain", which has the segmenter alone, or "adversarial", which has all four networks.
        ctx: of the run.
        handed: weights of an earlier phase (`segmenter.NAME`) from which the segmenter starts.
        networks: take these instead of newly initialised ones.
    """
    if networks is None:
        networks = {"segmenter": build_segmenter(config, ctx)}
        if phase == "adversarial":
            networks |= build_gan(config, ctx)
    if handed is not None:
        networks["segmenter"].load_state_dict(weights_of(handed, "segmenter"))
    settings = config.phase(phase)
    # Phase 1 has the betas of torch and no setting for them (row 13).
    betas = config.adversarial.betas if phase == "adversarial" else (0.9, 0.999)
    optimizers = {name: build_optimizer(network, settings.lr, betas) for name, network in networks.items()}
    rate = LearningRate(settings.schedule, optimizers, settings.lr)
    return TrainState(phase, networks, optimizers, rate, ema_decay=config.evaluation.ema_decay)


def build_product(config: ExperimentConfig, weights: Mapping[str, Tensor]) -> tuple[nn.Module, nn.Module | None]:
    """Segmenter and generator of a run in eval mode on the CPU, with the weights of `TrainState.product_weights`.

    Args:
        config: of the run.
        weights: `segmenter.NAME` and, if the run has a generator, `generator.NAME`.
    """
    kwargs = network_kwargs(config)
    segmenter = SEGMENTERS[config.segmenter.name](**kwargs["segmenter"])
    segmenter.load_state_dict(weights_of(weights, "segmenter"))
    learned = weights_of(weights, "generator")
    if not learned:
        return segmenter.eval(), None
    generator = GENERATORS[config.generator.name](**kwargs["generator"])
    generator.load_state_dict(learned)
    return segmenter.eval(), generator.eval()


def build_perceptual(config: ExperimentConfig, ctx: RunContext, cache_dir: Path) -> VGG19Loss | None:
    """The VGG19 loss on the device; None when `adversarial.perceptual` is none or both its weights are 0."""
    adversarial = config.adversarial
    if not needs_perceptual(config):
        return None
    features = load_vgg19(adversarial.perceptual_weights, cache_dir)
    perceptual = VGG19Loss(features, normalise=adversarial.perceptual_normalise)
    ctx.prepare(perceptual)
    return perceptual


def needs_perceptual(config: ExperimentConfig) -> bool:
    """Whether a run of the config computes a perceptual term, and so needs the VGG19 weights."""
    adversarial, weights = config.adversarial, term_weights(config.adversarial)
    if adversarial.perceptual == "none" or not adversarial.epochs:
        return False
    return any(weights[term] for term in PERCEPTUAL_TERMS)


def build_segmentation_loss(config: ExperimentConfig, reduce: Callable[[Tensor], Tensor] | None) -> SegLoss:
    """L_seg(logits (N,2,H,W), mask (N,1,H,W) in {0,1}) -> scalar in float32; `reduce` sums ratios over workers."""
    keywords = config.segmentation_loss.model_dump()

    def loss(logits: Tensor, mask: Tensor) -> Tensor:
        return segmentation_loss(logits, mask[:, 0].long(), reduce=reduce, **keywords)

    return loss


def build_optimizer(network: nn.Module, lr: float, betas: tuple[float, float]) -> torch.optim.Adam:
    """Adam over all parameters of a network; on a GPU the fused one, a single kernel.

    On a CPU torch's fused Adam rounds otherwise: after one step from the same gradients 49 to 59 of the 100 tensors of
    an Attention U-Net are bit-equal to plain Adam's, after 20 none (torch 2.13; the largest difference of a weight,
    1.5e-8 after one step, is 1.4e-2 then). Stages of before would no longer be what the code computes, so a CPU keeps
    the plain one, which its small networks hardly notice.
    """
    on_gpu = next(network.parameters()).device.type == "cuda"
    return torch.optim.Adam(network.parameters(), lr=lr, betas=betas, fused=on_gpu)


def autocast(config: ExperimentConfig, device: torch.device) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """A maker of the context in which forward passes run: bf16 autocast, or nothing in fp32 and TF32."""
    if resolve_precision(config.runtime.precision, device) != "bf16":
        return contextlib.nullcontext
    return functools.partial(torch.autocast, device.type, dtype=torch.bfloat16)


def load_segmenter_file(segmenter: nn.Module, path: Path) -> None:
    """Load segmenter weights from a safetensors file.

    Raises:
        UserError: no such file, no safetensors, or weights of another network.
    """
    if not path.is_file():
        raise UserError("no such file", f"pretrain.checkpoint={path}", "give a .safetensors file of a segmenter")
    refuse_pickle(path)
    try:
        weights = load_file(path)
    except Exception as error:  # safetensors raises its own, undocumented types
        raise UserError(
            "not a safetensors file", path, f"save the segmenter's weights as safetensors ({error})"
        ) from None
    try:
        segmenter.load_state_dict(weights)
    except RuntimeError as error:
        detail = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise UserError(
            "weights of another network", path, f"give the same segmenter settings ({detail[:160]})"
        ) from None


def _prepare(network: nn.Module, config: ExperimentConfig, ctx: RunContext) -> nn.Module:
    prepared = ctx.prepare(network)
    if ctx.world_size > 1:
        for module in prepared.modules():
            if isinstance(module, BatchNorm):
                module.reduce = ctx.all_reduce
    if config.runtime.compile:
        number_dropouts(prepared)
        prepared.compile()
    return prepared
