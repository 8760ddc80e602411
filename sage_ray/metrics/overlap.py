"""Pixel overlap of two binary masks: Dice, IoU, precision, recall, and the counts behind them.

Source: parity case `dice`; docs/method/METHOD.md section 1. e = 1e-6 stands in numerator and denominator, so that two
empty masks score 1 and exactly one empty mask scores about 0 (DISCREPANCIES row 28).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

EPSILON = 1e-6


@dataclass(frozen=True)
class PixelCounts:
    """Foreground pixels predicted and true (tp), predicted only (fp), true only (fn)."""

    tp: int
    fp: int
    fn: int

    def __add__(self, other: PixelCounts) -> PixelCounts:
        return PixelCounts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)


def pixel_counts(pred: np.ndarray, true: np.ndarray) -> PixelCounts:
    """Counts of two masks of any equal shape; non-zero is foreground.

    Raises:
        ValueError: the shapes differ.
    """
    if pred.shape != true.shape:
        raise ValueError(f"prediction {pred.shape} and truth {true.shape} differ in shape; resize one of them first")
    pred, true = pred.astype(bool, copy=False), true.astype(bool, copy=False)
    tp = int(np.count_nonzero(pred & true))
    return PixelCounts(tp, int(np.count_nonzero(pred)) - tp, int(np.count_nonzero(true)) - tp)


def dice(counts: PixelCounts) -> float:
    """(2 TP + e) / (2 TP + FP + FN + e), in [0,1]; 1 when both masks are empty. Equal to the pixel F1."""
    return (2 * counts.tp + EPSILON) / (2 * counts.tp + counts.fp + counts.fn + EPSILON)


def iou(counts: PixelCounts) -> float:
    """(TP + e) / (TP + FP + FN + e), in [0,1]; 1 when both masks are empty."""
    return (counts.tp + EPSILON) / (counts.tp + counts.fp + counts.fn + EPSILON)


def precision(counts: PixelCounts) -> float:
    """TP / (TP + FP), in [0,1]; 1 when both masks are empty, 0 when only the prediction is."""
    return _share(counts.tp, counts.fp, counts.fn)


def recall(counts: PixelCounts) -> float:
    """TP / (TP + FN), in [0,1]; 1 when both masks are empty, 0 when only the truth is."""
    return _share(counts.tp, counts.fn, counts.fp)


def _share(hits: int, misses: int, others: int) -> float:
    if hits + misses == 0:
        return float(others == 0)
    return hits / (hits + misses)
