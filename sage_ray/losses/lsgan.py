"""Least-squares adversarial loss."""

from __future__ import annotations

from torch import Tensor


def lsgan_loss(scores: Tensor, target: float) -> Tensor:
    """Mean of (score - target)^2 over all patches, a scalar.

    Args:
        scores: (N,1,h,w) patch scores without activation.
        target: 1 for real, 0 for fake.

    Source: Mao et al. 2017; docs/method/METHOD.md section 1.
    """
    return (scores - target).square().mean()
