"""Differentiable augmentation of a discriminator's inputs: brightness, saturation, contrast, translation, cutout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

_LARGEST_SHIFT = 0.125  # share of a side
_CUTOUT = 0.5  # share of a side


class DiscriminatorDraws(Protocol):
    """The part of the keyed draws that augmentation needs."""

    def uniform(self, name: str, shape: Sequence[int]) -> Tensor:
        """(B, *shape) float32, uniform in [0, 1)."""
        ...


@dataclass(frozen=True)
class AugmentDraw:
    """Parameters of one augmentation, each (N,): u_* in [0,1); shifts, and cutout centres in pixels (int64)."""

    u_brightness: Tensor
    u_saturation: Tensor
    u_contrast: Tensor
    shift_rows: Tensor
    shift_cols: Tensor
    cut_row: Tensor
    cut_col: Tensor


def diff_augment(image: Tensor, draws: DiscriminatorDraws, name: str) -> Tensor:
    """`image` (N,C,H,W) with all five steps applied; parameters are drawn per image, under `name`.

    Always applies: the caller decides with the probability. The same draws and name give the same parameters.
    """
    height, width = image.shape[-2:]
    uniform = draws.uniform(name, (7,)).to(image.device)
    return apply_draw(image, draw_parameters(uniform, height, width))


def draw_parameters(uniform: Tensor, height: int, width: int) -> AugmentDraw:
    """Parameters from `uniform` (N,7) in [0,1) for images of `height` x `width` pixels."""
    brightness, saturation, contrast, *places = uniform.unbind(1)
    shifts = [largest_shift(size) for size in (height, width)]
    # The cutout's centre may lie one pixel past the end when its side is even, as in the published code.
    centres = [size + 1 - cutout_side(size) % 2 for size in (height, width)]
    return AugmentDraw(
        brightness,
        saturation,
        contrast,
        _integers(places[0], 2 * shifts[0] + 1) - shifts[0],
        _integers(places[1], 2 * shifts[1] + 1) - shifts[1],
        _integers(places[2], centres[0]),
        _integers(places[3], centres[1]),
    )


def apply_draw(image: Tensor, draw: AugmentDraw) -> Tensor:
    """`image` (N,C,H,W) after the five steps with the given parameters. Source: Zhao et al. 2020."""
    image = brighten(image, draw.u_brightness)
    image = saturate(image, draw.u_saturation)
    image = contrast(image, draw.u_contrast)
    image = translate(image, draw.shift_rows, draw.shift_cols)
    return cutout(image, draw.cut_row, draw.cut_col)


def brighten(image: Tensor, u: Tensor) -> Tensor:
    """x + (u - 0.5)."""
    return image + _per_image(u - 0.5, image)


def saturate(image: Tensor, u: Tensor) -> Tensor:
    """Channel mean of each pixel + (x - mean) * 2u; no effect on one channel."""
    mean = image.mean(1, keepdim=True)
    return mean + (image - mean) * _per_image(2 * u, image)


def contrast(image: Tensor, u: Tensor) -> Tensor:
    """Image mean + (x - mean) * (u + 0.5)."""
    mean = image.mean((1, 2, 3), keepdim=True)
    return mean + (image - mean) * _per_image(u + 0.5, image)


def translate(image: Tensor, shift_rows: Tensor, shift_cols: Tensor) -> Tensor:
    """out[i, j] = x[i + shift_rows, j + shift_cols], zero outside; shifts (N,) int64 in pixels."""
    moved: Tensor = _Translation.apply(image, shift_rows, shift_cols)  # type: ignore[no-untyped-call]  # torch's
    return moved


def cutout(image: Tensor, row: Tensor, col: Tensor) -> Tensor:
    """A rectangle of half the sides set to zero around (row, col) (N,) int64, cropped at the border."""
    height, width = image.shape[-2:]
    in_rows = _inside(row, cutout_side(height), height)
    in_cols = _inside(col, cutout_side(width), width)
    cut = in_rows[:, None, :, None] & in_cols[:, None, None, :]
    return image.masked_fill(cut, 0.0)


def largest_shift(size: int) -> int:
    """Largest translation in pixels along a side of `size` pixels."""
    return int(size * _LARGEST_SHIFT + 0.5)


def cutout_side(size: int) -> int:
    """Pixels that the cutout covers along a side of `size` pixels."""
    return int(size * _CUTOUT + 0.5)


class _Translation(torch.autograd.Function):
    """Translation with zero fill. Its adjoint is the opposite translation: a gather both ways, so deterministic."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, shift_rows: Tensor, shift_cols: Tensor) -> Tensor:
        ctx.save_for_backward(shift_rows, shift_cols)
        height, width = image.shape[-2:]
        rows, rows_exist = _sources(shift_rows, height)
        cols, cols_exist = _sources(shift_cols, width)
        index = torch.arange(len(image), device=image.device)[:, None, None]
        # Advanced indices around the channel slice put the channels last.
        moved = image[index, :, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)
        exist = rows_exist[:, None, :, None] & cols_exist[:, None, None, :]
        return moved.masked_fill(~exist, 0.0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        shift_rows, shift_cols = ctx.saved_tensors
        moved: Tensor = _Translation.apply(gradient, -shift_rows, -shift_cols)  # type: ignore[no-untyped-call]  # torch's
        return moved, None, None


def _sources(shift: Tensor, size: int) -> tuple[Tensor, Tensor]:
    positions = torch.arange(size, device=shift.device)[None] + shift[:, None]
    return positions.clamp(0, size - 1), (positions >= 0) & (positions < size)


def _inside(centre: Tensor, side: int, size: int) -> Tensor:
    offset = torch.arange(size, device=centre.device)[None] - (centre - side // 2)[:, None]
    return (offset >= 0) & (offset < side)


def _integers(u: Tensor, count: int) -> Tensor:
    """Integers 0 to count - 1 from u in [0,1); float32 rounding may reach count, hence the limit."""
    return (u * count).long().clamp_max(count - 1)


def _per_image(values: Tensor, image: Tensor) -> Tensor:
    return values.to(image.dtype).view(-1, 1, 1, 1)
