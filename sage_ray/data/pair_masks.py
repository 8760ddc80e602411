"""The mask of a pair, whether it is a picture or an annotation file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sage_ray.data.annotations import ENDINGS, annotated_size, annotation_sha, read_annotation
from sage_ray.data.images import header_size
from sage_ray.data.masks import Mask, read_mask
from sage_ray.data.pairing import Pair


def is_annotated(pair: Pair) -> bool:
    """Whether the mask is an annotation file, which is rasterised to the image's size."""
    return pair.mask.suffix.lower() in ENDINGS


def mask_size(pair: Pair) -> tuple[int, int] | None:
    """(rows, columns) of the mask from its header; None for an annotation file that does not say its image's size.

    Raises:
        BadFile: the mask cannot be read.
    """
    return annotated_size(pair.mask, pair.image) if is_annotated(pair) else header_size(pair.mask)


def read_pair_mask(pair: Pair, shape: tuple[int, int]) -> Mask:
    """The decoded mask of a pair whose image has `shape` (rows, columns).

    A mask that ends above its image, as one drawn without the information bar does, is background below; whether it
    may do so is for `pairs.header_problems` to say.

    Raises:
        BadFile: as `read_mask` or `read_annotation`.
    """
    if not is_annotated(pair):
        mask = read_mask(pair.mask)
        rows, columns = mask.foreground.shape
        if columns != shape[1] or rows >= shape[0]:
            return mask
        return replace(mask, foreground=np.pad(mask.foreground, ((0, shape[0] - rows), (0, 0))))
    labels = read_annotation(pair.mask, pair.image, shape)
    return Mask(labels > 0, len(np.unique(labels[labels > 0])))


def mask_shas(pairs: Sequence[Pair], file_shas: Sequence[str]) -> list[str]:
    """sha256 of each mask: of its file, or of what a COCO file of several images says of this one."""
    return [
        annotation_sha(pair.mask, pair.image, sha) if is_annotated(pair) else sha
        for pair, sha in zip(pairs, file_shas, strict=True)
    ]
