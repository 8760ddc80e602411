"""Masks as microscopists have them: what a file stores, and what it stands for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_cases import COLUMNS, IMAGE, LABELS, NUM, ROWS, Write, colour
from PIL import Image

from sage_ray.data.images import BadFile
from sage_ray.data.masks import classify_values, read_mask, read_mask_values


def classes(count: int) -> np.ndarray:
    return np.where(LABELS > 0, LABELS % count + 1, 0)


def class_colours(*colours: tuple[int, int, int]) -> np.ndarray:
    return np.array([(0, 0, 0), *colours], np.uint8)[classes(len(colours))]


def transparent(*, hidden: tuple[int, int, int], particles: np.ndarray) -> np.ndarray:
    """RGBA: particles opaque, all else fully transparent over the colour `hidden`."""
    layers = np.zeros((ROWS, COLUMNS, 4), np.uint8)
    layers[..., :3] = np.where(LABELS[..., None] > 0, particles, hidden)
    layers[..., 3] = (LABELS > 0) * 255
    return layers


def pages(values: Callable[[int], np.ndarray], **options: Any) -> Write:
    def write(path: Path) -> None:
        tifffile.imwrite(path, np.stack([values(n) for n in range(1, NUM + 1)]), photometric="minisblack", **options)

    return write


def tiff(values: np.ndarray, **options: Any) -> Write:
    return lambda path: tifffile.imwrite(path, values, **options)


def picture(values: np.ndarray) -> Write:
    return lambda path: Image.fromarray(values).save(path, format="PNG")


def palette_picture(numbers: np.ndarray, *colours: tuple[int, int, int]) -> Write:
    def write(path: Path) -> None:
        image = Image.fromarray(numbers.astype(np.uint8))
        image.putpalette([value for entry in colours for value in entry])
        image.save(path, format="PNG")

    return write


RED, GREEN, BLUE, WHITE, GREY, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255,) * 3, (128,) * 3, (0, 0, 0)
INVERTING = np.stack([np.arange(256)[::-1] * 257] * 3).astype(np.uint16)
ONE = np.ones((ROWS, COLUMNS), np.uint8)
MASKS: dict[str, Write] = {
    "three class colours": picture(class_colours(RED, GREEN, BLUE)),
    "two class colours of TIFF": tiff(class_colours(RED, WHITE), photometric="rgb"),
    "class colours of 16 bits": tiff(class_colours(RED, GREEN).astype(np.uint16) * 257, photometric="rgb"),
    "class palette": palette_picture(classes(3), BLACK, RED, GREEN, BLUE),
    "one bit": tiff(LABELS > 0),
    "one bit, 0 as black": tiff(LABELS > 0, photometric="minisblack"),
    "one bit, compressed": tiff(LABELS > 0, compression="zlib", photometric="miniswhite"),
    "8 bits, 0 as white": tiff((LABELS > 0) * np.uint8(255), photometric="miniswhite"),
    "16 bits, 0 as white": tiff(LABELS.astype(np.uint16), photometric="miniswhite"),
    "inverting palette": tiff((LABELS > 0) * np.uint8(255), photometric="palette", colormap=INVERTING),
    "palette in the order of a packer": palette_picture(LABELS == 0, WHITE, BLACK),
    "palette with white and black among others": palette_picture(np.where(LABELS > 0, 2, 1), GREY, BLACK, WHITE),
    "alpha over white": picture(np.dstack([colour(ONE * 255), (LABELS > 0) * np.uint8(255)])),
    "alpha over black": picture(np.dstack([colour(ONE * 0), (LABELS > 0) * np.uint8(255)])),
    "alpha of grey": picture(np.dstack([ONE * 255, (LABELS > 0) * np.uint8(255)])),
    "alpha of TIFF": tiff(
        np.dstack([colour(ONE * 255), (LABELS > 0) * np.uint8(255)]), photometric="rgb", extrasamples=["unassalpha"]
    ),
    "colours over transparent white": picture(transparent(hidden=WHITE, particles=class_colours(RED, GREEN))),
    "pages": pages(lambda n: (n == LABELS) * np.uint8(255)),
    "pages of one bit": pages(lambda n: n == LABELS),
    "pages, compressed": pages(lambda n: (n == LABELS).astype(np.uint16) * 7, compression="zlib"),
    "int64": tiff(LABELS.astype(np.int64)),
    "int64, large": tiff(np.where(LABELS > 0, LABELS.astype(np.int64) * 10**12 + 7, 0)),
    "uint16 with gaps": tiff(np.where(LABELS > 0, LABELS * 1001, 0).astype(np.uint16)),
    "8 bits with gaps": picture(np.where(LABELS > 0, LABELS * 11 + 7, 0).astype(np.uint8)),
    "float64 of whole numbers": tiff(LABELS.astype(np.float64)),
    "float32, binary": tiff((LABELS > 0).astype(np.float32) / 255),
    "float16": tiff(LABELS.astype(np.float16)),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_read_as_its_maker_meant_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / "mask.tif"
    MASKS[name](path)
    mask = read_mask(path)
    np.testing.assert_array_equal(mask.foreground, LABELS > 0)
    assert mask.objects == NUM
    said = {"alpha": "alpha channel", "pages": "pages", "colours over": "transparent"}
    told = next((text for start, text in said.items() if name.startswith(start)), None)
    assert (told is None and not mask.notes) or (told is not None and told in mask.notes[0])


def with_pages(*values: np.ndarray) -> Write:
    return tiff(np.stack(values), photometric="minisblack")


BAD_MASKS: dict[str, tuple[Write, str]] = {
    "a picture": (tiff(IMAGE - IMAGE.min()), "scattered"),
    "a picture of few colours": (
        picture(np.array([BLACK, RED, GREEN, BLUE], np.uint8)[IMAGE % 4]),
        "4 colours|3 colours",
    ),
    "probabilities": (tiff((IMAGE / 255).astype(np.float32)), "not whole numbers"),
    "not finite": (tiff(np.where(LABELS > 0, 1, np.nan)), "not finite"),
    "negative labels": (tiff(-LABELS.astype(np.int64)), "negative values"),
    "one negative value": (tiff(np.where(LABELS > 0, -1, 0).astype(np.int8)), "negative value -1"),
    "three grey levels": (
        tiff(np.where(LABELS > 0, np.where(LABELS > 5, 255, 128), 0).astype(np.uint8)),
        "grey values",
    ),
    "a ramp of 16 bits": (tiff(np.tile(np.arange(90, dtype=np.uint16) * 300, (70, 1))), "ramp"),
    "no background": (picture(np.array([RED, GREEN], np.uint8)[(LABELS > 0) * 1]), "no background value 0"),
    "soft alpha": (picture(np.dstack([colour(ONE * 255), IMAGE])), "neither binary nor"),
    "pages of several values": (
        with_pages(LABELS.astype(np.uint8), LABELS.astype(np.uint8)),
        "2 pages, of which page 1",
    ),
    "pages of classes": (with_pages((LABELS > 0) * ONE, (LABELS == 0) * ONE), "2 pages, which together cover"),
}


@pytest.mark.parametrize("name", BAD_MASKS)
def test_what_is_no_mask_is_named(tmp_path: Path, name: str) -> None:
    write, what = BAD_MASKS[name]
    write(tmp_path / "mask.tif")
    with pytest.raises(BadFile, match=what) as caught:
        read_mask(tmp_path / "mask.tif")
    assert "\n" not in str(caught.value) and str(tmp_path / "mask.tif") in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(
    numbers=st.lists(st.integers(256, 1 << 52), min_size=NUM, max_size=NUM, unique=True),
    dtype=st.sampled_from(["int64", "uint64", "float64"]),
)
def test_labels_may_be_any_whole_numbers_above_0(numbers: list[int], dtype: str) -> None:
    table = np.array([0, *numbers], dtype)
    values = table[LABELS].astype(np.int64 if dtype == "float64" else dtype)
    mask = classify_values(values)
    assert mask.objects == NUM
    np.testing.assert_array_equal(mask.foreground, LABELS > 0)


def test_values_of_colours_come_with_their_colours(tmp_path: Path) -> None:
    for write in (picture(class_colours(RED, GREEN)), palette_picture(classes(2), BLACK, RED, GREEN)):
        write(tmp_path / "mask.png")
        stored = read_mask_values(tmp_path / "mask.png")
        assert stored.colours is not None
        shown = np.array([stored.colours[value] for value in stored.values.ravel().tolist()])
        np.testing.assert_array_equal(shown.reshape(ROWS, COLUMNS, 3), class_colours(RED, GREEN))
