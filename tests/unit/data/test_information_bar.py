"""Information bars: found by the rows that were scanned or by their look, and none seen where there is none."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageDraw

from sage_ray.data.images import read_image
from sage_ray.data.information_bar import InformationBar, bar_rows, information_bar
from sage_ray.data.pairs import load_folder
from sage_ray.data.synth import DrawnSource
from sage_ray.imaging.drawing import text_font

SIZE = 320
# Images of EMPS with a bar that a person sees, and its rows.
OF_EMPS = {
    **{
        "07330c8ea1": 12,
        "1b3c6536a3": 49,
        "1ecd5c901c": 78,
        "21308b3614": 31,
        "245e1a4826": 38,
        "2bc87a8698": 26,
        "2e4a3ab627": 25,
    },
    **{"3027f9ffe7": 36, "31f17306c8": 32, "37ce835fb2": 47, "39dda96b25": 11, "406d70e411": 34, "427ebc9e15": 62},
    **{"4628753cd8": 48, "47286679c2": 61, "555eb05b4c": 36, "60feb7de8f": 58},
}


def micrograph(seed: int = 0) -> np.ndarray:
    """A drawn micrograph (SIZE, SIZE) uint8."""
    return DrawnSource.parse(f"synthetic://ordered?num=9&size={SIZE}&seed=4").draw(seed).image


def bar(rows: int, ground: int, ink: int, rule: int | None = None, frame: bool = False) -> np.ndarray:
    """A bar as microscopes draw it: text, a scale bar, a line above it or a frame around its fields."""
    picture = Image.new("L", (SIZE, rows), ground)
    draw = ImageDraw.Draw(picture)
    if rows >= 14:
        font = text_font(max(7, int(rows * 0.36)))
        draw.text((8, rows * 0.12), "EHT = 5.00 kV  Mag = 50.00 K X", ink, font)
        draw.text((8, rows * 0.55), "Signal A = InLens", ink, font)
        draw.text((SIZE * 0.78, rows * 0.15), "200 nm", ink, font)
    draw.rectangle((SIZE * 0.75, rows * 0.7, SIZE * 0.93, rows * 0.8), ink)
    if frame:
        draw.rectangle((0, 0, SIZE - 1, rows - 1), outline=ink)
        draw.line((SIZE // 2, 0, SIZE // 2, rows), ink)
    drawn = np.array(picture)
    if rule is not None:
        drawn[0] = rule
    return drawn


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    held = io.BytesIO()
    Image.fromarray(image).save(held, "JPEG", quality=quality)
    return np.asarray(Image.open(held))


@pytest.mark.parametrize("rows", [16, 30, 48])
@pytest.mark.parametrize(
    ("ground", "ink", "rule", "frame"),
    [
        *((0, 255, None, False), (255, 0, None, False), (0, 255, 255, False), (255, 0, 0, False)),
        *((0, 255, None, True), (40, 230, None, False), (200, 20, 20, False)),
    ],
)
def test_drawn_bars_are_seen_to_the_row(rows: int, ground: int, ink: int, rule: int | None, frame: bool) -> None:
    for seed in range(2):
        image = micrograph(seed)
        whole = np.concatenate([image, bar(rows, ground, ink, rule, frame)])
        assert bar_rows(whole) == rows
        covering = np.concatenate([image[:-rows], bar(rows, ground, ink, rule, frame)])
        assert bar_rows(covering) == rows
        if rows > 16:  # in smaller letters the noise of JPEG drowns the ground
            assert abs(bar_rows(jpeg(whole, 80)) - rows) <= 1
        deep = whole.astype(np.uint16) * 150 + 700
        assert bar_rows(deep) == rows and bar_rows(deep.astype(np.float32) * 1e-9) == rows


def test_a_bar_of_full_range_under_a_deep_image_of_few_values() -> None:
    image = micrograph().astype(np.uint16) + 1000
    assert bar_rows(np.concatenate([image, bar(30, 0, 255).astype(np.uint16) * 257])) == 30
    assert bar_rows(np.concatenate([image, bar(30, 255, 0).astype(np.uint16) * 257])) == 30


def test_a_strip_without_text_is_a_bar_too() -> None:
    image = micrograph()
    image[-40:] = 0
    assert bar_rows(image) == 40


def test_what_is_no_bar() -> None:
    rng = np.random.default_rng(3)
    for seed in range(9):
        assert bar_rows(micrograph(seed)) == 0
    rows = np.arange(SIZE)[:, None]
    fading = (120 * (1 - rows / SIZE) ** 2 + rng.normal(0, 8, (SIZE, SIZE))).clip(0, 255).astype(np.uint8)
    assert bar_rows(fading) == 0  # dark at the bottom, half of it at 0
    edge = np.where(rows < 260, 120, 3) + rng.normal(0, 8, (SIZE, SIZE))
    assert bar_rows(edge.clip(0, 255).astype(np.uint8)) == 0  # a straight edge of a sample, with the detector's noise
    texted = micrograph()
    texted[-20:, 5:60] = 255  # a label within the picture
    assert bar_rows(texted) == 0
    for flat in (np.zeros((64, 64), np.uint8), np.full((64, 64), 200, np.uint8), np.zeros((4, 4), np.uint8)):
        assert bar_rows(flat) == 0
    half = micrograph()
    half[SIZE // 2 :] = 0
    assert bar_rows(half) == 0  # more than a bar


@pytest.mark.real
def test_bars_of_published_micrographs(emps: Path) -> None:
    pairs = load_folder(emps)
    found = {pair.stem[:10]: rows for pair in pairs if (rows := bar_rows(read_image(pair.image)))}
    seen = {stem: OF_EMPS[stem] for pair in pairs if (stem := pair.stem[:10]) in OF_EMPS}
    assert found.keys() == seen.keys() and all(abs(found[stem] - rows) <= 1 for stem, rows in seen.items())


def fei(columns: int, rows: int) -> list[tuple[int, int, int, str, bool]]:
    text = f"[Scan]\nPixelWidth=1e-9\nPixelHeight=1e-9\n[Image]\nResolutionX={columns}\nResolutionY={rows}\n"
    return [(34682, 2, len(text) + 1, text, True)]


def test_the_rows_that_were_scanned_tell_the_bar(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (80, 64)).astype(np.uint8)  # no look of a bar
    tifffile.imwrite(tmp_path / "a.tif", noise, extratags=fei(64, 70))
    assert information_bar(tmp_path / "a.tif", noise) == InformationBar(10, "FEI metadata")
    for name, columns, rows in (("cut", 64, 80), ("none", 64, 20), ("resampled", 128, 70), ("larger", 64, 200)):
        tifffile.imwrite(tmp_path / f"{name}.tif", noise, extratags=fei(columns, rows))
        assert information_bar(tmp_path / f"{name}.tif", noise) is None, name
    for name, text in (("hitachi", "[SemImageFile]\nDataSize=64x70\nPixelSize=2\n"), ("jeol", "$CM_FULL_SIZE 64 70\n")):
        Image.fromarray(noise).save(tmp_path / f"{name}.bmp")
        (tmp_path / f"{name}.txt").write_text(text)
        found = information_bar(tmp_path / f"{name}.bmp", noise)
        assert found is not None and found.rows == 10 and found.origin.lower().startswith(name)


def test_a_bar_by_its_look_in_a_file_that_says_nothing(tmp_path: Path) -> None:
    whole = np.concatenate([micrograph(), bar(30, 0, 255)])
    Image.fromarray(whole).save(tmp_path / "a.png")
    assert information_bar(tmp_path / "a.png", whole) == InformationBar(30, "its look")
    assert information_bar(tmp_path / "a.png", whole[:-30]) is None
