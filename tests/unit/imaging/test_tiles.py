"""Tiled prediction."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from hypothesis import example, given
from hypothesis import strategies as st

from sage_ray.errors import UserError
from sage_ray.imaging import tiles
from sage_ray.imaging.model import Model, model_spec
from sage_ray.imaging.tiles import ArraySource, Tiling, predict_bands, tile_axis
from sage_ray.models import SEGMENTERS
from sage_ray.models.init import initialise

Sides = tuple[float, float]


def make_model(
    image_size: tuple[int, int],
    native_size: tuple[int, int] | None = None,
    depth: int = 2,
    nm_per_pixel: Sides | None = None,
    norm: str = "batch",
) -> Model:
    keywords = {"width": 4, "depth": depth, "norm": norm}
    segmenter = SEGMENTERS["unet"](**keywords)
    initialise(segmenter, 1)
    spec = model_spec(
        ("unet", keywords), None, image_size=image_size, native_size=native_size, nm_per_pixel=nm_per_pixel
    )
    return Model(segmenter.eval(), None, spec)


def smooth(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """A blobby image (rows, columns) uint8 that uses the whole grey range."""
    coarse = np.random.default_rng(seed).integers(0, 256, (rows // 8 + 2, columns // 8 + 2)).astype(np.uint8)
    image = tiles.resize_image(coarse, (rows, columns))
    image[0, 0], image[-1, -1] = 0, 255
    return image


def one_pass(model: Model, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The network's probability of the whole image at `size`, with torch's resampling back to the image's own size."""
    values = float(image.min()), float(image.max())
    seen = tiles.resize_image(tiles.stretch(image, *values), size)
    small = torch.from_numpy(model.probabilities(seen[None]))[None]
    back = functional.interpolate(small, image.shape, mode="bilinear", antialias=True)
    return np.asarray(back[0, 0])


@given(st.integers(1, 3000), st.integers(16, 300), st.integers(1, 8))
@example(41, 40, 1)
@example(64, 64, 1)
@example(65, 64, 1)
def test_tiles_cover_a_side_and_their_shares_sum_to_one(length: int, field: int, times: int) -> None:
    tile = times * field
    axis = tile_axis(length, tile, field)
    total = np.zeros(length)
    for (start, stop), weight in zip(axis.windows, axis.weights, strict=True):
        assert weight.shape == (stop - start,) and weight.min() >= 0
        total[start:stop] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)
    sides = [stop - start for start, stop in axis.windows]
    if length <= tile:
        assert sides == [length]
    else:
        assert min(sides) >= tiles.MIN_SIDE and max(sides) < tile + tiles.MIN_SIDE


@pytest.mark.parametrize(("depth", "tolerance"), [(1, 1e-5), (2, 3e-3)])
@pytest.mark.parametrize("scale", [1, 1.5, 0.6])
def test_no_seams(depth: int, tolerance: float, scale: float) -> None:
    """The blend of tiles is the network's one pass over the field: the rims, which differ, carry no weight.

    A network of depth 1 looks 8 pixels far, as wide as the rim of these tiles; one of depth 2 looks 20 pixels far.
    """
    native = (round(128 * scale), round(160 * scale))
    model, image = make_model((128, 160), native, depth=depth), smooth(round(400 * scale), round(500 * scale))
    seen = model.seen_size(image.shape)
    assert len(tile_axis(seen[0], 128, 128).windows) > 3 and model.is_tiled(image.shape)
    assert np.abs(np.array(seen) - (400, 500)).max() <= 2
    tiled, mask = model.predict_mask(image)
    np.testing.assert_allclose(tiled, one_pass(model, image, seen), atol=tolerance)
    np.testing.assert_array_equal(mask, tiled > 0.5)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5])
