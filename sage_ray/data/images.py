"""Reading one image or mask file: header first, then pixels, each failure as one named problem.

Pillow decodes. Sizes are judged from the header, so that a picture too large to train on is refused before a pixel of
it is decoded.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.measure import label

from sage_ray.errors import UserError

SUFFIXES = frozenset({".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp"})
MAX_PIXELS = 64_000_000
"""Largest image that training reads, in pixels (8,000 x 8,000); it bounds the memory of one decoded image."""

# Label maps number their objects from 1 with few gaps; a grey picture's largest value says nothing of how many it has.
_ID_SLACK = (4, 32)
# A label is one region, or a few when its particle is partly covered; a grey value is scattered over the picture.
_REGION_SLACK = (4, 8)
# Particles of few pixels seldom touch each other; the steps of a soft edge are as small and do little else.
_SPECK_PIXELS, _TOUCHING_SHARE = 9, 0.5
# Share of contacts between unlike pixels that are steps of at most 2 grey levels: a smooth ramp has little else.
_RAMP_SHARE = 0.8
_RAMP_VALUES = 16

_pixel_limit_lock = threading.Lock()


@dataclass(frozen=True)
class Problem:
    """One thing wrong with the data, as the parts of a `UserError`."""

    what: str
    where: str
    mend: str

    def __str__(self) -> str:
        return f"{self.what}: {self.where}: {self.mend}"

    def error(self, others: int = 0) -> UserError:
        """The problem as an error; `others` is how many more problems there are."""
        more = f" ({others} more: `sage-ray data check` lists all)" if others else ""
        return UserError(self.what, self.where, self.mend + more)


class BadFile(Exception):
    """A file that cannot be used; carries its `Problem`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass(frozen=True)
class Mask:
    """A decoded mask: `foreground` (H,W) bool; `objects` is the number of labels, or of 4-connected regions."""

    foreground: np.ndarray
    objects: int


def header_size(path: Path) -> tuple[int, int]:
    """(rows, columns) from the file's header, without decoding.

    Raises:
        BadFile: missing, empty or unreadable file, or more than MAX_PIXELS pixels.
    """
    with _opened(path) as picture:
        columns, rows = picture.size
    if rows * columns > MAX_PIXELS:
        raise BadFile(
            Problem(
                f"image too large to train on ({rows} x {columns} pixels)",
                str(path),
                f"cut it into tiles of at most {MAX_PIXELS:,} pixels (`predict` takes any size)",
            )
        )
    return rows, columns


def read_image(path: Path) -> np.ndarray:
    """Grey image (H,W), uint8 or uint16 (float32 for float files); colour becomes luminance, transparency is dropped.

    Raises:
        BadFile: as `header_size`, or the pixels cannot be decoded or are not finite.
    """
    header_size(path)
    with _opened(path) as picture:
        pixels = _decode(picture, path)
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise BadFile(Problem("image with values that are not finite", str(path), "save it as 8 or 16 bit grey"))
    return pixels


def read_mask(path: Path) -> Mask:
    """Foreground and object count of a binary mask ({0,1}, {0,255}, one value beside 0) or an instance map.

    Raises:
        BadFile: as `read_image`, or the values are neither binary nor labels (see `classify_values`).
    """
    header_size(path)
    with _opened(path) as picture:
        values = _mask_values(picture, path)
    return classify_values(values, path)


def classify_values(values: np.ndarray, path: Path | str = "mask") -> Mask:
    """The mask that integer pixel values (H,W) stand for, 0 being background.

    At most one value beside 0 is a binary mask. More are labels if they are numbered from 1 without large gaps, if each
    forms one region or a few of some size (a grey value is scattered), and if they do not climb in small steps as in a
    ramp.

    Raises:
        BadFile: neither binary nor labels.
    """
    found = np.unique(values)
    ids = found[found != 0]
    if len(ids) <= 1:
        foreground = values != 0
        objects: np.ndarray = label(foreground, connectivity=1)  # type: ignore[no-untyped-call]  # scikit-image
        return Mask(foreground, int(objects.max()))
    reason = _why_no_labels(values, found, ids)
    if reason is not None:
        raise BadFile(
            Problem(
                f"mask is neither binary nor an instance map ({reason})",
                str(path),
                "save 0 and 255, or particles numbered from 1 on background 0, in a lossless format such as PNG",
            )
        )
    return Mask(values != 0, len(ids))


