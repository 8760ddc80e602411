"""What all segmenters are built from: one set of keywords with their defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Layout:
    """Keywords of every segmenter's constructor.

    Attributes:
        in_channels: channels of the image.
        classes: number of classes, background first.
        width: channels of the first level; they double at each level unless the network says otherwise.
        depth: number of down-sampling levels.
        attention: whether skips are gated, in networks that can have gates; all others ignore it.
        dropout: probability of dropout inside each decoder level.
        norm: batch, group or frozen.
    """

    in_channels: int = 1
    classes: int = 2
    width: int = 64
    depth: int = 4
    attention: bool = False
    dropout: float = 0.5
    norm: str = "batch"


class Segmenter(nn.Module):
    """Base of the networks in `SEGMENTERS`: image (N,in_channels,H,W) in [-1,1] to class logits (N,classes,H,W).

    Attributes:
        layout: the keywords that it was built from.
        multiple: `forward` pads the sides of an image to multiples of this many pixels, and crops the logits back.
    """

    def __init__(self, **keywords: Any) -> None:
        """Keep the layout; a subclass makes the layers from it.

        Args:
            keywords: fields of `Layout`.

        Raises:
            TypeError: a keyword that is no field. ValueError (of the layers): a number out of range, an unknown norm.
        """
        super().__init__()
        self.layout = Layout(**keywords)
        self.multiple = 2**self.layout.depth
