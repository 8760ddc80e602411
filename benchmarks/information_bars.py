"""Counts which information bars are found by their look in a data folder; prints one JSON line.

Run: python benchmarks/information_bars.py FOLDER. It names the images in which a bar is found as they are, also after
stretching. Below and over the others, bars of seven kinds and of 5 to 15 % of the height are drawn, and it gives the
share of them that is found to the row, and to a row after JPEG compression.
"""

from __future__ import annotations

import io
import json
import sys

import numpy as np
from PIL import Image, ImageDraw

from sage_ray.data.images import read_image
from sage_ray.data.information_bar import bar_rows
from sage_ray.data.pairs import load_folder
from sage_ray.data.preprocess import stretch
from sage_ray.imaging.drawing import text_font

# Ground, ink, value of a line above, and whether the bar is framed and has fields.
KINDS: dict[str, tuple[int, int, int | None, bool]] = {
    "black": (0, 255, None, False),
    "white": (255, 0, None, False),
    "grey": (128, 255, None, False),
    "dark grey": (20, 230, None, False),
    "black, white line": (0, 255, 255, False),
    "white, black line": (255, 0, 0, False),
    "black, framed": (0, 255, None, True),
}
QUALITY = 85


def draw_bar(rows: int, columns: int, kind: tuple[int, int, int | None, bool]) -> np.ndarray:
    """A bar (rows, columns) uint8 with two lines of text and a scale bar."""
    ground, ink, line, framed = kind
    picture = Image.new("L", (columns, rows), ground)
    draw = ImageDraw.Draw(picture)
    font = text_font(max(8, int(rows * 0.38)))
    draw.text((columns * 0.03, rows * 0.12), "EHT = 5.00 kV  WD = 4.1 mm  Mag = 50.00 K X", ink, font)
    draw.text((columns * 0.03, rows * 0.55), "Signal A = InLens   Date: 12 Mar 2020", ink, font)
    draw.text((columns * 0.78, rows * 0.2), "200 nm", ink, font)
    draw.rectangle((columns * 0.75, rows * 0.7, columns * 0.92, rows * 0.8), ink)
    if framed:
        draw.rectangle((0, 0, columns - 1, rows - 1), outline=ink)
        draw.line((columns * 0.5, 0, columns * 0.5, rows), ink)
    drawn = np.array(picture)
    if line is not None:
        drawn[0] = line
    return drawn


def as_jpeg(image: np.ndarray) -> np.ndarray:
    """The image (H,W) uint8 after JPEG compression."""
    held = io.BytesIO()
    Image.fromarray(image).save(held, "JPEG", quality=QUALITY)
    return np.asarray(Image.open(held))


def main(folder: str) -> dict[str, object]:
    """Images with a bar of their own, and the shares of drawn bars that are found, by kind."""
    rng = np.random.default_rng(0)
    own: dict[str, int] = {}
    exact: dict[str, list[bool]] = {name: [] for name in KINDS}
    compressed: dict[str, list[bool]] = {name: [] for name in KINDS}
    for pair in load_folder(folder):
        stored = read_image(pair.image)
        image = stretch(stored)
        if rows := max(bar_rows(stored), bar_rows(image), bar_rows(stored.astype(np.float32))):
            own[pair.stem] = rows
            continue
        for name, kind in KINDS.items():
            rows = round(image.shape[0] * rng.uniform(0.05, 0.15))
            bar = draw_bar(rows, image.shape[1], kind)
            for above in (image, image[:-rows]):
                whole = np.concatenate([above, bar])
                exact[name].append(bar_rows(whole) == rows)
                compressed[name].append(abs(bar_rows(as_jpeg(whole)) - rows) <= 1)
    shares = {
        f"found {how}": {name: round(sum(found) / max(len(found), 1), 3) for name, found in counts.items()}
        for how, counts in (("to the row", exact), ("to a row after JPEG", compressed))
    }
    return {"bars of their own": own, "drawn for each kind": len(exact["black"]), **shares}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
