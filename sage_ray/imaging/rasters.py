"""Image files too large to hold: read in bands of rows from the top (TIFF, PNG), masks written as they come (TIFF).

Files that fit are decoded by Pillow, as training does. Neither Pillow nor tifffile hands out rows of a PNG, so its
scanlines are inflated and unfiltered here.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tifffile

from sage_ray.data.images import MAX_PIXELS, BadFile, header_size, read_image
from sage_ray.errors import UserError
from sage_ray.files import replacing
from sage_ray.imaging.tiles import ArraySource, RowSource

# Bytes of decoded rows that a reader holds at a time, about.
BAND_BYTES = 1 << 24
MAX_ROW_BYTES = 1 << 28
WRITE_TILE = 256
TIFF_SUFFIXES = (".tif", ".tiff")

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
_INPUT_BYTES = 1 << 18


def open_rows(path: Path) -> RowSource:
    """An image file as bands of grey rows; colour becomes luminance, transparency is dropped.

    Up to 64 million pixels any format that training reads is decoded at once. Larger ones must be TIFF (not
    compressed, or compressed with deflate in strips or tiles) or PNG (8 or 16 bit grey or colour, not interlaced).

    Raises:
        UserError: unreadable or truncated file, or a large one that cannot be read row by row; bands may raise it too.
    """
    try:
        header_size(path)
    except BadFile as bad:
        if not bad.problem.what.startswith("image too large"):
            raise bad.problem.error() from None
        return _open_large(path)
    try:
        return ArraySource(read_image(path))
    except BadFile as bad:
        raise bad.problem.error() from None


def _open_large(path: Path) -> RowSource:
    with path.open("rb") as file:
        head = file.read(8)
    if head == _PNG_SIGNATURE:
        return PngRows.open(path)
    if path.suffix.lower() in TIFF_SUFFIXES or head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return TiffRows.open(path)
    raise _too_large(path, "this format cannot be read row by row")


def _too_large(path: Path, why: str) -> UserError:
    mend = "save it as TIFF without compression or with deflate, or as PNG without interlacing"
    return UserError(f"image of more than {MAX_PIXELS:,} pixels that cannot be streamed ({why})", path, mend)


@dataclass(frozen=True)
class TiffRows:
    """The first page of a TIFF file, grey or colour, as bands of grey rows."""

    path: Path
    shape: tuple[int, int]
    dtype: np.dtype

    @classmethod
    def open(cls, path: Path) -> TiffRows:
        """Check that the page can be read in bands of bounded size. Raises UserError if not."""
        with _opened_tiff(path) as file:
            page = file.pages.first
            if page.axes not in ("YX", "YXS") or page.dtype is None or page.dtype.kind not in "uif":
                raise _too_large(path, f"axes {page.axes} of {page.dtype}")
            rows, columns = page.shape[:2]
            if not page.is_contiguous:
                step = page.tilelength if page.is_tiled else page.rowsperstrip
                if min(step, rows) * columns > MAX_PIXELS:
                    raise _too_large(path, f"compressed in blocks of {step} rows")
                cls._probe(path, page)
            dtype = page.dtype.newbyteorder("=") if len(page.shape) == 2 else np.dtype(np.uint8)
            return cls(path, (rows, columns), dtype)

    @staticmethod
    def _probe(path: Path, page: tifffile.TiffPage) -> None:
        try:
            next(page.segments(maxworkers=1, buffersize=BAND_BYTES))
        except (ValueError, RuntimeError, zlib.error) as error:
            raise _too_large(
                path, f"compression {tifffile.COMPRESSION(page.compression).name}: {' '.join(str(error).split())[:80]}"
            ) from None

    def bands(self) -> Iterator[np.ndarray]:
        """Bands (n, columns) of grey rows."""
        with _opened_tiff(self.path) as file:
            page = file.pages.first
            try:
                for band in _plain_bands(file, page) if page.is_contiguous else _segment_bands(page):
                    yield _grey(band)
            except (ValueError, RuntimeError, zlib.error, struct.error) as error:
                detail = " ".join(str(error).split())[:120]
                raise UserError("unreadable image file", self.path, f"replace it ({detail})") from None


def _opened_tiff(path: Path) -> tifffile.TiffFile:
    try:
        return tifffile.TiffFile(path)
    except (tifffile.TiffFileError, OSError, ValueError) as error:
        raise UserError("unreadable image file", path, f"replace it ({error})") from None


def _plain_bands(file: tifffile.TiffFile, page: tifffile.TiffPage) -> Iterator[np.ndarray]:
    assert page.dtype is not None, "TiffRows.open refuses pages without a dtype"
    dtype = page.dtype.newbyteorder(file.byteorder)
    row_values = int(np.prod(page.shape[1:]))
    step = max(BAND_BYTES // (row_values * dtype.itemsize), 1)
    handle = file.filehandle
    handle.seek(page.dataoffsets[0])
    for row in range(0, page.shape[0], step):
        count = min(step, page.shape[0] - row) * row_values
        values = np.frombuffer(handle.read(count * dtype.itemsize), dtype)
        if values.size != count:
            raise ValueError("the file ends early")
        yield values.reshape(-1, *page.shape[1:]).astype(dtype.newbyteorder("="), copy=False)


def _segment_bands(page: tifffile.TiffPage) -> Iterator[np.ndarray]:
    """Bands of one row of tiles, or one strip, each."""
    assert page.dtype is not None, "TiffRows.open refuses pages without a dtype"
    band, top = None, 0
    step = page.tilelength if page.is_tiled else page.rowsperstrip
    for values, index, _ in page.segments(maxworkers=1, buffersize=BAND_BYTES):
        row, column = index[2], index[3]
        if band is None or row != top:
            if band is not None:
                yield band
            top = row
            band = np.zeros((min(step, page.shape[0] - row), *page.shape[1:]), page.dtype.newbyteorder("="))
        if values is not None:
            part = values[0].reshape(*values.shape[1:3], -1) if band.ndim == 3 else values[0, :, :, 0]
            target = band[: part.shape[0], column : column + part.shape[1]]
            target[...] = part[: target.shape[0], : target.shape[1]]
    if band is not None:
        yield band


def _grey(pixels: np.ndarray) -> np.ndarray:
    """(n,W) as it is; (n,W,channels): grey of 1 or 2, Pillow's luminance of 3 or 4, 16 bit taken as its high byte."""
    if pixels.ndim == 2:
        return pixels
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.shape[2] < 3:
        return pixels[..., 0]
    red, green, blue = (pixels[..., channel].astype(np.uint32) for channel in range(3))
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(np.uint8)


