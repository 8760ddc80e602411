"""Boundary F1: how much of two masks' outlines lies within a tolerance in pixels of each other.

Source: Csurka et al., "What is a good evaluation measure for semantic segmentation?", BMVC 2013, for one class.

Both parts are written by hand for speed, as every validation image is scored after every epoch. `boundary` gives what
`skimage.segmentation.find_boundaries` of mode "inner" gives in a thirtieth of its time, and `within`, for the small
tolerances that are in use, what scipy's distance transform gives in a fiftieth (0.1 against 3.1 ms and 0.2 against 12.9
ms for a 512x768 image of 140 discs, on one core). The tests hold both to these functions.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

# Up to this radius a disc of shifts is faster than an exact distance transform.
MAX_SHIFT_RADIUS = 6.0


def boundary(mask: np.ndarray) -> np.ndarray:
    """Foreground pixels (H,W) bool with a background pixel among their four neighbours; the frame is no background."""
    mask = mask.astype(bool, copy=False)
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    return np.asarray(mask & ~inner)


def within(points: np.ndarray, tolerance: float) -> np.ndarray:
    """Pixels (H,W) bool whose Euclidean distance to the nearest set pixel of `points` is at most `tolerance` pixels."""
    if tolerance > MAX_SHIFT_RADIUS:
        if not points.any():
            return np.zeros(points.shape, bool)
        return np.asarray(ndimage.distance_transform_edt(~points) <= tolerance)
    near = points.copy()
    rows, columns = points.shape
    reach = math.floor(tolerance)
    for down in range(-min(reach, rows - 1), min(reach, rows - 1) + 1):
        for right in range(-min(reach, columns - 1), min(reach, columns - 1) + 1):
            if down * down + right * right <= tolerance * tolerance:
                target = near[max(down, 0) : rows + min(down, 0), max(right, 0) : columns + min(right, 0)]
                target |= points[max(-down, 0) : rows - max(down, 0), max(-right, 0) : columns - max(right, 0)]
    return near


def boundary_f1(pred: np.ndarray, true: np.ndarray, tolerance: float) -> float:
    """2 P R / (P + R), in [0,1], of the boundaries of two masks (H,W).

    P is the share of predicted boundary pixels that lie within `tolerance` pixels of the true boundary, R is the same
    with the roles exchanged. The result is 1 when neither mask has a boundary, and 0 when exactly one has none.
    """
    pred_edge, true_edge = boundary(pred), boundary(true)
    num_pred, num_true = np.count_nonzero(pred_edge), np.count_nonzero(true_edge)
    if num_pred == 0 or num_true == 0:
        return float(num_pred == num_true)
    precision = np.count_nonzero(pred_edge & within(true_edge, tolerance)) / num_pred
    recall = np.count_nonzero(true_edge & within(pred_edge, tolerance)) / num_true
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
