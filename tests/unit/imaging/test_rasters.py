"""Images read, and masks written, in bands of rows."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from sage_ray.data import images, pillow_file, png_rows, tiff_file
from sage_ray.data.images import open_image
from sage_ray.errors import UserError
from sage_ray.imaging import rasters, tiles
from sage_ray.imaging.rasters import FileRows
from sage_ray.imaging.tiles import ArraySource

RNG = np.random.default_rng(0)


def smooth(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """A blobby image (rows, columns) uint8 that uses the whole grey range."""
    coarse = np.random.default_rng(seed).integers(0, 256, (rows // 8 + 2, columns // 8 + 2)).astype(np.uint8)
    image = tiles.resize_image(coarse, (rows, columns))
    image[0, 0], image[-1, -1] = 0, 255
    return image


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
    monkeypatch.setattr(png_rows, "BAND_BYTES", 2000)
    rng = np.random.default_rng(channels)
    shape = (53, 31, channels) if channels else (53, 31)
    image = rng.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(image, rng.choice(kinds, 53)))
    header = png_rows.png_header(path)
    assert header.is_readable_by_rows and (header.rows, header.columns) == (53, 31)
    np.testing.assert_array_equal(np.concatenate(list(png_rows.png_bands(path, header))), image)
    if dtype == np.uint8:
        with Image.open(path) as picture:
            np.testing.assert_array_equal(as_array(FileRows(open_image(path))), np.asarray(picture.convert("L")))


def test_png_as_pillow_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = smooth(200, 173)
    Image.fromarray(image).save(tmp_path / "a.png")
    monkeypatch.setattr(png_rows, "BAND_BYTES", 1 << 12)
    monkeypatch.setattr(pillow_file, "MAX_HELD_BYTES", 10_000)
    np.testing.assert_array_equal(as_array(FileRows(open_image(tmp_path / "a.png"))), image)


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
    monkeypatch.setattr(tiff_file, "BAND_BYTES", 2000)
    image = smooth(150, 131).astype("uint8" if sort == "rgb" else sort)
    options = dict(TIFF_KINDS[kind])
    if sort == "rgb":
        image, options["photometric"] = np.dstack([image, image // 2, 255 - image]), "rgb"
    tifffile.imwrite(tmp_path / "a.tif", image, **options)
    rows = as_array(FileRows(open_image(tmp_path / "a.tif")))
    expected = np.asarray(Image.fromarray(image).convert("L")) if sort == "rgb" else image
    np.testing.assert_array_equal(rows, expected)


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of more than 10,000 pixels count as too large to hold."""
    monkeypatch.setattr(images, "MAX_PIXELS", 10_000)
    monkeypatch.setattr(pillow_file, "MAX_HELD_BYTES", 10_000)
    monkeypatch.setattr(tiff_file, "MAX_BLOCK_BYTES", 10_000)


def test_files_that_fit_are_decoded_and_large_ones_streamed(tmp_path: Path, small_limit: None) -> None:
    for name, size in (("small.png", 90), ("large.png", 130), ("small.tif", 90), ("large.tif", 130), ("small.jpg", 90)):
        Image.fromarray(smooth(size, size)).save(tmp_path / name)
    kinds = {path.name: type(rasters.open_rows(path)) for path in tmp_path.iterdir()}
    assert kinds["large.png"] is kinds["large.tif"] is FileRows
    assert {kinds[name] for name in ("small.png", "small.tif", "small.jpg")} == {ArraySource}
    np.testing.assert_array_equal(as_array(rasters.open_rows(tmp_path / "large.png")), smooth(130, 130))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    path.write_bytes(bytes(data))


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
        ("a.png", write_interlaced, "without interlacing"),
        ("a.png", write_palette, "cannot be read row by row"),
        ("a.tif", write_then(truncate), "truncated image file"),
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
    mask = np.random.default_rng(1).random(shape) > 0.5
    rasters.write_mask(tmp_path / "mask.tif", shape, (mask[row : row + 70] for row in range(0, shape[0], 70)))
    with Image.open(tmp_path / "mask.tif") as picture:
        np.testing.assert_array_equal(np.asarray(picture), mask * np.uint8(255))
    rasters.write_mask(tmp_path / "again.tif", shape, [mask])
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


def test_streamed_values_that_are_not_finite_are_refused_with_their_file(tmp_path: Path, small_limit: None) -> None:
    image = smooth(130, 130).astype(np.float32)
    image[100, 5] = np.inf
    tifffile.imwrite(tmp_path / "a.tif", image, rowsperstrip=8, compression="zlib")
    with pytest.raises(UserError, match=r"values that are not finite: .*a\.tif"):
        list(rasters.open_rows(tmp_path / "a.tif").bands())
