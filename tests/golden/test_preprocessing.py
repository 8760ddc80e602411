"""Parity case preprocessing: from raw pixels to the network's input and target, with the public code's cleaning."""

from __future__ import annotations

import numpy as np
from parity import Handled, Parity

from sage_ray.data.preprocess import prepare_image, prepare_mask

HANDLES = {"preprocessing": Handled(arrays=(r".+/(image_raw|mask_raw|image|mask)",))}


def test_preprocessing(parity: Parity) -> None:
    case = parity.case("preprocessing")
    names = case.groups(r"(.+)/image_raw")
    assert names, "the case holds no image"
    # The public code's cleaning (DISCREPANCIES row 27), as the case describes it.
    erosion = case.number(r"EROSION with a (\d+)x\1 all-ones element")
    min_object_pixels = case.number(r"fewer than (\d+) pixels")
    for name in names:
        size = case[f"{name}/image"].shape[-2:]
        image = prepare_image(case[f"{name}/image_raw"], size)
        mask = prepare_mask(case[f"{name}/mask_raw"], size, erosion=erosion, min_object_pixels=min_object_pixels)
        # What the trainer feeds the networks: uint8 / 255 in [0, 1], then 2 x - 1.
        case.assert_matches(f"{name}/image", (2 * (image.astype(np.float32) / 255) - 1)[None])
        case.assert_matches(f"{name}/mask", mask[None])


def test_cleaning_is_what_changes_the_truth(parity: Parity) -> None:
    """Without erosion and clean-up the targets differ: the settings of row 27 have an effect that the case sees."""
    case = parity.case("preprocessing")
    changed = 0
    for name in case.groups(r"(.+)/image_raw"):
        wanted = case[f"{name}/mask"]
        kept = prepare_mask(case[f"{name}/mask_raw"], wanted.shape[-2:])[None]
        assert not (wanted & ~kept.astype(bool)).any(), "cleaning only removes pixels"
        changed += int((kept != wanted).sum())
    assert changed
