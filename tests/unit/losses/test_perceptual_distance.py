"""LPIPS on VGG19 with drawn weights: the formula by hand, equal images, what grows with a difference, a whole table."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sage_ray.evaluation.generation_scores import pair_table
from sage_ray.losses.perceptual import VGG19, VGG19Loss
from sage_ray.losses.perceptual_distance import perceptual_distance


@pytest.fixture(scope="module")
def network() -> VGG19Loss:
    """VGG19 of drawn weights that keep the size of what they are given (He)."""
    generator = torch.Generator().manual_seed(0)
    drawn = {
        name: torch.randn(shape, generator=generator) * (2 / np.prod(shape[1:])) ** 0.5 if len(shape) == 4
        else 0.1 * torch.randn(shape, generator=generator)
        for name, shape in VGG19.shapes.items()
    }  # fmt: skip
    return VGG19Loss(drawn)


def images(seed: int) -> torch.Tensor:
    return 2 * torch.rand(2, 1, 16, 24, generator=torch.Generator().manual_seed(seed)) - 1


def test_the_formula_by_hand(network: VGG19Loss) -> None:
    first, second = images(0), images(1)
    expected = np.zeros(2)
    for ours, theirs in zip(network.features(first), network.features(second), strict=True):
        a, b = (each.double().numpy() for each in (ours, theirs))
        unit_a, unit_b = (each / np.maximum(np.sqrt((each**2).sum(1, keepdims=True)), 1e-12) for each in (a, b))
        expected += ((unit_a - unit_b) ** 2).sum(1).mean((1, 2))
    found = perceptual_distance(network, first, second)
    assert found.shape == (2,) and found.numpy() == pytest.approx(expected, rel=1e-4)
    assert perceptual_distance(network, second, first).numpy() == pytest.approx(found.numpy(), rel=1e-5)
    # Five layers of unit vectors with no negative entries: each is at most sqrt(2) away.
    assert found.min() > 0 and found.max() < 10


def test_equal_images_are_at_no_distance_and_noise_takes_them_apart(network: VGG19Loss) -> None:
    first, noise = images(2), images(3)
    far = [perceptual_distance(network, first, (first + share * noise).clamp(-1, 1)) for share in (0, 0.05, 0.5)]
    assert (far[0] == 0).all() and (far[1] > 0).all() and (far[2] > 2 * far[1]).all()


def test_a_table_of_pairs_has_it_for_each_draw(network: VGG19Loss) -> None:
    real = np.random.default_rng(0).integers(0, 256, (9, 16, 16)).astype(np.uint8)  # more than one batch
    made = np.stack([real, real[::-1]], axis=1)
    found = pair_table(real, made, np.ones_like(real), network)["lpips"]
    assert found.shape == (9, 2) and (found[:, 0] == 0).all()
    other = np.arange(9) != 4  # the middle one is its own mirror
    assert (found[other, 1] > 0).all() and found[4, 1] == 0
    assert "lpips" not in pair_table(real[:1], made[:1], np.ones_like(real[:1]))
