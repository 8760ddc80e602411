"""Particles one by one on the locked test part of EMPS: a model that was trained there, split and not, and Otsu.

Run: python benchmarks/emps_instances.py FOLDER MODEL HOME, with images/ and segmaps/ in FOLDER and MODEL a run of HOME
that was trained on FOLDER. `sage-ray evaluate` reads the locked test first, so that the reading is counted; this script
then looks at the same images at their own size. It writes the table, and sheets of pictures under
docs/results/emps-instances/.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import record
from instances import MEASURES, interval, summary, values_of

from sage_ray.data.images import read_image
from sage_ray.evaluation.locked_test import OWN_TEST, evaluate
from sage_ray.files import sha256_of
from sage_ray.imaging import drawing
from sage_ray.imaging.model import Model
from sage_ray.imaging.particle_overlay import particle_overlay
from sage_ray.imaging.splitting import NECK, Basins
from sage_ray.imaging.tiles import stretch
from sage_ray.metrics.objects import label_objects, score_instances
from sage_ray.metrics.threshold import otsu
from sage_ray.record.home import Home
from sage_ray.record.model_reference import resolve_model

MIN_OBJECT_PIXELS = 15
CASES = ("model, watershed", "model, none", "Otsu, watershed", "Otsu, none", "true mask, watershed")
PICTURES = record.REPO / "docs" / "results" / "emps-instances"


@dataclass(frozen=True)
class Image:
    """A test image (H,W), its instance map, and the label images of each of CASES."""

    name: str
    grey: np.ndarray
    true: np.ndarray
    found: dict[str, np.ndarray]
    dice: float


def segmented(folder: Path, name: str, model: Model) -> Image:
    """One image, segmented at its own size."""
    image = read_image(folder / "images" / name)
    true = read_image(folder / "segmaps" / name).astype(np.int64)
    _, mask = model.predict_mask(image)
    threshold = otsu(stretch(image, float(image.min()), float(image.max())))
    masks = {"model": mask, "Otsu": threshold, "true mask": true > 0}
    found = {
        case: Basins.of(masks[of]).joined(NECK, MIN_OBJECT_PIXELS)
        if how == "watershed"
        else label_objects(masks[of], MIN_OBJECT_PIXELS)
        for case in CASES
        for of, how in [case.split(", ")]
    }
    both = 2 * int((mask & (true > 0)).sum())
    return Image(name, image, true, found, both / max(int(mask.sum()) + int((true > 0).sum()), 1))


def test_names(folder: Path, model: str, home: Home) -> list[str]:
    """Names of the images of the model's locked test part, which `evaluate` reads and counts."""
    frame = pd.read_parquet(evaluate(model, OWN_TEST, home=home).per_image)
    wanted = set(frame.loc[frame["part"] == "test", "image_sha"])
    names = sorted(path.name for path in (folder / "images").iterdir() if sha256_of(path) in wanted)
    assert len(names) == len(wanted), "the folder is not the one that the model was trained on"
    return names


def sheet(images: list[Image]) -> np.ndarray:
    """Each image, its true particles and the model's, side by side."""
    pictures, captions = [], []
    for image in images:
        found = np.unique(image.found["model, watershed"], return_inverse=True)[1].reshape(image.true.shape)
        score = score_instances(image.true, found, MIN_OBJECT_PIXELS)
        pictures += [image.grey, particle_overlay(image.grey, image.true), particle_overlay(image.grey, found)]
        captions += [
            image.name[:10],
            f"true: {score.num_true}",
            f"found: {score.num_pred}, average precision {score.average_precision:.2f}",
        ]
    return drawing.contact_sheet(pictures, captions, columns=3, cell=420)


def table(images: list[Image]) -> list[dict[str, Any]]:
    """Scores of every case, and of the model's split minus the others, paired by image."""
    scores = {
        case: np.array([values_of(score_instances(i.true, i.found[case], MIN_OBJECT_PIXELS)) for i in images])
        for case in CASES
    }
    rows = [summary(case, "locked test", scores[case]) for case in CASES]
    for other in ("model, none", "Otsu, watershed"):
        row: dict[str, Any] = {"case": f"model, watershed minus {other}", "images": "locked test"}
        for place, measure in enumerate(MEASURES):
            if not measure.endswith("count_error") and not measure.endswith("size_bias") or measure.startswith("abs"):
                mean, low, high = interval(scores["model, watershed"][:, place] - scores[other][:, place])
                row[measure] = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with images/ and segmaps/")
    parser.add_argument("model", help="run that was trained on the folder")
    parser.add_argument("home", type=Path, help="home of the run")
    given = parser.parse_args()
    home = Home(given.home)
    model = resolve_model(given.model, home).load()
    images = [segmented(given.folder, name, model) for name in test_names(given.folder, given.model, home)]
    # The result names set and home, not where they lie on this machine.
    sys.argv[1:] = [given.folder.name, given.model, given.home.name]
    order = sorted(
        images,
        key=lambda i: score_instances(i.true, i.found["model, watershed"], MIN_OBJECT_PIXELS).average_precision,
    )
    PICTURES.mkdir(parents=True, exist_ok=True)
    chosen = {"best": order[-4:], "median": order[len(order) // 2 - 2 : len(order) // 2 + 2], "worst": order[:4]}
    for which, those in chosen.items():
        drawing.save(sheet(those), PICTURES / f"{which}.jpg")
    dice = interval(np.array([image.dice for image in images]))
    objects = sum(len(np.unique(image.true)) - 1 for image in images)
    components = sum(int(label_objects(image.true > 0).max()) for image in images)
    notes = [
        f"{len(images)} images with {objects} true instances in {components} connected components. Dice of the model's "
        f"masks at the images' own size: {dice[0]:.3f} [{dice[1]:.3f}, {dice[2]:.3f}].",
        "Average precision at IoU .5 is TP / (TP + FP + FN) of an image; count error and size bias are relative "
        f"(`metrics/objects.py: score_instances`); objects under {MIN_OBJECT_PIXELS} pixels are left out. Means over "
        "images with 95 % bootstrap intervals over images; differences are paired by image.",
    ]
    record.save("emps_instances", "Particles one by one on the locked test part of EMPS", table(images), notes)


if __name__ == "__main__":
    main()
