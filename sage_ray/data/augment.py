"""Training augmentation on the device: image and mask together, a batch at a time, every number keyed to its sample.

Order of the block: crop, flips, geometry (rotation, scale and elastic deformation, one sampling of the image for all
three), CLAHE, jitter, gamma, blur, low resolution, sharpening, noise (the public code shuffles it; a fixed order lets
each operation run once for all rows that drew it). Which rows those are is decided on the host from keyed numbers, so
that no operation waits for the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from kornia.enhance import (
    adjust_brightness_accumulative,
    adjust_contrast_with_mean_subtraction,
    equalize_clahe,
    sharpness,
)
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torch.nn import functional

from sage_ray.data.sample_numbers import SampleDraws, SampleNumbers
from sage_ray.data.strong_augment import change_gamma, deform, lower_resolution
from sage_ray.sections import AugmentConfig

BLUR_KERNEL = (5, 5)


@torch.no_grad()
def augment(image: Tensor, mask: Tensor, config: AugmentConfig, draws: SampleDraws) -> tuple[Tensor, Tensor]:
    """Augmented copies of a batch; the inputs stay as they are.

    Args:
        image: (B,1,H,W) float32 in [0,1].
        mask: (B,1,H,W) float32 in {0,1}.
        config: probabilities and ranges (DISCREPANCIES row 30; the rates that they come to
            are in tests/golden/vectors/facts.json, "augmentation").
        draws: keyed numbers of the B samples; a row's result depends on its own numbers alone.

    Returns:
        image (B,1,H,W) float32 in [0,1] and mask (B,1,H,W) float32 in {0,1}.
    """
    rows = SampleNumbers(draws, image.device, config)
    image, mask = image.clone(), mask.clone()
    _crop(image, mask, config, rows)
    for name, axis in (("hflip", 3), ("vflip", 2)):
        chosen = rows.drew(name)
        if chosen:
            index = rows.index(chosen)
            image[index], mask[index] = image[index].flip(axis), mask[index].flip(axis)
    if rows.strong:
        deform(image, mask, config, rows, draws)
    _clahe(image, config, rows)
    chosen = rows.drew("jitter")
    if chosen:
        index = rows.index(chosen)
        bright = adjust_brightness_accumulative(image[index], rows.numbers(chosen, "brightness", *config.jitter_range))
        contrast = rows.numbers(chosen, "contrast", *config.jitter_range)
        image[index] = adjust_contrast_with_mean_subtraction(bright, contrast)
    if rows.strong:
        change_gamma(image, config, rows)
    chosen = rows.drew("blur")
    if chosen:
        index = rows.index(chosen)
        sigma = rows.numbers(chosen, "sigma", *config.blur_sigma).unsqueeze(1).expand(-1, 2)
        image[index] = gaussian_blur2d(image[index], BLUR_KERNEL, sigma)
    if rows.strong:
        lower_resolution(image, config, rows)
    chosen = rows.drew("sharpen")
    if chosen:
        index = rows.index(chosen)
        image[index] = sharpness(image[index], float(config.sharpen_factor))
    _noise(image, config, rows, draws)
    return image.clamp_(0, 1), mask


def _crop(image: Tensor, mask: Tensor, config: AugmentConfig, rows: SampleNumbers) -> None:
    """Rows that drew it are cropped to `crop_scale` of each side and resized back, the mask to the nearest."""
    chosen = rows.drew("crop")
    if not chosen or config.crop_scale == 1:
        return
    index = rows.index(chosen)
    scale = config.crop_scale
    theta = torch.zeros(len(chosen), 2, 3, device=image.device)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    # In the frame from -1 to 1 a window of half-width `scale` may be centred up to 1 - scale off the middle.
    theta[:, 0, 2] = rows.numbers(chosen, "crop_column", scale - 1, 1 - scale)
    theta[:, 1, 2] = rows.numbers(chosen, "crop_row", scale - 1, 1 - scale)
    grid = functional.affine_grid(theta, [len(chosen), *image.shape[1:]], align_corners=False)
    sampled = functional.grid_sample(image[index], grid, padding_mode="border", align_corners=False)
    image[index] = sampled.clamp(0, 1)
    mask[index] = functional.grid_sample(mask[index], grid, mode="nearest", padding_mode="border", align_corners=False)


def _clahe(image: Tensor, config: AugmentConfig, rows: SampleNumbers) -> None:
    chosen = rows.drew("clahe")
    if not chosen:
        return
    index = rows.index(chosen)
    tiles = (config.clahe_tiles, config.clahe_tiles)
    with _counting():
        equalised = equalize_clahe(image[index], float(config.clahe_clip), tiles)
    image[index] = equalised


@contextmanager
def _counting() -> Iterator[None]:
    """Inside, torch does not refuse operations that have no fixed order.

    Pixels are counted here, and a sum of whole numbers has the same bits in any order.
    """
    refused = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(refused)


def _noise(image: Tensor, config: AugmentConfig, rows: SampleNumbers, draws: SampleDraws) -> None:
    chosen = rows.drew("noise")
    if not chosen:
        return
    index = rows.index(chosen)
    std = rows.numbers(chosen, "noise_std", *config.noise_std).view(-1, 1, 1, 1)
    noisy = image[index] + std * draws.normal("augment.noise", image.shape[1:])[index]
    if config.noise_overflow == "wrap":
        # The public code casts to 8 bit without clipping below: -1 of 255 becomes 255, white.
        noisy = torch.where(noisy < 0, noisy + 256 / 255, noisy)
    image[index] = noisy.clamp(0, 1)
