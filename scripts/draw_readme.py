"""The first picture of README: micrograph, mask, numbered particles, sizes; from `sage-ray predict` with a trained run.

    python scripts/draw_readme.py RUN --home HOME --data FOLDER

The micrograph is the locked test image with the median Dice among those with 15 painted particles or more: neither the
best one nor the prettiest. `sage-ray evaluate RUN` has scored it before.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image

import sage_ray
from sage_ray.files import sha256_of

REPO = Path(__file__).resolve().parents[1]
OUT = REPO / "docs" / "first_screen.png"
LEAST = 15
COLOURS = 128


def median_image(run: str, home: str, data: Path) -> tuple[Path, float]:
    """The image that is shown, and its Dice."""
    rows = pd.read_parquet(Path(home) / "runs" / run / "per_image.parquet")
    rows = rows[(rows["part"] == "test") & (rows["checkpoint"] != "otsu") & (rows["score"] == "dice")]
    names = {sha256_of(path): path for path in (data / "images").iterdir()}
    found = []
    for sha, dice in zip(rows["image_sha"], rows["value"], strict=True):
        mask = np.asarray(Image.open(data / "segmaps" / f"{names[sha].stem}.png"))
        if len(np.unique(mask)) - 1 >= LEAST:
            found.append((float(dice), names[sha]))
    found.sort()
    dice, path = found[len(found) // 2]
    print(f"{path.name}: Dice {dice:.3f}, the median of {len(found)} of {len(rows)} test images")
    return path, dice


def main() -> int:
    """Draw the picture; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--home", required=True)
    parser.add_argument("--data", required=True, type=Path)
    asked = parser.parse_args()
    image, dice = median_image(asked.run, asked.home, asked.data)
    with tempfile.TemporaryDirectory() as folder:
        found = sage_ray.predict(asked.run, image, folder, home=asked.home, crop_bottom="auto")
        draw(image, Path(folder), found.particles_frame(), dice)
    print(f"{OUT.relative_to(REPO)}, {OUT.stat().st_size / 1000:.0f} kB")
    return 0


def draw(image: Path, folder: Path, particles: pd.DataFrame, dice: float) -> None:
    """Four panels: two above two."""
    figure, axes = plt.subplots(2, 2, figsize=(8.6, 6.2), dpi=110, layout="constrained")
    picture, mask, numbered, sizes = axes.flat
    grey = np.asarray(Image.open(image).convert("L"))
    picture.imshow(grey, cmap="gray")
    mask.imshow(Image.open(folder / "masks" / f"{image.stem}.png"), cmap="gray")
    labels = np.asarray(Image.open(folder / "labels" / f"{image.stem}.tif"))
    numbered.imshow(grey, cmap="gray", alpha=0.75)
    for label in particles["label"]:
        numbered.contour(labels == label, [0.5], colors=["#ffb000"], linewidths=0.7)
    for row in particles.itertuples():
        look = {"ha": "center", "va": "center", "fontsize": 6.5, "color": "#7a0000", "weight": "bold"}
        numbered.annotate(str(row.label), (row.centroid_column, row.centroid_row), **look)
    titles = (
        "micrograph",
        f"mask (Dice {dice:.2f})",
        f"{len(particles)} numbered particles",
        "sizes of whole particles",
    )
    for axis, title in zip(axes.flat, titles, strict=True):
        axis.set_title(title, fontsize=11)
    for axis in (picture, mask, numbered):
        axis.axis("off")
    whole = particles[~particles["touches_border"].astype(bool)]
    sizes.hist(whole["equivalent_diameter_px"], bins=15, color="0.35", edgecolor="white")
    sizes.set(xlabel="diameter (pixels)", ylabel="particles")
    sizes.spines[["top", "right"]].set_visible(False)
    figure.savefig(OUT)
    Image.open(OUT).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(OUT, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
