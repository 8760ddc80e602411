"""The segmentation loss: a weighted sum of the terms in `functional`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from sage_ray.losses import functional

Reduce = Callable[[Tensor], Tensor]


def segmentation_loss(
    logits: Tensor,
    target: Tensor,
    *,
    w_ce: float = 1.0,
    w_focal: float = 0.0,
    w_dice: float = 0.0,
    w_tversky: float = 0.0,
    w_focal_tversky: float = 1.0,
    alpha: float = 0.4,
    beta: float = 0.6,
    gamma: float = 1.5,
    focal_alpha: float = 0.5,
    focal_gamma: float = 2.0,
    focal_form: Literal["pixel", "batch"] = "pixel",
    reduction: Literal["batch", "image"] = "batch",
    reduce: Reduce | None = None,
) -> Tensor:
    """L_seg = w_ce CE + w_focal focal + w_dice Dice + w_tversky (1 - TI) + w_focal_tversky (1 - TI)^gamma, a scalar.

    CE and the pixel focal form are means over this worker's pixels; a term of weight 0 is not computed. Empty masks:
    Dice and Tversky terms are near 1 with (nearly) no gradient there, so CE and focal teach them; see `functional`.

    Args:
        logits: (N,2,H,W) class scores, channel 1 the foreground.
        target: (N,H,W) int64 in {0,1}.
        w_ce: weight of the cross-entropy.
        w_focal: weight of the focal term.
        w_dice: weight of the Dice term.
        w_tversky: weight of the Tversky term.
        w_focal_tversky: weight of the focal Tversky term.
        alpha: weight of false positives in the Tversky index.
        beta: weight of false negatives in it.
        gamma: power of the focal Tversky term.
        focal_alpha: balance of the focal term.
        focal_gamma: focus of the focal term.
        focal_form: focus per pixel (paper) or from the batch-mean CE (public code).
        reduction: Dice and Tversky over the whole batch (public code), or one per image and then their mean.
        reduce: a differentiable sum over workers whose backward sums too. With it the terms that are no mean over
            images (batch Dice, Tversky and focal) are those of the global batch on every worker, so that gradients
            averaged over workers are those of one worker with the whole batch.

    Raises:
        ValueError: shapes that do not fit, an unknown form or reduction.

    Source: docs/method/METHOD.md section 1; DISCREPANCIES rows 16 to 20.
    """
    logits = _checked(logits, target, focal_form, reduction)
    terms: list[Tensor] = []
    if w_ce or w_focal:
        ce_map = functional.cross_entropy_map(logits, target)
    if w_ce:
        terms.append(w_ce * ce_map.mean())
    if w_focal:
        terms.append(w_focal * _focal(ce_map, target, focal_alpha, focal_gamma, focal_form, reduce))
    if w_dice or w_tversky or w_focal_tversky:
        sums = _sums(logits, target, reduction, reduce)
        terms += _overlap_terms(sums, (w_dice, w_tversky, w_focal_tversky), alpha, beta, gamma)
    # All weights 0: still a scalar with a graph.
    return torch.stack(terms).sum() if terms else logits.sum() * 0.0


def _overlap_terms(
    sums: functional.OverlapSums, weights: tuple[float, float, float], alpha: float, beta: float, gamma: float
) -> list[Tensor]:
    """The weighted Dice, Tversky and focal Tversky terms, without those of weight 0."""
    w_dice, w_tversky, w_focal_tversky = weights
    terms = []
    if w_dice:
        terms.append(w_dice * functional.dice_loss(sums).mean())
    if w_tversky:
        terms.append(w_tversky * functional.tversky_loss(sums, alpha, beta).mean())
    if w_focal_tversky:
        terms.append(w_focal_tversky * functional.focal_tversky_loss(sums, alpha, beta, gamma).mean())
    return terms


def _checked(logits: Tensor, target: Tensor, focal_form: str, reduction: str) -> Tensor:
    """The logits, widened to float32 if they are of half precision."""
    if logits.ndim != 4 or logits.shape[1] != 2 or target.shape != logits.shape[:1] + logits.shape[2:]:
        shapes = f"{tuple(logits.shape)} and {tuple(target.shape)}"
        raise ValueError(f"logits and target have shapes {shapes}; they must be (N,2,H,W) and (N,H,W)")
    if focal_form not in ("pixel", "batch"):
        raise ValueError(f"unknown focal_form {focal_form!r}: use pixel or batch")
    if reduction not in ("batch", "image"):
        raise ValueError(f"unknown reduction {reduction!r}: use batch or image")
    return logits if logits.dtype == torch.float64 else logits.float()


def _focal(ce_map: Tensor, target: Tensor, alpha: float, gamma: float, form: str, reduce: Reduce | None) -> Tensor:
    if form == "pixel":
        return functional.focal_pixel_loss(ce_map, target, alpha, gamma)
    return functional.focal_batch_loss(_global_mean(ce_map, reduce), alpha, gamma)


def _sums(logits: Tensor, target: Tensor, reduction: str, reduce: Reduce | None) -> functional.OverlapSums:
    sums = functional.overlap_sums(logits, target, per_image=reduction == "image")
    if reduce is None or reduction == "image":
        return sums
    return functional.OverlapSums(*reduce(torch.stack(sums)).unbind())


def _global_mean(ce_map: Tensor, reduce: Reduce | None) -> Tensor:
    if reduce is None:
        return ce_map.mean()
    total, count = reduce(torch.stack([ce_map.sum(), ce_map.new_tensor(float(ce_map.numel()))])).unbind()
    return total / count
