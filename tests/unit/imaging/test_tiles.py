"""Tiled prediction."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from sage_ray.errors import UserError
from sage_ray.imaging import tiles
from sage_ray.imaging.model import Model, model_spec
from sage_ray.imaging.tiles import ArraySource, Tiling, predict_bands, tile_axis
from sage_ray.models import SEGMENTERS
from sage_ray.models.init import initialise


def make_model(image_size: tuple[int, int], native_size: tuple[int, int] | None = None, depth: int = 2) -> Model:
    keywords = {"width": 4, "depth": depth, "norm": "batch"}
    segmenter = SEGMENTERS["unet"](**keywords)
    initialise(segmenter, 1)
    spec = model_spec(("unet", keywords), None, image_size=image_size, native_size=native_size)
    return Model(segmenter.eval(), None, spec)


def smooth(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """A blobby image (rows, columns) uint8 that uses the whole grey range."""
    coarse = np.random.default_rng(seed).integers(0, 256, (rows // 8 + 2, columns // 8 + 2)).astype(np.uint8)
    image = tiles.resize_image(coarse, (rows, columns))
    image[0, 0], image[-1, -1] = 0, 255
    return image


@given(st.integers(1, 3000), st.integers(16, 300), st.integers(16, 300))
@example(459, 83, 16)
def test_tiles_cover_a_side_and_their_shares_sum_to_one(length: int, tile: int, network: int) -> None:
    axis = tile_axis(length, tile, network)
    total = np.zeros(length)
    for (start, stop), weight in zip(axis.windows, axis.weights, strict=True):
        assert weight.shape == (stop - start,) and weight.min() >= 0
        total[start:stop] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert min(axis.sizes) >= tiles.MIN_SIDE and max(axis.sizes) <= max(network, tiles.MIN_SIDE)
    longest = tile + 1 + tile / network / 2
    assert all(stop - start <= longest for start, stop in axis.windows) or len(axis.windows) == 1


@pytest.mark.parametrize(("depth", "tolerance"), [(1, 1e-5), (2, 3e-3)])
def test_tiled_equals_whole(depth: int, tolerance: float) -> None:
    """At scale 1 the blend of tiles is the prediction of the whole image: the rims, which differ, carry no weight.

    A network of depth 1 looks 8 pixels far, as wide as the rim of these tiles; one of depth 2 looks 20 pixels far.
    """
    model, image = make_model((128, 160), depth=depth), smooth(400, 500)
    whole = model.probabilities(tiles.stretch(image, 0, 255)[None])[0]
    tiled, mask = model.predict_mask(image, tiled=True)
    assert len(tile_axis(400, 128, 128).windows) > 3
    np.testing.assert_allclose(tiled, whole, atol=tolerance)
    np.testing.assert_array_equal(mask, tiled > 0.5)


def test_tiles_follow_the_scale_of_training() -> None:
    """Training images of 256x256 seen at 64x64: a larger field of view is predicted at that scale, not squeezed."""
    model, field = make_model((64, 64), (256, 256)), smooth(700, 1500)
    assert model.is_tiled((1025, 300)) and not model.is_tiled((1024, 1024))
    tiled = model.predict_mask(field)[0]
    one = model.predict_mask(field[200:456, 500:756], crop_bottom=0)[0]
    inner = slice(64, 192)
    apart = np.abs(tiled[200:456, 500:756] - one)[inner, inner].mean()
    squeezed = np.abs(model.predict_mask(field, tiled=False)[0] - tiled).mean()
    assert apart < 0.01 and squeezed > 3 * apart


def test_bands_are_the_same_whatever_the_source_hands_out() -> None:
    model, image = make_model((64, 64)), smooth(300, 210).astype(np.uint16) * 7
    expected = model.predict_mask(image, tiled=True)[0]
    for band_rows in (1, 37, 300):
        bands = list(model.predict_stream(ArraySource(image, band_rows)))
        np.testing.assert_array_equal(np.concatenate(bands), expected)


def test_batches_do_not_change_the_result() -> None:
    model, image = make_model((64, 64)), smooth(200, 330)
    tiling = Tiling((64, 64), (64, 64))
    one = list(predict_bands(ArraySource(image), tiling, (0, 255), model.probabilities, batch_pixels=1))
    many = list(predict_bands(ArraySource(image), tiling, (0, 255), model.probabilities, batch_pixels=1 << 20))
    np.testing.assert_allclose(np.concatenate(one), np.concatenate(many), atol=1e-5)


def test_memory_does_not_grow_with_the_rows() -> None:
    """A sixteenfold image takes less than twice the memory: what else the process does meanwhile is no such growth."""

    def peak(rows: int) -> int:
        image = np.zeros((rows, 1200), np.uint8)
        tracemalloc.start()
        bands = predict_bands(ArraySource(image), Tiling((64, 64), (64, 64)), (0, 255), lambda t: t.astype(np.float32))
        done = sum(len(band) for band in bands)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert done == rows
        return highest

    peak(300)
    assert peak(12000) < 2 * peak(750)


def test_stream_of_values_that_are_not_finite_is_refused() -> None:
    model, image = make_model((64, 64)), smooth(300, 300).astype(np.float32)
    image[250, 10] = np.inf
    with pytest.raises(UserError, match="not finite"):
        list(model.predict_stream(ArraySource(image)))


def test_torch_threads_do_not_change_tiles() -> None:
    """Tiles are predicted without gradients and leave the module's mode alone."""
    model = make_model((64, 64))
    model.predict_mask(smooth(100, 100), tiled=True)
    assert not model.segmenter.training and all(p.grad is None for p in model.segmenter.parameters())
    assert torch.is_grad_enabled()
