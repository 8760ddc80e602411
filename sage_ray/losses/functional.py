"""Segmentation formulas, one function a term, on sums or on per-pixel cross entropies.

Notation: p foreground probability, y target in {0,1}; TP = sum(p y), FP = sum(p (1-y)), FN = sum((1-p) y); e = 1e-6.
Sums are over a whole batch (shape ()) or over each image (shape (N,)); ratios have the shape of the sums.

`1 - ratio` is written as one fraction without subtraction, equal in exact arithmetic: near the optimum a float32
difference of two numbers close to 1 would lose the loss and, raised to a power below 1, give an infinite gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-6


class OverlapSums(NamedTuple):
    """TP, FP, FN in soft pixels, each () or (N,)."""

    tp: Tensor
    fp: Tensor
    fn: Tensor


def overlap_sums(logits: Tensor, target: Tensor, per_image: bool = False) -> OverlapSums:
    """Soft true positives, false positives and false negatives of the foreground.

    Args:
        logits: (N,2,H,W), channel 1 the foreground.
        target: (N,H,W) in {0,1}.
        per_image: sums of shape (N,) instead of one over the batch.
    """
    background, foreground = logits.softmax(dim=1).unbind(1)
    truth = target.to(foreground.dtype)
    dims = (1, 2) if per_image else (0, 1, 2)
    pixels = (foreground * truth, foreground * (1 - truth), background * truth)
    return OverlapSums(*(values.sum(dims) for values in pixels))


def cross_entropy_map(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of every pixel (N,H,W) from logits (N,2,H,W) and target (N,H,W) int64."""
    return F.cross_entropy(logits, target, reduction="none")


def dice_loss(sums: OverlapSums) -> Tensor:
    """1 - (2 TP + e) / (sum p + sum y + e), in [0, 1).

    Empty truth: sum p / (sum p + e), about 1 unless nearly nothing is predicted; empty truth and prediction: 0.
    """
    errors = sums.fp + sums.fn
    return errors / (2 * sums.tp + errors + EPSILON)


def tversky_loss(sums: OverlapSums, alpha: float, beta: float) -> Tensor:
    """1 - TP / (TP + alpha FP + beta FN + e), in (0, 1].

    Empty truth: TP is 0, so 1 with zero gradient, whatever is predicted (no e in the numerator, as published).

    Source: METHOD.md, segmentation loss; alpha weighs false positives, beta false negatives (DISCREPANCIES row 17).
    """
    errors = alpha * sums.fp + beta * sums.fn + EPSILON
    return errors / (sums.tp + errors)


def focal_tversky_loss(sums: OverlapSums, alpha: float, beta: float, gamma: float) -> Tensor:
    """tversky_loss ** gamma, in (0, 1]; empty truth: 1 with zero gradient.

    Source: METHOD.md; gamma is the paper's 1/delta, the published run has 1.5 (DISCREPANCIES row 18).
    """
    return tversky_loss(sums, alpha, beta) ** gamma


def focal_pixel_loss(cross_entropy: Tensor, target: Tensor, alpha: float, gamma: float) -> Tensor:
    """Mean over pixels of a_t (1 - p_t)^gamma CE, p_t = exp(-CE) and a_t = alpha on foreground, 1 - alpha elsewhere.

    Args: cross_entropy (N,H,W) of every pixel; target (N,H,W) in {0,1}. Nothing is special about empty masks.

    Source: Lin et al. 2017, equation 5 (DISCREPANCIES row 19, paper).
    """
    truth = target.to(cross_entropy.dtype)
    balance = alpha * truth + (1 - alpha) * (1 - truth)
    return (balance * _focus(cross_entropy, gamma) * cross_entropy).mean()


def focal_batch_loss(mean_cross_entropy: Tensor, alpha: float, gamma: float) -> Tensor:
    """alpha (1 - exp(-CE))^gamma CE of the batch-mean cross entropy ().

    Source: the public code's form (DISCREPANCIES row 19).
    """
    return alpha * _focus(mean_cross_entropy, gamma) * mean_cross_entropy


def _focus(cross_entropy: Tensor, gamma: float) -> Tensor:
    # 1 - p_t without cancellation; above 0, where a power below 1 has no derivative.
    missing = -torch.expm1(-cross_entropy)
    return missing.clamp_min(torch.finfo(missing.dtype).tiny) ** gamma
