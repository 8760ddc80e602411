"""All scores of one image, and their summary over images; `definitions` says what each of them is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sage_ray.metrics import boundary, objects, overlap
from sage_ray.metrics.definitions import COUNTS, IMAGE_SCORES


def score_image(
    pred: np.ndarray, true: np.ndarray, *, min_object_pixels: int, boundary_tolerance: float
) -> dict[str, float]:
    """Every score of one predicted mask against its truth.

    Objects under `min_object_pixels` are removed from both masks before objects are matched, and for nothing else:
    Dice, IoU and the boundary see the masks as they are.

    Args:
        pred: predicted mask (H,W), bool or {0,1}.
        true: true mask, likewise.
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
