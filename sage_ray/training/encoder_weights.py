"""Published weights that a segmenter's encoder starts from (`segmenter.encoder_weights`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sage_ray.config import ExperimentConfig
from sage_ray.errors import UserError
from sage_ray.models import SEGMENTERS
from sage_ray.models.resnet34_unet import PUBLISHED_DEPTH, PUBLISHED_WIDTH
from sage_ray.published_weights import PublishedWeights
from sage_ray.system_rules import has_segmenter

EncoderWeights = dict[str, Tensor]
_WITH_STATISTICS = ("batch", "frozen")


def check_encoder(config: ExperimentConfig) -> None:
    """Raise UserError if the segmenter cannot have the layout, or start from the weights, that the config asks for."""
    settings = config.segmenter
    able = ", ".join(sorted(name for name, network in SEGMENTERS.items() if hasattr(network, "take_published")))
    if settings.name == "resnet34_unet" and settings.depth > PUBLISHED_DEPTH:
        mend = f"set segmenter.depth to at most {PUBLISHED_DEPTH}, the halvings of a ResNet-34"
        raise UserError("too deep", f"segmenter.depth={settings.depth}", mend)
    if settings.encoder_weights == "none":
        return
    where = f"segmenter.encoder_weights={settings.encoder_weights}"
    if settings.name not in able.split(", "):
        raise UserError(
            f"{settings.name} has no published encoder", where, f"set it to none, or segmenter.name to {able}"
        )
    if settings.norm not in _WITH_STATISTICS:
        mend = f"set segmenter.norm to {' or '.join(_WITH_STATISTICS)}, or segmenter.encoder_weights to none"
        raise UserError(f"published weights need batch statistics, norm {settings.norm} has none", where, mend)
    if settings.encoder_weights == "imagenet" and settings.width != PUBLISHED_WIDTH:
        mend = f"set segmenter.width to {PUBLISHED_WIDTH}, or segmenter.encoder_weights to none"
        raise UserError(f"the published encoder has another width than {settings.width}", where, mend)


def needs_encoder(config: ExperimentConfig) -> bool:
    """Whether a run of the config starts from published weights: not without a segmenter, or from a checkpoint."""
    settings, begun = config.segmenter.encoder_weights, config.pretrain.checkpoint
    return settings != "none" and not begun and has_segmenter(config.adversarial)


def load_encoder(config: ExperimentConfig, cache_dir: Path) -> EncoderWeights | None:
    """What the encoder starts from, by torchvision's names, float32 on the CPU; None where it is drawn.

    Raises:
        UserError: no such file, wrong shapes, or a download that failed; it says how to go on.
    """
    if not needs_encoder(config):
        return None
    chosen = config.segmenter.encoder_weights
    published = _wanted(config)
    return published.load(None if chosen == "imagenet" else chosen, cache_dir)


def take_encoder(segmenter: nn.Module, weights: EncoderWeights) -> None:
    """Start the segmenter's encoder from weights that `load_encoder` gave."""
    taking: Any = segmenter
    taking.take_published(weights)


def _wanted(config: ExperimentConfig) -> PublishedWeights:
    """What is wanted of the file: of a published one that is kept, always the whole encoder, whatever the depth."""
    settings = config.segmenter
    depth = PUBLISHED_DEPTH if settings.encoder_weights == "imagenet" else settings.depth
    with torch.device("meta"):
        network: Any = SEGMENTERS[settings.name](width=settings.width, depth=depth, norm="batch")
    found: PublishedWeights = network.published()
    return found
