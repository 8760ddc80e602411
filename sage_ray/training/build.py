"""What the trainer works with, made from one ExperimentConfig: networks, states of a phase, losses, the product."""

from __future__ import annotations

import contextlib
import functools
import inspect
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
from sage_ray.models.resnet_generator import blocks_for
from sage_ray.sections import GeneratorConfig, SegmenterConfig
from sage_ray.system_rules import INITIAL_STD, networks_of
from sage_ray.training.context import RunContext
from sage_ray.training.draws import keyed_seed
from sage_ray.training.encoder_weights import EncoderWeights, check_encoder, take_encoder
from sage_ray.training.learning_rate import LearningRate
from sage_ray.training.precision import resolve_precision
from sage_ray.training.replay_pool import ReplayPool
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
    check_encoder(config)


def network_kwargs(config: ExperimentConfig) -> dict[str, dict[str, Any]]:
    """Constructor keywords of each network by the name of its section; they also travel inside a registered model."""
    segmenter, generator = config.segmenter, config.generator
    # A keyword that not every network of a table knows is given only to one that does.
    off = {"name", "blocks", "encoder_weights"} | (set() if segmenter.deep_supervision else {"deep_supervision"})
    given = {
        "segmenter": segmenter.model_dump(exclude=off) | _blocks(segmenter, config),
        "generator": generator.model_dump(exclude={"name", "style_mixing", "mixing_points", "blocks"})
        | _blocks(generator, config),
        "discriminators": config.discriminators.model_dump(exclude={"name", "mask_attention"}),
    }
    known = inspect.signature(GENERATORS[generator.name]).parameters if generator.name in GENERATORS else {}
    given["generator"] = {name: value for name, value in given["generator"].items() if name in known}
    return given


def network_parts(config: ExperimentConfig, phase: str) -> dict[str, tuple[type[nn.Module], dict[str, Any]]]:
    """Class and constructor keywords of each network of a phase, by its name (`system_rules.NETWORKS`), in order.

    Raises:
        UserError: an unknown network.
    """
    check_names(config)
    kwargs = network_kwargs(config)
    discriminator = DISCRIMINATORS[config.discriminators.name]
    attention = config.discriminators.attention and config.discriminators.mask_attention
    parts: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
        "segmenter": (SEGMENTERS[config.segmenter.name], kwargs["segmenter"]),
        "generator": (GENERATORS[config.generator.name], kwargs["generator"]),
        "disc_image": (discriminator, kwargs["discriminators"]),
        "disc_mask": (discriminator, kwargs["discriminators"] | {"attention": attention}),
    }
    return {name: parts[name] for name in networks_of(config.adversarial.system, phase)}


def build_segmenter(config: ExperimentConfig, ctx: RunContext, encoder: EncoderWeights | None = None) -> nn.Module:
    """The segmenter, initialised from the seed, its encoder from `encoder`, or all from `pretrain.checkpoint`.

    It is on the context's device.
    """
    return build_networks(config, "pretrain", ctx, encoder)["segmenter"]


def build_networks(
    config: ExperimentConfig, phase: str, ctx: RunContext, encoder: EncoderWeights | None = None
) -> dict[str, nn.Module]:
    """The networks of a phase, initialised from the seed (see also `build_segmenter`), on the context's device."""
    networks: dict[str, nn.Module] = {}
    std = INITIAL_STD.get(config.adversarial.system) if phase == "adversarial" else None
    for name, (network, keywords) in network_parts(config, phase).items():
        built = initialise(network(**keywords), keyed_seed(config.seed, name), std=std)
        if name == "segmenter" and encoder is not None:
            take_encoder(built, encoder)
        if name == "segmenter" and config.pretrain.checkpoint:
            load_segmenter_file(built, Path(config.pretrain.checkpoint))
        networks[name] = _prepare(built, config, ctx)
    return networks


def build_state(
    config: ExperimentConfig,
    phase: str,
    ctx: RunContext,
    *,
    handed: Mapping[str, Tensor] | None = None,
    networks: dict[str, nn.Module] | None = None,
    encoder: EncoderWeights | None = None,
) -> TrainState:
    """The state of a phase at its epoch 0: networks, Adam of each, learning-rate rule, moving average.

    Args:
        config: of the run.
        phase: "pretrain", which has the segmenter alone, or "adversarial", which has the networks of the system.
        ctx: of the run.
        handed: weights of an earlier phase (`segmenter.NAME`) from which the segmenter starts.
        networks: take these instead of newly initialised ones.
        encoder: published weights that a new segmenter's encoder starts from (`encoder_weights.load_encoder`).
    """
    if networks is None:
        networks = build_networks(config, phase, ctx, encoder)
    if handed is not None:
        networks["segmenter"].load_state_dict(weights_of(handed, "segmenter"))
    settings = config.phase(phase)
    # Phase 1 has the betas of torch and no setting for them (row 13).
    betas = config.adversarial.betas if phase == "adversarial" else (0.9, 0.999)
    optimizers = {name: build_optimizer(network, settings.lr, betas) for name, network in networks.items()}
    rate = LearningRate(settings.schedule, optimizers, settings.lr)
    pool = config.adversarial.replay_pool if phase == "adversarial" else 0
    pools = {name: ReplayPool(name, pool) for name in ("image", "mask") if pool}
    return TrainState(phase, networks, optimizers, rate, ema_decay=config.evaluation.ema_decay, pools=pools)


def build_product(config: ExperimentConfig, weights: Mapping[str, Tensor]) -> tuple[nn.Module | None, nn.Module | None]:
    """Segmenter and generator of a run in eval mode on the CPU, with the weights of `TrainState.product_weights`.

    Args:
        config: of the run.
        weights: `segmenter.NAME` and `generator.NAME`, as far as the run has them; the others are None.
    """
    kwargs = network_kwargs(config)
    segmenter = _with_weights(SEGMENTERS[config.segmenter.name], kwargs["segmenter"], weights_of(weights, "segmenter"))
    generator = _with_weights(GENERATORS[config.generator.name], kwargs["generator"], weights_of(weights, "generator"))
    return segmenter, generator


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
    if adversarial.perceptual == "none" or not adversarial.num_epochs:
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


def _with_weights(
    network: type[nn.Module], keywords: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> nn.Module | None:
    if not weights:
        return None
    built = network(**keywords)
    built.load_state_dict(weights)
    return built.eval()


def _blocks(section: SegmenterConfig | GeneratorConfig, config: ExperimentConfig) -> dict[str, int]:
    """The keyword `blocks` for a network that has residual blocks."""
    return {"blocks": section.blocks or blocks_for(*config.data.image_size)} if section.name == "resnet" else {}
