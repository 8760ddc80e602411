"""The mask of a pair, whether it is a picture or an annotation file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from sage_ray.data.annotations import ENDINGS, annotated_size, annotation_sha, read_annotation
from sage_ray.data.foreground import apply_foreground
from sage_ray.data.images import BadFile, header_size
from sage_ray.data.masks import Mask, read_mask, read_mask_values
from sage_ray.data.pairing import Pair
from sage_ray.foreground_rule import foreground_rule


def is_annotated(pair: Pair) -> bool:
    """Whether the mask is an annotation file, which is rasterised to the image's size."""
    return pair.mask.suffix.lower() in ENDINGS


def mask_size(pair: Pair) -> tuple[int, int] | None:
    """(rows, columns) of the mask from its header; None for an annotation file that does not say its image's size.

    Raises:
        BadFile: the mask cannot be read.
    """
    return annotated_size(pair.mask, pair.image) if is_annotated(pair) else header_size(pair.mask)


def read_pair_mask(pair: Pair, shape: tuple[int, int], foreground: str = "") -> Mask:
    """The decoded mask of a pair whose image has `shape` (rows, columns).

    A mask that ends above its image, as one drawn without the information bar does, is background below; whether it
    may do so is for `pairs.header_problems` to say.

    Args:
        pair: image and mask.
        shape: of the image.
        foreground: `data.foreground`; annotations have no values, so that all of them are particles.

    Raises:
        BadFile: as `read_mask`, `read_annotation` or `apply_foreground`.
    """
    if is_annotated(pair):
        labels = read_annotation(pair.mask, pair.image, shape)
        notes = ("data.foreground says nothing of annotations, all of which are particles",) if foreground else ()
        return Mask(labels > 0, len(np.unique(labels[labels > 0])), notes, labels)
    mask = read_mask_with(pair.mask, foreground)
    rows, columns = mask.foreground.shape
    if columns != shape[1] or rows >= shape[0]:
        return mask
    below = ((0, shape[0] - rows), (0, 0))
    padded = None if mask.labels is None else np.pad(mask.labels, below)
    return replace(mask, foreground=np.pad(mask.foreground, below), labels=padded)


def read_mask_with(path: Path, foreground: str) -> Mask:
    """The mask that a picture file is under the rule `data.foreground`; "" is none.

    Raises:
        BadFile: as `read_mask` or `apply_foreground`.
    """
    if not foreground:
        return read_mask(path)
    return apply_foreground(read_mask_values(path), foreground_rule(foreground), path)


def foreground_for(pairs: Sequence[Pair], foreground: str) -> str:
    """The rule of other data's `data.foreground` if it finds particles in these pairs too; "" if it does not."""
    return rule_that_fits([pair.mask for pair in pairs if not is_annotated(pair)], foreground)


def rule_that_fits(masks: Sequence[Path], foreground: str) -> str:
    """The rule if it finds a particle in one of these pictures; "" if it does not."""
    for path in masks if foreground else ():
        with suppress(BadFile):
            if read_mask_with(path, foreground).foreground.any():
                return foreground
    return ""


def mask_shas(pairs: Sequence[Pair], file_shas: Sequence[str], foreground: str = "") -> list[str]:
    """sha256 of each mask: of its file and `data.foreground`, or of what a COCO file of several images says of this."""
    return [
        annotation_sha(pair.mask, pair.image, sha) if is_annotated(pair) else _sha_with(sha, foreground)
        for pair, sha in zip(pairs, file_shas, strict=True)
    ]


def _sha_with(sha: str, foreground: str) -> str:
    return hashlib.sha256(f"{sha} {foreground}".encode()).hexdigest() if foreground else sha
