"""Scores of particles as scientists read them: found one by one, their number, their sizes and how these spread.

Sizes are equivalent circular diameters, sqrt(4 area / pi), in pixels of the pictures that are scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sage_ray.metrics.objects import equivalent_diameters, score_instances

Sizes = tuple[np.ndarray, np.ndarray]
"""Diameters (n,) of the true and (m,) of the predicted particles of one image."""
_CHUNK_VALUES = 1 << 19


@dataclass(frozen=True, eq=False)
class ParticleScore:
    """The scores and counts of one image by name (`definitions.PARTICLE_ROWS`), and the sizes that they are made of."""

    values: dict[str, float]
    sizes: Sizes


def score_particles(true: np.ndarray, pred: np.ndarray, min_object_pixels: int) -> ParticleScore:
    """Scores of the particles of one image; NaN for scores of sizes where truth or prediction has no particle.

    Args:
        true: labels (H,W), 0 the background.
        pred: likewise.
        min_object_pixels: smaller particles of both are left out.
    """
    found = score_instances(true, pred, min_object_pixels)
    sizes = equivalent_diameters(true, min_object_pixels), equivalent_diameters(pred, min_object_pixels)
    values = {
        "instance_ap_50": found.average_precision,
        "count_error": found.count_error,
        "count_error_abs": abs(found.count_error),
        "diameter_bias": found.size_bias,
        "size_wasserstein": float("nan"),
        "size_wasserstein_relative": float("nan"),
        "size_ks": float("nan"),
        "particles_true": float(found.num_true),
        "particles_pred": float(found.num_pred),
        "particles_matched": float(found.num_matched),
    }
    if found.num_true and found.num_pred:
        values |= {name: float(value[0]) for name, value in _distances([sizes], np.ones((1, 1))).items()}
    return ParticleScore(values, sizes)


def pooled_scores(sizes: Sequence[Sizes], matched: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Scores (draws,) of the particles of all images together; NaN where no particle of one side was drawn.

    Args:
        sizes: of each image.
        matched: (images,) number of particles that were matched at an IoU of .5.
        weights: (draws, images) how often each image counts in each draw.
    """
    counts = np.array([[len(each) for each in pair] for pair in sizes], np.float64).reshape(-1, 2)
    sums = np.array([[each.sum() for each in pair] for pair in sizes]).reshape(-1, 2)
    (num_true, num_pred), hits = (weights @ counts).T, weights @ matched
    both = np.where((num_true > 0) & (num_pred > 0), 1.0, np.nan)
    union = num_true + num_pred - hits
    means = (weights @ sums).T / np.maximum(np.stack([num_true, num_pred]), 1)
    return {
        "instance_ap_50": np.where(union > 0, hits / np.maximum(union, 1), 1.0),
        "count_error": (num_pred - num_true) / np.maximum(num_true, 1),
        "diameter_bias": both * (means[1] / np.where(means[0] > 0, means[0], 1.0) - 1),
    } | {name: both * value for name, value in _distances(sizes, weights).items()}


def _distances(sizes: Sequence[Sizes], weights: np.ndarray) -> dict[str, np.ndarray]:
    """Wasserstein-1 and Kolmogorov-Smirnov distances (draws,) between the size distributions of truth and prediction.

    Both are read off the two empirical distribution functions: the area between them, and their largest difference.
    """
    image = np.concatenate([np.full(len(each), n) for n, pair in enumerate(sizes) for each in pair]).astype(int)
    is_true = np.concatenate([np.full(len(each), k == 0) for pair in sizes for k, each in enumerate(pair)])
    values = np.concatenate([each for pair in sizes for each in pair])
    order = np.argsort(values, kind="stable")
    image, is_true, values = image[order], is_true[order].astype(bool), values[order]
    steps = np.diff(values)
    found = {name: np.zeros(len(weights)) for name in ("size_wasserstein", "size_wasserstein_relative", "size_ks")}
    share = np.where(is_true, 1.0, 0.0)
    totals = np.maximum(weights @ _per_image(image, share, len(sizes)), 1e-300)
    others = np.maximum(weights @ _per_image(image, 1 - share, len(sizes)), 1e-300)
    mean_true = weights @ _per_image(image, share * values, len(sizes)) / totals
    rows = max(1, _CHUNK_VALUES // max(len(values), 1))
    for start in range(0, len(weights), rows):
        part = slice(start, start + rows)
        step = np.where(is_true, 1 / totals[part, None], -1 / others[part, None]) * weights[part][:, image]
        # Behind equal values both functions have taken their steps: only there are they compared.
        apart = np.abs(np.cumsum(step, axis=1)[:, :-1])
        found["size_wasserstein"][part] = apart @ steps
        found["size_ks"][part] = (apart * (steps > 0)).max(axis=1, initial=0.0)
    found["size_wasserstein_relative"] = found["size_wasserstein"] / np.where(mean_true > 0, mean_true, 1.0)
    return found


def _per_image(image: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    return np.bincount(image, weights=values, minlength=count)
