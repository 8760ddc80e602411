"""All scores of one image, their summary over images, and the sentence that defines each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sage_ray.metrics import boundary, objects, overlap

IMAGE_SCORES = (
    "dice",
    "iou",
    "precision",
    "recall",
    "f1_object_50",
    "f1_object_75",
    "f1_object_90",
    "boundary_f1",
)
COUNTS = ("tp", "fp", "fn")
POOLED_SCORES = ("f1_pixel",)


def score_image(
    pred: np.ndarray, true: np.ndarray, *, min_object_pixels: int, boundary_tolerance: float
) -> dict[str, float]:
    """Every score of one predicted mask against its truth.

    Objects under `min_object_pixels` are removed from both masks before objects are matched, and for nothing else:
    Dice, IoU and the boundary see the masks as they are.

    Args:
        pred, true: masks (H,W) bool or {0,1}.
        min_object_pixels: components with fewer pixels are no objects; one of exactly this size stays.
        boundary_tolerance: distance in pixels within which boundaries match.

    Returns:
        IMAGE_SCORES in [0,1] and the pixel counts `tp`, `fp`, `fn` for pooling. Both masks empty: dice, iou, precision,
        recall and boundary_f1 are 1, object F1 is 0 (as in the public code, row 28).

    Raises:
        ValueError: the shapes differ.
    """
    pred, true = pred.astype(bool, copy=False), true.astype(bool, copy=False)
    counts = overlap.pixel_counts(pred, true)
    by_threshold = objects.score_objects(
        objects.label_objects(true, min_object_pixels), objects.label_objects(pred, min_object_pixels)
    )
    scores = {
        "dice": overlap.dice(counts),
        "iou": overlap.iou(counts),
        "precision": overlap.precision(counts),
        "recall": overlap.recall(counts),
    }
    for threshold, score in by_threshold.items():
        scores[f"f1_object_{round(100 * threshold)}"] = score.fscore
    scores["boundary_f1"] = boundary.boundary_f1(pred, true, boundary_tolerance)
    return scores | {"tp": float(counts.tp), "fp": float(counts.fp), "fn": float(counts.fn)}


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Unweighted means over images of IMAGE_SCORES, and `f1_pixel` from the pixel counts of all images pooled.

    Args:
        rows: what `score_image` returned for each image; other keys (such as `image_sha`) are ignored.

    Raises:
        ValueError: there is no row.
    """
    if not rows:
        raise ValueError("no image was scored; give at least one row of score_image")
    means = {name: float(np.mean([row[name] for row in rows])) for name in IMAGE_SCORES}
    pooled = overlap.PixelCounts(*(int(sum(row[name] for row in rows)) for name in COUNTS))
    return means | {"f1_pixel": overlap.dice(pooled)}


def definition(score: str, *, min_object_pixels: int, boundary_tolerance: float, mask_erosion: int) -> str:
    """One line that says what a score is; two scores may share a table column only if their lines are equal.

    Args:
        score: a name of IMAGE_SCORES or POOLED_SCORES, also with a part before it (`val/dice`).
        mask_erosion: side in pixels of the element that eroded the truth (`data.mask_erosion`); 0 for the truth as
            given.

    Raises:
        ValueError: there is no such score.
    """
    name = score.rsplit("/", 1)[-1]
    truth = f"truth eroded by {mask_erosion}x{mask_erosion} pixels" if mask_erosion else "truth as given"
    pixel = "foreground pixels, argmax (probability > 0.5)"
    if name == "f1_pixel":
        return f"F1 = Dice of {pixel}, counts pooled over images, both empty 1, {truth}"
    label = {"dice": "Dice", "iou": "IoU", "precision": "precision", "recall": "recall"}.get(name)
    if label:
        return f"{label} of {pixel}, mean over images, both empty 1, {truth}"
    if name == "boundary_f1":
        return (
            f"F1 of boundary pixels of the foreground within {boundary_tolerance:g} pixels, "
            f"argmax (probability > 0.5), mean over images, both empty 1, {truth}"
        )
    if name in IMAGE_SCORES:
        threshold = int(name.rsplit("_", 1)[-1]) / 100
        return (
            f"F1 of objects matched one to one at IoU > {threshold:g}, 4-connected components of the foreground, "
            f"those under {min_object_pixels} pixels removed, argmax (probability > 0.5), mean over images, "
            f"both empty 0, {truth}"
        )
    raise ValueError(f"no score is called {score}; there are {', '.join(IMAGE_SCORES + POOLED_SCORES)}")
