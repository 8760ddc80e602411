"""Tiled prediction, and reading and writing images in bands."""

from __future__ import annotations

import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sage_ray.errors import UserError
from sage_ray.models import SEGMENTERS
from sage_ray.models.init import initialise
from sage_ray.registry import rasters, tiles
from sage_ray.registry.predictor import Model, model_spec, save_model_folder
from sage_ray.registry.tiles import ArraySource, Tiling, predict_bands, tile_axis

RNG = np.random.default_rng(0)


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
def test_tiles_cover_a_side_and_their_shares_sum_to_one(length: int, tile: int, network: int) -> None:
    axis = tile_axis(length, tile, network)
    total = np.zeros(length)
    for (start, stop), weight in zip(axis.windows, axis.weights, strict=True):
        assert weight.shape == (stop - start,) and weight.min() >= 0
        total[start:stop] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert min(axis.sizes) >= tiles.MIN_SIDE and max(axis.sizes) <= max(network, tiles.MIN_SIDE)
    assert all(stop - start <= tile + 1 for start, stop in axis.windows) or len(axis.windows) == 1


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
    def peak(rows: int) -> int:
        image = np.zeros((rows, 600), np.uint8)
        tracemalloc.start()
        bands = predict_bands(ArraySource(image), Tiling((64, 64), (64, 64)), (0, 255), lambda t: t.astype(np.float32))
        done = sum(len(band) for band in bands)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert done == rows
        return highest

    peak(300)
    assert peak(6000) < 1.2 * peak(1500)


def test_stream_of_values_that_are_not_finite_is_refused() -> None:
    model, image = make_model((64, 64)), smooth(300, 300).astype(np.float32)
    image[250, 10] = np.inf
    with pytest.raises(UserError, match="not finite"):
        list(model.predict_stream(ArraySource(image)))


def png_bytes(image: np.ndarray, filters: np.ndarray, chunk: int = 1000) -> bytes:
    """A PNG of (H,W) or (H,W,C) uint8 or uint16 whose line n uses filter type `filters[n]`."""
    channels = 1 if image.ndim == 2 else image.shape[2]
    lines = image.astype(">u2" if image.dtype == np.uint16 else np.uint8).reshape(len(image), -1).view(np.uint8)
    step = channels * image.dtype.itemsize
    out, prior = bytearray(), np.zeros(lines.shape[1], int)
    for line, kind in zip(lines.astype(int), filters, strict=True):
        left, corner = (np.concatenate([np.zeros(step, int), values[:-step]]) for values in (line, prior))
        guess = left + prior - corner
        near = np.stack([left, prior, corner])
        paeth = np.take_along_axis(near, np.abs(guess - near).argmin(0)[None], 0)[0]
        predicted = [np.zeros_like(line), left, prior, (left + prior) // 2, paeth][kind]
        out += bytes([kind]) + ((line - predicted) % 256).astype(np.uint8).tobytes()
        prior = line
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", image.shape[1], len(image), 8 * image.dtype.itemsize, colour, 0, 0, 0)
    packed = zlib.compress(bytes(out), 1)
    parts = [packed[start : start + chunk] for start in range(0, len(packed), chunk)]
    chunks = [
        (b"IHDR", header),
        (b"tEXt", b"note\0x"),
        *((b"IDAT", part) for part in parts),
        (b"IDAT", b""),
        (b"IEND", b""),
    ]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def as_array(source: tiles.RowSource) -> np.ndarray:
    first, second = (np.concatenate(list(source.bands())) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.shape == source.shape and first.dtype == source.dtype
    return first


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [0, 2, 3, 4])
@pytest.mark.parametrize("kinds", [(0, 1, 2), (3,), (4,), (0, 1, 2, 3, 4)])
def test_png_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: type, channels: int, kinds: tuple[int, ...]
) -> None:
    monkeypatch.setattr(rasters, "BAND_BYTES", 2000)
    rng = np.random.default_rng(channels)
    shape = (53, 31, channels) if channels else (53, 31)
    image = rng.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(image, rng.choice(kinds, 53)))
    rows = as_array(rasters.PngRows.open(path))
    if channels == 0:
        np.testing.assert_array_equal(rows, image)
    with Image.open(path) as picture:
        ours = rows if rows.dtype == np.uint8 else (rows >> 8)
        theirs = np.asarray(picture if channels == 0 else picture.convert("L"))
        np.testing.assert_array_equal(ours, theirs if theirs.dtype == np.uint8 else theirs >> 8)


def test_png_as_pillow_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = smooth(200, 173)
    Image.fromarray(image).save(tmp_path / "a.png")
    monkeypatch.setattr(rasters, "BAND_BYTES", 1 << 12)
    np.testing.assert_array_equal(as_array(rasters.PngRows.open(tmp_path / "a.png")), image)


