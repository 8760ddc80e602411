"""A training state as the loop makes it, and its batches: what benchmarks of steps share.

Importing it needs torch, numpy, pydantic, kornia and safetensors alone, as `benchmarks/gpu.py` runs where nothing else
is.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from sage_ray.config import ExperimentConfig
from sage_ray.training import build
from sage_ray.training.batches import Batch, Pictures, training_batches
from sage_ray.training.context import LocalContext
from sage_ray.training.draws import Draws
from sage_ray.training.learning_rate import LearningRate
from sage_ray.training.state import TrainState


def make_state(config: ExperimentConfig, phase: str, context: LocalContext) -> TrainState:
    """Fresh networks and optimizers of a phase, as the loop makes them."""
    networks = {"segmenter": build.build_segmenter(config, context)}
    if phase == "adversarial":
        networks |= build.build_gan(config, context)
    settings = getattr(config, phase)
    betas = config.adversarial.betas if phase == "adversarial" else (0.9, 0.999)
    optimizers = {name: build.build_optimizer(network, settings.lr, betas) for name, network in networks.items()}
    rate = LearningRate(settings.schedule, optimizers, settings.lr)
    return TrainState(phase, networks, optimizers, rate, config.evaluation.ema_decay)


def endless(
    pictures: Pictures, config: ExperimentConfig, context: LocalContext, phase: str
) -> Iterator[tuple[Batch, Draws]]:
    """Batches of epoch after epoch."""
    for epoch in range(10_000):
        yield from training_batches(pictures, config, context, phase, epoch)


def wait(device: torch.device) -> None:
    """Return when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
