"""Which grey values become black and white: exact percentiles of bands, small units, and pixels that take the range."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sage_ray import grey_range
from sage_ray.data.preprocess import stretch
from sage_ray.grey_range import CLIPPED_SHARE, MINMAX, PERCENTILE, Bands, outliers, percentiles, stretch_range

KINDS = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "float16", "float32", "float64")


def in_bands(image: np.ndarray, rows: int = 7) -> Bands:
    return lambda: (image[row : row + rows] for row in range(0, len(image), rows))


def sorted_ends(image: np.ndarray) -> tuple[float, float]:
    values = np.sort(image, axis=None)
    clipped = int(CLIPPED_SHARE * values.size)
    return float(values[clipped]), float(values[values.size - 1 - clipped])


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_percentiles_are_the_values_of_the_sorted_image(data: st.DataObject) -> None:
    dtype = np.dtype(data.draw(st.sampled_from(KINDS)))
    elements = st.floats(-1e4, 1e4, width=16) if dtype.kind == "f" else None
    image = data.draw(arrays.arrays(dtype, (23, 5), elements=elements))
    assert percentiles(in_bands(image)) == sorted_ends(image)


@pytest.mark.parametrize("dtype", KINDS)
def test_percentiles_of_large_images_of_any_type(dtype: str) -> None:
    values = np.random.default_rng(0).normal(0, 1000, (120, 100))
    image = values > 0 if dtype == "bool" else np.abs(values).astype(dtype) if dtype[0] == "u" else values.astype(dtype)
    assert percentiles(in_bands(image)) == sorted_ends(image)


def test_one_hot_pixel_takes_the_range_of_minmax_and_not_of_percentile() -> None:
    clean = np.random.default_rng(1).integers(1000, 3000, (128, 128)).astype(np.uint16)
    hot = clean.copy()
    hot[3, 3] = 65535
    assert outliers(in_bands(clean)) is None and outliers(in_bands(np.zeros((9, 9), np.uint8))) is None
    found = outliers(in_bands(hot))
    assert found is not None and str(found) == "1 pixel takes 97% of the grey range"
    dead = hot.astype(np.float64) * 1e-9
    dead[5, 5:7] = -1e-3
    assert str(outliers(in_bands(dead))) == "3 pixels take 100% of the grey range"
    np.testing.assert_array_equal(stretch(hot, MINMAX), grey_range.stretch(hot, 1000, 65535))
    assert stretch(hot, MINMAX).astype(int).std() < 4
    apart = np.abs(stretch(hot, PERCENTILE).astype(int) - stretch(clean, PERCENTILE))
    apart[3, 3] = 0
    assert apart.max() <= 1


def test_small_units_use_the_whole_grey_range() -> None:
    image = np.random.default_rng(2).random((40, 30))
    expected = stretch(image).astype(int)
    for unit in (1e-3, 1e-6, 1e-9, 1e-12):
        small = stretch(image * unit).astype(int)
        assert small.max() >= 253 and np.abs(small - expected).max() <= 1
        assert np.abs(stretch((image * unit).astype(np.float32)).astype(int) - expected).max() <= 1
    assert not stretch(np.full((4, 4), 3e-9)).any()
    # The published formula holds above: 1e-6 is added to the range.
    assert stretch(np.array([[0.0, 1e-3]])).tolist() == [[0, int(255 * 1e-3 / (1e-3 + 1e-6))]]


def test_bands_give_the_range_of_the_whole() -> None:
    image = np.random.default_rng(3).normal(0, 1, (50, 20)).astype(np.float32)
    for rule in (MINMAX, PERCENTILE):
        assert stretch_range(in_bands(image), rule) == stretch_range(grey_range.bands_of(image), rule)
    flat = np.zeros((40, 40), np.uint8)
    flat[0, 0] = 9
    assert stretch_range(in_bands(flat), PERCENTILE) == (0, 9), "an image of one value but for few pixels is not blank"
    with pytest.raises(ValueError, match="not finite"):
        stretch_range(in_bands(np.full((4, 4), np.nan)), MINMAX)
