"""Batches of an epoch: pictures on the device once, ordered, shared out over workers and augmented there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from sage_ray.config import ExperimentConfig
from sage_ray.data.augment import augment
from sage_ray.errors import UserError
from sage_ray.models.value_range import to_network_range
from sage_ray.sections import AdversarialConfig, AugmentConfig, PretrainConfig
from sage_ray.training.context import RunContext
from sage_ray.training.draws import KeyedDraws, epoch_rows
from sage_ray.training.extra_rows import extra_rows

if TYPE_CHECKING:  # reading pictures needs more packages than training on them
    from sage_ray.data.prepare import PreparedData

DEVICE_SHARE = 0.25
"""Largest share of a GPU's memory that the pictures may take; larger sets stay in pinned host memory."""
GREY_OFF = dict.fromkeys(("clahe", "jitter", "blur", "sharpen", "noise"), 0.0)
"""Augmentation of grey values alone, switched off where only the mask of a pair is wanted."""


@dataclass(frozen=True)
class Batch:
    """image (B,1,H,W) float32 in [-1,1]; mask (B,1,H,W) float32 in {0,1}, those of the images unless unpaired.

    `other_image`, as image: what disc_image takes for real instead, where images without labels are there for it.
    """

    image: Tensor
    mask: Tensor
    other_image: Tensor | None = None

    @property
    def judged_image(self) -> Tensor:
        """(B,1,H,W) float32 in [-1,1]: the real images that disc_image is shown."""
        return self.image if self.other_image is None else self.other_image


class HasPictures(Protocol):
    """Prepared data, or pairs that a stage has made."""

    @property
    def images(self) -> np.ndarray:
        """(N,H,W) uint8."""
        ...

    @property
    def masks(self) -> np.ndarray:
        """(N,H,W) uint8 in {0,1}."""
        ...


class Pictures:
    """Images and masks of one part of the data as uint8, on the device if they fit, else pinned on the host."""

    def __init__(self, data: HasPictures, indices: np.ndarray, device: torch.device) -> None:
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


def judged_pictures(data: PreparedData, config: ExperimentConfig, device: torch.device) -> Pictures | None:
    """All training images, labelled or not, where disc_image has real images of its own; None: it has the batch's."""
    rows = judged_rows(data, config)
    return Pictures(data, rows, device) if config.adversarial.num_epochs and len(rows) > len(data.split.train) else None


def judged_rows(data: PreparedData, config: ExperimentConfig) -> np.ndarray:
    """Rows (int64, sorted) of the training images that need no label where they are only taken for real.

    They are all of them, labelled or not, under `data.split.unlabelled: disc_image`, else the labelled ones.
    """
    split = data.split
    if config.data.split.unlabelled != "disc_image":
        return split.train
    return np.sort(np.concatenate([split.train, split.unlabelled]))


def training_batches(
    pictures: Pictures,
    config: ExperimentConfig,
    ctx: RunContext,
    phase: str,
    epoch: int,
    *,
    extra: Pictures | None = None,
    judged: Pictures | None = None,
) -> Iterator[tuple[Batch, KeyedDraws]]:
    """This worker's batches of one epoch (from 0) with the draws of each step.

    The last images that do not fill a global batch are left out of this epoch; the order changes every epoch. Under a
    budget of steps an epoch takes its batches from as many passes over the images as they need, or from a part of one.

    In phase 1 pairs of `extra` stand in the place of a share of each batch (`extra_rows`): which real pairs the other
    places hold, and what is drawn for each place, does not depend on it. `judged`, of `judged_pictures`, gives phase 2
    other images beside, in an order of their own; their masks go nowhere.
    """
    settings = config.phase(phase)
    batch_size = settings.batch_size
    share = batch_size // ctx.world_size
    steps = steps_in_epoch(settings, len(pictures))
    order = epoch_rows(len(pictures), steps * batch_size, config.seed, phase, epoch)
    for step in range(steps):
        first = step * batch_size + ctx.rank * share
        draws = KeyedDraws(config.seed, phase, epoch, step, range(first, first + share), ctx.device)
        image, mask = pictures.take(order[first : first + share])
        if extra is not None and phase == "pretrain":
            seed, part = config.seed, config.pretrain.synthetic_share
            places, rows = extra_rows(len(extra), seed, part, epoch * steps + step, batch_size)
            _put(image, mask, extra, places - ctx.rank * share, rows)
        batch = _augmented(image, mask, config.data.augment, draws)
        if phase == "adversarial" and config.adversarial.pairing == "unpaired":
            batch = replace(batch, mask=_unpaired_masks(pictures, config, ctx, epoch, step, steps))
        if judged is not None and phase == "adversarial":
            batch = replace(batch, other_image=_other_image(judged, config, ctx, epoch, step, steps))
        yield batch, draws


def steps_in_epoch(settings: PretrainConfig | AdversarialConfig, num_images: int) -> int:
    """Steps of an epoch of a phase: full batches of all training images, or what its budget of steps says.

    Raises:
        UserError: fewer training images than one batch.
    """
    full = steps_per_epoch(num_images, settings.batch_size)
    return settings.epoch_steps if settings.steps else full


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


def _put(image: Tensor, mask: Tensor, extra: Pictures, places: Tensor, rows: Tensor) -> None:
    """Put pairs of `extra` at those places of a worker's batch that it has, in place."""
    here = (places >= 0) & (places < len(image))
    if here.any():
        at = places[here].to(image.device)
        image[at], mask[at] = extra.take(rows[here])


def _unpaired_masks(
    pictures: Pictures, config: ExperimentConfig, ctx: RunContext, epoch: int, step: int, steps: int
) -> Tensor:
    """Masks (B,1,H,W) at this worker's places of an order of their own, moved and turned by draws of their own."""
    (image, mask), draws = _beside(pictures, config, ctx, "adversarial/masks", epoch, step, steps)
    return _augmented(image, mask, config.data.augment.model_copy(update=GREY_OFF), draws).mask


def _other_image(
    judged: Pictures, config: ExperimentConfig, ctx: RunContext, epoch: int, step: int, steps: int
) -> Tensor:
    """(B,1,H,W) float32 in [-1,1]: this worker's images of a step that disc_image alone sees."""
    (image, mask), draws = _beside(judged, config, ctx, "adversarial/other_image", epoch, step, steps)
    return _augmented(image, torch.zeros_like(mask), config.data.augment, draws).image


def _beside(
    pictures: Pictures, config: ExperimentConfig, ctx: RunContext, key: str, epoch: int, step: int, steps: int
) -> tuple[tuple[Tensor, Tensor], KeyedDraws]:
    """What this worker takes in a step of phase 2 in an order of another name, with draws of that name."""
    batch_size = config.adversarial.batch_size
    share = batch_size // ctx.world_size
    first = step * batch_size + ctx.rank * share
    rows = epoch_rows(len(pictures), steps * batch_size, config.seed, key, epoch)[first : first + share]
    draws = KeyedDraws(config.seed, key, epoch, step, range(first, first + share), ctx.device)
    return pictures.take(rows), draws


def _augmented(image: Tensor, mask: Tensor, config: AugmentConfig, draws: KeyedDraws) -> Batch:
    with torch.no_grad():
        if config.probability:
            image, mask = augment(image, mask, config, draws)
        return Batch(to_network_range(image), mask)
