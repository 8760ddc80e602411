"""Annotation files as masks: COCO and labelme JSON and ImageJ regions, rasterised to one label per particle.

A pixel belongs to a particle whose outline encloses its centre; where particles overlap the later one is on top.
Coordinates are x to the right and y down, 0 being the image's left and top edge.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from skimage.draw import polygon2mask

from sage_ray.data.imagej_roi import holds_rois, read_rois
from sage_ray.data.images import BadFile, Problem
from sage_ray.data.mask_names import folded

ENDINGS = (".json", ".roi", ".zip")
_ROUND_POINTS = 180
_INSIDE_SHARE = 0.5
"""A region of which less than this share of its bounding box lies in the image was drawn on another image."""

Outlines = list[np.ndarray]
"""Outlines (n,2) of one particle; pixels inside an odd number of them belong to it."""


def annotation_kind(path: Path) -> str:
    """ "coco", "labelme" or "imagej"; or "", for a file that holds no annotations."""
    ending = path.suffix.lower()
    if ending == ".roi":
        return "imagej"
    if ending == ".zip":
        return "imagej" if holds_rois(path) else ""
    if ending != ".json":
        return ""
    try:
        tree = _tree(path)
    except BadFile:
        return ""
    if isinstance(tree.get("images"), list) and isinstance(tree.get("annotations"), list):
        return "coco"
    return "labelme" if isinstance(tree.get("shapes"), list) else ""


def coco_images(path: Path) -> list[str]:
    """File names of the images that a COCO file lists."""
    return [
        str(entry["file_name"]) for entry in _tree(path)["images"] if isinstance(entry, dict) and "file_name" in entry
    ]


def annotation_sha(path: Path, image: Path, file_sha: str) -> str:
    """sha256 of what the file says of the image: of a COCO file its part, of others the whole."""
    if annotation_kind(path) != "coco":
        return file_sha
    entry, found = _coco_part(path, image)
    said = [entry.get("height"), entry.get("width"), [annotation.get("segmentation") for annotation in found]]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def annotated_size(path: Path, image: Path) -> tuple[int, int] | None:
    """(rows, columns) that the file says the image has; None if it does not say."""
    kind = annotation_kind(path)
    if kind == "imagej":
        return None
    entry = _coco_part(path, image)[0] if kind == "coco" else _tree(path)
    names = ("height", "width") if kind == "coco" else ("imageHeight", "imageWidth")
    said = [int(value) for name in names if isinstance(value := entry.get(name), int | float) and value > 0]
    return (said[0], said[1]) if len(said) == 2 else None


def read_annotation(path: Path, image: Path, shape: tuple[int, int]) -> np.ndarray:
    """Labels (H,W) int32 of the particles in the image, 0 being background.

    Args:
        path: the annotation file.
        image: whose particles are wanted; a COCO file lists several.
        shape: (rows, columns) of the image.

    Raises:
        BadFile: damaged file, a shape that is not supported, or one that lies outside the image.
    """
    labels = np.zeros(shape, np.int32)
    kind = annotation_kind(path)
    try:
        for number, (name, region) in enumerate(_regions(path, image, kind, shape), start=1):
            labels[region if isinstance(region, np.ndarray) else _rasterised(region, shape, name)] = number
    except BadFile:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OSError, OverflowError) as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        what = {"coco": "COCO annotations", "labelme": "labelme annotations"}.get(kind, "ImageJ regions")
        mend = "mend it with the tool that wrote it, or give a mask as a picture"
        raise BadFile(Problem(f"{what} that cannot be used ({reason})", str(path), mend)) from None
    return labels


def _regions(path: Path, image: Path, kind: str, shape: tuple[int, int]) -> Iterator[tuple[str, Outlines | np.ndarray]]:
    """Each particle's name and its outlines, or its pixels (H,W) bool."""
    if kind == "coco":
        for index, annotation in enumerate(_coco_part(path, image)[1], start=1):
            yield f"annotation {annotation.get('id', index)}", _coco_region(annotation["segmentation"], shape)
    elif kind == "labelme":
        groups: dict[object, Outlines] = {}
        for index, entry in enumerate(_tree(path)["shapes"], start=1):
            group = entry.get("group_id")
            key = ("single", index) if group is None else ("group", group, entry.get("label"))
            groups.setdefault(key, []).append(_labelme_outline(entry, index))
        for index, outlines in enumerate(groups.values(), start=1):
            yield f"shape {index}", outlines
    else:
        for roi in read_rois(path):
            yield f"ROI {roi.name}", [roi.outline]


def _rasterised(outlines: Outlines, shape: tuple[int, int], name: str) -> np.ndarray:
    """Pixels (H,W) bool whose centres an odd number of the outlines encloses."""
    points = np.concatenate(outlines)
    low, high = points.min(axis=0), points.max(axis=0)
    extent = np.maximum(high - low, 1e-9)
    overlap = np.clip(np.minimum(high, (shape[1], shape[0])) - np.maximum(low, 0), 0, None) / extent
    if overlap.prod() < _INSIDE_SHARE:
        (left, top), (right, bottom) = low, high
        raise ValueError(
            f"{name} lies outside its image of {shape[0]} x {shape[1]} pixels: rows {top:g} to {bottom:g}, "
            f"columns {left:g} to {right:g}"
        )
    first = np.maximum(np.floor(low).astype(int), 0)
    last = np.minimum(np.ceil(high).astype(int) + 1, (shape[1], shape[0]))
    window = (int(last[1] - first[1]), int(last[0] - first[0]))
    part = np.zeros(window, bool)
    for outline in outlines:
        part ^= polygon2mask(window, (outline - first)[:, ::-1] - 0.5)  # type: ignore[no-untyped-call]  # scikit-image
    inside = np.zeros(shape, bool)
    inside[first[1] : last[1], first[0] : last[0]] = part
    return inside


