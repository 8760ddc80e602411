"""Checks of the losses and of the differentiable augmentation against the published code, on any device; no pytest.

`test_losses_golden.py` runs them on the CPU, `tests/gpu` and `benchmarks/gpu.py` on a GPU.
"""

from __future__ import annotations

import torch
from neutral_names import our_loss_keywords, vgg19_loss
from parity import Case, Parity, assert_close
from placing import Place, to_numpy
from torch import Tensor

from sage_ray.losses import diff_augment as augment
from sage_ray.losses.segmentation import segmentation_loss


def our_loss(case: Case, scene: str, config: str, place: Place) -> tuple[Tensor, Tensor]:
    """(loss, gradient with respect to the logits)."""
    logits = place.tensor(case, f"{scene}/logits", grad=True)
    target = torch.from_numpy(case[f"{scene}/target"]).long().to(place.device)
    loss = segmentation_loss(logits, target, **our_loss_keywords(case.spec["configs"][config]))
    loss.backward()
    assert logits.grad is not None
    return loss.detach(), logits.grad


def check_segmentation_loss(parity: Parity, place: Place) -> None:
    case = parity.case("seg_loss")
    variants = case.groups(r"([^/]+/[^/]+)/loss")
    assert {variant.split("/")[1] for variant in variants} == set(case.spec["configs"])
    for variant in variants:
        loss, grad = our_loss(case, *variant.split("/"), place)
        place.assert_matches(case, f"{variant}/loss", loss)
        place.assert_matches(case, f"{variant}/grad", grad)


def check_vgg_loss(parity: Parity, place: Place) -> None:
    case = parity.case("vgg_loss")
    network = place.network(vgg19_loss(parity, case.spec["weights"]))
    fake, real = place.tensor(case, "x", grad=True), place.tensor(case, "y", grad=True)
    loss = network(fake, real)
    loss.backward()
    place.assert_matches(case, "loss", loss)
    with torch.no_grad():
        terms = torch.stack(network.layer_terms(fake, network.features(real)))
    place.assert_matches(case, "layer_terms", terms, kind="loss")
    assert fake.grad is not None
    place.assert_matches(case, "grad_x", fake.grad)
    assert real.grad is None, "the real image must get no gradient"


def check_diff_augment(parity: Parity, place: Place) -> None:
    case = parity.case("diff_augment")
    given = {name: torch.from_numpy(case[name]).to(place.device) for name in case.names(r"u_.+|shift_.+|cut_.+")}
    draw = augment.AugmentDraw(**given)
    image = place.tensor(case, "image")
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
        place.assert_matches(case, f"after_{name}", stepwise)
    assert_close(to_numpy(augment.apply_draw(image, draw)), to_numpy(stepwise), 0, 0, "all steps together")
