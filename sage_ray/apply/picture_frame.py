"""What of an image `predict` looks at: the scale of its pixels and its information bar, each with its origin."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sage_ray.data.information_bar import NO_BAR, information_bar
from sage_ray.data.notes import Note, first_named
from sage_ray.data.pixel_size import PixelSize, pixel_size, said, sizes_said
from sage_ray.errors import UserError
from sage_ray.imaging.particles import Scale, pixel_sides
from sage_ray.imaging.tiles import ArraySource, RowSource

FROM_FILE: Literal["file"] = "file"
"""`nm_per_pixel` that asks for the size that each file says, and refuses an image that says none."""
AUTO: Literal["auto"] = "auto"
"""`crop_bottom` that looks for the bar of each image."""
AskedScale = Scale | Literal["file"]
AskedCrop = int | Literal["auto"] | None
MOST_UNEQUAL = 5.0
"""Pixels are at most this many times as high as wide, or as wide as high: a comma for the decimals is likelier."""
_THINNED = 1024
# Rows by which a bar may seem higher than what is cut off: the soft edge that JPEG leaves.
_SLACK_ROWS = 2


@dataclass(frozen=True)
class PictureFrame:
    """What of one image is looked at, and how large its pixels are."""

    size: PixelSize | None
    crop_bottom: int
    """Rows at the bottom that are left out."""
    crop_from: str
    """Where that number comes from: "model", "option", "its look", "no bar seen" or the source that says the bar."""
    notes: tuple[Note, ...] = ()

    @property
    def sides(self) -> tuple[float, float] | None:
        """(height, width) of a pixel in nanometres."""
        return None if self.size is None else self.size.nm

    def columns(self) -> dict[str, Any]:
        """What images.csv says of it; `nm_per_pixel` is (height, width)."""
        return {
            "crop_bottom": self.crop_bottom,
            "crop_from": self.crop_from,
            "nm_per_pixel": self.sides,
            "scale_from": self.size.origin if self.size else "",
        }


def read_scale(text: str | None) -> AskedScale:
    """What `--nm-per-pixel` says: a number, "HEIGHT,WIDTH", or "file". Raises UserError for anything else."""
    if text is None or text.strip().lower() == FROM_FILE:
        return None if text is None else FROM_FILE
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not all(math.isfinite(number) and number > 0 for number in numbers):
        mend = "give nanometres such as 1.5, HEIGHT,WIDTH such as 1.5,1.4, or file"
        raise UserError("no size of a pixel", f"--nm-per-pixel {text}", mend)
    sides = (numbers[0], numbers[-1])
    if max(sides) > MOST_UNEQUAL * min(sides):
        mend = "HEIGHT,WIDTH are two numbers, and decimals have a point, such as 1.5"
        raise UserError(f"pixels of {said(sides)}", f"--nm-per-pixel {text}", mend)
    return numbers[0] if len(numbers) == 1 else sides


def checked_scale(scale: AskedScale) -> AskedScale:
    """The scale as it was asked for. Raises UserError if a side of a pixel is no positive number."""
    if scale != FROM_FILE:
        pixel_sides(scale)
    return scale


def read_crop(text: str | None) -> AskedCrop:
    """What `--crop-bottom` says: rows, or "auto". Raises UserError for anything else."""
    if text is None:
        return None
    if text.strip().lower() == AUTO:
        return AUTO
    if not text.strip().isascii() or not text.strip().isdigit():
        raise UserError("no number of rows", f"--crop-bottom {text}", "give rows such as 64, or auto")
    return int(text)


def picture_frame(path: Path, source: RowSource, scale: AskedScale, crop: AskedCrop, model_crop: int) -> PictureFrame:
    """What of an image is looked at.

    Args:
        path: its file.
        source: its rows.
        scale: size of a pixel in nanometres for all images; "file" refuses an image that says none; None: what its
            file says.
        crop: rows of the bar; "auto" looks for it; None: as in training.
        model_crop: rows that training cut off.

    Raises:
        UserError: no scale where one is asked for.
    """
    size, notes = _size(path, scale)
    if isinstance(crop, int):
        return PictureFrame(size, crop, "option", notes)
    held = isinstance(source, ArraySource)
    if crop is None and not held:
        return PictureFrame(size, model_crop, "model", notes)
    bar = information_bar(path, source.array if isinstance(source, ArraySource) else _thinned(source))
    if crop == AUTO:
        return PictureFrame(size, bar.rows if bar else 0, bar.origin if bar else NO_BAR, notes)
    if bar and bar.rows > model_crop + _SLACK_ROWS:
        text = "an information bar is taken for micrograph; --crop-bottom auto cuts it off"
        notes = (*notes, Note(text, path, f"{bar.rows} rows by {bar.origin}, {model_crop} cut off"))
    return PictureFrame(size, model_crop, "model", notes)


def _size(path: Path, scale: AskedScale) -> tuple[PixelSize | None, tuple[Note, ...]]:
    if scale is not None and scale != FROM_FILE:
        sides = pixel_sides(scale)
        return (PixelSize(sides, "option") if sides else None), ()
    found = pixel_size(path)
    if found is None and scale == FROM_FILE:
        raise UserError("no scale where nm is asked for", path, "give the size of its pixels, --nm-per-pixel 1.5")
    if found is None or not found.note:
        return found, ()
    return found, (Note("the scale of a file is to be looked at", path, found.note),)


def _thinned(source: RowSource) -> np.ndarray:
    """All rows of a large image, and every n-th column."""
    step = max(source.shape[1] // _THINNED, 1)
    return np.concatenate([band[:, ::step] for band in source.bands()])


def scale_lines(frames: Sequence[tuple[Path, PictureFrame]]) -> list[str]:
    """What is to be said of the scales of all images: the sizes with their origins, and images that have none."""
    sizes = [frame.size for _, frame in frames if frame.size is not None]
    if not sizes:
        return []
    lines = [f"scale: {sizes_said(sizes)}"]
    without = [path.name for path, frame in frames if frame.size is None]
    if without:
        lines.append(
            f"note: {len(without)} of {len(frames)} images have no scale, so nothing of them is in nm "
            f"({first_named(without)}); --nm-per-pixel gives one to all images of a call"
        )
    return lines


def image_columns(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of images.csv with the size of a pixel as numbers: one column, and two more where pixels are no squares."""
    sizes = [row["nm_per_pixel"] for row in rows]
    oblong = any(nm is not None and nm[0] != nm[1] for nm in sizes)
    told = []
    for row, nm in zip(rows, sizes, strict=True):
        sides: dict[str, Any] = {"nm_per_pixel": nm[0] if nm is not None and nm[0] == nm[1] else None}
        if oblong:
            height, width = nm or (None, None)
            sides |= {"nm_per_pixel_height": height, "nm_per_pixel_width": width}
        told.append({key: value for name, old in row.items() for key, value in
                     (sides.items() if name == "nm_per_pixel" else [(name, old)])})  # fmt: skip
    return told


def scale_facts(frames: Iterable[PictureFrame]) -> list[dict[str, Any]]:
    """For prediction.json: each size of a pixel with its origin, and the number of images that have it."""
    counts = Counter((frame.sides, frame.size.origin if frame.size else "") for frame in frames)
    return [
        {"nm_per_pixel": list(sides) if sides else None, "from": origin, "images": count}
        for (sides, origin), count in counts.most_common()
    ]
