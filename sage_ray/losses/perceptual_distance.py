"""LPIPS distance of pairs of images on our VGG19, without the learned weights of its channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sage_ray.losses.perceptual import VGG19Loss


@torch.no_grad()
def perceptual_distance(network: VGG19Loss, first: Tensor, second: Tensor) -> Tensor:
    """Distance (N,) of each pair of images (N,1,H,W) in [-1,1], H, W >= 16; 0 for equal images.

    At each tapped layer features are divided by their length over channels, and the squared difference is summed over
    channels and averaged over the picture; the layers are added.

    Source: Zhang et al., arXiv 1801.03924. Their weights of channels were learned for other layers (VGG16 relu1_2 to
    relu5_3), so each channel counts 1 here, and values are no LPIPS of the papers.
    """
    total = torch.zeros(len(first), device=first.device)
    for ours, theirs in zip(network.features(first), network.features(second), strict=True):
        total = total + (F.normalize(ours, dim=1) - F.normalize(theirs, dim=1)).square().sum(1).mean((1, 2))
    return total
