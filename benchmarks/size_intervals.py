"""How often intervals of pooled size scores hold the truth: percentiles of the draws, or draws reflected.

Run: python benchmarks/size_intervals.py [REPEATS]. Images of 15 to 60 particles are simulated: diameters normal
around a mean of the image, predictions with an error per particle, one per image, and a bias common to all; 5 % are
missed. The truth of a case is the score of 3,000 such images together.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import record

from sage_ray.metrics.size_scores import Sizes, pooled_scores
from sage_ray.statistics.bootstrap import drawn_weights, percentile_interval, reflected_interval

DRAWS = 400
LARGE = 3000
NAMES = ("size_wasserstein", "size_ks", "diameter_bias")


def simulated(rng: np.random.Generator, count: int, bias: float) -> list[Sizes]:
    """Diameters in pixels of true and predicted particles of `count` images."""
    images = []
    for _ in range(count):
        number = int(rng.integers(15, 60))
        true = np.maximum(rng.normal(rng.normal(12, 2), 2, number), 3)
        pred = np.maximum(true + bias + rng.normal(0, 0.5) + rng.normal(0, 0.5, number), 3)
        images.append((true, pred[rng.random(number) < 0.95]))
    return images


def coverage(bias: float, count: int, repeats: int) -> dict[str, Any]:
    """Share of the 95 % intervals that hold the truth."""
    rng = np.random.default_rng(1)
    truth = pooled_scores(simulated(rng, LARGE, bias), np.zeros(LARGE), np.ones((1, LARGE)))
    held: dict[str, list[bool]] = {}
    for repeat in range(repeats):
        weights = np.concatenate([np.ones((1, count)), drawn_weights(range(count), draws=DRAWS, seed=repeat)])
        found = pooled_scores(simulated(rng, count, bias), np.zeros(count), weights)
        for name in NAMES:
            intervals = {"percentile": percentile_interval(found[name][1:])}
            if name != "diameter_bias":
                intervals["reflected"] = reflected_interval(found[name][1:], float(found[name][0]))
            for kind, interval in intervals.items():
                assert interval is not None
                held.setdefault(f"{name}, {kind}", []).append(interval[0] <= truth[name][0] <= interval[1])
    shares = {name: f"{np.mean(each):.2f}" for name, each in held.items()}
    return {"bias (pixels)": bias, "images": count, "true distance (pixels)": f"{truth[NAMES[0]][0]:.2f}", **shares}


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    rows = [coverage(bias, count, repeats) for bias in (0.0, 0.5, 2.0) for count in (8, 28)]
    notes = [
        f"Share of {repeats} nominal 95 % intervals that hold the score of {LARGE} images; {DRAWS} draws of images. "
        "`evaluate` reflects the draws of distances and takes percentiles of all other pooled scores.",
    ]
    record.save("size_intervals", "Intervals of pooled size scores", rows, notes)


if __name__ == "__main__":
    main()
