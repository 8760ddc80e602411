"""Resampling as in training, and images of any size as a stream of overlapping tiles. Numpy alone.

An image is resampled as a whole to the pixels that the network sees, cut into tiles there, and the blended
probabilities are resampled back, so that tiles lie on one grid of pixels and leave no seams. It is never held whole:
bands of rows come in from the top, each row of tiles is predicted when its rows are there, and bands of probabilities
go out. Memory is a few times (tile rows x image columns), whatever the number of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
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
BATCH_PIXELS = 1 << 18
"""Network pixels that are predicted at a time, about: some 600 bytes each at a width of 16 channels."""
LARGE_PIXELS = 1 << 20
"""An image of more network pixels than this is cut into tiles that are larger than the fields of training."""

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
        if image.shape[axis] != size[axis]:
            image = _filtered(image, *_taps(image.shape[axis], size[axis]), axis)
    return image


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
    """Sums of neighbours along an axis: grey values uint8 in whole numbers, as Pillow does, others as float32."""
    is_grey = values.dtype == np.uint8
    weights = np.floor(weights * (1 << _PRECISION) + 0.5).astype(np.int64) if is_grey else weights.astype(np.float32)
    limit = values.shape[axis] - 1
    shape = (-1, 1) if axis == 0 else (1, -1)
    total = np.zeros((), weights.dtype)
    for tap in range(weights.shape[1]):
        taken = np.take(values, np.minimum(first + tap, limit), axis=axis)
        total = total + taken * weights[:, tap].reshape(shape)
    if not is_grey:
        return np.asarray(total)
    rounded: np.ndarray = np.clip((total + (1 << (_PRECISION - 1))) >> _PRECISION, 0, 255).astype(np.uint8)
    return rounded


def resized_bands(bands: Iterable[np.ndarray], old: tuple[int, int], new: tuple[int, int]) -> Iterator[np.ndarray]:
    """Bands of an image of `old` (rows, columns), from the top, as bands of the same image resized to `new`.

    uint8 bands are resized as `resize_image` does, to the bit, and float32 ones with the same filter.
    """
    columns = _taps(old[1], new[1]) if old[1] != new[1] else None
    # Columns of grey values come first, as in `resize_image`; the order makes no difference to float values.
    if old[0] == new[0]:
        for band in bands:
            yield band if columns is None else _filtered(band, *columns, 1)
        return
    first, weights = _taps(old[0], new[0])
    last = np.minimum(first + weights.shape[1], old[0])
    held: np.ndarray | None = None
    begin = row = 0
    for band in bands:
        wide = band if columns is None else _filtered(band, *columns, 1)
        held = wide if held is None else np.concatenate([held, wide])
        ready = int(np.searchsorted(last, begin + len(held), side="right"))
        if ready == row:
            continue
        yield _filtered(held, first[row:ready] - begin, weights[row:ready], 0)
        row = ready
        kept = min(int(first[row]) if row < new[0] else old[0], begin + len(held))
        held, begin = held[kept - begin :], kept


@dataclass(frozen=True)
class Axis:
    """Tile positions along one side of an image, in network pixels.

    `windows` are [start, stop), `weights` each window's share (length,) float32 of the blend; the shares of overlapping
    windows sum to 1 at every pixel.
    """

    windows: tuple[tuple[int, int], ...]
    weights: tuple[np.ndarray, ...]


def tile_axis(length: int, tile: int, field: int) -> Axis:
    """Tiles along a side of `length` pixels, each of `tile` pixels, for a network trained on fields of `field` pixels.

    A side that is no longer than a tile has one, of its own length. The last tile ends with the image: it may be
    shorter, and where it would be shorter than networks take, the tile before it is longer instead. Tiles overlap by a
    quarter of the field. Next to a cut a tile's outermost quarter of the overlap has no weight, as the network saw no
    further there; the rest of the overlap is a linear blend.
    """
    step = _step(tile, field)
    count = 1 if length <= tile else 1 + math.ceil((length - tile) / step)
    if count > 1 and length - (count - 1) * step < MIN_SIDE:
        count -= 1
    windows = [(k * step, length if k == count - 1 else k * step + tile) for k in range(count)]
    weights = [np.ones(stop - start, np.float32) for start, stop in windows]
    for k in range(count - 1):
        overlap = windows[k][1] - windows[k + 1][0]
        rising = _ramp(overlap)
        weights[k][len(weights[k]) - overlap :] *= 1 - rising
        weights[k + 1][:overlap] *= rising
    return Axis(tuple(windows), tuple(weights))


def _step(tile: int, field: int) -> int:
    wanted = tile - field * OVERLAP
    # At most two tiles may overlap anywhere, so the step is never below half a tile.
    aligned = int(wanted // GRID) * GRID
    return aligned if aligned >= tile / 2 else max(math.ceil(wanted), 1)


def _ramp(length: int) -> np.ndarray:
    rim = int(length * RIM)
    inner = max(length - 2 * rim, 1)
    return np.clip((np.arange(length, dtype=np.float32) + 0.5 - rim) / inner, 0, 1)


@dataclass(frozen=True)
class Tiling:
    """How an image is seen: resampled to `seen` (rows, columns) network pixels, in tiles of at most `tile` of them.

    `field` (rows, columns) is what the network saw at a time in training.
    """

    seen: tuple[int, int]
    tile: tuple[int, int]
    field: tuple[int, int]

    @classmethod
    def of(cls, seen: tuple[int, int], field: tuple[int, int], *, any_field: bool) -> Tiling:
        """Tiles of the size of training, and larger ones for a large image, where overlaps cost most.

        Args:
            seen: (rows, columns) of the image in network pixels.
            field: (rows, columns) that the network saw in training.
            any_field: whether what the network makes of a place does not depend on the size of the tile around it.
        """
        is_large = seen[0] * seen[1] > LARGE_PIXELS
        times = math.isqrt(BATCH_PIXELS // (field[0] * field[1])) if any_field and is_large else 1
        larger = max(times, 1)
        return cls(seen, (larger * field[0], larger * field[1]), field)

    @property
    def axes(self) -> tuple[Axis, Axis]:
        """Tiles along the rows and along the columns."""
        rows, columns = (tile_axis(*sides) for sides in zip(self.seen, self.tile, self.field, strict=True))
        return rows, columns

    @property
    def is_cut(self) -> bool:
        """Whether there is more than one tile."""
        return any(len(axis.windows) > 1 for axis in self.axes)


def predict_bands(
    source: RowSource, tiling: Tiling, values: tuple[float, float], predict: Predict, batch_pixels: int = BATCH_PIXELS
) -> Iterator[np.ndarray]:
    """Bands (n, columns) float32 of foreground probabilities in [0,1], from the top, together the whole image.

    Args:
        source: the image.
        tiling: the pixels that the network sees of it, and the size of the tiles.
        values: (low, high) of the whole image, stretched to 0..255.
        predict: tiles (N,h,w) uint8 to probabilities (N,h,w) float32.
        batch_pixels: network pixels in one call of `predict`, at most (at least one tile).
    """
    shown = (stretch(band, *values) for band in source.bands())
    seen = resized_bands(shown, source.shape, tiling.seen)
    probabilities = _blended_bands(seen, tiling, predict, batch_pixels)
    for band in resized_bands(probabilities, tiling.seen, source.shape):
        yield np.clip(band, 0, 1)


def _blended_bands(
    seen: Iterator[np.ndarray], tiling: Tiling, predict: Predict, batch_pixels: int
) -> Iterator[np.ndarray]:
    rows, columns = tiling.axes
    reader = RowReader(seen)
    carried = np.zeros((0, tiling.seen[1]), np.float32)
    for k, ((start, stop), weight) in enumerate(zip(rows.windows, rows.weights, strict=True)):
        blended = _tile_row(reader.take(start, stop), columns, predict, batch_pixels)
        blended *= weight[:, None]
        blended[: len(carried)] += carried
        ready = rows.windows[k + 1][0] - start if k + 1 < len(rows.windows) else stop - start
        carried = blended[ready:].copy()
        yield blended[:ready]


def _tile_row(image: np.ndarray, columns: Axis, predict: Predict, batch_pixels: int) -> np.ndarray:
    """Probabilities (h, columns) float32 of one row of tiles, blended along the columns."""
    blended = np.zeros(image.shape, np.float32)
    tiles = list(zip(columns.windows, columns.weights, strict=True))
    for width in dict.fromkeys(stop - start for start, stop in columns.windows):
        same = [tile for tile in tiles if tile[0][1] - tile[0][0] == width]
        batch = max(batch_pixels // (len(image) * width), 1)
        for first in range(0, len(same), batch):
            part = same[first : first + batch]
            stack = np.stack([image[:, start:stop] for (start, stop), _ in part])
            for probability, ((start, stop), weight) in zip(_padded(stack, predict), part, strict=True):
                blended[:, start:stop] += probability * weight
    return blended


def _padded(stack: np.ndarray, predict: Predict) -> np.ndarray:
    """`predict` of tiles (N,h,w) of any size: what is smaller than networks take is continued by its mirror image."""
    more = [max(MIN_SIDE - side, 0) for side in stack.shape[1:]]
    if not any(more):
        return predict(stack)
    padded = np.pad(stack, ((0, 0), (0, more[0]), (0, more[1])), mode="symmetric")
    return predict(padded)[:, : stack.shape[1], : stack.shape[2]]


class RowReader:
    """Rows of consecutive bands by position; positions must not go back beyond what the last call started with."""

    def __init__(self, bands: Iterable[np.ndarray]) -> None:
        self._bands = iter(bands)
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


@dataclass(frozen=True)
class CroppedSource:
    """The upper `rows` rows of a source."""

    source: RowSource
    rows: int

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) in pixels."""
        return self.rows, self.source.shape[1]

    @property
    def dtype(self) -> np.dtype:
        """Of the pixels."""
        return self.source.dtype

    def bands(self) -> Iterator[np.ndarray]:
        """Bands (n, columns) from the top."""
        left = self.rows
        for band in self.source.bands():
            yield band[:left]
            left -= len(band)
            if left <= 0:
                return
