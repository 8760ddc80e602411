"""Triangle meshes of particles, made when they are needed: spheres, crystals, rods, wires and loops.

A shape is a mesh and a chain of balls along its middle line: the mesh is what is seen, the balls say where it ends when
particles are placed so that they touch. Both are of a particle of about unit radius around the origin.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import ConvexHull

TUBE_SIDES = 12
DETAIL = 3
"""How often an icosahedron's faces are halved: 1280 faces."""


@dataclass(frozen=True, eq=False)
class ParticleMesh:
    """A closed surface, and the balls that stand for it when particles are placed.

    Attributes:
        vertices: (V,3) float64.
        normals: (V,3) float64, unit vectors outwards.
        faces: (F,3) int64, counter-clockwise seen from outside.
        balls: (K,4) float64: x, y, z, radius.
    """

    vertices: np.ndarray
    normals: np.ndarray
    faces: np.ndarray
    balls: np.ndarray

    def turned(self, rotation: np.ndarray) -> ParticleMesh:
        """Turned by a rotation matrix (3,3)."""
        balls = np.column_stack([self.balls[:, :3] @ rotation.T, self.balls[:, 3]])
        return replace(self, vertices=self.vertices @ rotation.T, normals=self.normals @ rotation.T, balls=balls)

    def scaled(self, factor: float) -> ParticleMesh:
        """`factor` times as large."""
        return replace(self, vertices=self.vertices * factor, balls=self.balls * factor)

    def moved(self, by: np.ndarray) -> ParticleMesh:
        """Moved by a vector (3,)."""
        balls = self.balls.copy()
        balls[:, :3] += by
        return replace(self, vertices=self.vertices + by, balls=balls)


def particle_mesh(shape: str, rng: np.random.Generator) -> ParticleMesh:
    """A particle of a shape, about as wide as a sphere of radius 1, with a form of its own drawn from `rng`.

    Spheres, crystals and rods have the volume of that sphere to within their variation; wires and loops are as thick as
    their names ask for, and longer than 2.
    """
    return _SHAPES[shape](rng)


def random_rotation(rng: np.random.Generator, *, flat: bool) -> np.ndarray:
    """(3,3) rotation matrix: about the vertical axis if `flat`, with a small tilt, else uniform over all."""
    if flat:
        turn, tilt = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.08)
        about_z = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
        about_x = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
        flat_turn: np.ndarray = about_z @ about_x
        return flat_turn
    q = rng.normal(size=4)
    w, x, y, z = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def sphere(rng: np.random.Generator) -> ParticleMesh:
    """A sphere, very slightly out of round."""
    points, faces = _icosphere(DETAIL)
    axes = 1 + rng.normal(0, 0.02, 3).clip(-0.05, 0.05)
    normals = points / axes
    normals = normals / np.linalg.norm(normals, axis=1, keepdims=True)
    return ParticleMesh(points * axes, normals, faces, np.array([[0.0, 0.0, 0.0, float(axes.max())]]))


def crystal(rng: np.random.Generator) -> ParticleMesh:
    """A convex polyhedron with flat facets: a cube or an octahedron with its corners cut, irregular by a little."""
    cube = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float) / np.sqrt(3)
    octahedron = np.vstack([np.eye(3), -np.eye(3)])
    share = rng.uniform(0.75, 1.15)
    corners = np.vstack([cube, share * octahedron]) * 1.3
    corners = corners * (1 + rng.normal(0, 0.06, (len(corners), 1))) + rng.normal(0, 0.03, corners.shape)
    hull = ConvexHull(corners)
    vertices = corners[hull.simplices]  # (F,3,3): each facet has corners of its own, so that its shade is flat
    normals = hull.equations[:, :3]
    inward = np.einsum("fi,fi->f", np.cross(vertices[:, 1] - vertices[:, 0], vertices[:, 2] - vertices[:, 0]), normals)
    vertices[inward < 0] = vertices[inward < 0][:, ::-1]
    count = len(vertices)
    radius = float(np.linalg.norm(corners[hull.vertices], axis=1).mean())
    return ParticleMesh(
        vertices.reshape(-1, 3),
        np.repeat(normals, 3, axis=0),
        np.arange(3 * count).reshape(count, 3),
        np.array([[0.0, 0.0, 0.0, radius]]),
    )


def rod(rng: np.random.Generator) -> ParticleMesh:
    """A straight rod with round ends, 2 to 4 times as long as it is thick."""
    aspect = rng.uniform(2, 4)
    thickness = (2 / (3 * aspect - 1)) ** (1 / 3)  # radius of a capsule of the volume of the unit sphere
    half = thickness * (aspect - 1)
    line = np.column_stack([np.linspace(-half, half, 9), np.zeros(9), np.zeros(9)])
    return _tube(line, thickness, closed=False)


def wire(rng: np.random.Generator) -> ParticleMesh:
    """A long thin wire, 15 to 30 times as long as it is thick and slightly bent."""
    thickness, length = rng.uniform(0.2, 0.3), rng.uniform(6, 10)
    along = np.linspace(-1, 1, 25)
    bend = rng.normal(0, 0.25) * along**2 + rng.normal(0, 0.12) * along**3
    line = np.column_stack([along * length / 2, (bend - bend.mean()) * length / 4, np.zeros(25)])
    return _tube(line, thickness, closed=False)


