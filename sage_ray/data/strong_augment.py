"""The augmentation of the strong plain recipe: geometry by any amount, gamma, and images of lower resolution.

Source: the operations of nnU-Net (Isensee et al. 2021, supplementary note 4) and of its predecessor (elastic
deformation), with our keyed numbers. Each works in place on the rows that drew it, as those of `augment.py` do.
"""

from __future__ import annotations

import math

import torch
from kornia.enhance import adjust_gamma
from torch import Tensor
from torch.nn import functional

from sage_ray.data.sample_numbers import SampleDraws, SampleNumbers
from sage_ray.sections import AugmentConfig


def deform(image: Tensor, mask: Tensor, config: AugmentConfig, rows: SampleNumbers, draws: SampleDraws) -> None:
    """Rotate, magnify and deform, in one sampling: image bilinear, mask to the nearest pixel, edges reflected.

    Args:
        image: (B,1,H,W) float32 in [0,1], changed in place.
        mask: (B,1,H,W) float32 in {0,1}, changed in place; it stays so.
        config: ranges.
        rows: who drew what.
        draws: of the batch, for the shifts of the elastic deformation.
    """
    drew = {name: rows.drew(name) for name in ("rotate", "scale", "elastic")}
    chosen = sorted({row for found in drew.values() for row in found})
    if not chosen:
        return
    index = rows.index(chosen)
    grid = functional.affine_grid(_turned(image, config, rows, drew, chosen), [len(chosen), *image.shape[1:]], False)
    if drew["elastic"]:
        grid = grid + _shifts(image, config, rows, drew["elastic"], draws)[index]
    sampled = functional.grid_sample(image[index], grid, padding_mode="reflection", align_corners=False)
    image[index] = sampled.clamp(0, 1)
    mask[index] = functional.grid_sample(
        mask[index], grid, mode="nearest", padding_mode="reflection", align_corners=False
    )


def change_gamma(image: Tensor, config: AugmentConfig, rows: SampleNumbers) -> None:
    """Raise grey values (B,1,H,W) in [0,1] of the rows that drew it to their power, in place."""
    chosen = rows.drew("gamma")
    if chosen:
        index = rows.index(chosen)
        powers = [_log_uniform(share, config.gamma_range) for share in rows.floats(chosen, "power")]
        image[index] = adjust_gamma(image[index], rows.sent(powers), torch.ones(len(chosen), device=image.device))


def lower_resolution(image: Tensor, config: AugmentConfig, rows: SampleNumbers) -> None:
    """Shrink images (B,1,H,W) in [0,1] of the rows that drew it to the nearest pixel, magnify them back; in place.

    Source: nnU-Net's simulation of low resolution, nearest down, cubic up.
    """
    height, width = image.shape[-2:]
    chosen = rows.drew("low_resolution")
    for row, share in zip(chosen, rows.floats(chosen, "resolution", *config.low_resolution_range), strict=True):
        size = (max(round(height * share), 1), max(round(width * share), 1))
        small = functional.interpolate(image[row : row + 1], size, mode="nearest-exact")
        back = functional.interpolate(small, (height, width), mode="bicubic", align_corners=False)
        image[row : row + 1] = back.clamp(0, 1)


def _turned(
    image: Tensor, config: AugmentConfig, rows: SampleNumbers, drew: dict[str, list[int]], chosen: list[int]
) -> Tensor:
    """(len(chosen),2,3) float32: for `affine_grid`, the rotation and magnification of each row."""
    height, width = image.shape[-2:]
    limit = math.radians(config.rotate_degrees)
    angles = dict(zip(drew["rotate"], rows.floats(drew["rotate"], "angle", -limit, limit), strict=True))
    shares = dict(zip(drew["scale"], rows.floats(drew["scale"], "factor"), strict=True))
    theta = []
    for row in chosen:
        angle = angles.get(row, 0.0)
        factor = _log_uniform(shares[row], config.scale_range) if row in shares else 1.0
        cosine, sine = math.cos(angle) / factor, math.sin(angle) / factor
        # The frame goes from -1 to 1 on both axes: a rotation of pixels is skewed by the sides' ratio there.
        theta.append([[cosine, -sine * height / width, 0.0], [sine * width / height, cosine, 0.0]])
    return rows.sent(theta)


def _shifts(image: Tensor, config: AugmentConfig, rows: SampleNumbers, chosen: list[int], draws: SampleDraws) -> Tensor:
    """(B,H,W,2) float32: shifts in the frame from -1 to 1, 0 for rows without an elastic deformation."""
    height, width = image.shape[-2:]
    points = [side // config.elastic_spacing + 2 for side in (height, width)]
    coarse = draws.normal("augment.elastic", (2, *points))
    std = torch.zeros(len(image), device=image.device)
    std[rows.index(chosen)] = rows.numbers(chosen, "elastic_std", *config.elastic_std)
    smooth = functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
    in_frame = rows.sent([2 / width, 2 / height])
    return (smooth * std.view(-1, 1, 1, 1)).permute(0, 2, 3, 1) * in_frame


def _log_uniform(share: float, limits: tuple[float, float]) -> float:
    low, high = limits
    return float(low * (high / low) ** share)
