"""Augmentation: keyed to the sample, blind to the batch, image and mask together, each operation by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sage_ray.data.augment import augment
from sage_ray.data.synth import DrawnSource
from sage_ray.sections import AugmentConfig
from sage_ray.training.draws import KeyedDraws

OPERATIONS = ("hflip", "vflip", "jitter", "blur", "noise", "clahe", "sharpen", "crop")
ALWAYS = AugmentConfig(probability=1.0)


def batch(count: int = 6, size: int = 48, columns: int = 60) -> tuple[Tensor, Tensor]:
    pairs = [DrawnSource(count, 64, 2).draw(i) for i in range(count)]
    images = torch.from_numpy(np.stack([pair.image for pair in pairs]))[:, None, :size, :columns]
    masks = torch.from_numpy(np.stack([pair.mask for pair in pairs]))[:, None, :size, :columns]
    return images.float() / 255, masks.float()


def draws(ids: list[int] | range, *, seed: int = 0, epoch: int = 0, step: int = 0) -> KeyedDraws:
    return KeyedDraws(seed, "pretrain", epoch, step, ids)


def only(**values: object) -> AugmentConfig:
    """A block that is always on with one operation always on."""
    off = dict.fromkeys(OPERATIONS, 0.0)
    return AugmentConfig.model_validate({"probability": 1.0, **off, **values})


@pytest.mark.parametrize("config", [ALWAYS, AugmentConfig(), *(only(**{name: 1.0}) for name in OPERATIONS)])
def test_rows_depend_on_their_sample_alone(config: AugmentConfig) -> None:
    """A batch of six, its halves and its single rows give the same pixels: two workers see what one does."""
    image, mask = batch()
    whole_image, whole_mask = augment(image, mask, config, draws(range(6)))
    for ids in ([0, 1, 2], [3, 4, 5], [4], [5, 0]):
        part_image, part_mask = augment(image[ids], mask[ids], config, draws(ids, step=3))
        torch.testing.assert_close(part_image, whole_image[ids], rtol=0, atol=1e-6)
        assert torch.equal(part_mask, whole_mask[ids])


def test_seed_and_epoch_change_the_draws_and_inputs_stay() -> None:
    image, mask = batch()
    kept = image.clone(), mask.clone()
    first = augment(image, mask, ALWAYS, draws(range(6)))
    again = augment(image, mask, ALWAYS, draws(range(6)))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    for other in (draws(range(6), seed=1), draws(range(6), epoch=1)):
        assert not torch.equal(augment(image, mask, ALWAYS, other)[0], first[0])
    assert torch.equal(image, kept[0]) and torch.equal(mask, kept[1])


@pytest.mark.parametrize("size", [(48, 60), (16, 17), (33, 64)])
def test_ranges_and_shapes(size: tuple[int, int]) -> None:
    image, mask = batch(6, *size)
    for epoch in range(8):
        new_image, new_mask = augment(image, mask, ALWAYS, draws(range(6), epoch=epoch))
        assert new_image.shape == image.shape and new_image.dtype == torch.float32
        assert float(new_image.min()) >= 0 and float(new_image.max()) <= 1
        assert set(new_mask.unique().tolist()) <= {0.0, 1.0}


def test_probability_zero_changes_nothing() -> None:
    image, mask = batch()
    for config in (AugmentConfig(probability=0.0), only()):
        new_image, new_mask = augment(image, mask, config, draws(range(6)))
        assert torch.equal(new_image, image) and torch.equal(new_mask, mask)


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_acts(name: str) -> None:
    image, mask = batch()
    new_image, new_mask = augment(image, mask, only(**{name: 1.0, "blur_sigma": (0.5, 1.0)}), draws(range(6)))
    changed = (new_image != image).flatten(1).any(1)
    assert changed.all()
    assert torch.equal(new_mask, mask) == (name not in ("hflip", "vflip", "crop"))


def test_flips_move_image_and_mask_together() -> None:
    image, mask = batch()
    flipped = augment(image, mask, only(hflip=1.0), draws(range(6)))
    assert torch.equal(flipped[0], image.flip(3)) and torch.equal(flipped[1], mask.flip(3))
    flipped = augment(image, mask, only(vflip=1.0), draws(range(6)))
    assert torch.equal(flipped[0], image.flip(2)) and torch.equal(flipped[1], mask.flip(2))


def test_crop_shows_a_window_of_image_and_mask_together() -> None:
    """The mask as an image, cropped in the same place, thresholds to the cropped mask but for its outlines."""
    _, mask = batch(6, 64, 64)
    as_image, cropped = augment(mask, mask, only(crop=1.0), draws(range(6)))
    assert ((as_image > 0.5).float() == cropped).float().mean() > 0.985
    ramp = torch.linspace(0, 1, 101).expand(6, 1, 101, 101).contiguous()
    wide, _ = augment(ramp, ramp.round(), only(crop=1.0, crop_scale=0.5), draws(range(6)))
    span = wide[:, 0, 50, -1] - wide[:, 0, 50, 0]
    torch.testing.assert_close(span, torch.full((6,), 0.5), atol=0.01, rtol=0)
    starts = wide[:, 0, 50, 0]
    assert starts.std() > 0.03 and float(starts.min()) >= 0 and float(starts.max()) <= 0.51


def test_jitter_by_hand() -> None:
    image = torch.tensor([0.2, 0.4]).view(1, 1, 1, 2).repeat(1, 1, 4, 2)
    config = only(jitter=1.0, jitter_range=(1.5, 1.5))
    new_image, _ = augment(image, image.round(), config, draws([0]))
    # Brightness 1.5: .3 and .6; contrast 1.5 about the mean .45: .225 and .675.
    torch.testing.assert_close(new_image[0, 0, 0, :2], torch.tensor([0.225, 0.675]))


def test_noise_has_its_spread_and_wraps_only_if_asked() -> None:
    image = torch.full((8, 1, 64, 64), 0.5)
    noisy, _ = augment(image, image, only(noise=1.0, noise_std=(0.02, 0.02)), draws(range(8)))
    assert float((noisy - image).std()) == pytest.approx(0.02, rel=0.03)
    assert not torch.equal(noisy[0], noisy[1])
    dark = torch.zeros(2, 1, 32, 32)
    clipped, _ = augment(dark, dark, only(noise=1.0), draws(range(2)))
    assert float(clipped.max()) < 0.1
    wrapped, _ = augment(dark, dark, only(noise=1.0, noise_overflow="wrap"), draws(range(2)))
    assert 0.3 < float((wrapped > 0.9).float().mean()) < 0.7, "negative values turn white"


def test_rates_follow_the_probabilities() -> None:
    """Over 2000 samples: half of the images untouched, a flip in a quarter (probability .5 in a block of .5)."""
    image = torch.arange(256, dtype=torch.float32).view(1, 1, 16, 16).expand(2000, 1, 16, 16) / 255
    new_image, _ = augment(image, image.round(), only(probability=0.5, hflip=0.5), draws(range(2000)))
    rate = float((new_image != image).flatten(1).any(1).float().mean())
    assert rate == pytest.approx(0.25, abs=0.04)
    full, _ = augment(image, image.round(), AugmentConfig(), draws(range(2000)))
    untouched = float((full == image).flatten(1).all(1).float().mean())
    assert untouched == pytest.approx(0.507, abs=0.04)


def test_equalisation_counts_pixels_and_is_not_refused_for_want_of_a_fixed_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    strict: list[bool] = []

    def equalise(image: torch.Tensor, *_: object) -> torch.Tensor:
        strict.append(torch.are_deterministic_algorithms_enabled())
        return image

    monkeypatch.setattr("sage_ray.data.augment.equalize_clahe", equalise)
    torch.use_deterministic_algorithms(True)
    try:
        augment(*batch(), only(probability=1.0, clahe=1.0), draws(range(6)))
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert strict == [False]