def loop(rng: np.random.Generator) -> ParticleMesh:
    """A closed ring of wire, wobbly and oval."""
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    radius = 1 + sum(rng.normal(0, 0.07 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4, 5))
    line = np.column_stack([radius * np.cos(angle), rng.uniform(0.7, 1) * radius * np.sin(angle), np.zeros(len(angle))])
    return _tube(line, rng.uniform(0.13, 0.24), closed=True)


_SHAPES: dict[str, Callable[[np.random.Generator], ParticleMesh]] = {
    "sphere": sphere,
    "crystal": crystal,
    "rod": rod,
    "wire": wire,
    "loop": loop,
}
FLAT = frozenset({"rod", "wire", "loop"})
"""Shapes that lie flat on the stage."""
DROPPED = frozenset({"wire", "loop"})
"""Shapes that come down from above and may lie across others."""


@functools.cache
def _icosphere(detail: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (V,3) and faces (F,3) of an icosahedron whose faces are halved `detail` times."""
    golden = (1 + 5**0.5) / 2
    corners = [(s, t * golden, 0.0) for s in (-1, 1) for t in (-1, 1)]
    points = np.array([np.roll(c, k) for k in range(3) for c in corners])
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    faces = _outward(points, ConvexHull(points).simplices)
    for _ in range(detail):
        a, b, c = (points[faces[:, k]] for k in range(3))
        corners = [a, b, c, a + b, b + c, c + a]
        stacked = np.concatenate(corners)
        stacked /= np.linalg.norm(stacked, axis=1, keepdims=True)
        n = len(faces)
        ia, ib, ic, ab, bc, ca = (np.arange(n) + k * n for k in range(6))
        made = np.vstack([np.stack(t, axis=1) for t in ((ia, ab, ca), (ab, ib, bc), (ca, bc, ic), (ab, bc, ca))])
        points, same = np.unique(stacked.round(9), axis=0, return_inverse=True)
        faces = same.reshape(-1)[made]
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    points.setflags(write=False)
    faces.setflags(write=False)
    return points, faces


def _outward(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = (points[faces[:, k]] for k in range(3))
    inward = np.einsum("fi,fi->f", np.cross(b - a, c - a), a + b + c) < 0
    turned = faces.copy()
    turned[inward] = turned[inward][:, ::-1]
    return turned.astype(np.int64)


def _tube(line: np.ndarray, radius: float, *, closed: bool) -> ParticleMesh:
    """The surface at a distance from a line (K,3) that lies near the plane z = 0; open ends are round."""
    ahead = np.roll(line, -1, axis=0) - np.roll(line, 1, axis=0) if closed else np.gradient(line, axis=0)
    ahead = ahead / np.linalg.norm(ahead, axis=1, keepdims=True)
    centres, widths, lean = line, np.full(len(line), radius), np.zeros(len(line))
    if not closed:
        # Rings of the caps: on half a sphere at each end, their normals leaning outwards.
        tilt = np.linspace(np.pi / 2, 0, 5)[:-1]
        first = line[0] - np.outer(radius * np.sin(tilt), ahead[0])
        last = line[-1] + np.outer(radius * np.sin(tilt[::-1]), ahead[-1])
        rings = np.maximum(radius * np.cos(tilt), 1e-6)
        centres = np.vstack([first, line, last])
        ahead = np.vstack([np.repeat(ahead[:1], 4, 0), ahead, np.repeat(ahead[-1:], 4, 0)])
        widths = np.concatenate([rings, widths, rings[::-1]])
        lean = np.concatenate([-tilt, lean, tilt[::-1]])
    up = np.array([0.0, 0.0, 1.0])
    side = np.cross(up, ahead)
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    above = np.cross(ahead, side)
    turn = np.linspace(0, 2 * np.pi, TUBE_SIDES, endpoint=False)
    out = np.cos(turn)[None, :, None] * side[:, None] + np.sin(turn)[None, :, None] * above[:, None]
    vertices = (centres[:, None] + widths[:, None, None] * out).reshape(-1, 3)
    normals = (np.cos(lean)[:, None, None] * out + np.sin(lean)[:, None, None] * ahead[:, None]).reshape(-1, 3)
    rings_n = len(centres)
    i = np.arange(rings_n if closed else rings_n - 1)[:, None] * TUBE_SIDES
    j = np.arange(TUBE_SIDES)[None, :]
    k = (j + 1) % TUBE_SIDES
    following = (i + TUBE_SIDES) % (rings_n * TUBE_SIDES)
    one = np.stack(np.broadcast_arrays(i + j, following + k, i + k), axis=-1).reshape(-1, 3)
    two = np.stack(np.broadcast_arrays(i + j, following + j, following + k), axis=-1).reshape(-1, 3)
    faces = np.vstack([one, two])
    a, b, c = (vertices[faces[:, n]] for n in range(3))
    wrong = np.einsum("fi,fi->f", np.cross(b - a, c - a), normals[faces].sum(axis=1)) < 0
    faces[wrong] = faces[wrong][:, ::-1]
    balls = np.column_stack([line, np.full(len(line), radius)])
    return ParticleMesh(vertices, normals, faces.astype(np.int64), balls)
