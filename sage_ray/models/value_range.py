"""The range of grey values that networks work in, and the way there from the range of pictures and back."""

from __future__ import annotations

from torch import Tensor


def to_network_range(grey: Tensor) -> Tensor:
    """Grey values in [-1,1], as every network takes and makes them, of values in [0,1], as pictures are decoded to."""
    return 2 * grey - 1


def to_picture_range(image: Tensor) -> Tensor:
    """Grey values in [0,1] of a network's image in [-1,1]; a value outside stays outside."""
    return (image + 1) / 2