def test_fields_of_any_size_are_seen_at_the_scale_of_training(side: int) -> None:
    """Training images of 256x256 seen at 64x64: a larger field of view is seen at that scale, and never squeezed."""
    model, field = make_model((64, 64), (256, 256)), smooth(256 * side, 256 * side, side)
    assert model.seen_size(field.shape) == (64 * side, 64 * side) and model.is_tiled(field.shape) == (side > 1)
    apart = np.abs(model.predict_mask(field)[0] - one_pass(model, field, (64 * side, 64 * side)))
    assert apart.max() < 0.01
    if side > 1:
        squeezed = np.abs(one_pass(model, field, (64, 64)) - one_pass(model, field, (64 * side, 64 * side)))
        assert squeezed.mean() > 10 * apart.mean()


@pytest.mark.parametrize("norm", ["batch", "group", "instance", "instance_affine"])
def test_large_images_have_larger_tiles_with_the_same_overlap(norm: str) -> None:
    """Unless the network averages over its tile."""
    model, image = make_model((64, 64), depth=2, norm=norm), smooth(1100, 1000)
    tiling = model._tiling(image.shape, None)
    assert tiling.tile == ((512, 512) if norm == "batch" else (64, 64)) and tiling.is_cut
    assert model._tiling((1000, 1000), None).tile == (64, 64)
    if norm == "batch":
        first, second = tiling.axes[1].windows[:2]
        assert first[1] - second[0] == 32
        assert np.abs(model.predict_mask(image)[0] - one_pass(model, image, (1100, 1000))).max() < 0.01


@pytest.mark.parametrize("shape", [(256, 256), (100, 256), (255, 40), (13, 300), (1, 1), (5, 900)])
def test_a_field_smaller_than_in_training_goes_through_at_its_own_size(shape: tuple[int, int]) -> None:
    """Also one of fewer pixels than networks take, which is continued by its mirror image."""
    model, field = make_model((64, 64), (64, 64)), smooth(512, 1000)[: shape[0], : shape[1]]
    probability, _ = model.predict_mask(field)
    assert probability.shape == shape and model.seen_size(shape) == shape and np.isfinite(probability).all()
    if max(shape) <= 64:
        pads = [(0, max(16 - side, 0)) for side in shape]
        seen = np.pad(tiles.stretch(field, float(field.min()), float(field.max())), pads, mode="symmetric")
        expected = model.probabilities(seen[None])[0][: shape[0], : shape[1]]
        np.testing.assert_array_equal(probability, expected)


def test_each_axis_has_its_own_scale() -> None:
    """Training images of 512 x 768 pixels that the network saw at 128 x 128."""
    model = make_model((128, 128), (512, 768))
    assert model.seen_size((512, 768)) == (128, 128) and model.seen_size((1024, 768)) == (256, 128)


def test_nanometres_decide_the_scale_where_both_are_known() -> None:
    model = make_model((64, 64), (128, 128), nm_per_pixel=(2.0, 2.0))
    assert model.nm_per_pixel == (2.0, 2.0)
    for given_nm, expected in ((None, 100), ((2.0, 2.0), 100), ((1.0, 1.0), 50), ((8.0, 8.0), 400)):
        assert model.seen_size((200, 200), given_nm) == (expected, expected)
    assert model.seen_size((200, 200), (1.0, 4.0)) == (50, 200)
    # The same field of view in twice as many pixels gives the same picture of probabilities.
    field = smooth(150, 180)
    fine = tiles.resize_image(field, (300, 360))
    coarse, finer = (
        model.predict_mask(field, nm_per_pixel=(2.0, 2.0))[0],
        model.predict_mask(fine, nm_per_pixel=(1, 1))[0],
    )
    assert np.abs(finer[::2, ::2] - coarse).mean() < 0.2 * np.abs(model.predict_mask(fine)[0][::2, ::2] - coarse).mean()
    unknown = make_model((64, 64), (128, 128))
    assert unknown.nm_per_pixel is None and unknown.seen_size((200, 200), (900.0, 900.0)) == (100, 100)


