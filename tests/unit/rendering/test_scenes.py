"""Meshes are closed and point outwards; particles touch and never overlap; sizes follow their law."""

from __future__ import annotations

import numpy as np
import pytest

from sage_ray.errors import UserError
from sage_ray.rendering.fitted_sizes import diameters_of_masks, diameters_of_table, fit_lognormal, given_sizes
from sage_ray.rendering.meshes import particle_mesh
from sage_ray.rendering.scenes import Scene, SceneLaw, draw_scene
from sage_ray.rendering.views import STAGE_HEIGHT, View

SHAPES = ("sphere", "crystal", "rod", "wire", "loop")
VIEW = View(64, 64)


def drawn(shape: str, seed: int, *, agglomerates: int = 3, diameter: float = 0.12) -> Scene:
    law = SceneLaw((12, 16), agglomerates, 0.3, (shape,), given_sizes("lognormal", diameter, 0.2))
    return draw_scene(law, VIEW, np.random.default_rng(seed))


def gaps(scene: Scene) -> np.ndarray:
    """Least distance of each particle to any other, by the balls that stand for it."""
    found = []
    for i, one in enumerate(scene.particles):
        others = np.vstack([other.balls for j, other in enumerate(scene.particles) if j != i])
        apart = np.linalg.norm(one.balls[:, None, :3] - others[None, :, :3], axis=-1)
        found.append((apart - one.balls[:, None, 3] - others[None, :, 3]).min())
    return np.array(found)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_mesh_is_closed_and_its_normals_point_outwards(shape: str) -> None:
    mesh = particle_mesh(shape, np.random.default_rng(0))
    corners = mesh.vertices[mesh.faces]
    areas = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    # The directed areas of a closed surface add up to nothing, and its volume is positive if it points outwards.
    assert np.abs(areas.sum(axis=0)).max() < 2e-2 * np.linalg.norm(areas, axis=1).sum()
    volume = np.einsum("fi,fi->", areas, corners.mean(axis=1)) / 6
    assert volume > 0
    assert (np.einsum("fi,fi->f", areas, mesh.normals[mesh.faces].mean(axis=1)) > -1e-9).all()
    assert np.allclose(np.linalg.norm(mesh.normals, axis=1), 1)


def test_a_sphere_has_the_volume_of_one_and_a_rod_the_same() -> None:
    for shape, allowed in (("sphere", 0.06), ("rod", 0.06), ("crystal", 0.35)):
        mesh = particle_mesh(shape, np.random.default_rng(3))
        corners = mesh.vertices[mesh.faces]
        volume = np.einsum("fi,fi->", np.cross(corners[:, 0], corners[:, 1]), corners[:, 2]) / 6
        assert volume == pytest.approx(4 / 3 * np.pi, rel=allowed), shape


def test_a_scene_of_one_particle_has_it_however_large_it_is() -> None:
    law = SceneLaw((1, 1), 1, 0.3, ("loop", "wire"), given_sizes("normal", 0.9, 0.0))
    for seed in (0, 133, 175, 231):  # the loop of 133 lies higher than a pile may be, wherever it is put
        scene = draw_scene(law, VIEW, np.random.default_rng(seed))
        assert len(scene.particles) == 1 == len(scene.table)


@pytest.mark.parametrize("shape", SHAPES)
def test_particles_touch_and_never_overlap(shape: str) -> None:
    touching = 0
    for seed in range(3):
        scene = drawn(shape, seed)
        found = gaps(scene)
        assert found.min() > -1e-9
        touching += int((found < 1e-9).sum())
        assert min(mesh.vertices[:, 2].min() for mesh in scene.particles) > STAGE_HEIGHT - 1e-6
    assert touching >= 3


def test_without_agglomerates_particles_stand_alone() -> None:
    scene = drawn("sphere", 0, agglomerates=0, diameter=0.06)
    assert len(scene.particles) >= 10 and gaps(scene).min() > 0


def test_a_scene_says_how_much_memory_it_takes() -> None:
    scene = drawn("sphere", 0)
    vertices, normals, faces, _ = scene.merged()
    assert scene.nbytes == vertices.nbytes + normals.nbytes + faces.nbytes + 32 * len(scene.particles)


def test_a_seed_gives_one_scene() -> None:
    one, same, other = drawn("crystal", 1), drawn("crystal", 1), drawn("crystal", 2)
    assert np.array_equal(one.table, same.table) and one.table.shape != (0,)
    assert one.table.shape != other.table.shape or not np.array_equal(one.table, other.table)


def test_given_laws_have_their_moments() -> None:
    rng = np.random.default_rng(0)
    normal, lognormal = given_sizes("normal", 0.2, 0.1)(rng, 9000), given_sizes("lognormal", 0.2, 0.3)(rng, 9000)
    bimodal = given_sizes("bimodal", 0.1, 0.05, 0.3, 0.25)(rng, 9000)
    assert normal.mean() == pytest.approx(0.2, rel=0.01) and normal.std() == pytest.approx(0.02, rel=0.05)
    assert np.median(lognormal) == pytest.approx(0.2, rel=0.02)
    assert np.log(lognormal).std() == pytest.approx(0.3, rel=0.05)
    assert (bimodal > 0.2).mean() == pytest.approx(0.25, abs=0.02)


def test_sizes_are_fitted_to_the_particles_of_masks(tmp_path) -> None:
    mask = np.zeros((100, 100), np.uint8)
    row, column = np.mgrid[:100, :100]
    radii = (4, 5, 6, 7, 8, 9)
    for place, radius in enumerate(radii):
        centre = (20 + 30 * (place // 3), 20 + 30 * (place % 3))
        mask[(row - centre[0]) ** 2 + (column - centre[1]) ** 2 <= radius**2] = 1
    mask[:8, 80:] = 1  # cut by the frame: no particle of known size
    found = diameters_of_masks([mask])
    assert sorted(found) == pytest.approx([2 * r for r in radii], rel=0.06)
    median, spread = fit_lognormal(found, 100)
    logs = np.log([0.02 * r for r in radii])
    assert median == pytest.approx(np.exp(logs.mean()), rel=0.05) and spread == pytest.approx(logs.std(ddof=1), rel=0.1)
    table = tmp_path / "particles.csv"
    table.write_text("label,equivalent_diameter_px,touches_border\n1,8,False\n2,12,False\n3,3,True\n")
    assert list(diameters_of_table(table)) == [8, 12]
    with pytest.raises(UserError, match=r"too few particles to fit sizes to \(3 of known size, 5 needed\): here"):
        fit_lognormal(found[:3], 100, "here")
    with pytest.raises(UserError, match="cannot be read"):
        diameters_of_table(tmp_path / "none.csv")
    table.write_text("label\n1\n")
    with pytest.raises(UserError, match="no column"):
        diameters_of_table(table)
    table.write_text("label,equivalent_diameter_px\n1,8\n2,wide\n")
    with pytest.raises(UserError, match="_px is not of numbers: render.sizes_table=.*particles.csv"):
        diameters_of_table(table)
