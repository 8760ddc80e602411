"""Images as microscopists have them: one reader for all kinds, each kind with two neighbours."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from picture_cases import COLUMNS, IMAGE, LABELS, NUM, ROWS, Write, colour
from PIL import Image

from sage_ray.data.images import BadFile, header_size, open_image, read_image
from sage_ray.data.masks import read_mask, read_mask_values
from sage_ray.imaging.rasters import FileRows


def rows_of(path: Path) -> np.ndarray:
    """The same picture as `predict` reads it when it is too large to hold."""
    return np.concatenate(list(FileRows(open_image(path)).bands()))


def assert_reads_as(path: Path, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(read_image(path), expected)
    np.testing.assert_array_equal(rows_of(path), expected)
    assert header_size(path) == expected.shape


def scaled(dtype: str) -> np.ndarray:
    """IMAGE with the range of another type."""
    factor = {"uint16": 200, "int16": -100, "int32": -70_000, "uint32": 16_000_000, "int64": 1 << 40}.get(dtype, 1)
    if dtype == "int8":
        return (IMAGE.astype(int) - 128).astype(np.int8)
    if dtype == "bool":
        return IMAGE > 120
    return IMAGE.astype(dtype) * np.array(factor, dtype)


@pytest.mark.parametrize(
    "dtype",
    [
        *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
        *("float16", "float32", "float64"),
    ],
)
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_every_number_kind_of_tiff_is_an_image_as_shown_and_a_mask_as_stored(
    tmp_path: Path, dtype: str, photometric: str
) -> None:
    path, image = tmp_path / "a.tif", scaled(dtype)
    tifffile.imwrite(path, image, photometric=photometric)
    shown = image.astype(np.float64) * (255 if dtype == "bool" else 1)
    if photometric == "miniswhite":
        # 0 is white: counted from the other end of the range of unsigned numbers, turned about 0 for the others.
        top = {"b": 255.0, "u": float(np.iinfo(image.dtype).max) if image.dtype.kind == "u" else 0, "i": -1.0, "f": 0.0}
        shown = top[image.dtype.kind] - shown
    np.testing.assert_array_equal(read_image(path).astype(np.float64), shown)
    np.testing.assert_array_equal(rows_of(path).astype(np.float64), shown)
    np.testing.assert_array_equal(read_mask_values(path).values.astype(np.float64), image.astype(np.float64))


KINDS = {"uint8": np.uint8, "int16": np.int16, "uint16": np.uint16, "int64": np.int64, "float32": np.float32}


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_tiff_reads_back_whatever_its_layout(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    dtype = np.dtype(data.draw(st.sampled_from(sorted(KINDS))))
    shape = data.draw(st.tuples(st.integers(2, 40), st.integers(2, 40)))
    high = np.iinfo(dtype).max if dtype.kind in "iu" else 1e6
    numbers = st.integers(0, int(min(high, 1 << 40))) if dtype.kind in "iu" else st.floats(0, 2.0**20, width=32)
    image = data.draw(arrays.arrays(dtype, shape, elements=numbers))
    tile = data.draw(st.sampled_from([None, (16, 16), (32, 16)]))
    options: dict[str, Any] = {
        "byteorder": data.draw(st.sampled_from("<>")),
        "compression": data.draw(st.sampled_from([None, "zlib", "lzma"])),
        "bigtiff": data.draw(st.booleans()),
        "photometric": data.draw(st.sampled_from(["minisblack", "miniswhite"])),
    }
    options |= {"tile": tile} if tile else {"rowsperstrip": data.draw(st.integers(1, 45))}
    path = tmp_path_factory.mktemp("tiff") / "a.tif"
    tifffile.imwrite(path, image, **options)
    np.testing.assert_array_equal(read_mask_values(path).values, image)
    white = options["photometric"] == "miniswhite"
    if dtype.kind == "u":
        shown = np.iinfo(dtype).max - image if white else image
    else:
        shown = (~image if dtype.kind == "i" else -image) if white else image
    np.testing.assert_array_equal(read_image(path).astype(np.float64), shown.astype(np.float64))
    np.testing.assert_array_equal(rows_of(path), shown)


@pytest.mark.parametrize("compression", ["lzw", "zstd", "packbits", "jpeg2000", "jpegxl", "png", "webp"])
@pytest.mark.parametrize("layout", [{"tile": (32, 48)}, {"rowsperstrip": 16}])
def test_compressions_of_tiff(tmp_path: Path, compression: str, layout: dict[str, Any]) -> None:
    lossless = {"jpeg2000": {"level": 0}, "jpegxl": {"lossless": True}, "webp": {"lossless": True}}
    image = colour(IMAGE) if compression == "webp" else IMAGE
    tifffile.imwrite(
        tmp_path / "a.tif",
        image,
        compression=compression,
        compressionargs=lossless.get(compression),
        photometric="rgb" if image.ndim == 3 else "minisblack",
        **layout,
    )
    assert_reads_as(tmp_path / "a.tif", IMAGE)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate"])
def test_compressions_as_pillow_writes_them(tmp_path: Path, compression: str) -> None:
    Image.fromarray(IMAGE).save(tmp_path / "a.tif", compression=compression)
    assert_reads_as(tmp_path / "a.tif", IMAGE)
    Image.fromarray(LABELS > 0).save(tmp_path / "bits.tif", compression="group4")
    assert read_mask(tmp_path / "bits.tif").objects == NUM


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["tif", "jpg", "png"])
def test_a_picture_lies_as_a_viewer_shows_it(tmp_path: Path, orientation: int, suffix: str) -> None:
    smooth = (np.add.outer(np.arange(ROWS), 2 * np.arange(COLUMNS)) % 256).astype(np.uint8)
    path = tmp_path / f"a.{suffix}"
    if suffix == "tif":
        tifffile.imwrite(path, smooth, extratags=[(274, 3, 1, orientation, True)])
    else:
        exif = Image.Exif()
        exif[0x112] = orientation
        Image.fromarray(smooth).save(path, exif=exif, **({"quality": 100} if suffix == "jpg" else {}))
    turned = {1: smooth, 2: smooth[:, ::-1], 3: smooth[::-1, ::-1], 4: smooth[::-1], 5: smooth.T}
    turned |= {6: smooth.T[:, ::-1], 7: smooth.T[::-1, ::-1], 8: smooth.T[::-1]}
    shown = turned[orientation]
    assert header_size(path) == shown.shape
    for pixels in (read_image(path), rows_of(path), read_mask_values(path).values):
        assert np.abs(pixels.astype(int) - shown).max() <= (3 if suffix == "jpg" else 0)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64", "int16"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_grey_saved_as_colour_keeps_its_numbers(
    tmp_path: Path, dtype: str, planar: str, compression: str | None
) -> None:
    grey = IMAGE.astype(dtype) * np.array(3 if dtype != "uint8" else 1, dtype)
    stored = colour(grey) if planar == "contig" else np.stack([grey] * 3)
    tifffile.imwrite(
        tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar, compression=compression, rowsperstrip=16
    )
    assert_reads_as(tmp_path / "a.tif", grey)


def test_colour_of_16_bits_has_luminance_of_16_bits(tmp_path: Path) -> None:
    low = np.stack([IMAGE, IMAGE // 2, 255 - IMAGE], axis=-1).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", low, photometric="rgb")
    grey = read_image(tmp_path / "a.tif")
    assert grey.dtype == np.uint16
    assert np.abs(grey - (low * (0.299, 0.587, 0.114)).sum(-1)).max() <= 0.51
    with_opacity = np.concatenate([low, np.full_like(low[..., :1], 9)], axis=2)
    tifffile.imwrite(tmp_path / "b.tif", with_opacity, photometric="rgb", extrasamples=["unassalpha"])
    assert_reads_as(tmp_path / "b.tif", grey)


def test_palettes_show_their_colours(tmp_path: Path) -> None:
    ramp = np.stack([np.arange(256)[::-1]] * 3)
    for name, table in (("wide", ramp * 257), ("high", ramp << 8), ("narrow", ramp)):
        tifffile.imwrite(tmp_path / f"{name}.tif", 255 - IMAGE, photometric="palette", colormap=table.astype(np.uint16))
        assert_reads_as(tmp_path / f"{name}.tif", IMAGE)
    Image.fromarray(IMAGE).convert("P").save(tmp_path / "a.png")
    assert_reads_as(tmp_path / "a.png", IMAGE)
    few = Image.fromarray(IMAGE // 64)
    few.putpalette([200, 200, 200, 10, 10, 10, 0, 0, 0, 90, 90, 90])
    few.save(tmp_path / "few.png")
    assert_reads_as(tmp_path / "few.png", np.array([200, 10, 0, 90], np.uint8)[IMAGE // 64])


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_fill_the_grey_range_of_an_image_and_keep_the_numbers_of_a_mask(tmp_path: Path, bits: int) -> None:
    values = (LABELS % (1 << bits)).astype(np.uint8)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    wide = np.unpackbits(values[..., None], axis=2)[..., 8 - bits :].reshape(ROWS, -1)
    packed = zlib.compress(b"".join(b"\0" + np.packbits(line).tobytes() for line in wide))
    header = struct.pack(">IIBBBBB", COLUMNS, ROWS, bits, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    assert_reads_as(tmp_path / "a.png", values * np.uint8(255 // ((1 << bits) - 1)))
    np.testing.assert_array_equal(read_mask_values(tmp_path / "a.png").values, values)


def write_stack(path: Path) -> None:
    tifffile.imwrite(path, np.stack([IMAGE * 0 + 7, IMAGE, IMAGE]), photometric="minisblack")


def write_imagej_stack(path: Path) -> None:
    tifffile.imwrite(path, np.stack([IMAGE, IMAGE]), imagej=True)


def write_one_directory(path: Path) -> None:
    """As ImageJ writes stacks of more than 4 GB: one directory, and its description says how many images follow."""
    tifffile.imwrite(path, np.stack([IMAGE] * 4), imagej=True)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        at = page.offset + 2 + 12 * len(page.tags)
    data[at : at + 4] = bytes(4)
    path.write_bytes(bytes(data))


def write_mixed(path: Path) -> None:
    with tifffile.TiffWriter(path) as writer:
        writer.write(IMAGE, metadata=None)
        writer.write(IMAGE[:30, :80], metadata=None)


def write_volume(path: Path) -> None:
    tifffile.imwrite(path, np.stack([IMAGE] * 16), photometric="minisblack", volumetric=True, tile=(16, 16, 16))


def write_channels(path: Path) -> None:
    tifffile.imwrite(path, np.stack([IMAGE, IMAGE // 2, IMAGE]), photometric="minisblack", planarconfig="separate")


def write_not_finite(path: Path) -> None:
    tifffile.imwrite(path, np.where(IMAGE > 200, np.nan, IMAGE).astype(np.float32))


def write_complex(path: Path) -> None:
    tifffile.imwrite(path, IMAGE.astype(np.complex64))


def write_lab(path: Path) -> None:
    Image.fromarray(colour(IMAGE)).convert("LAB").save(path)


def write_cut(path: Path) -> None:
    tifffile.imwrite(path, IMAGE, compression="zlib", rowsperstrip=8)
    path.write_bytes(path.read_bytes()[:2500])


def write_picture_in_alpha(path: Path) -> None:
    tifffile.imwrite(path, np.stack([IMAGE * 0 + 9] * 3 + [IMAGE], -1), photometric="rgb", extrasamples=["unassalpha"])


def write_jpeg_of_12_bits(path: Path) -> None:
    Image.fromarray(IMAGE).save(path, format="JPEG")
    data = path.read_bytes()
    at = data.index(b"\xff\xc0")
    path.write_bytes(data[: at + 4] + b"\x0c" + data[at + 5 :])


REFUSED: list[tuple[str, Write, str]] = [
    ("a.tif", write_stack, "file with 3 pages"),
    ("a.tif", write_imagej_stack, "file with 2 pages"),
    ("a.tif", write_one_directory, "file with 4 pages"),
    ("a.tif", write_mixed, "file with 2 pages"),
    ("a.tif", write_volume, "volume of 16 slices"),
    ("a.tif", write_channels, "TIFF image with 3 channels that are no colours"),
    ("a.tif", write_not_finite, "values .* that are not finite"),
    ("a.tif", write_complex, "TIFF of complex64, which are no grey values"),
    ("a.tif", write_lab, "colour space CIELAB"),
    ("a.tif", write_cut, "truncated image file"),
    ("a.tif", write_picture_in_alpha, "grey values are constant, with a picture in its alpha channel"),
    ("a.jpg", write_jpeg_of_12_bits, "JPEG of more than 8 bits per sample"),
    ("a.dm4", lambda path: path.write_bytes(bytes(64)), "Gatan file"),
]


@pytest.mark.parametrize(("name", "write", "what"), REFUSED, ids=[what for _, _, what in REFUSED])
def test_what_is_not_supported_is_named_for_what_it_is(tmp_path: Path, name: str, write: Write, what: str) -> None:
    write(tmp_path / name)
    with pytest.raises(BadFile, match=what) as caught:
        read_image(tmp_path / name)
    assert caught.value.problem.where == str(tmp_path / name) and caught.value.problem.mend
    assert "\n" not in str(caught.value) and "damaged" not in str(caught.value)


def test_thumbnails_and_reduced_copies_are_no_pages(tmp_path: Path) -> None:
    for name, options in (("told", {"subfiletype": 1}), ("untold", {"metadata": None})):
        with tifffile.TiffWriter(tmp_path / f"{name}.tif") as writer:
            writer.write(IMAGE, metadata=None)
            writer.write(IMAGE[::2, ::2], **options)
        assert_reads_as(tmp_path / f"{name}.tif", IMAGE)


def test_a_format_is_known_by_its_contents(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "tiff.png", IMAGE, photometric="miniswhite")
    assert_reads_as(tmp_path / "tiff.png", 255 - IMAGE)
    Image.fromarray(IMAGE).save(tmp_path / "png.tif", format="PNG")
    assert_reads_as(tmp_path / "png.tif", IMAGE)