@pytest.mark.parametrize("sides", [(8.1, 8.1), (0.49, 0.49), (2.0, 9.0), (0.1, 2.0)])
def test_a_model_of_another_scale_by_more_than_4_times_is_refused_by_name(sides: Sides) -> None:
    model, field = make_model((64, 64), (128, 128), nm_per_pixel=(2.0, 2.0)), smooth(100, 100)
    told = " x ".join(f"{side:g}" for side in dict.fromkeys(sides))
    for refused in (model.predict_mask, lambda image, **nm: list(model.predict_stream(ArraySource(image), **nm))):
        with pytest.raises(UserError, match=f"another scale .*: {told} nm per pixel, the model was trained at 2: "):
            refused(field, nm_per_pixel=sides)  # type: ignore[operator]
    model.predict_mask(field, nm_per_pixel=(8.0, 0.5))


def test_a_model_that_does_not_know_its_native_size_sees_images_at_their_own_pixels() -> None:
    model = make_model((64, 64))
    assert model.seen_size((150, 40)) == (150, 40)
    del model.spec["nm_per_pixel"], model.spec["native_size"]
    assert model.seen_size((150, 40), (1.0, 1.0)) == (150, 40) and model.is_tiled((150, 40))


@pytest.mark.parametrize("new", [(64, 96), (150, 96), (211, 40), (150, 333), (37, 211), (400, 700)])
def test_bands_are_resized_as_the_whole_image_is(new: tuple[int, int]) -> None:
    image = smooth(150, 211)
    expected = tiles.resize_image(image, new)
    floats = functional.interpolate(torch.from_numpy(image)[None, None].float(), new, mode="bilinear", antialias=True)
    for rows in (1, 7, 64, 150):
        bands = [image[row : row + rows] for row in range(0, 150, rows)]
        np.testing.assert_array_equal(np.concatenate(list(tiles.resized_bands(bands, image.shape, new))), expected)
        real = tiles.resized_bands((band.astype(np.float32) for band in bands), image.shape, new)
        np.testing.assert_allclose(np.concatenate(list(real)), floats[0, 0].numpy(), atol=0.01)


def test_bands_are_the_same_whatever_the_source_hands_out() -> None:
    model, image = make_model((64, 64), (96, 80)), smooth(300, 210).astype(np.uint16) * 7
    expected = model.predict_mask(image)[0]
    for band_rows in (1, 37, 300):
        bands = list(model.predict_stream(ArraySource(image, band_rows)))
        np.testing.assert_array_equal(np.concatenate(bands), expected)


def test_batches_do_not_change_the_result() -> None:
    model, image = make_model((64, 64)), smooth(200, 330)
    tiling = Tiling(image.shape, (64, 64), (64, 64))
    one = list(predict_bands(ArraySource(image), tiling, (0, 255), model.probabilities, batch_pixels=1))
    many = list(predict_bands(ArraySource(image), tiling, (0, 255), model.probabilities, batch_pixels=1 << 20))
    np.testing.assert_allclose(np.concatenate(one), np.concatenate(many), atol=1e-5)


def test_memory_does_not_grow_with_the_rows() -> None:
    """A sixteenfold image takes less than twice the memory.

    What another thread of the process allocates meanwhile is counted too, so it is looked at up to three times.
    """

    def peak(rows: int) -> int:
        image = np.zeros((rows, 1200), np.uint8)
        tracemalloc.start()
        tiling = Tiling((rows // 2, 600), (64, 64), (64, 64))
        bands = predict_bands(ArraySource(image), tiling, (0, 255), lambda t: t.astype(np.float32))
        done = sum(len(band) for band in bands)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert done == rows
        return highest

    peak(300)
    assert any(peak(12000) < 2 * peak(750) for _ in range(3))


def test_stream_of_values_that_are_not_finite_is_refused() -> None:
    model, image = make_model((64, 64)), smooth(300, 300).astype(np.float32)
    image[250, 10] = np.inf
    with pytest.raises(UserError, match="not finite"):
        list(model.predict_stream(ArraySource(image)))


def test_torch_threads_do_not_change_tiles() -> None:
    """Tiles are predicted without gradients and leave the module's mode alone."""
    model = make_model((64, 64))
    model.predict_mask(smooth(100, 100))
    assert not model.segmenter.training and all(p.grad is None for p in model.segmenter.parameters())
    assert torch.is_grad_enabled()
