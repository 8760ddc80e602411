"""What the images of a folder say together: which information bars they have, and how large their pixels are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sage_ray.data.information_bar import NO_BAR, information_bar
from sage_ray.data.notes import first_named
from sage_ray.data.pixel_size import PixelSize, pixel_size, sizes_said

_NAMED = 3
# Rows by which bars of equal images may seem to differ: soft edges of JPEG.
_SLACK_ROWS = 2


@dataclass
class BarsAndScales:
    """Gathered image by image; `crop_bottom` is what the user cuts off."""

    crop_bottom: int = 0
    bars: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Rows of the bar of each image, and where they come from."""
    lacking: dict[str, int] = field(default_factory=dict)
    """Rows by which the masks of images are lower than these."""
    sizes: dict[str, PixelSize | None] = field(default_factory=dict)

    def add(self, stem: str, path: Path, image: np.ndarray, lacking: int = 0) -> None:
        """Take in an image (H,W), and by how many rows its mask is lower."""
        bar = information_bar(path, image)
        self.bars[stem] = (bar.rows, bar.origin) if bar else (0, NO_BAR)
        if lacking:
            self.lacking[stem] = lacking
        self.sizes[stem] = pixel_size(path)

    @property
    def proposed(self) -> int:
        """The `data.crop_bottom` that fits all images: the rows that their masks lack, or that their bars have; or 0.

        Bars that differ by the soft edge of JPEG are one; the highest is taken.
        """
        if self.lacking:
            lacks = set(self.lacking.values())
            return lacks.pop() if len(lacks) == 1 else 0
        heights = [rows for rows, _ in self.bars.values()]
        low, high = min(heights, default=0), max(heights, default=0)
        return high if low and high - low <= _SLACK_ROWS else 0

    def warnings(self) -> list[str]:
        """Bars that are not cut off, and sizes of pixels that are to be looked at."""
        lines = self._of_bars()
        for text, stems in _grouped({stem: size.note for stem, size in self.sizes.items() if size and size.note}):
            lines.append(f"scale: {first_named(stems)}: {text}")
        return lines

    def _of_bars(self) -> list[str]:
        left = {stem: rows for stem, (rows, _) in self.bars.items() if rows > self.crop_bottom + _SLACK_ROWS}
        if not left:
            return []
        if self.crop_bottom:
            stems = list(left)
            rows = left[stems[0]]
            what = f"the information bar has {rows} rows, of which data.crop_bottom={self.crop_bottom} leaves some"
            return [f"bar: {first_named(stems)}: {what}"]
        origins = Counter(origin for stem, (_, origin) in self.bars.items() if stem in left)
        found = f"by {', '.join(origin for origin, _ in origins.most_common())}"
        if self.proposed:
            whose = f"all {len(self.bars)} images" if len(self.bars) > 1 else "the image"
            return [f"bar: {whose}: the lowest {self.proposed} rows are an information bar, {found}: "
                    f"set data.crop_bottom={self.proposed}"]  # fmt: skip
        groups = _grouped({stem: rows for stem, (rows, _) in self.bars.items()})
        told = ", ".join(f"{rows or 'no'} rows ({first_named(stems)})" for rows, stems in groups[:_NAMED])
        told += f" and {len(groups) - _NAMED} more heights" if len(groups) > _NAMED else ""
        mend = "data.crop_bottom is one number: crop them alike, or train on each kind in a folder of its own"
        return [f"bar: information bars differ, {found}: {told}: {mend}"]

    def lines(self) -> list[str]:
        """How many images say their scale, and which."""
        known = [size for size in self.sizes.values() if size is not None]
        if not known:
            return []
        return [f"scale: {len(known)} of {len(self.sizes)} images say their scale: {sizes_said(known)}"]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: number of images by rows of their bar, the rows to crop, and sizes of pixels in nm."""
        known = [size.nm for size in self.sizes.values() if size is not None]
        sides: list[float] = [side for nm in known for side in nm]
        return {
            "information_bars": dict(Counter(str(rows) for rows, _ in self.bars.values()).most_common()),
            "proposed_crop_bottom": 0 if self.crop_bottom else self.proposed,
            "nm_per_pixel": {"images": len(known), **({"min": min(sides), "max": max(sides)} if sides else {})},
        }


def _grouped(values: dict[str, Any]) -> list[tuple[Any, list[str]]]:
    """Each value with the stems that have it, the commonest first."""
    groups: dict[Any, list[str]] = {}
    for stem, value in values.items():
        groups.setdefault(value, []).append(stem)
    return sorted(groups.items(), key=lambda group: -len(group[1]))