def _why_no_labels(values: np.ndarray, found: np.ndarray, ids: np.ndarray) -> str | None:
    if found.min() < 0:
        return "negative values"
    if found[0] != 0:
        return f"no background value 0, but {len(ids)} other values"
    factor, slack = _ID_SLACK
    if ids.max() > factor * len(ids) + slack:
        return f"{len(ids)} grey values up to {ids.max()}"
    regions: np.ndarray = label(values, connectivity=1, background=0)  # type: ignore[no-untyped-call]  # scikit-image
    areas = np.bincount(regions.ravel())[1:]
    touching, steps = _contacts(values)
    factor, slack = _REGION_SLACK
    specks = np.median(areas) < _SPECK_PIXELS and touching > _TOUCHING_SHARE
    if specks or len(areas) > factor * len(ids) + slack:
        return f"{len(ids)} grey values scattered over {len(areas)} regions"
    if len(ids) >= _RAMP_VALUES and steps > _RAMP_SHARE:
        return f"{len(ids)} grey values that form a ramp"
    return None


def _contacts(values: np.ndarray) -> tuple[float, float]:
    """Among neighbouring pixels of unlike values: share without background, and share that are steps of at most 2."""
    touching = steps = contacts = 0
    wide = values.astype(np.int32)
    for a, b in ((wide[1:], wide[:-1]), (wide[:, 1:], wide[:, :-1])):
        unlike, both = a != b, (a > 0) & (b > 0)
        contacts += int(unlike.sum())
        touching += int((unlike & both).sum())
        steps += int((unlike & both & (np.abs(a - b) <= 2)).sum())
    return touching / max(contacts, 1), steps / max(contacts, 1)


def _opened(path: Path) -> Image.Image:
    try:
        if path.stat().st_size == 0:
            raise BadFile(Problem("empty file (0 bytes)", str(path), "replace it, or remove it with its partner"))
        with _pixel_limit_lock:
            # Pillow's own guard would raise without telling the size; ours reads the header and decodes nothing.
            limit = Image.MAX_IMAGE_PIXELS
            Image.MAX_IMAGE_PIXELS = None
            try:
                return Image.open(path)
            finally:
                Image.MAX_IMAGE_PIXELS = limit
    except BadFile:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error and more
        raise _unreadable(path, error) from None


def _decode(picture: Image.Image, path: Path) -> np.ndarray:
    try:
        picture.load()
        if picture.mode in ("I;16", "I;16L", "I;16B", "I", "F"):
            return _narrow(np.asarray(picture))
        if picture.mode in ("P", "PA"):
            picture = picture.convert("RGB")
        return np.asarray(picture.convert("L"))
    except Exception as error:  # as above
        raise _unreadable(path, error) from None


def _native(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _narrow(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype.kind == "f":
        return pixels.astype(np.float32)
    if pixels.size and pixels.min() >= 0 and pixels.max() <= 65535:
        return pixels.astype(np.uint16)
    return pixels.astype(np.float32)


def _mask_values(picture: Image.Image, path: Path) -> np.ndarray:
    """Integer values (H,W): grey levels or labels as stored; each colour of a coloured map becomes one label."""
    try:
        picture.load()
        mode = picture.mode
        if mode == "1":
            return np.asarray(picture).astype(np.uint8)
        if mode == "F":
            values = np.asarray(picture)
            if not np.array_equal(values, np.round(values)):
                raise ValueError("mask values are not whole numbers")
            return values.astype(np.int32)
        if mode in ("L", "LA", "La", "I", "I;16", "I;16L", "I;16B"):
            grey = picture.getchannel(0) if mode in ("LA", "La") else picture
            return _native(np.asarray(grey))
        return _colour_labels(np.asarray(picture.convert("RGB")))
    except Exception as error:  # as above
        raise _unreadable(path, error) from None


def _colour_labels(colours: np.ndarray) -> np.ndarray:
    if (colours[..., 0] == colours[..., 1]).all() and (colours[..., 0] == colours[..., 2]).all():
        return colours[..., 0]
    wide = colours.astype(np.int32)
    codes = (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]
    found, inverse = np.unique(codes, return_inverse=True)
    first = 0 if found[0] == 0 else 1
    labels: np.ndarray = inverse.reshape(codes.shape) + first
    return labels


def _unreadable(path: Path, error: Exception) -> BadFile:
    if isinstance(error, FileNotFoundError):
        return BadFile(Problem("no such file", str(path), "restore it, or remove its partner"))
    detail = " ".join(str(error).replace(str(path), "").split())[:120]
    kind = "truncated image file" if "truncated" in detail.lower() else "unreadable image file"
    reason = detail or type(error).__name__
    return BadFile(Problem(kind, str(path), f"replace it, or remove it with its partner ({reason})"))
