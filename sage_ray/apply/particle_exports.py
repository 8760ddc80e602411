"""Particles for other programs: ImageJ regions of interest, a zip per image, and COCO annotations of all images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import pandas as pd

from sage_ray import __version__
from sage_ray.data.imagej_roi import write_rois
from sage_ray.errors import UserError
from sage_ray.files import replacing
from sage_ray.imaging.label_images import open_label_rows
from sage_ray.imaging.outlines import label_outlines

EXPORTS = ("imagej", "coco")
ROIS, COCO = "rois", "coco.json"


def parse_exports(wish: str | Sequence[str]) -> tuple[str, ...]:
    """The formats of a text such as "imagej,coco", or of names, each once, in the order of `EXPORTS`.

    Raises:
        UserError: a name that is none of `EXPORTS`.
    """
    names = [name.strip().lower() for name in (wish.split(",") if isinstance(wish, str) else wish)]
    names = [name for name in names if name]
    unknown = next((name for name in names if name not in EXPORTS), None)
    if unknown is not None:
        raise UserError("unknown format of export", unknown, f"choose among {', '.join(EXPORTS)}")
    return tuple(name for name in EXPORTS if name in names)


class ParticleExports:
    """Writes the particles of one image after another; used as a context, which ends coco.json.

    Args:
        folder: where `rois/NAME.zip` and `coco.json` are written.
        formats: of `EXPORTS`.
    """

    def __init__(self, folder: Path, formats: Sequence[str]) -> None:
        self._folder, self._formats = folder, tuple(formats)
        self._images: list[dict[str, Any]] = []
        self._annotations = 0
        self._stack = ExitStack()
        self._file: IO[str] | None = None

    def __enter__(self) -> ParticleExports:
        if "imagej" in self._formats:
            (self._folder / ROIS).mkdir(parents=True, exist_ok=True)
        if "coco" in self._formats:
            # Written as it comes: the outlines of a large folder are more than what should be held at a time.
            temporary = self._stack.enter_context(replacing(self._folder / COCO, durable=False))
            self._file = self._stack.enter_context(temporary.open("w", encoding="utf-8"))
            head = {"description": "particles found by sage-ray predict", "version": "1.0", "contributor": ""}
            category = {"id": 1, "name": "particle", "supercategory": "particle"}
            self._file.write(f'{{"info": {json.dumps(head | {"sage_ray": __version__})},\n"licenses": [],\n')
            self._file.write(f'"categories": [{json.dumps(category)}],\n"annotations": [')
        return self

    def __exit__(self, *fault: Any) -> None:
        kind: type[BaseException] | None = fault[0]
        trace: TracebackType | None = fault[2]
        if self._file is not None and kind is None:
            images = ",\n".join(json.dumps(image) for image in self._images)
            self._file.write(f'],\n"images": [\n{images}\n]}}\n')
        self._stack.__exit__(kind, fault[1], trace)

    def add(self, image: str, name: str, shape: tuple[int, int], labels: Path, particles: pd.DataFrame) -> None:
        """Export the particles of an image.

        Args:
            image: file name of the image, as annotations shall name it.
            name: of its results, for the zip.
            shape: (rows, columns) of the image.
            labels: its label image.
            particles: its table.
        """
        if not self._formats:
            return
        outlines = self._to_coco(image, shape, label_outlines(open_label_rows(labels), particles), particles)
        if "imagej" in self._formats:
            digits = max(4, len(str(len(particles))))
            numbered = ((f"{label:0{digits}d}", outline) for label, outline in outlines)
            write_rois(self._folder / ROIS / f"{name}.zip", numbered)
        else:
            for _ in outlines:
                pass

    def _to_coco(
        self,
        image: str,
        shape: tuple[int, int],
        outlines: Iterator[tuple[int, np.ndarray]],
        particles: pd.DataFrame,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """The outlines, written to coco.json as they pass by."""
        if self._file is None:
            yield from outlines
            return
        self._images.append(
            {"id": len(self._images) + 1, "file_name": image, "height": int(shape[0]), "width": int(shape[1])}
        )
        rows = particles[["area_px", "box_row", "box_column", "box_height_px", "box_width_px"]].to_numpy(int).tolist()
        scores = particles["confidence"].tolist() if "confidence" in particles else [None] * len(rows)
        for (label, outline), (area, row, column, height, width), score in zip(outlines, rows, scores, strict=True):
            self._annotations += 1
            annotation = {
                "id": self._annotations,
                "image_id": len(self._images),
                "category_id": 1,
                "segmentation": [outline.ravel().tolist()],
                "area": area,
                "bbox": [column, row, width, height],
                "iscrowd": 0,
                "label": label,
                **({} if score is None else {"score": round(score, 4)}),
            }
            self._file.write((",\n" if self._annotations > 1 else "\n") + json.dumps(annotation))
            yield label, outline
