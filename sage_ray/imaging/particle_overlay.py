"""Overlays of numbered particles on their image, with a scale bar where the scale is known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from sage_ray.imaging.drawing import INK, PAPER, PREDICTION, as_rgb, text_font
from sage_ray.metrics.boundary import within

CUT = (0, 170, 255)
"""Colour of the dashed outlines of particles that the frame cuts."""
# Pixels of a dash and of the gap after it, for an outline one pixel thick.
DASH, GAP = 7, 4
SHORT_SIDE = 1024
"""Small pictures are enlarged by a whole number until their shorter side has about this many pixels."""
# Share of the picture's width that a scale bar takes, at most.
BAR_SHARE = 0.25
# Width of a digit, in heights of the font.
_DIGIT = 0.64


def particle_overlay(
    image: np.ndarray, labels: np.ndarray, cut: Sequence[int] = (), *, nm_per_pixel: float | None = None
) -> np.ndarray:
    """The image with the outline and the number of each particle.

    Whole particles have orange outlines, those that the frame cuts dashed light blue ones. A number is left out where
    the particle is too small to hold it.

    Args:
        image: grey (H,W), any dtype, or (H,W,3).
        labels: (H,W) particle numbers, 0 is background; what has no number, such as a speck, is not outlined.
        cut: numbers of the particles that the frame cuts.
        nm_per_pixel: width of a pixel of `image` in nanometres, for a scale bar; None: no bar.

    Returns:
        (scale H, scale W, 3) uint8, enlarged by a whole number so that numbers can be read.
    """
    scale = max(1, round(SHORT_SIDE / min(image.shape[:2])))
    picture = as_rgb(image)
    size = (picture.shape[1] * scale, picture.shape[0] * scale)
    canvas = Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)
    pixels = np.array(canvas)
    large = np.repeat(np.repeat(labels, scale, axis=0), scale, axis=1)
    thickness = max(1.0, round(min(size) / 512))
    edge = _edges(large)
    if thickness > 1:
        edge = within(edge, thickness - 1) & (large > 0)
    broken = edge & np.isin(large, np.asarray(list(cut), large.dtype))
    rows, columns = np.nonzero(broken)
    pixels[edge & ~broken] = PREDICTION
    pixels[broken] = CUT
    # Slanted, so that edges along the axes and the diagonals have dashes alike.
    gap = (rows + 0.6 * columns) % round((DASH + GAP) * thickness) >= round(DASH * thickness)
    pixels[rows[gap], columns[gap]] = np.array(canvas)[rows[gap], columns[gap]]
    drawn = Image.fromarray(pixels)
    _draw_numbers(drawn, labels, scale)
    if nm_per_pixel is not None:
        _draw_bar(drawn, nm_per_pixel / scale)
    return np.asarray(drawn)


def _edges(labels: np.ndarray) -> np.ndarray:
    """Pixels (H,W) bool of particles with another number among their four neighbours; the frame is none."""
    edge = np.zeros(labels.shape, bool)
    for here, there in (((slice(-1),), (slice(1, None),)), ((slice(None), slice(-1)), (slice(None), slice(1, None)))):
        differ = labels[here] != labels[there]
        edge[here] |= differ
        edge[there] |= differ
    return edge & (labels > 0)


def _draw_numbers(picture: Image.Image, labels: np.ndarray, scale: int) -> None:
    count = int(labels.max(initial=0))
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    rows, columns = np.nonzero(labels)
    held = labels[rows, columns]
    areas[0] = 0
    centres = [np.bincount(held, place, count + 1) / np.maximum(areas, 1) for place in (rows, columns)]
    if not areas.any():
        return
    usual = float(np.median(np.sqrt(4 * areas[areas > 0] / math.pi))) * scale
    height = round(min(max(usual / 2.6, 9), max(min(picture.size) / 45, 10)))
    font = text_font(height)
    draw = ImageDraw.Draw(picture)
    for number in np.flatnonzero(areas):
        text = str(number)
        diameter = math.sqrt(4 * areas[number] / math.pi) * scale
        if diameter < 1.15 * math.hypot(len(text) * _DIGIT * height, height):
            continue
        place = ((centres[1][number] + 0.5) * scale, (centres[0][number] + 0.5) * scale)
        draw.text(place, text, PAPER, font, anchor="mm", stroke_width=max(1, height // 9), stroke_fill=INK)


def bar_length(width_nm: float) -> float:
    """Length in nanometres of a scale bar, 1, 2 or 5 times a power of ten, for a picture of this width."""
    most = BAR_SHARE * width_nm
    power = 10.0 ** math.floor(math.log10(most))
    return max(step * power for step in (1, 2, 5) if step * power <= most * (1 + 1e-9))


def _draw_bar(picture: Image.Image, nm_per_pixel: float) -> None:
    length = bar_length(picture.width * nm_per_pixel)
    unit, factor = ("nm", 1.0) if length < 1000 else ("µm", 1e-3) if length < 1e6 else ("mm", 1e-6)
    text, pixels = f"{length * factor:g} {unit}", round(length / nm_per_pixel)
    height = max(11, round(min(picture.size) / 28))
    font = text_font(height)
    draw = ImageDraw.Draw(picture)
    thick, pad = max(3, height // 4), max(4, height // 3)
    wide = max(pixels, round(draw.textlength(text, font)))
    right, bottom = picture.width - 2 * pad, picture.height - 2 * pad
    box = (right - wide - 2 * pad, bottom - round(1.3 * height) - thick - 2 * pad, right, bottom)
    draw.rectangle(box, PAPER, INK)
    middle = (box[0] + box[2]) / 2
    draw.text((middle, box[1] + pad), text, INK, font, anchor="ma")
    left = round(middle - pixels / 2)
    draw.rectangle((left, bottom - pad - thick, left + pixels - 1, bottom - pad - 1), INK)