TIFF_KINDS = {
    "plain": {},
    "big_endian": {"byteorder": ">"},
    "bigtiff": {"bigtiff": True},
    "strips": {"compression": "zlib", "rowsperstrip": 32},
    "predictor": {"compression": "zlib", "rowsperstrip": 32, "predictor": True},
    "tiles": {"compression": "zlib", "tile": (64, 48)},
    "plain_tiles": {"tile": (64, 48)},
}


# TIFF has no integer differences of floats, so that one pair is missing.
TIFF_CASES = [
    (kind, sort)
    for kind in TIFF_KINDS
    for sort in ("uint8", "uint16", "float32", "rgb")
    if (kind, sort) != ("predictor", "float32")
]


@pytest.mark.parametrize(("kind", "sort"), TIFF_CASES)
def test_tiff_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, sort: str) -> None:
    monkeypatch.setattr(rasters, "BAND_BYTES", 2000)
    image = smooth(150, 131).astype("uint8" if sort == "rgb" else sort)
    options = dict(TIFF_KINDS[kind])
    if sort == "rgb":
        image, options["photometric"] = np.dstack([image, image // 2, 255 - image]), "rgb"
    tifffile.imwrite(tmp_path / "a.tif", image, **options)
    rows = as_array(rasters.TiffRows.open(tmp_path / "a.tif"))
    expected = np.asarray(Image.fromarray(image).convert("L")) if sort == "rgb" else image
    np.testing.assert_array_equal(rows, expected)


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of more than 10,000 pixels count as too large to hold."""
    monkeypatch.setattr("sage_ray.data.images.MAX_PIXELS", 10_000)
    monkeypatch.setattr(rasters, "MAX_PIXELS", 10_000)


def test_files_that_fit_are_decoded_and_large_ones_streamed(tmp_path: Path, small_limit: None) -> None:
    for name, size in (("small.png", 90), ("large.png", 130), ("small.tif", 90), ("large.tif", 130), ("small.jpg", 90)):
        Image.fromarray(smooth(size, size)).save(tmp_path / name)
    kinds = {path.name: type(rasters.open_rows(path)) for path in tmp_path.iterdir()}
    assert kinds["large.png"] is rasters.PngRows and kinds["large.tif"] is rasters.TiffRows
    assert {kinds[name] for name in ("small.png", "small.tif", "small.jpg")} == {ArraySource}
    np.testing.assert_array_equal(as_array(rasters.open_rows(tmp_path / "large.png")), smooth(130, 130))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    path.write_bytes(bytes(data))


def write_lzw(path: Path) -> None:
    Image.fromarray(smooth(130, 130)).save(path, compression="tiff_lzw", tiffinfo={278: 16})


def write_one_strip(path: Path) -> None:
    tifffile.imwrite(path, smooth(130, 130), compression="zlib", rowsperstrip=130)


def write_interlaced(path: Path) -> None:
    data = bytearray(png_bytes(smooth(130, 130), np.zeros(130, int)))
    data[28] = 1
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    path.write_bytes(bytes(data))


def write_palette(path: Path) -> None:
    Image.fromarray(smooth(130, 130)).convert("P").save(path)


def write_then(change: object, **options: object) -> object:
    def write(path: Path) -> None:
        Image.fromarray(RNG.integers(0, 256, (130, 130)).astype(np.uint8)).save(path, **options)
        change(path)  # type: ignore[operator]

    return write


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.png", lambda p: None, "no such file"),
        ("a.png", lambda p: p.write_bytes(b""), "empty file"),
        ("a.png", lambda p: p.write_bytes(b"hello"), "unreadable image file"),
        ("a.png", write_then(truncate), "truncated image file"),
        ("a.png", write_then(spoil), "unreadable image file"),
        ("a.png", write_interlaced, "interlaced PNG"),
        ("a.png", write_palette, "colour type 3"),
        ("a.tif", write_then(truncate), "unreadable image file"),
        ("a.tif", write_lzw, "LZW"),
        ("a.tif", write_one_strip, "blocks of 130 rows"),
        ("a.jpg", write_then(lambda p: None), "cannot be read row by row"),
        ("a.bmp", write_then(lambda p: None), "cannot be read row by row"),
    ],
)
def test_large_files_that_cannot_be_streamed_are_refused(
    tmp_path: Path, small_limit: None, name: str, write: object, message: str
) -> None:
    path = tmp_path / name
    write(path)  # type: ignore[operator]
    with pytest.raises(UserError, match=f"(?s){message}.*") as caught:
        list(rasters.open_rows(path).bands())
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(600, 700), (256, 256), (255, 513), (1, 9)])
def test_masks_are_written_while_they_come(tmp_path: Path, shape: tuple[int, int]) -> None:
    probability = np.random.default_rng(1).random(shape).astype(np.float32)
    seen = []

    def bands() -> Iterator[np.ndarray]:
        for row in range(0, shape[0], 70):
            yield probability[row : row + 70]

    rasters.write_mask(tmp_path / "mask.tif", shape, bands(), seen.append)
    with Image.open(tmp_path / "mask.tif") as picture:
        np.testing.assert_array_equal(np.asarray(picture), (probability > 0.5) * np.uint8(255))
    np.testing.assert_array_equal(np.concatenate(seen), probability > 0.5)
    rasters.write_mask(tmp_path / "again.tif", shape, [probability > 0.5])
    assert (tmp_path / "again.tif").read_bytes() == (tmp_path / "mask.tif").read_bytes()


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "mask.tif"
    path.write_text("old")

    def bands() -> Iterator[np.ndarray]:
        yield np.zeros((300, 300), bool)
        raise UserError("truncated image file", "a.png", "replace it")

    with pytest.raises(UserError, match="truncated"):
        rasters.write_mask(path, (600, 300), bands())
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["mask.tif"]
    with pytest.raises(UserError, match="cannot write"):
        rasters.write_mask(tmp_path / "absent" / "mask.tif", (9, 9), [np.zeros((9, 9), bool)])


HUGE = """
import resource, sys
from pathlib import Path
import numpy as np
import torch
from sage_ray.registry import rasters
from sage_ray.registry.predictor import load_model_folder

torch.set_num_threads(1)
folder, image, out = map(Path, sys.argv[1:4])
model = load_model_folder(folder)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
source = rasters.open_rows(image)
counts = []
rasters.write_mask(out, source.shape, model.predict_stream(source), lambda mask: counts.append(int(mask.sum())))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, sum(counts))
"""


def huge_png(path: Path, side: int) -> None:
    """A PNG of side x side pixels whose lines repeat every 512 rows, written line by line with filters Up and Paeth."""
    tile = np.tile(smooth(512, 512), (1, side // 512 + 1))[:, :side]
    packer, left = zlib.compressobj(1), np.zeros(1, np.uint8)
    prior = np.zeros(side, np.uint8)
    with path.open("wb") as file:

        def chunk(kind: bytes, data: bytes) -> None:
            file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))

        file.write(b"\x89PNG\r\n\x1a\n")
        chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        for row in range(side):
            line = tile[row % 512]
            average = (np.concatenate([left, line[:-1]]).astype(int) + prior) // 2
            kind, guess = (3, average) if row % 700 < 100 else (2, prior)
            data = packer.compress(bytes([kind]) + (line - guess).astype(np.uint8).tobytes())
            if data:
                chunk(b"IDAT", data)
            prior = line
        chunk(b"IDAT", packer.flush())
        chunk(b"IEND", b"")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "side"), [("plain.tif", 20_000), ("deflated.tif", 12_000), ("lines.png", 12_000)])
def test_a_huge_image_is_predicted_in_bounded_memory(tmp_path: Path, kind: str, side: int) -> None:
    """20,000 x 20,000 pixels are 400 MB, their probabilities 1.6 GB; far less is held at a time.

    Most of what is measured is the network's own working memory.
    """
    segmenter = SEGMENTERS["unet"](width=2, depth=1)
    initialise(segmenter, 6)
    spec = model_spec(("unet", {"width": 2, "depth": 1}), None, image_size=(128, 128), native_size=(512, 512))
    save_model_folder(tmp_path / "model", segmenter, None, spec)
    image = tmp_path / kind
    if kind == "lines.png":
        huge_png(image, side)
    else:
        row = np.tile(smooth(512, 512), (1, side // 512 + 1))[:, :side]
        options = {"compression": "zlib"} if kind == "deflated.tif" else {}
        blocks = (np.ascontiguousarray(row[:, c : c + 512]) for _ in range(0, side, 512) for c in range(0, side, 512))
        padded = (np.pad(block, ((0, 0), (0, 512 - block.shape[1]))) for block in blocks)
        if options:
            tifffile.imwrite(image, padded, shape=(side, side), dtype=np.uint8, tile=(512, 512), **options)
        else:
            stored = tifffile.memmap(image, shape=(side, side), dtype=np.uint8)
            for top in range(0, side, 512):
                stored[top : top + 512] = row[: side - top]
            stored.flush()
    out = tmp_path / "mask.tif"
    command = [sys.executable, "-c", HUGE, str(tmp_path / "model"), str(image), str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=280)
    megabytes, foreground = done.stdout.split()
    assert float(megabytes) < 350, f"{megabytes} MB above what the program itself takes"
    with tifffile.TiffFile(out) as file:
        assert file.pages.first.shape == (side, side)
        assert 0 < int(foreground) < side * side
    image.unlink()


def test_torch_threads_do_not_change_tiles() -> None:
    """Tiles are predicted without gradients and leave the module's mode alone."""
    model = make_model((64, 64))
    model.predict_mask(smooth(100, 100), tiled=True)
    assert not model.segmenter.training and all(p.grad is None for p in model.segmenter.parameters())
    assert torch.is_grad_enabled()
