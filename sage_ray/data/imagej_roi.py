"""ImageJ regions of interest: one in a .roi file, or several in the .zip that the ROI manager saves.

The file is big-endian: "Iout", version, kind, bounds, number of points, and from byte 64 the points, relative to the
bounds as whole numbers, and for regions of sub-pixel resolution again as floats in the image's frame. Where there are
more than 65,535 points their number is 0, and stands at byte 18.

Source: ij/io/RoiEncoder.java and RoiDecoder.java of ImageJ, which is in the public domain.
"""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sage_ray.files import replacing

_KINDS = {
    0: "polygon",
    1: "rectangle",
    2: "oval",
    3: "straight line",
    4: "freehand line",
    5: "segmented line",
    6: "no region",
    7: "freehand",
    8: "traced",
    9: "angle",
    10: "point",
}
_CLOSED = ("polygon", "freehand", "traced")
_HEAD = 64
_SUB_PIXEL = 128
_OVAL_POINTS = 180
_VERSION = 227
_TRACED = 8
_MOST_SHORT = 32_767
_MOST_COUNT = 65_535
MAX_ROI_BYTES = 1 << 24


@dataclass(frozen=True)
class Roi:
    """One closed region: its name and its outline (n,2) as x and y in pixels, 0 being the image's left and top edge."""

    name: str
    outline: np.ndarray


def read_rois(path: Path) -> list[Roi]:
    """The regions of a .roi file or of a .zip of them, in the file's order.

    Raises:
        ValueError: damaged, or a kind of region that encloses nothing or is not supported; the message names it.
        OSError: the file cannot be read.
    """
    if path.suffix.lower() != ".zip":
        return [parse_roi(path.read_bytes(), path.stem)]
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.lower().endswith(".roi")]
            large = next((entry.filename for entry in entries if entry.file_size > MAX_ROI_BYTES), None)
            if large is not None:
                raise ValueError(f"{large} has more than {MAX_ROI_BYTES:,} bytes")
            return [parse_roi(archive.read(entry), Path(entry.filename).stem) for entry in entries]
    except (zipfile.BadZipFile, RuntimeError, EOFError) as error:
        raise ValueError(f"damaged zip ({error})") from None


def holds_rois(path: Path) -> bool:
    """Whether a .zip file holds ImageJ regions."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.lower().endswith(".roi") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, RuntimeError):
        return False


def write_rois(path: Path, regions: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write a .zip of regions, as the ROI manager of ImageJ saves and opens it.

    Args:
        path: replaced only when all is written.
        regions: name and outline (n,2) of each, x and y in pixels, whole numbers from 0.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(path, durable=False) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, outline in regions:
            # A fixed date: the same regions give the same bytes.
            archive.writestr(zipfile.ZipInfo(f"{name}.roi"), roi_bytes(outline), zipfile.ZIP_DEFLATED)


def roi_bytes(outline: np.ndarray) -> bytes:
    """A traced region of ImageJ, such as its wand makes, from an outline (n,2) of whole numbers from 0.

    Beyond 32,767 pixels, where the whole numbers of the format end, it has the points as floats too.
    """
    points = np.asarray(outline, np.int64)
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    count, far = len(points), max(right, bottom) > _MOST_SHORT
    bounds = np.array([top, left, bottom, right]).astype(">u2").tobytes()
    head: bytes = b"Iout" + struct.pack(">hBx", _VERSION, _TRACED) + bounds
    head += struct.pack(">H", count if count <= _MOST_COUNT else 0)
    head += struct.pack(">i", count) if count > _MOST_COUNT else bytes(4)
    head = head.ljust(50, b"\0") + struct.pack(">h", _SUB_PIXEL if far else 0)
    body: bytes = (points - [left, top]).T.astype(">u2").tobytes()
    if far:
        body += points.T.astype(">f4").tobytes()
    return head.ljust(_HEAD, b"\0") + body


def parse_roi(content: bytes, name: str) -> Roi:
    """One region from the bytes of a .roi file.

    Raises:
        ValueError: as `read_rois`.
    """
    if content[:4] != b"Iout" or len(content) < _HEAD:
        raise ValueError(f"{name} is no ImageJ region, or is cut off")
    version, kind_number = struct.unpack_from(">hB", content, 4)
    top, left, bottom, right, count = struct.unpack_from(">4hH", content, 8)
    if count == 0:
        count = struct.unpack_from(">i", content, 18)[0]
    kind = _KINDS.get(kind_number, f"kind {kind_number}")
    if struct.unpack_from(">i", content, 36)[0] > 0:
        raise ValueError(f"{name} is a composite region, which is not supported; split it in ImageJ (More, Split)")
    sub_pixel = bool(struct.unpack_from(">h", content, 50)[0] & _SUB_PIXEL) and version >= 222
    if kind in ("rectangle", "oval"):
        x, y, width, height = float(left), float(top), float(right - left), float(bottom - top)
        if sub_pixel:
            x, y, width, height = struct.unpack_from(">4f", content, 18)
        outline = _box(x, y, width, height) if kind == "rectangle" else _oval(x, y, width, height)
    elif kind in _CLOSED:
        outline = _points(content, name, (left, top), count, sub_pixel)
    else:
        raise ValueError(f"{name} is a {kind}, which encloses nothing; give closed regions")
    if not np.isfinite(outline).all():
        raise ValueError(f"{name} has coordinates that are not finite")
    return Roi(name, outline)


def _points(content: bytes, name: str, corner: tuple[int, int], count: int, sub_pixel: bool) -> np.ndarray:
    start, size = (_HEAD + 4 * count, 4) if sub_pixel else (_HEAD, 2)
    if count < 3 or len(content) < start + 2 * count * size:
        raise ValueError(f"{name} has fewer points than its head says, or fewer than 3")
    values = np.frombuffer(content, ">f4" if sub_pixel else ">i2", 2 * count, start).astype(np.float64)
    points: np.ndarray = values.reshape(2, count).T
    return points if sub_pixel else points + np.array(corner, np.float64)


def _box(x: float, y: float, width: float, height: float) -> np.ndarray:
    return np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], np.float64)


def _oval(x: float, y: float, width: float, height: float) -> np.ndarray:
    angles = np.arange(_OVAL_POINTS) * (2 * math.pi / _OVAL_POINTS)
    middle = np.array([x + width / 2, y + height / 2])
    outline: np.ndarray = middle + np.stack([np.cos(angles) * width / 2, np.sin(angles) * height / 2], axis=1)
    return outline
