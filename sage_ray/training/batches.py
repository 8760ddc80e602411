"""Batches of an epoch: pictures on the device once, ordered, shared out over workers and augmented there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sage_ray.config import ExperimentConfig
from sage_ray.data.augment import augment
from sage_ray.errors import UserError
from sage_ray.models.value_range import to_network_range
from sage_ray.sections import AugmentConfig
from sage_ray.training.context import RunContext
from sage_ray.training.draws import KeyedDraws, epoch_order

if TYPE_CHECKING:  # reading pictures needs more packages than training on them
    from sage_ray.data.prepare import PreparedData

DEVICE_SHARE = 0.25
"""Largest share of a GPU's memory that the pictures may take; larger sets stay in pinned host memory."""


@dataclass(frozen=True)
class Batch:
    """image (B,1,H,W) float32 in [-1,1]; mask (B,1,H,W) float32 in {0,1}."""

    image: Tensor
    mask: Tensor


class Pictures:
    """Images and masks of one part of the data as uint8, on the device if they fit, else pinned on the host."""

    def __init__(self, data: PreparedData, indices: np.ndarray, device: torch.device) -> None:
        self.device = device
        self.indices = indices
        images = torch.from_numpy(np.ascontiguousarray(data.images[indices])).unsqueeze(1)
        masks = torch.from_numpy(np.ascontiguousarray(data.masks[indices])).unsqueeze(1)
        if device.type == "cuda":
            total = torch.cuda.get_device_properties(device).total_memory
            fits = images.numel() + masks.numel() <= DEVICE_SHARE * total
            images, masks = (images.to(device), masks.to(device)) if fits else (images.pin_memory(), masks.pin_memory())
        self._images, self._masks = images, masks

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """image (B,1,H,W) float32 in [0,1] and mask (B,1,H,W) in {0,1}, on the device, of rows (B,) int64."""
        rows = rows.to(self._images.device, non_blocking=True)
        image = self._images[rows].to(self.device, non_blocking=True).float() / 255
        mask = self._masks[rows].to(self.device, non_blocking=True).float()
        return image, mask


def training_batches(
    pictures: Pictures, config: ExperimentConfig, ctx: RunContext, phase: str, epoch: int
) -> Iterator[tuple[Batch, KeyedDraws]]:
    """This worker's batches of one epoch (from 0) with the draws of each step.

    The last images that do not fill a global batch are left out of this epoch; the order changes every epoch.
    """
    batch_size = config.phase(phase).batch_size
    share = batch_size // ctx.world_size
    order = epoch_order(len(pictures), config.seed, phase, epoch)
    for step in range(steps_per_epoch(len(pictures), batch_size)):
        first = step * batch_size + ctx.rank * share
        draws = KeyedDraws(config.seed, phase, epoch, step, range(first, first + share), ctx.device)
        image, mask = pictures.take(order[first : first + share])
        yield _augmented(image, mask, config.data.augment, draws), draws


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """Full global batches in an epoch.

    Raises:
        UserError: fewer training images than one batch.
    """
    if num_images < batch_size:
        raise UserError(
            "fewer training images than one batch",
            f"batch_size={batch_size}",
            f"{num_images} images: lower the batch size",
        )
    return num_images // batch_size


def _augmented(image: Tensor, mask: Tensor, config: AugmentConfig, draws: KeyedDraws) -> Batch:
    with torch.no_grad():
        if config.probability:
            image, mask = augment(image, mask, config, draws)
        return Batch(to_network_range(image), mask)
