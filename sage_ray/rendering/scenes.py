"""Scenes: particles of drawn sizes and shapes, placed so that they touch but never overlap.

Particles come in from outside until they touch what lies there already, or fall on it from above, so that agglomerates
grow particle by particle. Scattered ones (and the first of each agglomerate) stand where there is room.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sage_ray.rendering.meshes import DROPPED, FLAT, ParticleMesh, particle_mesh, random_rotation
from sage_ray.rendering.views import SMALLER_SIDE, STAGE_HEIGHT, View

Diameters = Callable[[np.random.Generator, int], np.ndarray]
"""(rng, n) -> (n,) diameters as shares of the image's smaller side."""
TRIES = 40
MAX_HEIGHT = 2.5
"""Highest point of a pile above the stage, in units: the camera is at 10."""


@dataclass(frozen=True, eq=False)
class Scene:
    """Particles on a stage.

    Attributes:
        particles: one mesh per particle, in place; touching at most.
        table: (n,4) float64 of each particle's x, y, z (of its middle) and radius, in units.
    """

    particles: tuple[ParticleMesh, ...]
    table: np.ndarray

    @property
    def nbytes(self) -> int:
        """Memory of the meshes, in bytes."""
        arrays = (a for p in self.particles for a in (p.vertices, p.normals, p.faces, p.balls))
        return sum(array.nbytes for array in arrays)

    def merged(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """All particles as one mesh: vertices (V,3), normals (V,3), faces (F,3), and the particle of each face (F,)."""
        starts = np.cumsum([0, *(len(p.vertices) for p in self.particles[:-1])])
        faces = np.vstack([p.faces + start for p, start in zip(self.particles, starts, strict=True)])
        owner = np.repeat(np.arange(len(self.particles)), [len(p.faces) for p in self.particles])
        vertices = np.vstack([p.vertices for p in self.particles])
        return vertices, np.vstack([p.normals for p in self.particles]), faces, owner


@dataclass(frozen=True)
class SceneLaw:
    """What scenes are drawn from; see the settings of the same names in `RenderConfig`."""

    particles: tuple[int, int]
    agglomerates: int
    piled: float
    shapes: Sequence[str]
    diameters: Diameters


def draw_scene(law: SceneLaw, view: View, rng: np.random.Generator) -> Scene:
    """A scene with at least one particle; those for which no room is found are left out."""
    count = int(rng.integers(law.particles[0], law.particles[1] + 1))
    radii = law.diameters(rng, count) * SMALLER_SIDE / 2
    groups = int(rng.integers(1, law.agglomerates + 1)) if law.agglomerates else count
    placed: list[ParticleMesh] = []
    table: list[tuple[float, float, float, float]] = []
    home: list[int] = []
    for number, radius in enumerate(radii):
        shape = str(rng.choice(list(law.shapes)))
        mesh = particle_mesh(shape, rng).turned(random_rotation(rng, flat=shape in FLAT)).scaled(float(radius))
        group = number if number < groups else int(rng.integers(groups))
        members = [placed[i] for i, of in enumerate(home) if of == group]
        where = _place(mesh, placed, members, shape, law.piled, view, rng)
        if where is not None:
            placed.append(mesh.moved(where))
            table.append((*placed[-1].balls[:, :3].mean(axis=0), float(radius)))
            home.append(group)
    return Scene(tuple(placed), np.array(table))


def _place(
    mesh: ParticleMesh,
    placed: list[ParticleMesh],
    members: list[ParticleMesh],
    shape: str,
    piled: float,
    view: View,
    rng: np.random.Generator,
) -> np.ndarray | None:
    """The vector by which a particle goes to its place; None if there is no room."""
    half = np.array(view.half_extent)
    rest = STAGE_HEIGHT - float(mesh.vertices[:, 2].min())  # its lowest point on the stage
    balls = np.vstack([other.balls for other in placed]) if placed else np.empty((0, 4))
    for attempt in range(TRIES):
        last_resort = not placed and attempt == TRIES - 1  # a scene has a particle
        spot = rng.uniform(-half, half) * 0.95
        if shape in DROPPED or (members and rng.random() < piled):
            if members and shape not in DROPPED:
                member = members[int(rng.integers(len(members)))]
                spot = member.balls[0, :2] + rng.normal(0, member.balls[0, 3] * 0.7, 2)
            found = np.array([*spot, _fall(mesh, balls, spot, rest)])
            if _top(mesh, found) > STAGE_HEIGHT + MAX_HEIGHT and not last_resort:
                continue
        elif members:
            centre = np.mean([m.balls[:, :3].mean(axis=0) for m in members], axis=0)
            found = _approach(mesh, balls, centre, rest, rng)
        else:
            found = np.array([*spot, rest])
            if _gap(mesh, balls, found) < 0:
                continue
        if (np.abs(found[:2]) <= half).all() or last_resort:
            return found
    return None


def _approach(
    mesh: ParticleMesh, balls: np.ndarray, centre: np.ndarray, rest: float, rng: np.random.Generator
) -> np.ndarray:
    """Slide along the stage towards a point, from a random side, until something is touched."""
    angle = rng.uniform(0, 2 * np.pi)
    out = np.array([np.cos(angle), np.sin(angle), 0.0])
    origin = np.array([centre[0], centre[1], rest])
    return origin + out * max(_last_touch(mesh.balls, balls, origin, out), 0.0)


def _fall(mesh: ParticleMesh, balls: np.ndarray, spot: np.ndarray, rest: float) -> float:
    """Height at which a particle comes to lie that falls on a spot: on the stage, or on what is touched first."""
    origin = np.array([spot[0], spot[1], rest])
    return rest + max(_last_touch(mesh.balls, balls, origin, np.array([0.0, 0.0, 1.0])), 0.0)


def _last_touch(own: np.ndarray, others: np.ndarray, origin: np.ndarray, out: np.ndarray) -> float:
    """The largest t at which balls `own`, moved to origin + t out, touch one of the others; -inf if they never do."""
    apart = (own[:, None, :3] + origin) - others[None, :, :3]
    reach = own[:, None, 3] + others[None, :, 3]
    along = apart @ out
    inside = along**2 - (apart**2).sum(axis=-1) + reach**2
    touches = np.where(inside > 0, -along + np.sqrt(np.maximum(inside, 0)), -np.inf)
    return float(touches.max(initial=-np.inf))


def _gap(mesh: ParticleMesh, balls: np.ndarray, where: np.ndarray) -> float:
    """Least distance between the particle at a place and the others; negative if they overlap."""
    apart = np.linalg.norm(mesh.balls[:, None, :3] + where - balls[None, :, :3], axis=-1)
    return float((apart - mesh.balls[:, None, 3] - balls[None, :, 3]).min(initial=np.inf))


def _top(mesh: ParticleMesh, where: np.ndarray) -> float:
    return float((mesh.balls[:, 2] + mesh.balls[:, 3]).max() + where[2])
