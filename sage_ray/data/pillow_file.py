"""PNG, JPEG and BMP files, and TIFF files that tifffile does not decode, as stored samples (Pillow)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from sage_ray.data.png_rows import SIGNATURE, PngHeader, png_bands, png_exif, png_header
from sage_ray.data.problems import BadFile, bad_file, unreadable
from sage_ray.data.stored_picture import BAND_BYTES, Look, StoredPicture

MAX_HELD_BYTES = 3 << 27
"""Largest picture that is decoded in one piece, in bytes of Pillow's own memory."""

_DTYPES = {"1": np.dtype(bool), "F": np.dtype(np.float32), "I": np.dtype(np.int32)}
_GREY = ("1", "L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_CHANNELS = {"LA": 2, "La": 2, "RGB": 3, "RGBX": 3, "RGBA": 4, "RGBa": 4}
_EXIF_ORIENTATION = 0x112
_PHOTOMETRIC = 262
# Markers that begin a frame: 0xC0 to 0xCF without those of tables and codings.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_pixel_limit_lock = threading.Lock()


def open_pillow(path: Path) -> StoredPicture:
    """The header of a file that Pillow reads; the pixels come from here, or from `png_rows` where Pillow drops bits.

    Raises:
        BadFile: no picture, or a kind that is not supported, named for what it is.
    """
    try:
        with _opened(path) as picture:
            if picture.format == "PNG" and getattr(picture, "n_frames", 1) == 1:
                header = png_header(path)
                if header.is_readable_by_rows and (_drops_bits(header) or _held_bytes(picture) > MAX_HELD_BYTES):
                    return _by_rows(path, header, _orientation(path, picture))
            return _whole(path, picture)
    except BadFile:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error and more
        raise _refusal(path, error) from None


def _opened(path: Path) -> Image.Image:
    with _pixel_limit_lock:
        # Pillow's own guard would raise without telling the size; ours reads the header and decodes nothing.
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            return Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _refusal(path: Path, error: Exception) -> BadFile:
    if isinstance(error, UnidentifiedImageError) and path.exists():
        with path.open("rb") as file:
            head = file.read(16)
        if head.startswith(SIGNATURE):
            return bad_file("unreadable image file", path, "replace it (its header is damaged)")
        if _is_jpeg_of_other_depth(path):
            return bad_file("JPEG of more than 8 bits per sample, which is not read", path, "save it as 16 bit TIFF")
        return bad_file("unreadable image file", path, "replace it (it is no picture of a known format)")
    return unreadable(path, error)


def _is_jpeg_of_other_depth(path: Path) -> bool:
    with path.open("rb") as file:
        data = file.read(1 << 16)
    at = 2
    while data[:2] == b"\xff\xd8" and data[at : at + 1] == b"\xff" and at + 5 < len(data):
        if data[at + 1] in _JPEG_FRAMES:
            return data[at + 4] != 8
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False


def _drops_bits(header: PngHeader) -> bool:
    return header.bits == 16 and header.channels > 1


def _held_bytes(picture: Image.Image) -> int:
    # Pillow holds colours in 4 bytes a pixel, also without opacity.
    bytes_each = {"1": 1, "L": 1, "P": 1}.get(picture.mode, 2 if picture.mode.startswith("I;16") else 4)
    return picture.size[0] * picture.size[1] * bytes_each


def _by_rows(path: Path, header: PngHeader, orientation: int) -> StoredPicture:
    alpha = header.channels - 1 if header.channels in (2, 4) else None
    look = Look("colour" if header.channels > 2 else "grey", alpha=alpha, orientation=orientation)
    dtype = np.dtype(np.uint8 if header.bits == 8 else np.uint16)

    def read(_: int) -> Iterator[np.ndarray]:
        return png_bands(path, header)

    return StoredPicture(path, "PNG", (header.rows, header.columns), dtype, header.channels, read, look)


def _whole(path: Path, picture: Image.Image) -> StoredPicture:
    # Pillow turns and mirrors a TIFF by itself, and not the others.
    orientation = 1 if picture.format == "TIFF" else _orientation(path, picture)
    mode = _mode(path, picture)
    columns, rows = picture.size
    if _held_bytes(picture) > MAX_HELD_BYTES:
        what = f"{picture.format} image of {rows} x {columns} pixels, which cannot be read row by row"
        raise bad_file(what, path, "save it as TIFF, or as PNG of 8 or 16 bits without interlacing")
    look, divisor = _look(path, picture, mode, orientation)
    dtype = _DTYPES.get(mode, np.dtype(np.uint16 if mode.startswith("I;16") else np.uint8))
    # The second picture of a phone's JPEG is a preview; other frames are pictures.
    pages = 1 if picture.format in ("MPO", "JPEG") else getattr(picture, "n_frames", 1)
    inverted = picture.format == "TIFF" and look.kind == "white_is_zero"

    def read(page: int) -> Iterator[np.ndarray]:
        for band in _bands(path, mode, page):
            samples = band // divisor if divisor > 1 else band
            yield np.invert(samples) if inverted else samples

    name = "JPEG" if picture.format == "MPO" else str(picture.format)
    return StoredPicture(path, name, (rows, columns), dtype, _CHANNELS.get(mode, 1), read, look, pages)


def _mode(path: Path, picture: Image.Image) -> str:
    """Pillow's name of the samples that are read: those of the file, or what they are converted to."""
    if picture.mode == "P" and "transparency" not in picture.info:
        return "P"
    if picture.mode in ("P", "PA"):
        return "RGBA"
    if picture.mode in _GREY or picture.mode in _CHANNELS:
        return picture.mode
    if picture.mode in ("CMYK", "YCbCr", "HSV"):
        return "RGB"
    raise bad_file(f"{picture.format} image in the colour space {picture.mode}", path, "save it as grey or RGB")


def _look(path: Path, picture: Any, mode: str, orientation: int) -> tuple[Look, int]:
    """How the samples are shown, and by how much Pillow has multiplied them to fill 8 bits."""
    if mode == "P":
        table = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
        return Look("palette", palette=table, orientation=orientation), 1
    if mode in _CHANNELS:
        channels = _CHANNELS[mode]
        alpha = channels - 1 if channels in (2, 4) else None
        return Look("grey" if channels == 2 else "colour", alpha=alpha, orientation=orientation), 1
    if picture.format == "TIFF":
        white = picture.tag_v2.get(_PHOTOMETRIC) == 0 and mode in ("1", "L")
        return Look("white_is_zero" if white else "grey", orientation=orientation), 1
    bits = png_header(path).bits if picture.format == "PNG" else 8
    if mode == "L" and bits in (2, 4):
        return Look(bits=bits, orientation=orientation), 255 // ((1 << bits) - 1)
    return Look(orientation=orientation), 1


def _orientation(path: Path, picture: Image.Image) -> int:
    try:
        exif = Image.Exif()
        if picture.format == "PNG":
            exif.load(png_exif(path))  # Pillow would decode the pixels to look for it behind them
        else:
            exif = picture.getexif()
        value = exif.get(_EXIF_ORIENTATION, 1)
    except Exception:  # a damaged note about the camera does not make the picture unreadable
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _bands(path: Path, mode: str, page: int) -> Iterator[np.ndarray]:
    try:
        with _opened(path) as picture:
            if page:
                picture.seek(page)
            picture.load()
            columns, rows = picture.size
            step = max(BAND_BYTES // (4 * columns), 1)
            for row in range(0, rows, step):
                part = picture.crop((0, row, columns, min(row + step, rows)))
                pixels = np.asarray(part if part.mode == mode else part.convert(mode))
                pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
                yield pixels[..., :3] if mode == "RGBX" else pixels
    except Exception as error:  # as above
        raise _refusal(path, error) from None
