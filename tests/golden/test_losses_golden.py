"""Parity of the losses and of the differentiable augmentation with the published code."""

from __future__ import annotations

import re

import loss_checks
import numpy as np
import pytest
import torch
from loss_checks import our_loss
from neutral_names import vgg19_loss
from parity import Case, Handled, Parity
from placing import Place

from sage_ray.losses import diff_augment as augment

HANDLES = {
    "seg_loss": Handled((r"[^/]+/(logits|target)", r"[^/]+/[^/]+/(loss|grad)"), ("configs", "consistency_checks")),
    "vgg_loss": Handled((r"x|y|loss|layer_terms|grad_x",), ("weights",)),
    "diff_augment": Handled(
        (
            r"image|u_(brightness|saturation|contrast)|shift_(rows|cols)|cut_(row|col)",
            r"after_(brightness|saturation|contrast|translation|cutout)",
        )
    ),
}
OBSERVED = {"seg_loss"}
# Relative; the reference's own deviation is often below one rounding step of float32.
_OBSERVED_FACTOR, _ROUNDING = 20, 1e-6

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


@pytest.fixture(scope="module")
def seg_case(parity: Parity) -> Case:
    return parity.case("seg_loss")


@DTYPES
def test_segmentation_loss(parity: Parity, dtype: torch.dtype) -> None:
    loss_checks.check_segmentation_loss(parity, Place(dtype))


def test_segmentation_loss_consistency(seg_case: Case) -> None:
    """Each line "a + b = c" holds for the stored losses and for ours, in every scene."""
    checks = seg_case.spec["consistency_checks"]
    assert checks
    for check in checks:
        match = re.fullmatch(r"(\w+(?: \+ \w+)*) = (\w+)", check)
        assert match, f"cannot read the consistency check {check!r}"
        for scene in seg_case.groups(r"([^/]+)/logits"):
            parts = match[1].split(" + ")
            stored = sum(float(seg_case[f"{scene}/{part}/loss"]) for part in parts)
            assert stored == pytest.approx(float(seg_case[f"{scene}/{match[2]}/loss"]), rel=1e-9)
            ours = [our_loss(seg_case, scene, part, Place(torch.float64)) for part in parts]
            whole = our_loss(seg_case, scene, match[2], Place(torch.float64))
            torch.testing.assert_close(sum(loss for loss, _ in ours), whole[0], rtol=1e-12, atol=0)
            torch.testing.assert_close(sum(grad for _, grad in ours), whole[1], rtol=1e-9, atol=1e-15)


def test_segmentation_loss_observed(parity: Parity, seg_case: Case) -> None:
    for scene, config, deviation in parity.observed("loss"):
        expected = float(seg_case[f"{scene}/{config}/loss"])
        loss, _ = our_loss(seg_case, scene, config, Place(torch.float32))
        limit = _OBSERVED_FACTOR * deviation + _ROUNDING
        assert abs(float(loss) - expected) <= limit * abs(expected), (scene, config)


@DTYPES
def test_vgg_loss(parity: Parity, dtype: torch.dtype) -> None:
    loss_checks.check_vgg_loss(parity, Place(dtype))


def test_vgg_parameter_count(parity: Parity) -> None:
    network = vgg19_loss(parity, parity.case("vgg_loss").spec["weights"])
    total = sum(parameter.numel() for parameter in network.parameters())
    assert total == parity.facts["parameter_counts"]["vgg19_to_conv5_1"]


@DTYPES
def test_diff_augment(parity: Parity, dtype: torch.dtype) -> None:
    loss_checks.check_diff_augment(parity, Place(dtype))


def test_diff_augment_draws_cover_the_published_ranges(parity: Parity) -> None:
    """The ranges that the manifest states for the integers are those that uniform draws can reach, ends included."""
    case = parity.case("diff_augment")
    height, width = case["image"].shape[-2:]
    ends = torch.tensor([0.0, np.nextafter(np.float32(1), np.float32(0))])
    draw = augment.draw_parameters(ends[:, None].expand(-1, 7), height, width)
    for name in ("shift_rows", "shift_cols", "cut_row", "cut_col"):
        stated = re.search(r"\[(-?\d+),(-?\d+)\]", case.spec["arrays"][name]["meaning"])
        assert stated, f"the manifest states no range for {name}"
        assert getattr(draw, name).tolist() == [int(stated[1]), int(stated[2])]