def _labelme_outline(entry: Mapping[str, Any], index: int) -> np.ndarray:
    points = np.asarray(entry["points"], np.float64).reshape(-1, 2)
    kind = entry.get("shape_type") or "polygon"
    if kind == "polygon" and len(points) >= 3:
        return points
    if kind == "rectangle" and len(points) == 2:
        (x, y), (right, bottom) = points
        return np.array([(x, y), (right, y), (right, bottom), (x, bottom)])
    if kind == "rectangle" and len(points) == 4:
        return points
    if kind == "circle" and len(points) == 2:
        radius = math.dist(points[0], points[1])
        angles = np.arange(_ROUND_POINTS) * (2 * math.pi / _ROUND_POINTS)
        circle: np.ndarray = points[0] + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return circle
    raise ValueError(f"shape {index} is a {kind} of {len(points)} points; polygon, rectangle and circle are supported")


def _coco_part(path: Path, image: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The entry of the image and its annotations; the entry whose path has most folders in common with the image's."""
    _tree(path)  # raises for a damaged file
    facts = path.stat()
    entries, annotations = _coco_index(str(path), facts.st_mtime_ns, facts.st_size)
    wanted = [folded(part) for part in image.parts]
    best: dict[str, Any] = {}
    most = 0
    for entry in entries.get(wanted[-1], ()):
        parts = _parts(entry)
        same = 0
        while same < min(len(parts), len(wanted)) and parts[-1 - same] == wanted[-1 - same]:
            same += 1
        if same > most:
            best, most = entry, same
    return best, annotations.get(str(best.get("id")), []) if most else []


def _parts(entry: Mapping[str, Any]) -> list[str]:
    return folded(str(entry.get("file_name", ""))).replace("\\", "/").split("/")


@lru_cache(maxsize=4)
def _coco_index(
    path: str, changed_ns: int, size: int
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, list[dict[str, Any]]]]:
    """(entries of images by the last part of their names, annotations by the id of their image) of a COCO file."""
    tree = _parsed(path, changed_ns, size)
    entries: dict[str, list[dict[str, Any]]] = {}
    annotations: dict[str, list[dict[str, Any]]] = {}
    for entry in (entry for entry in tree["images"] if isinstance(entry, dict)):
        entries.setdefault(_parts(entry)[-1], []).append(entry)
    for annotation in (entry for entry in tree["annotations"] if isinstance(entry, dict)):
        annotations.setdefault(str(annotation.get("image_id")), []).append(annotation)
    return entries, annotations


def _coco_region(segmentation: Any, shape: tuple[int, int]) -> Outlines | np.ndarray:
    if isinstance(segmentation, list):
        outlines = [np.asarray(flat, np.float64).reshape(-1, 2) for flat in segmentation]
        if not outlines or any(len(outline) < 3 for outline in outlines):
            raise ValueError("an annotation without a polygon of 3 points or more")
        return outlines
    counts = segmentation["counts"]
    runs = _unpacked(counts) if isinstance(counts, str) else [int(count) for count in counts]
    size = tuple(int(side) for side in segmentation["size"])
    if size != tuple(shape):
        raise ValueError(f"a run-length mask of {size[0]} x {size[1]} pixels, its image has {shape[0]} x {shape[1]}")
    if min(runs, default=0) < 0 or sum(runs) != shape[0] * shape[1]:
        raise ValueError("a run-length mask whose runs are not as long as its image")
    values = np.arange(len(runs)) % 2 == 1
    pixels: np.ndarray = np.repeat(values, runs).reshape(shape, order="F")  # COCO counts down the columns
    return pixels


def _unpacked(text: str) -> list[int]:
    """Run lengths of COCO's compressed form: five bits a character, and from the third run on differences."""
    runs: list[int] = []
    position = 0
    while position < len(text):
        value, shift, more = 0, 0, True
        while more:
            code = ord(text[position]) - 48
            value |= (code & 0x1F) << shift
            more, shift, position = bool(code & 0x20), shift + 5, position + 1
            if not more and code & 0x10:
                value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    return runs


def _tree(path: Path) -> dict[str, Any]:
    try:
        facts = path.stat()
        return _parsed(str(path), facts.st_mtime_ns, facts.st_size)
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise BadFile(Problem("unreadable annotation file", str(path), f"replace it ({reason})")) from None


@lru_cache(maxsize=4)
def _parsed(path: str, _changed_ns: int, _size: int) -> dict[str, Any]:
    tree = json.loads(Path(path).read_text(encoding="utf-8"))
    return tree if isinstance(tree, dict) else {}
