"""Resampling as in training, and images of any size as a stream of overlapping tiles. Numpy alone.

A large image is never held whole: bands of rows come in from the top, each row of tiles is predicted when its rows are
there, and bands of probabilities go out. Memory is a few times (tile rows x image columns), whatever the number of
rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sage_ray.grey_range import stretch

# Weights of Pillow's 8-bit resampling are whole numbers of 2^-22.
_PRECISION = 22
# Tile positions are multiples of this many network pixels, so that pooling grids of neighbouring tiles agree.
GRID = 32
# Share of a tile that it shares with the next, and share of that overlap which a tile's rim is not trusted in.
OVERLAP = 0.25
RIM = 0.25
# Smallest side that the networks take, in pixels.
MIN_SIDE = 16

Predict = Callable[[np.ndarray], np.ndarray]


class RowSource(Protocol):
    """An image that can be read from the top, any number of times."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Type of the pixels."""

    def bands(self) -> Iterator[np.ndarray]:
        """Consecutive bands (n, columns) of rows that together are the image."""
        ...


@dataclass(frozen=True)
class ArraySource:
    """An array (H,W), in memory or memory-mapped, as a source of bands."""

    array: np.ndarray
    band_rows: int = 256

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the image."""
        return self.array.shape[0], self.array.shape[1]

    @property
    def dtype(self) -> np.dtype:
        """Type of the pixels."""
        return self.array.dtype

    def bands(self) -> Iterator[np.ndarray]:
        """Bands of `band_rows` rows."""
        for row in range(0, self.array.shape[0], self.band_rows):
            yield np.asarray(self.array[row : row + self.band_rows])


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Image (H,W) uint8 resized to `size` (rows, columns), uint8: Pillow's bilinear filter, which widens to shrink.

    It is done here because a registered model must prepare images as training did, without Pillow. Columns come first;
    Pillow 13 takes the rows first for some shapes, which can move a pixel by one grey level and nothing else.
    """
    for axis in (1, 0):
        if image.shape[axis] == size[axis]:
            continue
        first, weights = _taps(image.shape[axis], size[axis])
        whole = np.floor(weights * (1 << _PRECISION) + 0.5).astype(np.int64)
        total = _filtered(image, first, whole, axis) + (1 << (_PRECISION - 1))
        image = np.clip(total >> _PRECISION, 0, 255).astype(np.uint8)
    return image


