"""Times labelling, matching and all scores of one 512x768 mask pair with about 100 objects; prints one JSON line.

Run: python benchmarks/objects.py. Orientation: the public code's matching took 480 ms on such an image.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import numpy as np

from sage_ray.metrics.image_scores import score_image
from sage_ray.metrics.objects import label_objects, score_objects

SHAPE = (512, 768)
REPEATS = 15


def particles(seed: int) -> np.ndarray:
    """Mask (512,768) bool of discs on a jittered lattice, about 100 of them apart from each other."""
    rng, mask = np.random.default_rng(seed), np.zeros(SHAPE, bool)
    rows, columns = np.ogrid[: SHAPE[0], : SHAPE[1]]
    for row in range(32, SHAPE[0], 60):
        for column in range(32, SHAPE[1], 60):
            centre = row + rng.uniform(-6, 6), column + rng.uniform(-6, 6)
            mask |= (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= rng.uniform(12, 24) ** 2
    return mask


def milliseconds(call: Callable[[], object]) -> float:
    """Best of REPEATS calls."""
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return round(1000 * best, 3)


def main() -> None:
    true = particles(0)
    pred = np.roll(true, 2, axis=1)
    true_labels, pred_labels = label_objects(true, 15), label_objects(pred, 15)
    times = {
        "objects": int(true_labels.max()),
        "label_both_ms": milliseconds(lambda: (label_objects(true, 15), label_objects(pred, 15))),
        "match_ms": milliseconds(lambda: score_objects(true_labels, pred_labels)),
        "all_scores_ms": milliseconds(lambda: score_image(pred, true, min_object_pixels=15, boundary_tolerance=2.0)),
    }
    print(json.dumps(times))


if __name__ == "__main__":
    main()
