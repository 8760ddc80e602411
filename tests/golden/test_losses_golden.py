"""Parity of the losses and of the differentiable augmentation with the published code."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from neutral_names import our_loss_keywords, vgg19_loss
from parity import Case, Handled, Parity, assert_close
from torch import Tensor

from sage_ray.losses import diff_augment as augment
from sage_ray.losses.segmentation import segmentation_loss

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


def our_loss(case: Case, scene: str, config: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(loss, gradient with respect to the logits)."""
    logits = torch.from_numpy(case[f"{scene}/logits"]).to(dtype).requires_grad_()
    target = torch.from_numpy(case[f"{scene}/target"]).long()
    loss = segmentation_loss(logits, target, **our_loss_keywords(case.spec["configs"][config]))
    loss.backward()
    assert logits.grad is not None
    return loss.detach(), logits.grad


@pytest.fixture(scope="module")
def seg_case(parity: Parity) -> Case:
    return parity.case("seg_loss")


@DTYPES
def test_segmentation_loss(seg_case: Case, dtype: torch.dtype) -> None:
    variants = seg_case.groups(r"([^/]+/[^/]+)/loss")
    assert {variant.split("/")[1] for variant in variants} == set(seg_case.spec["configs"])
    for variant in variants:
        loss, grad = our_loss(seg_case, *variant.split("/"), dtype)
        seg_case.assert_matches(f"{variant}/loss", loss.numpy(), double=dtype == torch.float64)
        seg_case.assert_matches(f"{variant}/grad", grad.numpy(), double=dtype == torch.float64)


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
            ours = [our_loss(seg_case, scene, part, torch.float64) for part in parts]
            whole = our_loss(seg_case, scene, match[2], torch.float64)
            torch.testing.assert_close(sum(loss for loss, _ in ours), whole[0], rtol=1e-12, atol=0)
            torch.testing.assert_close(sum(grad for _, grad in ours), whole[1], rtol=1e-9, atol=1e-15)


def test_segmentation_loss_observed(parity: Parity, seg_case: Case) -> None:
    for scene, config, deviation in parity.observed("loss"):
        expected = float(seg_case[f"{scene}/{config}/loss"])
        loss, _ = our_loss(seg_case, scene, config, torch.float32)
        limit = _OBSERVED_FACTOR * deviation + _ROUNDING
        assert abs(float(loss) - expected) <= limit * abs(expected), (scene, config)


@DTYPES
def test_vgg_loss(parity: Parity, dtype: torch.dtype) -> None:
    case = parity.case("vgg_loss")
    network = vgg19_loss(parity, case.spec["weights"]).to(dtype)
    fake = torch.from_numpy(case["x"]).to(dtype).requires_grad_()
    real = torch.from_numpy(case["y"]).to(dtype).requires_grad_()
    loss = network(fake, real)
    loss.backward()
    double = dtype == torch.float64
    case.assert_matches("loss", loss.detach().numpy(), double=double)
    with torch.no_grad():
        terms = torch.stack(network.layer_terms(fake, network.features(real)))
    case.assert_matches("layer_terms", terms.numpy(), kind="loss", double=double)
    assert fake.grad is not None
    case.assert_matches("grad_x", fake.grad.numpy(), double=double)
    assert real.grad is None, "the real image must get no gradient"


def test_vgg_parameter_count(parity: Parity) -> None:
    network = vgg19_loss(parity, parity.case("vgg_loss").spec["weights"])
    total = sum(parameter.numel() for parameter in network.parameters())
    assert total == parity.facts["parameter_counts"]["vgg19_to_conv5_1"]


@DTYPES
def test_diff_augment(parity: Parity, dtype: torch.dtype) -> None:
    case = parity.case("diff_augment")
    draw = augment.AugmentDraw(
        **{name: torch.from_numpy(case[name]) for name in case.names(r"u_.+|shift_.+|cut_.+")}  # type: ignore[arg-type]
    )
    image = torch.from_numpy(case["image"]).to(dtype)
    steps = {
        "brightness": lambda x: augment.brighten(x, draw.u_brightness),
        "saturation": lambda x: augment.saturate(x, draw.u_saturation),
        "contrast": lambda x: augment.contrast(x, draw.u_contrast),
        "translation": lambda x: augment.translate(x, draw.shift_rows, draw.shift_cols),
        "cutout": lambda x: augment.cutout(x, draw.cut_row, draw.cut_col),
    }
    assert {f"after_{name}" for name in steps} == set(case.names(r"after_.+"))
    stepwise = image
    for name, step in steps.items():
        stepwise = step(stepwise)
        case.assert_matches(f"after_{name}", stepwise.numpy(), double=dtype == torch.float64)
    assert_close(augment.apply_draw(image, draw).numpy(), stepwise.numpy(), 0, 0, "all steps together")


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