def resize_probability(probability: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Probability (H,W) float32 in [0,1] resized to `size` (rows, columns) with the same filter, float32 in [0,1]."""
    for axis in (0, 1):
        if probability.shape[axis] != size[axis]:
            first, weights = _taps(probability.shape[axis], size[axis])
            probability = _filtered(probability, first, weights.astype(np.float32), axis)
    clipped: np.ndarray = np.clip(probability, 0, 1)
    return clipped


def resize_nearest(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Mask (H,W) resized to `size` (rows, columns): the pixel under each new pixel's centre, as in Pillow."""
    rows, columns = (_nearest(old, new) for old, new in zip(mask.shape, size, strict=True))
    resized: np.ndarray = mask[rows[:, None], columns[None, :]]
    return resized


def _nearest(old: int, new: int) -> np.ndarray:
    # Pillow adds up the step, and where a centre falls between two pixels its rounding error decides.
    steps = np.full(new, old / new)
    steps[0] *= 0.5
    return np.minimum(np.cumsum(steps).astype(np.int64), old - 1)


def _taps(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """First input index (new,) and weights (new, taps) float64, each row summing to 1, of a triangle filter."""
    scale = old / new
    reach = max(scale, 1.0)
    centre = (np.arange(new) + 0.5) * scale
    first = np.maximum((centre - reach + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + reach + 0.5).astype(np.int64), old)
    taps = np.arange(int((last - first).max()))
    distance = (first[:, None] + taps - centre[:, None] + 0.5) / reach
    weights = np.where(taps < (last - first)[:, None], np.maximum(1 - np.abs(distance), 0), 0)
    return first, weights / weights.sum(axis=1, keepdims=True)


def _filtered(values: np.ndarray, first: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    limit = values.shape[axis] - 1
    shape = (-1, 1) if axis == 0 else (1, -1)
    total = np.zeros((), weights.dtype)
    for tap in range(weights.shape[1]):
        taken = np.take(values, np.minimum(first + tap, limit), axis=axis)
        total = total + taken * weights[:, tap].reshape(shape)
    return total


@dataclass(frozen=True)
class Axis:
    """Tile positions along one side of an image.

    `windows` are [start, stop) in image pixels, `sizes` their lengths in network pixels, `weights` each window's share
    (length,) float32 of the blend; the shares of overlapping windows sum to 1 at every pixel.
    """

    windows: tuple[tuple[int, int], ...]
    sizes: tuple[int, ...]
    weights: tuple[np.ndarray, ...]


def tile_axis(length: int, tile: int, network: int) -> Axis:
    """Tiles along a side of `length` pixels, each `tile` image pixels that the network sees as `network` pixels.

    The last tile ends with the image: it may be shorter, or longer by half a network pixel. Next to a cut a tile's
    outermost quarter of the overlap has no weight, as the network saw no further there; the rest of the overlap is a
    linear blend.
    """
    scale = tile / network
    step = _step(network)
    total = max(round(length / scale), 1)
    count = 1 if total <= network else 1 + math.ceil((total - network) / step)
    cuts = [(k * step, total if k == count - 1 else k * step + network) for k in range(count)]
    windows = [(round(a * scale), length if k == count - 1 else round(b * scale)) for k, (a, b) in enumerate(cuts)]
    weights = [np.ones(stop - start, np.float32) for start, stop in windows]
    for k in range(count - 1):
        overlap = windows[k][1] - windows[k + 1][0]
        rising = _ramp(overlap)
        weights[k][len(weights[k]) - overlap :] *= 1 - rising
        weights[k + 1][:overlap] *= rising
    return Axis(tuple(windows), tuple(max(b - a, MIN_SIDE) for a, b in cuts), tuple(weights))


def _step(network: int) -> int:
    wanted = network * (1 - OVERLAP)
    # At most two tiles may overlap anywhere, so the step is never below half a tile.
    aligned = int(wanted // GRID) * GRID
    return aligned if aligned >= network / 2 else max(math.ceil(wanted), 1)


def _ramp(length: int) -> np.ndarray:
    rim = int(length * RIM)
    inner = max(length - 2 * rim, 1)
    return np.clip((np.arange(length, dtype=np.float32) + 0.5 - rim) / inner, 0, 1)


@dataclass(frozen=True)
class Tiling:
    """How an image is cut: tiles of `tile` (rows, columns) image pixels that the network sees as `network` pixels."""

    tile: tuple[int, int]
    network: tuple[int, int]


def predict_bands(
    source: RowSource, tiling: Tiling, values: tuple[float, float], predict: Predict, batch_pixels: int = 1 << 18
) -> Iterator[np.ndarray]:
    """Bands (n, columns) float32 of foreground probabilities in [0,1], from the top, together the whole image.

    Args:
        source: the image.
        tiling: size of the tiles, in image and in network pixels.
        values: (low, high) of the whole image, stretched to 0..255.
        predict: tiles (N,h,w) uint8 to probabilities (N,h,w) float32.
        batch_pixels: network pixels in one call of `predict`, at most (at least one tile).
    """
    rows = tile_axis(source.shape[0], tiling.tile[0], tiling.network[0])
    columns = tile_axis(source.shape[1], tiling.tile[1], tiling.network[1])
    reader = RowReader(source)
    carried = np.zeros((0, source.shape[1]), np.float32)
    for k, ((start, stop), size, weight) in enumerate(zip(rows.windows, rows.sizes, rows.weights, strict=True)):
        image = stretch(reader.take(start, stop), *values)
        blended = _tile_row(image, columns, size, predict, batch_pixels)
        blended *= weight[:, None]
        blended[: len(carried)] += carried
        ready = rows.windows[k + 1][0] - start if k + 1 < len(rows.windows) else stop - start
        carried = blended[ready:].copy()
        yield blended[:ready]


def _tile_row(image: np.ndarray, columns: Axis, size: int, predict: Predict, batch_pixels: int) -> np.ndarray:
    """Probabilities (h, columns) float32 of one row of tiles, blended along the columns."""
    blended = np.zeros(image.shape, np.float32)
    tiles = list(zip(columns.windows, columns.sizes, columns.weights, strict=True))
    for width in dict.fromkeys(columns.sizes):
        same = [tile for tile in tiles if tile[1] == width]
        batch = max(batch_pixels // (size * width), 1)
        for first in range(0, len(same), batch):
            part = same[first : first + batch]
            stack = np.stack([resize_image(image[:, start:stop], (size, width)) for (start, stop), _, _ in part])
            for probability, ((start, stop), _, weight) in zip(predict(stack), part, strict=True):
                blended[:, start:stop] += resize_probability(probability, (image.shape[0], stop - start)) * weight
    return blended


class RowReader:
    """Rows of a source by position; positions must not go back beyond what the last call started with."""

    def __init__(self, source: RowSource) -> None:
        self._bands = source.bands()
        self._held: list[np.ndarray] = []
        self._first = self._end = 0

    def take(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) (n, columns); rows before `start` are let go."""
        while self._end < stop:
            band = next(self._bands)
            self._held.append(band)
            self._end += len(band)
        while self._first + len(self._held[0]) <= start:
            self._first += len(self._held.pop(0))
        self._held[0] = self._held[0][start - self._first :]
        self._first = start
        self._held = [self._held[0] if len(self._held) == 1 else np.concatenate(self._held)]
        return self._held[0][: stop - start]
