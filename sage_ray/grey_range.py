"""How grey values of any range are brought to 0..255: which value becomes 0, which 255. Numpy alone.

Training (`data.preprocess`) and a trained model (`imaging.tiles`, inside a registered model too) use it alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

Bands = Callable[[], Iterable[np.ndarray]]
"""Bands of grey rows (n, columns) that together are one image; it can be called again."""

Rule = Literal["minmax", "percentile"]
MINMAX: Rule = "minmax"
PERCENTILE: Rule = "percentile"
CLIPPED_SHARE = 0.001
"""Share of the darkest pixels, and of the brightest, that `percentile` lets be 0 and 255."""
_EPSILON = 1e-6
# Below this range of values the published epsilon would take more than 1 % of it.
_SMALL_RANGE = 1e-4
_CHUNK_VALUES = 1 << 20
_MOST_OF_THE_RANGE = 0.5


def bands_of(image: np.ndarray) -> Bands:
    """Bands of rows of an image (H,W) that is in memory."""
    step = max(_CHUNK_VALUES // max(image.shape[1], 1), 1)
    return lambda: (image[row : row + step] for row in range(0, len(image), step))


def value_range(bands: Iterable[np.ndarray]) -> tuple[float, float]:
    """Smallest and largest value; stops early when an 8-bit image has used its whole range.

    Raises:
        ValueError: a value is not finite.
    """
    low, high = math.inf, -math.inf
    for band in bands:
        low, high = min(low, float(band.min())), max(high, float(band.max()))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("an image value is not finite")
        if band.dtype == np.uint8 and low == 0 and high == 255:
            break
    return low, high


def stretch_range(bands: Bands, rule: Rule) -> tuple[float, float]:
    """(low, high) values of an image that become 0 and 255 under a rule.

    Args:
        bands: the image; read once for `minmax`, at most five times more for `percentile`.
        rule: `minmax`: its smallest and largest value; `percentile`: the values below and above which lie
            `CLIPPED_SHARE` of the pixels each, or `minmax` where these two are equal.

    Raises:
        ValueError: a value is not finite.
    """
    low, high = value_range(bands())
    if rule == PERCENTILE:
        inner = percentiles(bands)
        return inner if inner[0] < inner[1] else (low, high)
    return low, high


def stretch(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Image (H,W) of any real dtype as uint8: trunc(255 (x - low) / (high - low + 1e-6)), clipped to 0..255.

    A constant image becomes 0. Where high - low is below 1e-4, such as in metres, the term against division by zero is
    1e-6 of that range. Source: the public code's scaling (parity case `preprocessing`).
    """
    scale = high - low + (_EPSILON if high - low >= _SMALL_RANGE or high == low else _EPSILON * (high - low))
    if image.dtype in (np.uint8, np.uint16):
        # A table over the grey levels gives the same numbers as the formula per pixel, without a float64 copy.
        levels = np.arange(np.iinfo(image.dtype).max + 1, dtype=np.float64)
        looked_up: np.ndarray = np.clip(255 * (levels - low) / scale, 0, 255).astype(np.uint8)[image]
        return looked_up
    grey = np.empty(image.shape, np.uint8)
    step = max(_CHUNK_VALUES // max(image.shape[-1], 1), 1)
    for row in range(0, len(image), step):
        part = image[row : row + step].astype(np.float64)
        grey[row : row + step] = np.clip(255 * (part - low) / scale, 0, 255)
    return grey


def percentiles(bands: Bands) -> tuple[float, float]:
    """The two values of an image, exact, that have `CLIPPED_SHARE` of its pixels below and above; never held whole.

    Values are mapped to whole numbers in the same order, whose digits of 16 bits are counted from the top: one pass
    over the image for 8 and 16 bits, two for 32, four for 64.
    """
    prefixes: list[int] = []
    places: list[int] = []
    dtype, shift = np.dtype(np.uint8), -1
    while not prefixes or shift > 0:
        counts: list[np.ndarray] = []
        for band in bands():
            if not prefixes and not counts:
                dtype, shift = band.dtype, max(8 * band.dtype.itemsize, 16)
            counts = counts or [np.zeros(1 << 16, np.int64) for _ in range(len(prefixes) or 1)]
            _count_digits(_sortable(band), shift - 16, prefixes, counts)
        if not prefixes:
            total = int(counts[0].sum())
            clipped = int(CLIPPED_SHARE * total)
            prefixes, places, counts = [0, 0], [clipped, total - 1 - clipped], counts * 2
        shift -= 16
        for n, count in enumerate(counts):
            ends = np.cumsum(count)
            digit = int(np.searchsorted(ends, places[n], side="right"))
            places[n] -= int(ends[digit - 1]) if digit else 0
            prefixes[n] = prefixes[n] << 16 | digit
    low, high = (float(_value(prefix, dtype)) for prefix in prefixes)
    return low, high


def _count_digits(keys: np.ndarray, shift: int, prefixes: list[int], counts: list[np.ndarray]) -> None:
    """Add to `counts` how often each 16-bit digit at `shift` follows each of the prefixes; without any, all count."""
    if 8 * keys.dtype.itemsize <= 16:
        counts[0] += np.bincount(keys.ravel(), minlength=1 << 16)
        return
    digits = ((keys >> keys.dtype.type(shift)) & keys.dtype.type(0xFFFF)).astype(np.int64)
    if not prefixes:
        counts[0] += np.bincount(digits.ravel(), minlength=1 << 16)
        return
    above = keys >> keys.dtype.type(shift + 16)
    for count, prefix in zip(counts, prefixes, strict=True):
        count += np.bincount(digits[above == prefix], minlength=1 << 16)


def _sortable(values: np.ndarray) -> np.ndarray:
    """Unsigned whole numbers of the same size in the order of the values."""
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    unsigned = np.dtype(f"u{values.dtype.itemsize}")
    top = unsigned.type(1 << (8 * unsigned.itemsize - 1))
    keys = np.ascontiguousarray(values).view(unsigned)
    if values.dtype.kind == "u":
        return keys
    if values.dtype.kind == "f":
        # Negative floats grow in magnitude with their bits; -0 and 0 are one value.
        keys = np.ascontiguousarray(values + values.dtype.type(0)).view(unsigned)
        keys = np.where(keys & top, ~keys ^ top, keys)
    shifted: np.ndarray = keys ^ top
    return shifted


def _value(key: int, dtype: np.dtype) -> np.generic:
    """The value that `_sortable` maps to a key."""
    if dtype.kind in "ub":
        return np.uint64(key)
    bits = 8 * dtype.itemsize
    top = 1 << (bits - 1)
    stored = key ^ (top if dtype.kind == "i" or key & top else (1 << bits) - 1)
    found: np.generic = np.array([stored], np.dtype(f"u{dtype.itemsize}")).view(dtype)[0]
    return found


@dataclass(frozen=True)
class Outliers:
    """Few pixels that take most of an image's grey range, so that the rest is left with few grey levels."""

    pixels: int
    share: float
    """Of the range from the smallest to the largest value, from 0 to 1."""

    def __str__(self) -> str:
        some = "1 pixel takes" if self.pixels == 1 else f"{self.pixels} pixels take"
        return f"{some} {self.share:.0%} of the grey range"


def outliers(bands: Bands) -> Outliers | None:
    """The pixels that take more than half of the grey range of an image, if they are at most `2 * CLIPPED_SHARE` of it.

    They lie further outside the values of all others, between the two `percentiles`, than these values are apart.
    """
    low, high = percentiles(bands)
    least, most = low - (high - low), high + (high - low)
    count, inner, whole = 0, [math.inf, -math.inf], [math.inf, -math.inf]
    for band in bands():
        inside = band[(band >= least) & (band <= most)]
        count += band.size - inside.size
        for ends, values in ((inner, inside), (whole, band)):
            if values.size:
                ends[0], ends[1] = min(ends[0], float(values.min())), max(ends[1], float(values.max()))
    if not count:
        return None
    share = 1 - (inner[1] - inner[0]) / (whole[1] - whole[0])
    return Outliers(count, share) if share > _MOST_OF_THE_RANGE else None
