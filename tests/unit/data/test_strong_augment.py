"""Heavy augmentation: off by default to the bit, keyed to the sample, geometry of image and mask together."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sage_ray.config import resolve
from sage_ray.data.augment import augment
from sage_ray.sections import LATER_OPERATIONS, AugmentConfig
from sage_ray.training.draws import KeyedDraws

OLD = ("hflip", "vflip", "jitter", "blur", "noise", "clahe", "sharpen", "crop")
GEOMETRY = ("rotate", "scale", "elastic")


def only(**values: object) -> AugmentConfig:
    return AugmentConfig.model_validate({"probability": 1.0, **dict.fromkeys(OLD, 0.0), **values})


def draws(ids: list[int] | range, epoch: int = 0) -> KeyedDraws:
    return KeyedDraws(0, "pretrain", epoch, 0, ids)


def discs(rows: int = 60, columns: int = 80, count: int = 5) -> tuple[Tensor, Tensor]:
    """A disc of radius 12 at another place of each image, and its mask."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    masks = [((x - 30 - 4 * i) ** 2 + (y - 25 - 2 * i) ** 2 <= 12**2).float() for i in range(count)]
    mask = torch.stack(masks)[:, None]
    return 0.2 + 0.6 * mask, mask


@pytest.mark.parametrize("name", LATER_OPERATIONS)
def test_rows_depend_on_their_sample_alone_and_the_operation_acts(name: str) -> None:
    image, mask = discs()
    image = image * torch.linspace(0.3, 1, image.shape[-1])
    config = only(**{name: 1.0, "low_resolution_range": (0.3, 0.6)})
    whole, whole_mask = augment(image, mask, config, draws(range(5)))
    assert (whole != image).flatten(1).any(1).all()
    assert float(whole.min()) >= 0 and float(whole.max()) <= 1 and set(whole_mask.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(whole_mask, mask) != (name in GEOMETRY)
    part, part_mask = augment(image[[3, 1]], mask[[3, 1]], config, draws([3, 1]))
    torch.testing.assert_close(part, whole[[3, 1]], rtol=0, atol=1e-6)
    assert torch.equal(part_mask, whole_mask[[3, 1]])
    other, _ = augment(image, mask, config, draws(range(5), epoch=1))
    assert not torch.equal(other, whole)


@pytest.mark.parametrize("name", LATER_OPERATIONS)
def test_one_that_is_on_moves_no_draw_of_the_others(name: str) -> None:
    """Numbers of the operations of before are theirs: a new one that changes nothing leaves the rest as it was.

    Without CLAHE, which counts grey values in steps and so magnifies the rounding of a sampling.
    """
    image, mask = discs()
    nothing = {
        "rotate_degrees": 0, "scale_range": (1, 1), "elastic_std": (0, 0), "gamma_range": (1, 1),
        "low_resolution_range": (1, 1),
    }  # fmt: skip
    plain, plain_mask = augment(image, mask, AugmentConfig(probability=1.0, clahe=0), draws(range(5)))
    config = AugmentConfig.model_validate({"probability": 1.0, "clahe": 0, name: 1.0, **nothing})
    found, found_mask = augment(image, mask, config, draws(range(5)))
    torch.testing.assert_close(found, plain, rtol=0, atol=2e-5)
    assert torch.equal(found_mask, plain_mask)


def test_a_rotation_keeps_discs_round_and_of_their_size_on_a_frame_that_is_no_square() -> None:
    image, mask = discs(64, 128)
    _, turned = augment(image, mask, only(rotate=1.0), draws(range(5)))
    for before, after in zip(mask[:, 0], turned[:, 0], strict=True):
        rows, columns = torch.nonzero(after, as_tuple=True)
        if rows.min() > 0 and rows.max() < 63 and columns.min() > 0 and columns.max() < 127:
            assert float(after.sum()) == pytest.approx(float(before.sum()), rel=0.05)
            assert int(rows.max() - rows.min()) == pytest.approx(int(columns.max() - columns.min()), abs=2)


def test_a_magnification_changes_areas_by_its_square() -> None:
    image, mask = discs(96, 96)
    _, larger = augment(image, mask, only(scale=1.0, scale_range=(1.3, 1.3)), draws(range(5)))
    inside = [i for i in range(5) if not (larger[i, 0, 0].any() or larger[i, 0, :, 0].any())]
    assert inside
    for row in inside:
        assert float(larger[row].sum() / mask[row].sum()) == pytest.approx(1.3**2, rel=0.05)


def test_elastic_shifts_have_the_spread_that_was_asked_for() -> None:
    """On a ramp a shift of k pixels along it is a difference of k steps of grey."""
    ramp = torch.arange(128).expand(1, 1, 128, 128) / 128
    image = ramp.repeat(16, 1, 1, 1)
    moved, _ = augment(image, image.round(), only(elastic=1.0, elastic_std=(3, 3)), draws(range(16)))
    shifts = ((moved - image) * 128)[..., 24:-24, 24:-24]
    # Between control points the cubic interpolation averages over them: less than 3, and not by much.
    assert 1.5 < float(shifts.std()) < 3.5 and abs(float(shifts.mean())) < 0.7
    steps = (shifts[..., 1:] - shifts[..., :-1]).abs()
    assert float(steps.max()) < 1, "smooth: neighbours move together"


def test_gamma_is_a_power_of_grey() -> None:
    image, mask = discs()
    found, _ = augment(image, mask, only(gamma=1.0, gamma_range=(2, 2)), draws(range(5)))
    torch.testing.assert_close(found, image**2)
    spread, _ = augment(image, mask, only(gamma=1.0, gamma_range=(0.5, 2)), draws(range(5)))
    powers = [math.log(float(spread[i].min())) / math.log(0.2) for i in range(5)]
    assert all(0.5 <= power <= 2 for power in powers) and len({round(power, 3) for power in powers}) == 5


def test_the_strong_recipe_augments_most_images_and_the_others_none_of_it() -> None:
    strong = resolve(preset="strong_unet").config.data.augment
    assert all(getattr(strong, name) > 0 for name in LATER_OPERATIONS)
    paper = resolve(preset="sage_gan_paper").config.data.augment
    assert not any(getattr(paper, name) for name in LATER_OPERATIONS)
    image, mask = discs()
    changed = [(augment(image, mask, strong, draws(range(5), epoch=e))[0] != image).flatten(1).any(1) for e in range(8)]
    assert float(torch.stack(changed).float().mean()) > 0.8
