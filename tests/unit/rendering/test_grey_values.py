"""Grey values of a rendered image against those of a set: nothing of the distance is owed to how much a scene shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from sage_ray.rendering import grey_values
from sage_ray.rendering.fitted_sizes import given_sizes
from sage_ray.rendering.grey_values import LEVELS, RealGreys, distance_to_set, grey_quantiles, scene_weights
from sage_ray.rendering.index_pass import visible
from sage_ray.rendering.scenes import Scene, SceneLaw, draw_scene
from sage_ray.rendering.views import View

VIEW = View(32, 48)
BRIGHT, DARK = 200, 30


def picture(share: float, rng: np.random.Generator, bright: int = BRIGHT) -> tuple[np.ndarray, np.ndarray]:
    """A grey image with particles in a share of its pixels, and where they are."""
    particle = np.arange(32 * 48).reshape(32, 48) < share * 32 * 48
    values = np.where(particle, bright, DARK) + rng.normal(0, 4, particle.shape)
    return values.clip(0, 255).round().astype(np.uint8), particle


def test_quantiles_are_those_of_all_images_together() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (16, 16), dtype=np.uint8) for _ in range(3)]
    found = grey_quantiles(images)
    assert found.shape == (LEVELS + 1,) and bool((found.diff() >= 0).all())
    whole = np.concatenate([image.ravel() for image in images]) / 255
    wanted = np.quantile(whole, np.linspace(0, 1, LEVELS + 1), method="inverted_cdf")
    assert np.abs(found.numpy() - wanted).mean() < 1e-3
    assert found[0] == pytest.approx(whole.min()) and found[-1] == pytest.approx(whole.max())


@given(share=st.floats(0.05, 0.95), coverage=st.floats(0.05, 0.95))
def test_weights_give_the_particles_the_coverage_of_all_scenes(share: float, coverage: float) -> None:
    _, particle = picture(share, np.random.default_rng(0))
    weights = scene_weights(particle, coverage)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-5)
    assert float(weights[torch.from_numpy(particle)].sum()) == pytest.approx(coverage, abs=1e-5)


def test_a_scene_without_a_particle_has_equal_weights() -> None:
    for particle in (np.zeros((4, 5), bool), np.ones((4, 5), bool)):
        assert torch.allclose(scene_weights(particle, 0.3), torch.full((4, 5), 0.05))


def test_the_distance_is_scipys() -> None:
    rng = np.random.default_rng(1)
    image, particle = picture(0.4, rng)
    real = [picture(share, rng, 140)[0] for share in (0.2, 0.3)]
    weights = scene_weights(particle, 0.25)
    found = distance_to_set(torch.from_numpy(image / 255).float(), weights, grey_quantiles(real))
    everything = np.concatenate([each.ravel() for each in real]) / 255
    wanted = wasserstein_distance(image.ravel() / 255, everything, weights.numpy().ravel())
    assert float(found) == pytest.approx(wanted, abs=2e-3)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.6])
def test_the_right_materials_are_at_no_distance_and_pulled_nowhere_whatever_a_scene_shows(share: float) -> None:
    rng = np.random.default_rng(2)
    real = grey_quantiles(picture(each, rng)[0] for each in (0.1, 0.2, 0.3, 0.4))
    image, particle = picture(share, rng)
    weights = scene_weights(particle, 0.25)

    def with_contrast(factor: torch.Tensor) -> torch.Tensor:
        grey = torch.from_numpy(image).float() / 255
        middle = (BRIGHT + DARK) / 2 / 255
        return distance_to_set(middle + factor * (grey - middle), weights, real)

    at = {factor: float(with_contrast(torch.tensor(factor))) for factor in (0.9, 1.0, 1.1)}
    assert at[1.0] < 0.01 < 0.02 < min(at[0.9], at[1.1])
    # Against one real image that shows fewer or more particles, less contrast would have seemed better.
    other, _ = picture(0.9 if share < 0.5 else 0.1, rng)
    plain = {
        factor: wasserstein_distance((115 + factor * (image.ravel() - 115.0)), other.ravel()) for factor in (0.9, 1)
    }
    assert plain[0.9] < plain[1]


def test_gradients_go_to_the_image_alone() -> None:
    rng = np.random.default_rng(3)
    image = torch.from_numpy(picture(0.3, rng)[0] / 255).float().requires_grad_()
    weights = scene_weights(picture(0.3, rng)[1], 0.3)
    torch.autograd.backward(distance_to_set(image, weights, grey_quantiles([picture(0.3, rng, 120)[0]])))
    # Particles are too bright: each is pulled down by its weight.
    assert image.grad is not None and torch.allclose(image.grad[0], weights[0], atol=1e-6)


def test_scenes_are_balanced_by_their_mean_coverage_and_kept_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    law = SceneLaw((3, 12), 2, 0.3, ("sphere",), given_sizes("lognormal", 0.2, 0.2))

    def scene(number: int) -> Scene:
        return draw_scene(law, VIEW, np.random.default_rng(number))

    image = picture(0.3, np.random.default_rng(4))[0]
    greys = RealGreys([image], scene, 5, VIEW)
    particle = [visible(scene(number), VIEW).instances > 0 for number in range(5)]
    coverage = np.mean([each.mean() for each in particle])
    assert greys.coverage == pytest.approx(coverage)
    for number in (0, 4, 0):
        found = greys.weights(number)
        assert float(found[torch.from_numpy(particle[number])].sum()) == pytest.approx(coverage, abs=1e-5)
    assert greys.weights(0) is greys.weights(0)
    monkeypatch.setattr(grey_values, "KEPT_BYTES", 2 * 4 * VIEW.rows * VIEW.columns)
    few = RealGreys([image], scene, 5, VIEW)
    for number in (0, 1, 2, 3, 0, 3):
        assert torch.equal(few.weights(number), greys.weights(number))
    assert few._kept.names == [0, 1]
    shown = torch.rand(1, 1, 32, 48, generator=torch.Generator().manual_seed(0))
    assert greys.distance(shown, 4) == distance_to_set(shown, greys.weights(4), grey_quantiles([image]))
