"""What makes a pair of image and mask suspect, by its look: reasons to show it to a person, never to refuse it.

All but thin outlines and the bar is judged on a copy of at most 256 pixels a side. The limits are those at which the
140 micrographs of EMPS, whose masks are right, raise no alarm (`benchmarks/suspect_pairs.py` measures that again).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.ndimage import binary_fill_holes, binary_opening, gaussian_filter, gaussian_gradient_magnitude
from skimage.measure import label, regionprops

from sage_ray.data.information_bar import bar_rows
from sage_ray.data.preprocess import stretch

SIDE, OUTLINE_SIDE, THUMB_SIDE = 256, 512, 32
"""Longer side in pixels at which a pair, a mask's outlines, and a picture among others are looked at."""
LEAST_SIDE = 16
"""A picture of fewer rows or columns says too little to be doubted."""
EQUAL = 0.99
"""Correlation of image and mask from which one is a copy of the other (EMPS: at most 0.97)."""
MOST, SOLID = 0.5, 0.78
"""An inverted mask covers more than this, also of the frame, and leaves holes as convex as particles (EMPS: 0.69)."""
SHIFT_RATIO, SHIFT_PIXELS, SHIFT_PEAK = 1.2, 3, 0.15
"""Mask edges fit image edges better by this factor elsewhere, at least so far away (EMPS: 1.07)."""
TURN_RATIO, TURN_PEAK = 1.6, 0.3
FILLED, THICK = 1.5, 0.35
"""An outline encloses this many times its own area, and no more than this of it is 5 pixels thick."""
SAME_PICTURE = 0.93
"""Correlation of small copies from which two pictures show the same field (EMPS: at most 0.81)."""
BAR_IN_MASK = 0.02
_SYMMETRIES = tuple((turns, mirrored) for mirrored in (False, True) for turns in range(4))
_MAX_COMPARED = 5000


@dataclass(frozen=True)
class Doubt:
    """One reason why a pair is suspect."""

    kind: str
    """One of `data.check.KINDS`."""
    text: str


@dataclass(frozen=True, eq=False)
class PairLook:
    """What was seen of one pair."""

    doubts: tuple[Doubt, ...]
    agreement: float
    """Correlation of the mask's edges with the image's, at most 1: among pairs without doubts, low ones come first."""
    thumb: np.ndarray
    """(32,32) float32 of the image without its slow changes, of mean 0 and norm 1 (0 for a constant image)."""


def look_at(image: np.ndarray, foreground: np.ndarray) -> PairLook:
    """Doubts about one pair.

    Args:
        image: grey (H,W) of any real dtype.
        foreground: (H,W) bool.
    """
    small, mask = _small(stretch(image), foreground)
    doubts = list(_constant(small, foreground))
    agreement = 1.0
    if not doubts and min(small.shape) >= LEAST_SIDE:
        doubts += _equal(image, foreground)
        doubts += _inverted(mask)
        found, agreement = _misplaced(small, mask, max(image.shape) / max(small.shape))
        doubts += found
        doubts += _outline(foreground)
        doubts += _bar_inside(image, foreground)
    return PairLook(tuple(doubts), agreement, thumb(small))


def is_copy(image: np.ndarray, other: np.ndarray) -> bool:
    """Whether two grey pictures (H,W) of one size are the same up to brightness, noise and encoding."""
    step = -(-max(image.shape) // 1024)
    return image.shape == other.shape and abs(_correlation(image[::step, ::step], other[::step, ::step])) > EQUAL


def _small(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    factor = SIDE / max(image.shape)
    if factor >= 1:
        return image, mask
    size = (max(round(image.shape[1] * factor), 8), max(round(image.shape[0] * factor), 8))
    soft = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX)), np.asarray(soft) > 127


def _constant(image: np.ndarray, foreground: np.ndarray) -> Iterator[Doubt]:
    if image.min() == image.max():
        yield Doubt("constant", "the image has one grey value")
    if not foreground.any():
        yield Doubt("constant", "the mask is empty")
    elif foreground.all():
        yield Doubt("constant", "the mask covers everything")


