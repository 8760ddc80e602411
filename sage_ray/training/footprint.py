"""How large the state of a stage is on disk, from the shapes of its networks; nothing is allocated."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sage_ray.config import ExperimentConfig
from sage_ray.models import DISCRIMINATORS
from sage_ray.sections import PHASES, PhaseName
from sage_ray.training.build import network_kwargs, network_parts

PRODUCTS = ("segmenter", "generator")
"""The networks that a run keeps."""
REGRESSOR_BYTES = 1_000_000
"""Bytes of what learns the materials of a stage of rendering, four layers of 128, with its moments; rounded up."""
NAME_BYTES = 106
"""Bytes of one tensor's entry (name, shape, place) in the table of a safetensors file."""


@dataclass(frozen=True)
class StageFootprint:
    """Bytes of one snapshot of a stage (`state`), and of the best weights that snapshots share (`best`)."""

    state: int
    best: int


def footprints(config: ExperimentConfig) -> dict[str, StageFootprint]:
    """The footprint of each stage that a config trains, by name: weights, their two moments, any average and pools.

    Raises:
        UserError: unknown network.
    """
    scored = config.data.split.validation > 0 or config.data.split.folds > 0
    found: dict[str, StageFootprint] = {}
    if config.render.train_on_pairs:
        adversary: Any = DISCRIMINATORS[config.discriminators.name]
        size = _size(adversary, tuple(sorted(network_kwargs(config)["discriminators"].items())))
        found["render"] = StageFootprint(size.weights + size.moments + REGRESSOR_BYTES, 0)
    for phase in PHASES:
        if config.phase(phase).num_epochs:
            sizes = _network_sizes(config, phase)
            average = sizes["segmenter"].weights if config.evaluation.ema_decay else 0
            state = sum(size.weights + size.moments for size in sizes.values()) + average
            product = sum(sizes[name].weights for name in PRODUCTS if name in sizes)
            found[phase] = StageFootprint(state + _pool_bytes(config, phase), product if scored else 0)
    return found


def product_bytes(config: ExperimentConfig) -> int:
    """Bytes of the selected weights that a finished run keeps."""
    sizes = _network_sizes(config, "adversarial" if config.adversarial.num_epochs else "pretrain")
    return sum(sizes[name].weights for name in PRODUCTS if name in sizes)


@dataclass(frozen=True)
class _Size:
    """Bytes of a network's weights and buffers, and of its optimizer's moments."""

    weights: int
    moments: int


def _network_sizes(config: ExperimentConfig, phase: PhaseName) -> dict[str, _Size]:
    sizes: dict[str, _Size] = {}
    for name, (network, keywords) in network_parts(config, phase).items():
        # Dropout has no weights: networks that differ in it alone are of one size, which is counted once.
        plain = keywords | ({"dropout": 0.0} if "dropout" in keywords else {})
        made: Any = network
        sizes[name] = _size(made, tuple(sorted(plain.items())))
    return sizes


def _pool_bytes(config: ExperimentConfig, phase: PhaseName) -> int:
    """Bytes of full replay pools of images and of masks, in float32."""
    size = config.adversarial.replay_pool if phase == "adversarial" else 0
    rows, columns = config.data.image_size
    return 2 * (4 * size * rows * columns + NAME_BYTES) if size else 0


@functools.lru_cache(maxsize=256)
def _size(network: Any, keywords: tuple[tuple[str, Any], ...]) -> _Size:
    with torch.device("meta"):
        built: nn.Module = network(**dict(keywords))
    trained = [tensor for tensor in built.parameters() if tensor.requires_grad]
    # Each moment is as large as its parameter; the number of steps is a tensor of its own.
    moments = sum(2 * tensor.numel() * tensor.element_size() + 3 * NAME_BYTES for tensor in trained)
    weights = sum(tensor.numel() * tensor.element_size() + NAME_BYTES for tensor in built.state_dict().values())
    return _Size(weights, moments)
