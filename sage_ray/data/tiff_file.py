"""TIFF and BigTIFF files as stored samples: strips and tiles one row of blocks at a time, or plain rows (tifffile)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from sage_ray.data.problems import BadFile, bad_file, unreadable
from sage_ray.data.stored_picture import BAND_BYTES, MAX_BLOCK_BYTES, Kind, Look, StoredPicture

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_KINDS: dict[int, Kind] = {0: "white_is_zero", 1: "grey", 2: "colour", 3: "palette", 32803: "grey"}
_COLOUR_BY_JPEG = 6
_OPACITY = (1, 2)
# Pages whose size is looked at to tell a stack from an image with its thumbnails.
_PAGES_LOOKED_AT = 64


class _Undecodable(ValueError):
    """tifffile cannot decode this kind of TIFF; another library may."""


def open_tiff(path: Path) -> StoredPicture:
    """The header of a TIFF file.

    Raises:
        BadFile: not a TIFF, or a kind that is not supported, named for what it is.
        ValueError: a kind that tifffile does not decode but Pillow may.
    """
    try:
        with tifffile.TiffFile(path) as file:
            return _picture(path, file)
    except (BadFile, _Undecodable):
        raise
    except Exception as error:  # tifffile raises struct.error, IndexError, KeyError and more on damaged headers
        raise unreadable(path, error) from None


def _picture(path: Path, file: tifffile.TiffFile) -> StoredPicture:
    page: Any = file.pages.first
    _refuse_what_is_no_picture(path, page)
    channels = int(page.samplesperpixel)
    dtype = page.dtype.newbyteorder("=")
    bits = page.bitspersample if isinstance(page.bitspersample, int) else 0
    kind = _kind(path, page)
    look = Look(
        kind=kind,
        bits=bits if bits < 8 * dtype.itemsize else 0,
        palette=_palette(page) if kind == "palette" else None,
        alpha=_alpha(page, channels, kind),
        orientation=_orientation(page),
    )
    places = _places(path, file, page)

    def read(number: int) -> Iterator[np.ndarray]:
        return _bands(path, *places[number])

    return StoredPicture(
        path, "TIFF", (int(page.imagelength), int(page.imagewidth)), dtype, channels, read, look, len(places)
    )


def _refuse_what_is_no_picture(path: Path, page: Any) -> None:
    if page.imagedepth > 1:
        raise bad_file(f"volume of {page.imagedepth} slices", path, "save each slice as a file of its own")
    if page.dtype is None or page.dtype.kind not in "buif":
        kind = f"TIFF of {page.dtype if page.dtype is not None else f'{page.bitspersample}-bit samples'}"
        raise bad_file(f"{kind}, which are no grey values", path, "save it as 8 or 16 bit grey")
    if not page.imagelength or not page.imagewidth:
        raise bad_file("image without pixels", path, "replace it")
    if page.compression != 1:
        try:
            tifffile.TIFF.DECOMPRESSORS[page.compression]
        except KeyError as error:
            raise _Undecodable(str(error)[1:-1]) from None
    if page.is_subsampled and page.compression not in (6, 7):
        raise _Undecodable("subsampled colour")


def _kind(path: Path, page: Any) -> Kind:
    photometric = int(page.photometric) if page.photometric is not None else 1
    if photometric == _COLOUR_BY_JPEG and page.compression in (6, 7, 33003, 33005, 34712, 50001):
        return "colour"  # these codecs turn their own colour space into RGB
    kind = _KINDS.get(photometric)
    if kind is None:
        raise _Undecodable(f"colour space {getattr(page.photometric, 'name', photometric)}")
    if kind == "grey" and page.samplesperpixel > 1:
        return "channels"
    if kind == "palette" and page.colormap is None:
        raise bad_file("TIFF with palette numbers but no palette", path, "save it as 8 or 16 bit grey")
    return kind


def _alpha(page: Any, channels: int, kind: Kind) -> int | None:
    """Channel of the opacity: one that is declared so, or any beside one grey or three colours of an RGB picture."""
    extra = [int(value) for value in page.extrasamples]
    for number, meaning in enumerate(extra, start=channels - len(extra)):
        if meaning in _OPACITY:
            return number
    return 3 if kind == "colour" and channels == 4 else None


def _palette(page: Any) -> np.ndarray:
    """(entries, 3): uint8 if the 16 bits of the file hold 8-bit colours, in whichever of three customs, else uint16."""
    table = np.asarray(page.colormap, np.uint16).T
    high = (table >> 8).astype(np.uint8)
    wide = high.astype(np.uint16)
    if np.array_equal(wide * 257, table) or np.array_equal(wide << 8, table):
        return high
    return table.astype(np.uint8) if table.max(initial=0) < 256 else table


def _orientation(page: Any) -> int:
    tag = page.tags.get(274)
    value = tag.value if tag is not None else 1
    return int(value) if isinstance(value, int) and 1 <= value <= 8 else 1


Place = tuple[int, int]
"""Number of the page in the file, and bytes by which its samples lie behind those that the page points to."""


def _places(path: Path, file: tifffile.TiffFile, first: Any) -> list[Place]:
    """Where the pictures are; reduced copies, masks of transparency and thumbnails are left out."""
    count = len(file.pages)
    if count == 1:
        images = (file.imagej_metadata or {}).get("images", 1) if file.is_imagej else 1
        bytes_each = first.imagelength * first.imagewidth * first.samplesperpixel * first.dtype.itemsize
        fits = first.is_contiguous and first.dataoffsets[0] + images * bytes_each <= path.stat().st_size
        return [(0, number * bytes_each) for number in range(images if fits else 1)]
    places: list[Place] = [(0, 0)]
    for number in range(1, count):
        if number >= _PAGES_LOOKED_AT:
            places += [(rest, 0) for rest in range(number, count)]
            break
        page: Any = file.pages[number]
        if not page.subfiletype & 0b101 and not _is_thumbnail(page, first):
            places.append((number, 0))
    return places


def _is_thumbnail(page: Any, first: Any) -> bool:
    """Whether a page has the shape of the first one at half its size or less, within a pixel."""
    scale = first.imagelength / max(page.imagelength, 1)
    return bool(scale >= 2 and abs(first.imagewidth / scale - page.imagewidth) <= 1)


def _bands(path: Path, number: int, skip: int) -> Iterator[np.ndarray]:
    try:
        with tifffile.TiffFile(path) as file:
            page: Any = file.pages[number]
            together = page.planarconfig != 2 or page.samplesperpixel == 1
            rows = 0
            is_plain = page.is_contiguous and together and page.fillorder == 1
            for band in _plain(file, page, skip) if is_plain else _blocks(path, file, page):
                rows += len(band)
                yield band
            if rows != page.imagelength:
                raise EOFError(f"truncated: {rows} of {page.imagelength} rows are there")
    except BadFile:
        raise
    except Exception as error:  # codecs raise their own errors
        raise unreadable(path, error) from None


def _plain(file: tifffile.TiffFile, page: Any, skip: int) -> Iterator[np.ndarray]:
    dtype = page.dtype.newbyteorder(file.byteorder)
    row_shape = (page.imagewidth,) if page.samplesperpixel == 1 else (page.imagewidth, page.samplesperpixel)
    row_values = math.prod(row_shape)
    step = max(BAND_BYTES // (row_values * dtype.itemsize), 1)
    handle = file.filehandle
    handle.seek(page.dataoffsets[0] + skip)
    for row in range(0, page.imagelength, step):
        count = min(step, page.imagelength - row)
        data = handle.read(count * row_values * dtype.itemsize)
        if len(data) < count * row_values * dtype.itemsize:
            raise EOFError("truncated: the file ends before its last row")
        yield np.frombuffer(data, dtype).reshape(count, *row_shape).astype(dtype.newbyteorder("="), copy=False)


def _blocks(path: Path, file: tifffile.TiffFile, page: Any) -> Iterator[np.ndarray]:
    """Bands of one row of tiles, or one strip, each; planes of channels that are stored apart are joined."""
    rows, columns, channels = int(page.imagelength), int(page.imagewidth), int(page.samplesperpixel)
    step = min(int(page.tilelength if page.is_tiled else page.rowsperstrip), rows)
    across = math.ceil(columns / page.tilewidth) if page.is_tiled else 1
    down = math.ceil(rows / step)
    planes = channels if page.planarconfig == 2 else 1
    if step * columns * channels * page.dtype.itemsize > MAX_BLOCK_BYTES:
        what = f"TIFF stored in blocks of {step} rows, which are too large to hold"
        raise bad_file(what, path, "save it in strips or tiles of fewer rows")
    for row in range(down):
        height = min(step, rows - row * step)
        if across == planes == 1 and not page.is_tiled:
            strip = _block(file, page, row)
            if strip is not None:
                yield strip[:height, :, 0] if channels == 1 else strip[:height]
                continue
        band = np.empty((height, columns, channels), page.dtype.newbyteorder("="))
        for plane in range(planes):
            for place in range(across):
                index = (plane * down + row) * across + place
                part = _block(file, page, index)
                column = place * int(page.tilewidth) if page.is_tiled else 0
                target = band[:, column : column + (int(page.tilewidth) if page.is_tiled else columns)]
                target = target[..., plane : plane + 1] if planes > 1 else target
                target[...] = page.nodata if part is None else part[: target.shape[0], : target.shape[1]]
        yield band[..., 0] if channels == 1 else band


def _block(file: tifffile.TiffFile, page: Any, index: int) -> np.ndarray | None:
    """Samples (rows, columns, channels) of one strip or tile; None if it is left out of the file, as empty ones are."""
    offsets, counts = page.dataoffsets, page.databytecounts
    if index >= len(offsets):
        raise EOFError("truncated: blocks of the image are missing")
    if not counts[index]:
        return None
    handle = file.filehandle
    handle.seek(offsets[index])
    data = handle.read(counts[index])
    if len(data) < counts[index]:
        raise EOFError("truncated: the file ends before its last block")
    values, _, _ = page.decode(data, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
    return None if values is None else np.asarray(values)[0]
