"""How well particles that touch are told apart, on micrographs with true instance maps (EMPS).

Run: python benchmarks/instances.py FOLDER, with images/ and segmaps/ in it, as `sage-ray data fetch emps` gets them.

From the true masks: connected components (`none`), and the watershed of `predict --split`. Its parameter, the neck, is
chosen by average precision on the images at even places of the sorted names, and everything is reported for the other
half, which no choice has seen. The same is done with roughened masks, whose edges are uneven as those of predictions.
From the images: Otsu's threshold, as components and split. Intervals are percentile
bootstraps over images.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import record
from scipy import ndimage

from sage_ray.data.images import read_image
from sage_ray.imaging.splitting import NECK, Basins
from sage_ray.imaging.tiles import stretch
from sage_ray.metrics.objects import InstanceScore, label_objects, score_instances
from sage_ray.metrics.threshold import otsu

MIN_OBJECT_PIXELS = 15
NECKS = (0.6, 0.65, 0.7, 0.74, NECK, 0.82, 0.86, 0.9, 0.95)
DRAWS = 4000
ROUGHNESS = 0.15
"""Standard deviation of the noise that is added to a mask blurred by 1.5 pixels."""
MEASURES = ("average_precision", "count_error", "abs_count_error", "size_bias", "abs_size_bias")


def values_of(score: InstanceScore) -> list[float]:
    """In the order of MEASURES."""
    bias = score.size_bias
    return [score.average_precision, score.count_error, abs(score.count_error), bias, abs(bias)]


def scored(truths: Sequence[np.ndarray], masks: Sequence[np.ndarray], necks: Sequence[float | None]) -> np.ndarray:
    """Scores (images, necks, measures); each mask is flooded once."""
    rows = []
    for true, mask in zip(truths, masks, strict=True):
        basins = Basins.of(mask)
        score = functools.partial(score_instances, true, min_object_pixels=MIN_OBJECT_PIXELS)
        found = [
            label_objects(mask, MIN_OBJECT_PIXELS) if neck is None else basins.joined(neck, MIN_OBJECT_PIXELS)
            for neck in necks
        ]
        rows.append([values_of(score(labels)) for labels in found])
    return np.array(rows)


def roughened(mask: np.ndarray, seed: int) -> np.ndarray:
    """A mask (H,W) bool with its edges moved by noise of a few pixels' size, by a pixel or so."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(mask.shape), 2)
    soft = ndimage.gaussian_filter(mask.astype(float), 1.5)
    return np.asarray(soft + ROUGHNESS * noise / noise.std() > 0.5)


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean over images and the 95 % bootstrap interval of it; images without a value are left out."""
    values = values[np.isfinite(values)]
    draws = np.random.default_rng(0).integers(0, len(values), (DRAWS, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def summary(name: str, half: str, scores: np.ndarray) -> dict[str, Any]:
    """One row of the table: scores (images, measures) with their intervals."""
    row: dict[str, Any] = {"case": name, "images": half}
    for place, measure in enumerate(MEASURES):
        mean, low, high = interval(scores[:, place])
        row[measure] = f"{mean:.3f} [{low:.3f}, {high:.3f}]"
    return row


def gain(name: str, half: str, one: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """Paired difference of average precision."""
    mean, low, high = interval(one[:, 0] - other[:, 0])
    return {"case": name, "images": half, "average_precision": f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with images/ and segmaps/")
    folder = parser.parse_args().folder
    # The result names the set, not where it lies on this machine.
    sys.argv[1:] = [folder.name]
    paths = sorted((folder / "segmaps").iterdir())
    truths = [read_image(path).astype(np.int64) for path in paths]
    images = [read_image(folder / "images" / path.name) for path in paths]
    greys = [stretch(image, float(image.min()), float(image.max())) for image in images]
    first = np.arange(len(paths)) % 2 == 0
    necks = (None, *NECKS)
    true = scored(truths, [truth > 0 for truth in truths], necks)
    rough = scored(truths, [roughened(truth > 0, place) for place, truth in enumerate(truths)], (None, NECK))
    found = scored(truths, [otsu(grey) for grey in greys], (None, NECK))
    precision = {neck: true[:, place, 0] for place, neck in enumerate(necks)}
    chosen = max(NECKS, key=lambda neck: precision[neck][first].mean())
    best_second = max(NECKS, key=lambda neck: precision[neck][~first].mean())
    place = necks.index(NECK)
    rows = []
    for half, part in (("chosen on", first), ("checked on", ~first)):
        rows += [
            summary("true mask, none", half, true[part, 0]),
            summary(f"true mask, watershed, neck {NECK}", half, true[part, place]),
            gain("true mask, watershed minus none", half, true[part, place], true[part, 0]),
            summary("roughened mask, none", half, rough[part, 0]),
            summary(f"roughened mask, watershed, neck {NECK}", half, rough[part, 1]),
            gain("roughened mask, watershed minus none", half, rough[part, 1], rough[part, 0]),
        ]
    rows += [
        summary("Otsu, none", "all", found[:, 0]),
        summary("Otsu, watershed", "all", found[:, 1]),
        gain("Otsu, watershed minus none", "all", found[:, 1], found[:, 0]),
    ]
    rows += [
        {"case": f"true mask, neck {neck}", "images": half, "average_precision": f"{precision[neck][part].mean():.3f}"}
        for half, part in (("chosen on", first), ("checked on", ~first))
        for neck in NECKS
    ]
    objects = sum(len(np.unique(truth)) - 1 for truth in truths)
    components = sum(int(label_objects(truth > 0).max()) for truth in truths)
    notes = [
        f"{len(paths)} images: {objects} true instances in {components} connected components of the true masks; "
        f"{int(first.sum())} images to choose on (even places of the sorted names), {int((~first).sum())} to check on.",
        f"Of the necks tried the first half chooses {chosen} ({precision[chosen][first].mean():.4f}, against "
        f"{precision[NECK][first].mean():.4f} of {NECK}); the second would have chosen {best_second}. "
        f"`predict --split watershed` uses {NECK}, as larger ones cut thin convex particles (`imaging/splitting.py`).",
        f"Average precision at IoU .5 is TP / (TP + FP + FN) of an image; count error and size bias are relative "
        f"(`metrics/objects.py: score_instances`), signed and absolute; objects under {MIN_OBJECT_PIXELS} pixels are "
        "left out. Means over images with 95 % bootstrap intervals over images. A true mask is a perfect segmentation: "
        "these numbers say what splitting can do, not what a model does.",
    ]
    record.save("instances", "Telling particles that touch apart", rows, notes)


if __name__ == "__main__":
    main()
