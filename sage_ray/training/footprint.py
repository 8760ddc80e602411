"""How large the state of a stage is on disk, from the shapes of its networks; nothing is allocated."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sage_ray.config import ExperimentConfig
from sage_ray.models import DISCRIMINATORS, GENERATORS, SEGMENTERS
from sage_ray.training.build import check_names, network_kwargs

PRODUCTS = ("segmenter", "generator")
"""The networks that a run keeps."""
NAME_BYTES = 106
"""Bytes of one tensor's entry (name, shape, place) in the table of a safetensors file."""


@dataclass(frozen=True)
class StageFootprint:
    """Bytes of one snapshot of a stage (`state`), and of the best weights that snapshots share (`best`)."""

    state: int
    best: int


def footprints(config: ExperimentConfig) -> dict[str, StageFootprint]:
    """The footprint of each stage that a config trains, by phase: weights, two moments per weight, and any average.

    Raises:
        UserError: unknown network.
    """
    sizes = _network_sizes(config)
    average = sizes["segmenter"].weights if config.evaluation.ema_decay else 0
    scored = config.data.split.validation > 0 or config.data.split.folds > 0
    found: dict[str, StageFootprint] = {}
    for phase, names in (("pretrain", ("segmenter",)), ("adversarial", tuple(sizes))):
        if config.phase(phase).epochs:
            state = sum(sizes[name].weights + sizes[name].moments for name in names)
            product = sum(sizes[name].weights for name in names if name in PRODUCTS)
            found[phase] = StageFootprint(state + average, product if scored else 0)
    return found


def product_bytes(config: ExperimentConfig) -> int:
    """Bytes of the selected weights that a finished run keeps."""
    sizes = _network_sizes(config)
    return sum(sizes[name].weights for name in (PRODUCTS if config.adversarial.epochs else PRODUCTS[:1]))


@dataclass(frozen=True)
class _Size:
    """Bytes of a network's weights and buffers, and of its optimizer's moments."""

    weights: int
    moments: int


def _network_sizes(config: ExperimentConfig) -> dict[str, _Size]:
    check_names(config)
    kwargs = network_kwargs(config)
    parts: tuple[tuple[str, dict[str, Any], str, str], ...] = (
        ("segmenter", SEGMENTERS, config.segmenter.name, "segmenter"),
        ("generator", GENERATORS, config.generator.name, "generator"),
        ("disc_image", DISCRIMINATORS, config.discriminators.name, "discriminators"),
        ("disc_mask", DISCRIMINATORS, config.discriminators.name, "discriminators"),
    )
    # Dropout has no weights: networks that differ in it alone are of one size, which is counted once.
    kwargs["segmenter"]["dropout"] = 0.0
    return {name: _size(table[kind], tuple(sorted(kwargs[section].items()))) for name, table, kind, section in parts}


@functools.lru_cache(maxsize=256)
def _size(network: Any, keywords: tuple[tuple[str, Any], ...]) -> _Size:
    with torch.device("meta"):
        built: nn.Module = network(**dict(keywords))
    trained = [tensor for tensor in built.parameters() if tensor.requires_grad]
    # Each moment is as large as its parameter; the number of steps is a tensor of its own.
    moments = sum(2 * tensor.numel() * tensor.element_size() + 3 * NAME_BYTES for tensor in trained)
    weights = sum(tensor.numel() * tensor.element_size() + NAME_BYTES for tensor in built.state_dict().values())
    return _Size(weights, moments)