@dataclass(frozen=True)
class PngRows:
    """A PNG file of 8 or 16 bits per channel, grey or colour, as bands of grey rows."""

    path: Path
    shape: tuple[int, int]
    dtype: np.dtype
    channels: int
    sample_bytes: int

    @classmethod
    def open(cls, path: Path) -> PngRows:
        """Check from the header that the file can be read in bands. Raises UserError if not."""
        with path.open("rb") as file:
            file.seek(len(_PNG_SIGNATURE))
            kind, data = _chunk(file, path)
        if kind != b"IHDR" or len(data) != 13:
            raise UserError("unreadable image file", path, "replace it (its header is damaged)")
        columns, rows, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", data)
        if interlaced:
            raise _too_large(path, "interlaced PNG")
        if colour not in _PNG_CHANNELS or bits not in (8, 16):
            raise _too_large(path, f"PNG with {bits} bits and colour type {colour}")
        channels, sample_bytes = _PNG_CHANNELS[colour], bits // 8
        if columns * channels * sample_bytes > MAX_ROW_BYTES:
            raise _too_large(path, f"rows of {columns:,} pixels")
        dtype = np.dtype(np.uint16 if bits == 16 and channels == 1 else np.uint8)
        return cls(path, (rows, columns), dtype, channels, sample_bytes)

    def bands(self) -> Iterator[np.ndarray]:
        """Bands (n, columns) of grey rows."""
        rows, columns = self.shape
        pixel_bytes = self.channels * self.sample_bytes
        row_bytes = columns * pixel_bytes
        step = min(max(BAND_BYTES // row_bytes, 16), 1024)
        prior = np.zeros(row_bytes, np.uint8)
        with self.path.open("rb") as file:
            stream = _Inflated(file, self.path)
            for row in range(0, rows, step):
                count = min(step, rows - row)
                lines = np.frombuffer(stream.read(count * (row_bytes + 1)), np.uint8).reshape(count, row_bytes + 1)
                filters, residual = lines[:, 0], lines[:, 1:]
                if filters.max() > 4:
                    raise UserError("unreadable image file", self.path, "replace it (an unknown PNG filter)")
                decoded = unfilter(filters, residual, prior, pixel_bytes)
                prior = decoded[-1].copy()
                yield self._pixels(decoded)

    def _pixels(self, decoded: np.ndarray) -> np.ndarray:
        samples = decoded if self.sample_bytes == 1 else decoded.view(">u2").astype(np.uint16)
        return samples if self.channels == 1 else _grey(samples.reshape(len(decoded), -1, self.channels))


def unfilter(filters: np.ndarray, residual: np.ndarray, prior: np.ndarray, pixel_bytes: int) -> np.ndarray:
    """PNG scanlines (R, W bytes) uint8 from their residuals and filter types (R,); `prior` is the line above them.

    Source: PNG specification, third edition, section 9.
    """
    if filters.max(initial=0) > 2:
        return _unfilter_diagonally(filters, residual, prior, pixel_bytes)
    lines = residual.copy()
    for row, kind in enumerate(filters):
        if kind == 1:
            lines[row] = np.cumsum(lines[row].reshape(-1, pixel_bytes), axis=0, dtype=np.uint8).ravel()
        elif kind == 2:
            lines[row] += lines[row - 1] if row else prior
    return lines


def _unfilter_diagonally(filters: np.ndarray, residual: np.ndarray, prior: np.ndarray, pixel_bytes: int) -> np.ndarray:
    """The same for any filter types.

    Average and Paeth take a pixel from its left, upper and upper left neighbours, so rows and columns depend on
    what comes before. Pixels on one diagonal do not depend on each other: at step t, row r decodes pixel t - r, all
    rows at once. Diagonal t lies in `done[t + 2]`, row r at [r + 1]; [0] holds the line above, and what lies
    outside the image is 0.
    """
    rows, width = len(filters), prior.size // pixel_bytes
    steps = width + rows - 1
    done = np.zeros((steps + 2, rows + 1, pixel_bytes), np.int16)
    done[1 : 1 + width, 0] = prior.reshape(width, pixel_bytes)
    skewed = np.zeros((steps, rows, pixel_bytes), np.uint8)
    for row in range(rows):
        skewed[row : row + width, row] = residual[row].reshape(width, pixel_bytes)
    sub, up, average, paeth = (np.where(filters == kind, -1, 0).astype(np.int16)[:, None] for kind in (1, 2, 3, 4))
    for step in range(steps):
        left, above, corner = done[step + 1, 1:], done[step + 1, :-1], done[step, :-1]
        from_left, from_above = above - corner, left - corner
        # Paeth: the neighbour nearest to left + above - corner; ties go to left, then above.
        distance_left, distance_above = np.abs(from_left), np.abs(from_above)
        distance_corner = np.abs(from_left + from_above)
        nearest = np.where(distance_above <= distance_corner, above, corner)
        best_left = (distance_left <= distance_above) & (distance_left <= distance_corner)
        nearest = np.where(best_left, left, nearest)
        guess = (left & sub) | (above & up) | (((left + above) >> 1) & average) | (nearest & paeth)
        done[step + 2, 1:] = (skewed[step] + guess) & 255
    lines = np.empty(residual.shape, np.uint8)
    for row in range(rows):
        lines[row] = done[row + 2 : row + 2 + width, row + 1].reshape(-1)
    return lines


class _Inflated:
    """The decompressed contents of a PNG's IDAT chunks, read in order."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._inflater = zlib.decompressobj()
        self._waiting = b""
        self._left = 0
        file.seek(len(_PNG_SIGNATURE))

    def read(self, size: int) -> bytes:
        """The next `size` bytes. Raises UserError if the data are damaged or end before."""
        out = bytearray()
        while len(out) < size:
            if not self._waiting:
                self._waiting = self._input()
            try:
                out += self._inflater.decompress(self._waiting, size - len(out))
            except zlib.error as error:
                raise UserError("unreadable image file", self._path, f"replace it ({error})") from None
            self._waiting = self._inflater.unconsumed_tail
            if self._inflater.eof and len(out) < size:
                raise UserError("truncated image file", self._path, "replace it (pixels are missing)")
        return bytes(out)

    def _input(self) -> bytes:
        """Some compressed bytes of the current IDAT chunk, or of the next one. Check sums of chunks are passed over."""
        while not self._left:
            head = self._file.read(8)
            if len(head) < 8 or head[4:] == b"IEND":
                raise UserError("truncated image file", self._path, "replace it (pixels are missing)")
            length = int.from_bytes(head[:4], "big")
            if head[4:] == b"IDAT" and length:
                self._left = length
            else:
                self._file.seek(length + 4, os.SEEK_CUR)
        data = self._file.read(min(self._left, _INPUT_BYTES))
        self._left -= len(data)
        if not data:
            raise UserError("truncated image file", self._path, "replace it (pixels are missing)")
        if not self._left:
            self._file.seek(4, os.SEEK_CUR)
        return data


def _chunk(file: BinaryIO, path: Path) -> tuple[bytes, bytes]:
    head = file.read(8)
    length = int.from_bytes(head[:4], "big")
    if len(head) < 8 or length > 1 << 20:
        raise UserError("unreadable image file", path, "replace it (its header is damaged)")
    return head[4:], file.read(length)


def write_mask(
    path: Path,
    shape: tuple[int, int],
    bands: Iterable[np.ndarray],
    watch: Callable[[np.ndarray], None] | None = None,
) -> None:
    """Write a mask (rows, columns), 0 and 255, to a deflate-compressed TIFF while its bands come; it is never whole.

    Args:
        path: replaced only when all is written.
        bands: foreground probabilities (n, columns) float32 from the top (`Model.predict_stream`), or masks (n,
            columns) bool; together as many rows as `shape` says.
        watch: called with each band as a mask (n, columns) bool, such as `ParticleCounter.add`.

    Raises:
        UserError: the file cannot be written (full disk, no permission), or what reading the image raises.
    """
    try:
        with replacing(path, durable=False) as temporary:
            tifffile.imwrite(
                temporary,
                _write_tiles(bands, shape, watch),
                shape=shape,
                dtype=np.uint8,
                tile=(WRITE_TILE, WRITE_TILE),
                compression="zlib",
                photometric="minisblack",
                bigtiff=shape[0] * shape[1] > 1 << 31,
                # By default tifffile gathers half a gigabyte of tiles before it writes them.
                buffersize=BAND_BYTES,
                maxworkers=1,
            )
    except OSError as error:
        raise UserError("cannot write", path, f"free space or choose another folder ({error.strerror})") from None


def _write_tiles(
    bands: Iterable[np.ndarray], shape: tuple[int, int], watch: Callable[[np.ndarray], None] | None
) -> Iterator[np.ndarray]:
    held = np.zeros((0, shape[1]), bool)
    done = 0
    for band in bands:
        mask = band if band.dtype == bool else band > 0.5
        if watch is not None:
            watch(mask)
        held = np.concatenate([held, mask])
        while len(held) >= WRITE_TILE or (len(held) and done + len(held) == shape[0]):
            yield from _tiles_of(held[:WRITE_TILE])
            done += min(len(held), WRITE_TILE)
            held = held[WRITE_TILE:]
    assert done == shape[0], f"bands have {done} rows, the image {shape[0]}"


def _tiles_of(rows: np.ndarray) -> Iterator[np.ndarray]:
    for column in range(0, rows.shape[1], WRITE_TILE):
        tile = np.zeros((WRITE_TILE, WRITE_TILE), np.uint8)
        part = rows[:, column : column + WRITE_TILE]
        tile[: part.shape[0], : part.shape[1]] = part * np.uint8(255)
        yield tile