def _equal(image: np.ndarray, mask: np.ndarray) -> Iterator[Doubt]:
    step = -(-max(image.shape) // 1024)
    alike = abs(_correlation(image[::step, ::step], mask[::step, ::step]))
    if alike > EQUAL:
        yield Doubt("equal", f"mask and image are the same picture (correlation {alike:.3f})")


def _inverted(mask: np.ndarray) -> Iterator[Doubt]:
    frame = float(np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean())
    coverage = float(mask.mean())
    if coverage <= MOST or frame <= MOST:
        return
    regions: np.ndarray = label(~mask, connectivity=1)  # type: ignore[no-untyped-call]  # scikit-image
    holes = [hole for hole in regionprops(regions) if hole.area >= 20]  # type: ignore[no-untyped-call]
    area = sum(hole.area for hole in holes)
    if holes and sum(hole.area * hole.solidity for hole in holes) / area > SOLID:
        yield Doubt("inverted", f"inverted: the mask covers {coverage:.0%} and leaves convex spots")


def _misplaced(image: np.ndarray, mask: np.ndarray, scale: float) -> tuple[list[Doubt], float]:
    """Doubts whether the mask lies where it belongs, and the correlation of edges where it lies.

    A pixel of the picture is `scale` pixels of the original.
    """
    edges = gaussian_gradient_magnitude(image.astype(np.float32), 1.0)
    edges = np.minimum(edges, np.quantile(edges, 0.98))  # else a few bright specks are all that counts
    outline = gaussian_gradient_magnitude(mask.astype(np.float32), 1.0)
    here, best, (down, right) = _best_shift(edges[4:-4, 4:-4], outline[4:-4, 4:-4])
    far = max(abs(down), abs(right)) >= SHIFT_PIXELS
    doubts = []
    if far and best > SHIFT_PEAK and best > SHIFT_RATIO * max(here, 0.01):
        doubts.append(Doubt("shifted", f"shifted: its edges fit better {_way(down * scale, right * scale)}"))
    turned = [
        (_correlation(edges, t), way) for way in _SYMMETRIES[1:] if (t := _turned(outline, way)).shape == edges.shape
    ]
    most, way = max(turned, key=lambda item: item[0])
    if most > TURN_PEAK and most > TURN_RATIO * max(here, best * far, 0.01):
        doubts = [
            Doubt("turned", f"turned: its edges fit better {_named(way)} (correlation {most:.2f}, here {here:.2f})")
        ]
    return doubts, here


def _way(down: float, right: float) -> str:
    """A shift in words: "about 12 rows down and 3 columns left"."""
    rows = f"{abs(down):.0f} rows {'down' if down > 0 else 'up'}"
    columns = f"{abs(right):.0f} columns {'right' if right > 0 else 'left'}"
    return "about " + " and ".join(text for text, far in ((rows, down), (columns, right)) if far)


def _best_shift(edges: np.ndarray, outline: np.ndarray) -> tuple[float, float, tuple[int, int]]:
    """(correlation within 2 pixels of no shift, best one up to a fifth of the sides, its shift down and right)."""
    edges, outline = edges - edges.mean(), outline - outline.mean()
    norm = float(np.sqrt((edges**2).sum() * (outline**2).sum()))
    if norm < 1e-9:
        return 0.0, 0.0, (0, 0)
    shape = [next_fast_len(side + side // 4 + 1, real=True) for side in edges.shape]
    found = irfft2(rfft2(edges, shape) * np.conj(rfft2(outline, shape)), shape) / norm
    reach = [side // 5 for side in edges.shape]
    down, right = (np.r_[0 : r + 1, -r:0] for r in reach)
    window = found[np.ix_(down, right)]
    place = np.unravel_index(int(window.argmax()), window.shape)
    near = [np.r_[0 : min(2, r) + 1, -min(2, r) : 0] for r in reach]
    return float(found[np.ix_(*near)].max()), float(window.max()), (int(down[place[0]]), int(right[place[1]]))


def _outline(foreground: np.ndarray) -> Iterator[Doubt]:
    step = -(-max(foreground.shape) // OUTLINE_SIDE)
    rows, columns = (-(-side // step) * step for side in foreground.shape)
    padded = np.pad(foreground, ((0, rows - foreground.shape[0]), (0, columns - foreground.shape[1])))
    lines = padded.reshape(rows // step, step, columns // step, step).any(axis=(1, 3))
    area = int(lines.sum())
    filled = int(binary_fill_holes(lines).sum()) / area
    if filled > FILLED and binary_opening(lines, np.ones((5, 5), bool)).sum() / area < THICK:
        yield Doubt("outline", f"outlines only: filled they would cover {filled:.1f} times as much")


def _bar_inside(image: np.ndarray, foreground: np.ndarray) -> Iterator[Doubt]:
    rows = bar_rows(image)
    if rows and (inside := float(foreground[-rows:].mean())) > BAR_IN_MASK:
        yield Doubt("bar", f"bar inside the mask: {inside:.0%} of the {rows} rows that look like an information bar")


def thumb(image: np.ndarray) -> np.ndarray:
    """(32,32) float32 by which pictures are compared: small, without slow changes, of mean 0 and norm 1."""
    small = np.asarray(Image.fromarray(image).resize((THUMB_SIDE, THUMB_SIDE), Image.Resampling.BOX)).astype(np.float32)
    small = small - gaussian_filter(small, THUMB_SIDE / 4)
    small = small - small.mean()
    norm = float(np.sqrt((small**2).sum()))
    scaled: np.ndarray = small / norm if norm > 1e-6 else small * 0
    return scaled


def same_pictures(thumbs: Sequence[np.ndarray]) -> dict[int, tuple[int, str]]:
    """Pictures that show what an earlier one shows: {index: (index of that one, how it is turned)}.

    All eight symmetries of the square are tried; of more than 5,000 pictures each is compared with the 5,000 before it.
    """
    found: dict[int, tuple[int, str]] = {}
    if len(thumbs) < 2:
        return found
    rows = np.stack([thumb.ravel() for thumb in thumbs])
    for way in _SYMMETRIES:
        turned = np.stack([_turned(thumb, way).ravel() for thumb in thumbs])
        for index in range(1, len(thumbs)):
            if index in found:
                continue
            first = max(0, index - _MAX_COMPARED)
            alike = turned[first:index] @ rows[index]
            if alike.max() > SAME_PICTURE:
                found[index] = (first + int(alike.argmax()), "" if way == (0, False) else _named(way))
    return found


def _turned(picture: np.ndarray, way: tuple[int, bool]) -> np.ndarray:
    turns, mirrored = way
    turned = np.rot90(picture, turns)
    return turned[:, ::-1] if mirrored else turned


def _named(way: tuple[int, bool]) -> str:
    turns, mirrored = way
    parts = [f"turned by {90 * turns} degrees"] if turns else []
    return " and ".join([*parts, "mirrored"] if mirrored else parts)


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    a, b = first.astype(np.float64), second.astype(np.float64)
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / norm if norm > 1e-9 else 0.0
