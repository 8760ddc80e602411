"""How often the interval of "labels saved" holds the true number, over many studies drawn with known curves.

    python benchmarks/labels_saved.py [--studies 500]

Scores vary over images, seeds, subsets and all that they do together; subsets matter more where labels are few. Told
is, for each size of study, the share of studies whose interval holds the truth, and how often an end is open.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from sage_ray.statistics.labels_saved import labels_saved

COUNTS = (4.0, 8.0, 16.0, 32.0, 90.0)
SIZES = ((28, 2, 2), (28, 3, 3), (28, 5, 1), (28, 3, 5), (12, 3, 3))


def curve(counts: np.ndarray, shift: float) -> np.ndarray:
    """A true mean score at each number of labels: rising in log2 n, `shift` doublings of labels ahead."""
    return np.asarray(0.5 + 0.06 * (np.log2(counts) + shift))


def drawn_study(
    rng: np.random.Generator, size: tuple[int, int, int], shift: float, noise: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (counts, images, seeds, subsets) of an arm that is `shift` doublings ahead, and of the supervised one."""
    images, seeds, subsets = size
    counts = np.array(COUNTS)
    shared = 0.08 * rng.normal(size=(images, 1, 1))
    arms = []
    for ahead in (shift, 0.0):
        fewness = noise * np.sqrt(COUNTS[0] / counts).reshape(-1, 1, 1, 1)
        by_image = 0.02 * noise * rng.normal(size=(len(counts), images, 1, 1))
        by_seed = 0.01 * noise * rng.normal(size=(len(counts), 1, seeds, 1))
        by_subset = 0.03 * fewness * rng.normal(size=(len(counts), 1, 1, subsets))
        together = 0.01 * noise * rng.normal(size=(len(counts), 1, seeds, subsets))
        rest = 0.04 * noise * rng.normal(size=(len(counts), images, seeds, subsets))
        by_subset[-1] = 0.0  # all labels are one subset
        together[-1], rest[-1] = together[-1][..., :1], rest[-1][..., :1]
        mean = curve(counts, ahead).reshape(-1, 1, 1, 1)
        arms.append(mean + shared + by_image + by_seed + by_subset + together + rest)
    return arms[0], arms[1]


def coverage(size: tuple[int, int, int], shift: float, at: int, studies: int, seed: int = 0) -> tuple[float, float]:
    """Share of studies whose interval holds the true number of labels saved, and of those with an open end."""
    rng = np.random.default_rng([seed, *size, at])
    truth = COUNTS[at] - COUNTS[at] * 2.0**-shift
    held = opened = 0
    for _ in range(studies):
        arm, supervised = drawn_study(rng, size, shift)
        found = labels_saved(COUNTS, arm, COUNTS[at], supervised[at])
        held += found.low <= truth <= found.high
        opened += not np.isfinite([found.low, found.high]).all()
    return held / studies, opened / studies


def main() -> int:
    """Write the table; the exit code."""
    import record  # beside this file, which tests import from elsewhere

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=500)
    studies = parser.parse_args().studies
    rows = []
    for size in SIZES:
        for shift in (0.0, 0.5, 1.0):
            for at in (2, 3):
                held, opened = coverage(size, shift, at, studies)
                place = {"images x seeds x subsets": " x ".join(map(str, size)), "doublings ahead": shift}
                rows.append(place | {"at labels": int(COUNTS[at]), "held": held, "open end": opened})
    notes = [
        f"{studies} studies a row. Held: share of 95 % intervals that hold the true number of labels saved; open end: "
        "of those that end beyond the measured labels. With one subset intervals speak of that choice of images alone."
    ]
    record.save("labels_saved", "Intervals of labels saved", rows, notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
