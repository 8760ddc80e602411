"""The supervised loss, over one head or, with deep supervision, over all, each at its own resolution."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sage_ray.models.unet_plus_plus import mean_logits
from sage_ray.training.recipe import Recipe


def head_logits(segmenter: nn.Module, image: Tensor) -> list[Tensor]:
    """Logits of every head of `segmenter` on `image` (N,1,H,W) in [-1,1]; one without deep supervision.

    (N,2,H,W), or (N,2,ceil(H/s),ceil(W/s)) of a head of 1/s of the resolution; heads of the image's size come last.
    """
    if not getattr(segmenter, "deep_supervision", False):
        return [segmenter(image)]
    deep: Any = segmenter
    heads: list[Tensor] = deep.forward_deep(image)
    return heads


def predicted_logits(heads: list[Tensor]) -> Tensor:
    """Logits (N,2,H,W) that the network predicts by: the mean over the heads of the image's size."""
    return mean_logits([logits for logits in heads if logits.shape == heads[-1].shape])


def supervised_loss(heads: list[Tensor], mask: Tensor, recipe: Recipe) -> Tensor:
    """Weighted mean over the heads of L_seg(logits, mask at the head's resolution), a scalar in float32.

    A head of 1/s of the resolution weighs 1/s of one of the image's size, and the weights sum to 1: heads of one size
    count alike, and a single head's loss is L_seg itself.

    Args:
        heads: as `head_logits` gives them.
        mask: (N,1,H,W) in {0,1}.
        recipe: has L_seg.

    Source: Zhou et al. 2020, equal weights (there a sum over the heads); Isensee et al. 2021, halved with each
    resolution, masks to the nearest pixel.
    """
    scales = [head_scale(logits, mask) for logits in heads]
    losses = [
        recipe.segmentation_loss(logits, mask_at(mask, scale)) for logits, scale in zip(heads, scales, strict=True)
    ]
    if len(losses) == 1:
        return losses[0]
    if len(set(scales)) == 1:
        return torch.stack(losses).mean()
    total = sum(1 / scale for scale in scales)
    return torch.stack([loss / (scale * total) for loss, scale in zip(losses, scales, strict=True)]).sum()


def head_scale(logits: Tensor, mask: Tensor) -> int:
    """The power of two s for which logits (N,2,ceil(H/s),ceil(W/s)) are a head's on a mask (N,1,H,W)."""
    wanted, (height, width) = tuple(logits.shape[-2:]), mask.shape[-2:]
    scale = 1
    while (-(-height // scale), -(-width // scale)) != wanted:
        assert scale < max(height, width), f"logits of {wanted} pixels are no head's of an image of {height}x{width}"
        scale *= 2
    return scale


def mask_at(mask: Tensor, scale: int) -> Tensor:
    """Mask (N,1,H,W) at 1/scale of its resolution: the pixel at the middle of each cell, (N,1,ceil(H/s),ceil(W/s)).

    A cell that the edge cuts off before its middle takes the pixel at the edge.
    """
    if scale == 1:
        return mask
    height, width = mask.shape[-2:]
    down, right = -height % scale, -width % scale
    whole = F.pad(mask, (0, right, 0, down), mode="replicate") if down or right else mask
    return whole[..., scale // 2 :: scale, scale // 2 :: scale]
