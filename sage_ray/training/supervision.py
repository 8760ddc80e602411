"""The supervised loss, over one head or, with deep supervision, over all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sage_ray.training.recipe import Recipe


def head_logits(segmenter: nn.Module, image: Tensor) -> list[Tensor]:
    """Logits (N,2,H,W) of every head of `segmenter` on `image` (N,1,H,W) in [-1,1]; one without deep supervision."""
    if not getattr(segmenter, "deep_supervision", False):
        return [segmenter(image)]
    deep: Any = segmenter
    heads: list[Tensor] = deep.forward_deep(image)
    return heads


def supervised_loss(heads: list[Tensor], mask: Tensor, recipe: Recipe) -> Tensor:
    """Mean over the heads of L_seg(logits (N,2,H,W), mask (N,1,H,W) in {0,1}), a scalar in float32.

    Source: Zhou et al. 2020, equal weights (there a sum over the heads); a single head's loss is L_seg itself.
    """
    losses = [recipe.segmentation_loss(logits, mask) for logits in heads]
    return losses[0] if len(losses) == 1 else torch.stack(losses).mean()
