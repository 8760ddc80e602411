"""Batches without end, and waiting for a device: what benchmarks of steps share.

Importing it needs torch, numpy, pydantic, kornia and safetensors alone, as `benchmarks/gpu.py` runs where nothing else
is.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from sage_ray.config import ExperimentConfig
from sage_ray.training.batches import Batch, Pictures, training_batches
from sage_ray.training.context import LocalContext
from sage_ray.training.draws import StepDraws


def endless(
    pictures: Pictures, config: ExperimentConfig, context: LocalContext, phase: str
) -> Iterator[tuple[Batch, StepDraws]]:
    """Batches of epoch after epoch."""
    for epoch in range(10_000):
        yield from training_batches(pictures, config, context, phase, epoch)


def wait(device: torch.device) -> None:
    """Return when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
