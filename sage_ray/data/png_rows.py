"""PNG files read in bands of rows, which no common library does: scanlines are inflated and unfiltered here.

It is used for images too large to hold, and for 16-bit colour, of which Pillow would drop the lower 8 bits.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sage_ray.data.problems import bad_file
from sage_ray.data.stored_picture import BAND_BYTES

MAX_ROW_BYTES = 1 << 28
SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
_INPUT_BYTES = 1 << 18


@dataclass(frozen=True)
class PngHeader:
    """What the first chunk of a PNG file says."""

    rows: int
    columns: int
    bits: int
    colour: int
    """Colour type: 0 grey, 2 RGB, 3 palette, 4 grey with opacity, 6 RGB with opacity."""
    interlaced: bool

    @property
    def channels(self) -> int:
        """Samples per pixel; one for a palette."""
        return _CHANNELS.get(self.colour, 1)

    @property
    def is_readable_by_rows(self) -> bool:
        """Whether `png_bands` reads such a file."""
        row_bytes = self.columns * self.channels * self.bits // 8
        return not self.interlaced and self.colour in _CHANNELS and self.bits in (8, 16) and row_bytes <= MAX_ROW_BYTES


def png_header(path: Path) -> PngHeader:
    """The header of a PNG file.

    Raises:
        BadFile: it is damaged.
    """
    with path.open("rb") as file:
        head = file.read(len(SIGNATURE) + 8 + 13)[len(SIGNATURE) :]
    if len(head) != 21 or head[4:8] != b"IHDR":
        raise bad_file("unreadable image file", path, "replace it (its header is damaged)")
    columns, rows, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", head[8:])
    return PngHeader(rows, columns, bits, colour, bool(interlaced))


def png_exif(path: Path) -> bytes:
    """The notes of the camera (chunk eXIf), wherever in the file they are; empty without any. No pixel is decoded."""
    with path.open("rb") as file:
        file.seek(len(SIGNATURE))
        while len(head := file.read(8)) == 8:
            length = int.from_bytes(head[:4], "big")
            if head[4:] == b"eXIf":
                return file.read(min(length, _INPUT_BYTES))
            file.seek(length + 4, os.SEEK_CUR)
    return b""


def png_bands(path: Path, header: PngHeader) -> Iterator[np.ndarray]:
    """Bands of samples, (n, columns) or (n, columns, channels), uint8 or uint16, from the top.

    Raises:
        BadFile: damaged or missing pixels.
    """
    row_bytes = header.columns * header.channels * header.bits // 8
    step = min(max(BAND_BYTES // row_bytes, 16), 1024)
    prior = np.zeros(row_bytes, np.uint8)
    with path.open("rb") as file:
        stream = _Inflated(file, path)
        for row in range(0, header.rows, step):
            count = min(step, header.rows - row)
            lines = np.frombuffer(stream.read(count * (row_bytes + 1)), np.uint8).reshape(count, row_bytes + 1)
            filters, residual = lines[:, 0], lines[:, 1:]
            if filters.max() > 4:
                raise bad_file("unreadable image file", path, "replace it (an unknown PNG filter)")
            decoded = unfilter(filters, residual, prior, header.channels * header.bits // 8)
            prior = decoded[-1].copy()
            samples = decoded if header.bits == 8 else decoded.view(">u2").astype(np.uint16)
            yield samples if header.channels == 1 else samples.reshape(count, header.columns, header.channels)


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
        file.seek(len(SIGNATURE))

    def read(self, size: int) -> bytes:
        """The next `size` bytes. Raises BadFile if the data are damaged or end before."""
        out = bytearray()
        while len(out) < size:
            if not self._waiting:
                self._waiting = self._input()
            try:
                out += self._inflater.decompress(self._waiting, size - len(out))
            except zlib.error as error:
                raise bad_file("unreadable image file", self._path, f"replace it ({error})") from None
            self._waiting = self._inflater.unconsumed_tail
            if self._inflater.eof and len(out) < size:
                raise bad_file("truncated image file", self._path, "replace it (pixels are missing)")
        return bytes(out)

    def _input(self) -> bytes:
        """Some compressed bytes of the current IDAT chunk, or of the next one. Check sums of chunks are passed over."""
        while not self._left:
            head = self._file.read(8)
            if len(head) < 8 or head[4:] == b"IEND":
                raise bad_file("truncated image file", self._path, "replace it (pixels are missing)")
            length = int.from_bytes(head[:4], "big")
            if head[4:] == b"IDAT" and length:
                self._left = length
            else:
                self._file.seek(length + 4, os.SEEK_CUR)
        data = self._file.read(min(self._left, _INPUT_BYTES))
        self._left -= len(data)
        if not data:
            raise bad_file("truncated image file", self._path, "replace it (pixels are missing)")
        if not self._left:
            self._file.seek(4, os.SEEK_CUR)
        return data
