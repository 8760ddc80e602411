"""Planted scenes: which particle each pixel shows, and gradients of the engines against finite differences."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from torch import Tensor

from sage_ray.errors import UserError
from sage_ray.render_section import ENGINE_MATERIALS
from sage_ray.rendering import height_shader, path_tracer
from sage_ray.rendering.fitted_sizes import given_sizes
from sage_ray.rendering.height_shader import HeightShader
from sage_ray.rendering.index_pass import visible
from sage_ray.rendering.materials import material_ranges, wasserstein, with_noise
from sage_ray.rendering.meshes import ParticleMesh, particle_mesh
from sage_ray.rendering.path_tracer import PathTracer, check_mitsuba, missing_for_mitsuba
from sage_ray.rendering.regressor import Regressor
from sage_ray.rendering.renderer import Renderer
from sage_ray.rendering.scenes import Scene, SceneLaw, draw_scene
from sage_ray.rendering.views import CAMERA_HEIGHT, SMALLER_SIDE, STAGE_HEIGHT, View

VIEW = View(48, 64)
NEEDS_MITSUBA = pytest.mark.skipif(missing_for_mitsuba("cpu") is not None, reason="no Mitsuba or no LLVM here")
MATERIALS = {
    "particle_base_color": 0.6,
    "particle_roughness": 0.5,
    "particle_sheen": 0.3,
    "particle_sheen_tint": 0.2,
    "particle_spec_tint": 0.2,
    "particle_tilt": 0.3,
    "particle_edge": 0.4,
    "stage_base_color": 0.2,
    "stage_roughness": 0.5,
    "stage_sheen": 0.2,
    "stage_sheen_tint": 0.2,
    "stage_spec_tint": 0.2,
    "stage_shade": 0.5,
    "noise": 0.02,
}


def ball(x: float, y: float, z: float, radius: float) -> ParticleMesh:
    class Round:  # a sphere that is not out of round
        def normal(self, *args: object) -> np.ndarray:
            return np.zeros(3)

    mesh = particle_mesh("sphere", Round())  # type: ignore[arg-type]
    return mesh.scaled(radius).moved(np.array([x, y, z]))


def scene_of(*balls: tuple[float, float, float, float]) -> Scene:
    return Scene(tuple(ball(*each) for each in balls), np.array(balls, float))


def mixed_scene(seed: int = 0) -> Scene:
    law = SceneLaw((10, 14), 3, 0.4, ("sphere", "crystal", "rod"), given_sizes("lognormal", 0.18, 0.2))
    return draw_scene(law, VIEW, np.random.default_rng(seed))


def named(engine: str, **changes: Tensor | float) -> dict[str, Tensor]:
    values = {name: MATERIALS[name] for name in ENGINE_MATERIALS[engine]} | changes
    return {name: torch.as_tensor(value, dtype=torch.float32) for name, value in values.items()}


def test_a_ball_is_seen_as_the_disc_of_its_tangent_cone() -> None:
    radius, distance = 1.0, 9.0
    seen = visible(scene_of((0, 0, CAMERA_HEIGHT - distance, radius)), View(200, 200))
    tangent = radius / math.sqrt(distance**2 - radius**2) * View(200, 200).focal_pixels
    assert (seen.instances == 1).sum() == pytest.approx(math.pi * tangent**2, rel=0.01)
    assert seen.height[100, 100] == pytest.approx(CAMERA_HEIGHT - distance + radius - STAGE_HEIGHT, abs=0.01)
    assert seen.slope[100, 100] == pytest.approx(1, abs=0.01)
    assert seen.slope[100, 100 + int(0.95 * tangent)] < 0.5


def test_what_lies_behind_is_hidden_and_numbers_are_those_of_the_scene() -> None:
    low = (0.0, 0.0, STAGE_HEIGHT + 1, 1.0)
    high = (0.6, 0.0, STAGE_HEIGHT + 2.8, 0.8)
    seen, alone = visible(scene_of(low, high), VIEW).instances, visible(scene_of(low), VIEW).instances
    upper = visible(scene_of(high), VIEW).instances > 0
    # The upper one is whole, the lower one is what is left of it; the order in the scene does not matter.
    assert (seen[upper] == 2).all()
    assert np.array_equal(seen == 1, (alone == 1) & ~upper)
    assert 0 < (seen == 1).sum() < (alone == 1).sum()
    swapped = visible(scene_of(high, low), VIEW).instances
    assert np.array_equal(swapped == 2, seen == 1) and np.array_equal(swapped == 1, seen == 2)


def test_right_is_plus_x_and_up_is_plus_y() -> None:
    seen = visible(scene_of((2, 1, STAGE_HEIGHT + 0.5, 0.5)), VIEW).instances
    rows, columns = np.nonzero(seen)
    assert columns.mean() > VIEW.columns / 2 and rows.mean() < VIEW.rows / 2
    assert VIEW.half_extent == pytest.approx((SMALLER_SIDE / 2 * 64 / 48, SMALLER_SIDE / 2))


def test_the_shader_brightens_slopes_and_edges_and_darkens_the_depth_between() -> None:
    scene = scene_of((-1.5, 0, STAGE_HEIGHT + 1, 1.0), (1.5, 0, STAGE_HEIGHT + 1, 1.0))
    image = HeightShader(VIEW).render(scene, named("shader"), 0).numpy()
    numbers = visible(scene, VIEW).instances
    middle = image[24, int(round(VIEW.project(np.array([[-1.5, 0, STAGE_HEIGHT + 1]]))[0][0]))]
    rim = image[numbers == 1].max()
    assert rim > 1.2 * middle > 1.2 * 0.9 * MATERIALS["particle_base_color"]
    assert image[24, 32] < image[2, 2] < middle  # between the two it is darker than far away
    flat = HeightShader(VIEW).render(scene, named("shader", particle_tilt=0.0, particle_edge=0.0, stage_shade=0.0), 0)
    inside = flat.numpy()[24, 20]
    assert inside == pytest.approx(MATERIALS["particle_base_color"], abs=1e-5)


def gradient_and_difference(renderer: Renderer, engine: str, name: str, step: float) -> tuple[float, float]:
    """The gradient of a weighted mean of an image with respect to a material, and its central difference."""
    scene, weights = mixed_scene(), torch.linspace(0.5, 1.5, VIEW.rows * VIEW.columns).reshape(VIEW.rows, VIEW.columns)

    def summed(value: Tensor) -> Tensor:
        return (renderer.render(scene, named(engine, **{name: value}), 7, "kept") * weights).mean()

    value = torch.tensor(MATERIALS[name], requires_grad=True)
    summed(value).backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        difference = float(summed(value + step) - summed(value - step)) / (2 * step)
    assert value.grad is not None
    return float(value.grad), difference


@pytest.mark.parametrize("name", [name for name in ENGINE_MATERIALS["shader"] if name != "noise"])
def test_the_gradients_of_the_shader_are_those_of_finite_differences(name: str) -> None:
    gradient, difference = gradient_and_difference(HeightShader(VIEW), "shader", name, 0.01)
    assert difference != 0 and gradient == pytest.approx(difference, rel=0.05)


@pytest.fixture(scope="module")
def tracer() -> PathTracer:
    return PathTracer(VIEW, samples=64, path_depth=3)


@NEEDS_MITSUBA
@pytest.mark.parametrize(
    "name",
    ["particle_base_color", "particle_sheen", "particle_spec_tint", "stage_base_color", "stage_sheen"],
)
def test_the_gradients_of_the_path_tracer_are_those_of_finite_differences(tracer: PathTracer, name: str) -> None:
    gradient, difference = gradient_and_difference(tracer, "mitsuba", name, 0.05)
    assert difference != 0 and gradient == pytest.approx(difference, rel=0.05)


@NEEDS_MITSUBA
def test_the_path_tracer_sees_the_particles_of_the_index_pass(tracer: PathTracer) -> None:
    scene = mixed_scene(2)
    agree = tracer.instances(scene) == visible(scene, VIEW).instances
    assert agree.mean() > 0.999


@NEEDS_MITSUBA
def test_a_step_takes_no_longer_after_many_scenes() -> None:
    tracer, scene, others = PathTracer(VIEW, samples=4), mixed_scene(0), 40

    def step() -> float:
        materials = {name: value.requires_grad_() for name, value in named("mitsuba").items()}
        began = time.process_time()
        torch.autograd.backward(tracer.render(scene, materials, 5, "again").sum())
        return time.process_time() - began

    alone = np.median([step() for _ in range(8)])
    for number in range(1, others + 1):
        tracer.render(mixed_scene(number), named("mitsuba"), 5, f"scene{number}")
    # With what Mitsuba had made of them kept alive it was 9 times as much.
    assert np.median([step() for _ in range(8)]) < 2 * alone


def test_the_shader_keeps_reliefs_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(height_shader, "KEPT_BYTES", 2 * 4 * 4 * 4 * VIEW.rows * VIEW.columns)
    shader, materials = HeightShader(VIEW), named("shader")
    one = shader.render(mixed_scene(0), materials, 0, 0)
    images = [shader.render(mixed_scene(number), materials, 0, number) for number in range(4)]
    assert shader._kept.names == [0, 1]
    assert torch.equal(one, images[0])
    assert torch.equal(shader.render(mixed_scene(3), materials, 0, 3), images[3])


@NEEDS_MITSUBA
def test_equal_seeds_give_equal_images_and_a_kept_scene_the_same(tracer: PathTracer) -> None:
    scene, materials = mixed_scene(3), named("mitsuba")
    one, two = tracer.render(scene, materials, 5), tracer.render(scene, materials, 5, "kept3")
    three, other = tracer.render(scene, materials, 5, "kept3"), tracer.render(scene, materials, 6, "kept3")
    assert one.shape == (48, 64)
    assert torch.allclose(one, two, atol=1e-5) and torch.allclose(two, three, atol=1e-5)
    assert not torch.allclose(two, other, atol=1e-3)


def test_without_mitsuba_or_llvm_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path_tracer.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"no Mitsuba here: render.engine=mitsuba: pip install 'sage-ray\[render\]'"):
        check_mitsuba("cpu", "render.engine=mitsuba")
    monkeypatch.undo()
    if missing_for_mitsuba("cpu") is None:
        monkeypatch.setattr(path_tracer, "_llvm_version", lambda: None)
        with pytest.raises(UserError, match="finds no LLVM here: x: apt install libllvm19"):
            check_mitsuba("cpu", "x")
        monkeypatch.setattr(path_tracer, "_llvm_version", lambda: 15)
        with pytest.raises(UserError, match="needs LLVM 16 or newer, and finds 15"):
            check_mitsuba("cpu", "x")


def test_ranges_keep_to_what_a_parameter_can_be() -> None:
    free = ("particle_base_color", "particle_roughness", "stage_roughness", "noise")
    ranges = material_ranges(ENGINE_MATERIALS["mitsuba"], free, (0.01, 5), (0.01, 0.4), (0.001, 0.1))
    assert ranges.low == (0.01, 0.05, 0.05, 0.001) and ranges.high == (5, 1, 0.4, 0.1)
    assert ranges.named(torch.tensor([1.0, 0.5, 0.3, 0.05]))["noise"] == pytest.approx(0.05)
    assert set(ranges.named(torch.zeros(4))) == set(ENGINE_MATERIALS["mitsuba"])


def test_the_regressor_keeps_to_its_limits_and_depends_on_the_scene() -> None:
    regressor = Regressor(8, (0.1, 2.0), (0.2, 5.0), seed=1).eval()
    one, two = regressor(torch.randn(8, 4) * 50), regressor(torch.randn(3, 4))
    for values in (one, two):
        assert 0.1 <= values[0] <= 0.2 and 2 <= values[1] <= 5
    assert not torch.equal(one, two)
    same = Regressor(8, (0.1, 2.0), (0.2, 5.0), seed=1).eval()(torch.ones(2, 4))
    assert torch.equal(same, regressor(torch.ones(2, 4)))


def test_noise_and_histogram_distance_by_hand() -> None:
    image = torch.tensor([-0.5, 0.5, 3.0], requires_grad=True)
    noisy = with_noise(image, torch.tensor(0.1), torch.tensor([1.0, -2.0, 1.0]))
    assert noisy.tolist() == pytest.approx([0.1, 0.3, 1.0])
    noisy.sum().backward()  # type: ignore[no-untyped-call]
    assert image.grad is not None and image.grad.tolist() == [1, 1, 1]
    assert float(wasserstein(torch.tensor([0.0, 1.0]), torch.tensor([0.9, 0.3]))) == pytest.approx(0.2)
