"""Draw a data set laid out as the public TiO2 one: Zeiss TIFFs with tags and an information bar, masks NAME_m.tif.

`python scripts/draw_tio2_twin.py OUT` writes OUT/TiO2/NAME.tif and OUT/TiO2_masks/NAME_m.tif. The images are 1024 x 768
pixels, of which the lowest 64 rows are the bar; what they show is drawn: agglomerates of bright particles on a grey
ground. With --masks-without-bar the masks have 704 rows and end where the bar begins. docs/tio2.md goes on from there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageDraw, ImageFilter, ImageFont

COLUMNS, ROWS, BAR = 1024, 704, 64
NM_PER_PIXEL = 1.117
"""At 1024 columns; an image drawn smaller shows the same field with larger pixels."""


def draw_micrograph(rng: np.random.Generator, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """(image (rows, columns) uint8, mask (rows, columns) bool): agglomerates of bright, faceted particles."""
    scale = columns / COLUMNS
    noise = rng.normal(0, 1, (rows, columns))
    ground = np.asarray(
        Image.fromarray(rng.normal(0, 1, (rows // 16 + 2, columns // 16 + 2)).astype(np.float32)).resize(
            (columns, rows), Image.Resampling.BICUBIC
        )
    )
    image = 70 + 6 * ground
    mask = np.zeros((rows, columns), bool)
    y, x = np.mgrid[:rows, :columns]
    for _ in range(rng.integers(7, 12)):
        centre = rng.uniform((0, 0), (rows, columns))
        for _ in range(rng.integers(2, 9)):
            radius = rng.lognormal(np.log(30 * scale), 0.25)
            row, column = centre + rng.normal(0, 1.5 * radius, 2)
            top, left = (max(int(place - 1.3 * radius), 0) for place in (row, column))
            window = slice(top, max(int(row + 1.3 * radius), 0)), slice(left, max(int(column + 1.3 * radius), 0))
            down, right = y[window] - row, x[window] - column
            angle = np.arctan2(down, right)
            turn, facets = rng.uniform(0, np.pi), rng.integers(4, 8)
            edge = radius * (1 + 0.04 * np.cos(facets * (angle + turn)) + 0.12 * np.cos(2 * (angle - turn)))
            distance = np.hypot(down, right) / edge
            inside = distance < 1
            image[window][inside] = 120 + rng.uniform(0, 35) + 45 * distance[inside] ** 4
            mask[window] |= inside
    soft = Image.fromarray(image.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(max(1.2 * scale, 0.4)))
    return (np.asarray(soft) + 5 * noise).clip(1, 254).astype(np.uint8), mask


def draw_bar(rows: int, columns: int, nm_per_pixel: float) -> np.ndarray:
    """An information bar (rows, columns) uint8 as Zeiss' program draws it: black, framed in white, with a scale bar."""
    picture = Image.new("L", (columns, rows), 0)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(max(rows * 0.3, 6))
    draw.rectangle((0, 0, columns - 1, rows - 1), outline=255)
    length = round(100 / nm_per_pixel)
    draw.text((columns * 0.02, rows * 0.1), "100 nm", 255, font)
    draw.rectangle((columns * 0.02, rows * 0.68, columns * 0.02 + length, rows * 0.76), 255)
    for place, texts in ((0.22, ("EHT =  5.00 kV", "WD = 3.1 mm")), (0.5, ("Signal A = InLens", "Mag = 100.00 K X"))):
        draw.line((columns * (place - 0.02), 0, columns * (place - 0.02), rows), 255)
        for line, text in enumerate(texts):
            draw.text((columns * place, rows * (0.1 + 0.45 * line)), text, 255, font)
    return np.asarray(picture)


def zeiss_tag(name: str, columns: int, rows: int, nm_per_pixel: float) -> bytes:
    """The text of tag 34118, shortened: numbers without a name, then a key and its value a line."""
    numbers = ["0", "0", "0", f"{nm_per_pixel * 1e-9:.6e}", *["0"] * 6]
    values = [
        ("AP_MAG", "Mag = 100.00 K X"),
        ("AP_PIXEL_SIZE", f"Pixel Size = {nm_per_pixel:.4g} nm"),
        ("AP_IMAGE_PIXEL_SIZE", f"Image Pixel Size = {nm_per_pixel:.4g} nm"),
        ("AP_WD", "WD = 3.1 mm"),
        ("DP_DETECTOR_CHANNEL", "Signal A = InLens"),
        ("DP_IMAGE_STORE", f"Store resolution = {columns} * {rows}"),
        ("SV_FILE_NAME", f"File Name = {name}"),
    ]
    return "\r\n".join([*numbers, *(line for pair in values for line in pair), ""]).encode("cp1252")


def write_twin(
    out: Path, *, images: int = 12, columns: int = COLUMNS, seed: int = 0, masks_without_bar: bool = False
) -> Path:
    """Write the data set and return its folder.

    Args:
        out: folder, made if missing.
        images: number of pairs.
        columns: width of an image in pixels; its height and the bar are in proportion.
        seed: same seed, same images.
        masks_without_bar: whether masks end where the bar begins.
    """
    rows, bar = round(ROWS * columns / COLUMNS), round(BAR * columns / COLUMNS)
    side = NM_PER_PIXEL * COLUMNS / columns
    for name in ("TiO2", "TiO2_masks"):
        (out / name).mkdir(parents=True, exist_ok=True)
    for number in range(1, images + 1):
        image, mask = draw_micrograph(np.random.default_rng([seed, number]), rows, columns)
        whole = np.concatenate([image, draw_bar(bar, columns, side)])
        if not masks_without_bar:
            mask = np.concatenate([mask, np.zeros((bar, columns), bool)])
        stem = f"TiO2_{number:03d}"
        text = zeiss_tag(f"{stem}.tif", columns, len(whole), side)
        tag = (34118, 2, len(text) + 1, text + b"\0", True)
        tifffile.imwrite(out / "TiO2" / f"{stem}.tif", whole, extratags=[tag], metadata=None)
        tifffile.imwrite(out / "TiO2_masks" / f"{stem}_m.tif", mask.astype(np.uint8) * 255, metadata=None)
    return out


def main() -> None:
    """Read the command line, and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--columns", type=int, default=COLUMNS, help="width in pixels; the height is in proportion")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--masks-without-bar", action="store_true")
    given = parser.parse_args()
    options = {name: value for name, value in vars(given).items() if name != "out"}
    print(f"{given.images} pairs: {write_twin(given.out, **options)}")


if __name__ == "__main__":
    main()
