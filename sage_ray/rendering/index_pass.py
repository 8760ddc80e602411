"""The index pass: which particle each pixel shows, how high it is there, and how it slopes.

Triangles are projected as the camera sees them, and the nearest one at a pixel's centre wins. Both engines take their
masks from here, so that instances are exact and what lies behind is hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sage_ray.rendering.scenes import Scene
from sage_ray.rendering.views import CAMERA_HEIGHT, STAGE_HEIGHT, View


@dataclass(frozen=True, eq=False)
class Visible:
    """What each pixel's centre shows.

    Attributes:
        instances: (H,W) int32: 0 the stage, i the i-th particle of the scene from 1.
        height: (H,W) float64 above the stage, in units.
        slope: (H,W) float64: cosine of the angle between the surface's normal and the way to the camera, in (0, 1].
    """

    instances: np.ndarray
    height: np.ndarray
    slope: np.ndarray


def visible(scene: Scene, view: View) -> Visible:
    """The index pass of a scene."""
    vertices, normals, faces, owner = scene.merged()
    column, row, inverse = view.project(vertices)
    a, b, c = faces.T
    area = (column[b] - column[a]) * (row[c] - row[a]) - (column[c] - column[a]) * (row[b] - row[a])
    face, y, x = _candidates(column[faces], row[faces], area, view)
    a, b, c, whole = a[face], b[face], c[face], area[face]
    px, py = x + 0.5, y + 0.5
    weight_b = ((px - column[a]) * (row[c] - row[a]) - (column[c] - column[a]) * (py - row[a])) / whole
    weight_c = ((column[b] - column[a]) * (py - row[a]) - (px - column[a]) * (row[b] - row[a])) / whole
    weight_a = 1 - weight_b - weight_c
    inside = (weight_a >= 0) & (weight_b >= 0) & (weight_c >= 0)
    # The inverse distance is linear on the image, so that it may be interpolated there.
    near = weight_a * inverse[a] + weight_b * inverse[b] + weight_c * inverse[c]
    kept = np.flatnonzero(inside)
    kept = kept[np.lexsort((face[kept], near[kept]))]  # the nearest is written last
    winner = np.full(view.rows * view.columns, -1)
    winner[y[kept] * view.columns + x[kept]] = kept
    hit = winner >= 0
    chosen = winner[hit]

    instances = np.zeros(view.rows * view.columns, np.int32)
    height = np.zeros(view.rows * view.columns)
    slope = np.ones(view.rows * view.columns)
    instances[hit] = owner[face[chosen]] + 1
    height[hit] = CAMERA_HEIGHT - STAGE_HEIGHT - 1 / near[chosen]
    corners = ((weight_a, a), (weight_b, b), (weight_c, c))
    upward = sum(weight[chosen] * inverse[corner[chosen]] * normals[corner[chosen], 2] for weight, corner in corners)
    length = sum(
        weight[chosen, None] * inverse[corner[chosen], None] * normals[corner[chosen]] for weight, corner in corners
    )
    slope[hit] = np.clip(upward / np.maximum(np.linalg.norm(length, axis=1), 1e-12), 0.02, 1)
    shape = (view.rows, view.columns)
    return Visible(instances.reshape(shape), height.reshape(shape), slope.reshape(shape))


def _candidates(
    columns: np.ndarray, rows: np.ndarray, area: np.ndarray, view: View
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every (face, row, column) of a pixel whose centre lies in the face's bounding box."""
    left = np.clip(np.ceil(columns.min(axis=1) - 0.5), 0, view.columns).astype(int)
    right = np.clip(np.floor(columns.max(axis=1) - 0.5) + 1, 0, view.columns).astype(int)
    top = np.clip(np.ceil(rows.min(axis=1) - 0.5), 0, view.rows).astype(int)
    bottom = np.clip(np.floor(rows.max(axis=1) - 0.5) + 1, 0, view.rows).astype(int)
    width, depth = np.maximum(right - left, 0), np.maximum(bottom - top, 0)
    # Rows grow downwards, so faces that are counter-clockwise from outside have a negative area: the others are hidden.
    count = np.where(area < -1e-12, width * depth, 0)
    face = np.repeat(np.arange(len(count)), count)
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    wide = np.maximum(width[face], 1)
    return face, top[face] + within // wide, left[face] + within % wide
