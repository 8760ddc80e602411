"""`data.foreground`: which values of a mask are particles, which are ignored, and what follows from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from sage_ray.config import ExperimentConfig, resolve, stable_hash
from sage_ray.data import shared_data
from sage_ray.data.check import check
from sage_ray.data.foreground import apply_foreground
from sage_ray.data.images import BadFile
from sage_ray.data.masks import Mask, MaskValues, read_mask
from sage_ray.data.pair_masks import foreground_for, read_mask_with, read_pair_mask
from sage_ray.data.pairs import load_folder
from sage_ray.data.prepare import prepare
from sage_ray.errors import UserError
from sage_ray.foreground_rule import foreground_rule
from sage_ray.sections import DataConfig
from sage_ray.stages.keys import stage_keys

SIDE, GRID = 48, 4


def labelled() -> np.ndarray:
    """(48,48) int32: 16 squares of 8 pixels a side, numbered from 1 row by row, 4 pixels apart."""
    labels = np.zeros((SIDE, SIDE), np.int32)
    for number in range(GRID * GRID):
        row, column = divmod(number, GRID)
        labels[12 * row + 2 : 12 * row + 10, 12 * column + 2 : 12 * column + 10] = number + 1
    return labels


LABELS = labelled()
BORDER = np.zeros((SIDE, SIDE), bool)
BORDER[:, -1] = True
"""Ignored pixels: the last column, which no square reaches."""


def read(values: np.ndarray, rule: str) -> Mask:
    """The mask that whole numbers, or floats, are under a rule."""
    return apply_foreground(MaskValues(values), foreground_rule(rule))


def write_pairs(folder: Path, write_mask: Callable[[np.ndarray, Path], object], count: int = 6) -> Path:
    rng = np.random.default_rng(3)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        image = (rng.normal(90, 8, LABELS.shape) + 80 * (LABELS > 0)).clip(0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / "images" / f"a{index}.png")
        write_mask(np.roll(LABELS, 12 * index, axis=0), folder / "masks" / f"a{index}.tif")
    return folder


IGNORED: dict[str, tuple[np.ndarray, str]] = {
    "-1 of int8": (np.where(BORDER, -1, LABELS > 0).astype(np.int8), "ignore -1"),
    "-1 of a label map": (np.where(BORDER, -1, LABELS), "ignore -1"),
    "255 beside 1": (np.where(BORDER, 255, LABELS > 0).astype(np.uint8), "1 ignore 255"),
    "65535 of a 16-bit label map": (np.where(BORDER, 65535, LABELS).astype(np.uint16), "ignore 65535"),
    "-1 of whole float32": (np.where(BORDER, -1, LABELS).astype(np.float32), "ignore -1"),
    "nan of float64": (np.where(BORDER, np.nan, LABELS), "ignore nan"),
    "all above 0 but 255": (np.where(BORDER, 255, LABELS).astype(np.uint8), ">0 ignore 255"),
    "two values": (
        np.where(BORDER, np.where(LABELS.T[::-1] > 0, 254, 255), LABELS).astype(np.uint8),
        "ignore 254..255",
    ),
}


@pytest.mark.parametrize("name", IGNORED)
def test_ignored_values_are_background_and_said(name: str) -> None:
    values, rule = IGNORED[name]
    mask = read(values, rule)
    np.testing.assert_array_equal(mask.foreground, LABELS > 0)
    assert mask.objects == GRID**2
    (note,) = mask.notes
    assert "ignores are background" in note and mask.details[note] == "2.1% of its pixels"
    if values.max() > 1 and "255 beside 1" not in name:
        assert mask.labels is not None and len(np.unique(mask.labels)) == GRID**2 + 1


CHOSEN: dict[str, tuple[np.ndarray, str, np.ndarray, int, str]] = {
    "two of three classes": (LABELS % 4, "1,2", np.isin(LABELS % 4, (1, 2)), 8, "3"),
    "one of many values": (LABELS, "7", LABELS == 7, 1, "1, 2, 3, 4, 5, 6 and 9 more"),
    "a range of labels": (LABELS, "1..10", (LABELS > 0) & (LABELS <= 10), 10, "11, 12, 13, 14, 15, 16"),
    "particles are 0": (np.where(LABELS > 0, 0, 255), "0", LABELS > 0, 16, "255"),
    "background is 1": (1 + (LABELS > 0), "2", LABELS > 0, 16, "1"),
    "negative labels": (-LABELS, "<0", LABELS > 0, 16, ""),
    "probabilities": (np.where(LABELS > 0, 0.9, 0.2), ">0.5", LABELS > 0, 16, "0.2"),
    "the default": (LABELS, ">0", LABELS > 0, 16, ""),
    "whole floats": (2.0 * (LABELS % 2), "2", LABELS % 2 == 1, 8, ""),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_named_values_are_particles_and_all_others_background(name: str) -> None:
    values, rule, foreground, objects, others = CHOSEN[name]
    mask = read(values, rule)
    np.testing.assert_array_equal(mask.foreground, foreground)
    assert mask.objects == objects
    assert list(mask.details.values()) == ([others] if others else [])


def test_a_soft_edge_is_one_foreground_and_no_labels() -> None:
    soft = np.asarray(Image.fromarray(((LABELS > 0) * 255).astype(np.uint8)).resize((99, 99), Image.Resampling.BICUBIC))
    mask = read(soft, ">127")
    np.testing.assert_array_equal(mask.foreground, soft > 127)
    assert mask.objects == GRID**2 and mask.labels is None
    with pytest.raises(BadFile, match="data.foreground='>127'"):
        read(soft, "ignore 300")


def test_touching_particles_of_named_classes_stay_two(tmp_path: Path) -> None:
    values = np.zeros((20, 20), np.uint8)
    values[4:16, 4:10], values[4:16, 10:16] = 1, 2
    assert read(values, "1,2").objects == 2 and read(values, "1").objects == 1
    labels = read(values, "1,2").labels
    assert labels is not None and len(np.unique(labels)) == 3


def test_colours_are_named_as_colours_in_pictures_and_palettes(tmp_path: Path) -> None:
    colours = np.zeros((SIDE, SIDE, 3), np.uint8)
    colours[LABELS % 2 == 1] = (255, 0, 0)
    colours[(LABELS > 0) & (LABELS % 2 == 0)] = (0, 255, 0)
    tifffile.imwrite(tmp_path / "rgb.tif", colours, photometric="rgb")
    tifffile.imwrite(tmp_path / "rgb16.tif", colours.astype(np.uint16) * 257, photometric="rgb")
    numbers = Image.fromarray(np.where(LABELS > 0, 2 - LABELS % 2, 0).astype(np.uint8))
    numbers.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    numbers.save(tmp_path / "palette.png")
    for name in ("rgb.tif", "rgb16.tif", "palette.png"):
        mask = read_mask_with(tmp_path / name, "#ff0000")
        np.testing.assert_array_equal(mask.foreground, LABELS % 2 == 1)
        assert mask.objects == 8 and list(mask.details.values()) == ["2" if "palette" in name else "#00ff00"]
        both = read_mask_with(tmp_path / name, "#00ff00,#ff0000")
        assert both.objects == 16 and np.array_equal(both.foreground, LABELS > 0)
        np.testing.assert_array_equal(read_mask_with(tmp_path / name, ">0").foreground, LABELS > 0)
    np.testing.assert_array_equal(
        read_mask_with(tmp_path / "palette.png", "2").foreground, (LABELS > 0) & (LABELS % 2 == 0)
    )
    with pytest.raises(BadFile, match="names the number 2, the mask has colours.*#ff0000") as caught:
        read_mask_with(tmp_path / "rgb.tif", "2")
    assert "\n" not in str(caught.value)


def test_the_numbers_of_a_palette_are_those_of_the_file(tmp_path: Path) -> None:
    """As of the public sets whose edges are 255: 1 and 255 may have one colour."""
    picture = Image.fromarray(np.where(BORDER, 255, LABELS > 0).astype(np.uint8))
    picture.putpalette([0, 0, 0] + [90, 20, 200] * 255)
    picture.save(tmp_path / "voc.png")
    mask = read_mask_with(tmp_path / "voc.png", "1 ignore 255")
    np.testing.assert_array_equal(mask.foreground, LABELS > 0)
    assert mask.details and mask.objects == GRID**2


def test_a_value_that_looks_like_not_labelled_is_said(tmp_path: Path) -> None:
    picture = Image.fromarray(np.where(BORDER, 255, LABELS > 0).astype(np.uint8))
    picture.putpalette([0, 0, 0, 128, 0, 0] + [0, 0, 0] * 253 + [224, 224, 192])
    picture.save(tmp_path / "voc.png")
    tifffile.imwrite(tmp_path / "labels.tif", np.where(BORDER, 65535, LABELS).astype(np.uint16))
    tifffile.imwrite(tmp_path / "large.tif", np.where(LABELS > 0, 65535 - LABELS * 7, 0).astype(np.uint16))
    for name, top in (("voc.png", 255), ("labels.tif", 65535)):
        (note,) = read_mask(tmp_path / name).notes
        assert f"the value {top} is taken as a particle" in note and f"data.foreground='ignore {top}'" in note
        np.testing.assert_array_equal(read_mask_with(tmp_path / name, f"ignore {top}").foreground, LABELS > 0)
    assert not read_mask(tmp_path / "large.tif").notes


def test_a_white_or_grey_colour_names_the_grey_value(tmp_path: Path) -> None:
    Image.fromarray(np.repeat(((LABELS > 0) * 255).astype(np.uint8)[..., None], 3, axis=2)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask_with(tmp_path / "a.png", "#ffffff").foreground, LABELS > 0)
    np.testing.assert_array_equal(read(LABELS > 0, "#010101").foreground, LABELS > 0)
    assert not read((LABELS > 0).astype(np.uint8), "#ff0000").foreground.any()


def test_without_a_rule_a_mask_is_refused_with_the_setting_that_mends_it(tmp_path: Path) -> None:
    cases: list[tuple[np.ndarray, str]] = [
        (np.where(BORDER, -1, LABELS), "data.foreground='ignore -1'"),
        (LABELS % 3 * 100, "data.foreground='>100'"),
        (np.where(LABELS > 0, -1, 0), "data.foreground='<0'"),
        (1 + (LABELS > 0), "data.foreground='2'"),
        (np.where(BORDER, np.nan, LABELS > 0), "data.foreground='ignore nan'"),
        (np.where(LABELS > 0, 0.9, 0.2), "data.foreground='>0.55'"),
    ]
    for values, mend in cases:
        tifffile.imwrite(tmp_path / "a.tif", values)
        with pytest.raises(BadFile, match=mend):
            read_mask(tmp_path / "a.tif")
        rule = mend.split("'")[1]
        assert read_mask_with(tmp_path / "a.tif", rule).foreground[LABELS > 0].any()


@pytest.mark.parametrize(
    "rule, what",
    [
        ("1-3", "1-3 is no value"),
        ("1 ignore", "no value after `ignore`"),
        ("1 ignore 2 ignore 3", "`ignore` stands once"),
        ("1,255 ignore 255", "255 cannot be particles and ignored"),
        ("9..2", "write the lower value first, such as 2..9"),
        ("#ff00", "#ff00 is no value"),
        ("nan", "nan can be ignored"),
        ("particles", "particles is no value"),
    ],
)
def test_what_is_no_rule_is_one_clear_line(tmp_path: Path, rule: str, what: str) -> None:
    with pytest.raises(UserError, match="bad value: --set data.foreground, data.foreground: ") as caught:
        resolve("tiny_unet", sets=[f"data.foreground={rule}"])
    assert what in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match="bad rule of data.foreground: ") as told:
        check(tmp_path, foreground=rule)
    assert what in str(told.value)


@pytest.mark.parametrize(
    "written, text",
    [
        ("'1, 2  ignore -1'", "1,2 ignore -1"),
        ("1", "1"),
        ("[1, 2]", "1,2"),
        ("-1.0", "-1"),
        ("'> 127'", ">127"),
        ("'#FF0000'", "#ff0000"),
    ],
)
def test_a_rule_reads_the_same_from_yaml_and_set(tmp_path: Path, written: str, text: str) -> None:
    (tmp_path / "a.yaml").write_text(f"extends: tiny_unet\ndata: {{foreground: {written}}}\n")
    config = resolve(file=tmp_path / "a.yaml").config
    assert config.data.foreground == text
    assert resolve("tiny_unet", sets=[f"data.foreground={text}"]).config == config
    (tmp_path / "b.yaml").write_text("extends: tiny_unet\ndata: {foreground: #ff0000\n}\n")
    with pytest.raises(UserError, match="quotes"):
        resolve(file=tmp_path / "b.yaml")


def test_a_rule_is_part_of_the_identity_and_none_leaves_it_as_it_was() -> None:
    config = ExperimentConfig()
    other = config.with_values({"data.foreground": "1"})
    assert "foreground" not in config.identity()["data"] and other.config_hash() != config.config_hash()
    keys = [stage_keys(each, "f" * 16, "s" * 16, {"device": "cpu"}) for each in (config, other)]
    assert not set(keys[0].values()) & set(keys[1].values())


def test_data_under_a_rule_have_their_own_fingerprint_and_cache(tmp_path: Path) -> None:
    def write(labels: np.ndarray, path: Path) -> None:
        tifffile.imwrite(path, np.where(labels > 0, 1 + labels % 2, 0).astype(np.uint8))

    folder = write_pairs(tmp_path / "data", write)
    plain = DataConfig(path=str(folder), image_size=(SIDE, SIDE))
    said: list[str] = []
    all_of_them, ones = (
        prepare(data, tmp_path / "cache", say=said.append)
        for data in (plain, plain.model_copy(update={"foreground": "1 ignore 7"}))
    )
    assert all_of_them.fingerprint != ones.fingerprint and all_of_them.shas == ones.shas
    assert int(all_of_them.masks.sum()) == 2 * int(ones.masks.sum()) == 6 * 16 * 64
    assert said[0].startswith("note: values that data.foreground does not name are background (6 files, such as a")
    assert said[1] == "note: data.foreground names 7, which no mask has (the masks have 0, 1, 2)"
    again = prepare(plain, tmp_path / "cache")
    assert again.fingerprint == all_of_them.fingerprint


def test_check_follows_a_rule_and_says_what_it_left_out(tmp_path: Path) -> None:
    def write(labels: np.ndarray, path: Path) -> None:
        tifffile.imwrite(path, np.where(BORDER, -1, labels).astype(np.int16))

    folder = write_pairs(tmp_path / "data", write)
    bare = check(folder)
    assert len(bare.problems) == 6 and "data.foreground='ignore -1'" in str(bare.problems[0])
    report = check(folder, foreground="ignore -1, 255")
    assert report.ok and report.as_dict()["objects"]["median"] == 16
    assert any("ignores are background, in training and in scores (6 files" in line for line in report.warnings)
    assert "note: data.foreground names 255, which no mask has (the masks have -1, 0, 1, 2, 3, 4)" in report.warnings
    empty = check(folder, foreground="99")
    (problem,) = empty.problems
    assert "no mask has a particle under data.foreground='99'" in str(problem) and "the masks have -1, 0" in str(
        problem
    )


def test_a_rule_of_other_data_holds_where_it_finds_particles(tmp_path: Path) -> None:
    ones = load_folder(write_pairs(tmp_path / "ones", lambda labels, path: tifffile.imwrite(path, (labels > 0) * 1)))
    full = load_folder(write_pairs(tmp_path / "full", lambda labels, path: tifffile.imwrite(path, (labels > 0) * 255)))
    assert foreground_for(ones, "1 ignore 255") == "1 ignore 255"
    assert foreground_for(full, "1 ignore 255") == foreground_for(full, "ignore 255") == foreground_for(full, "") == ""


def test_annotations_have_no_values(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(image)
    shape: dict[str, Any] = {"points": [[2, 2], [9, 9]], "shape_type": "rectangle", "label": "x"}
    (tmp_path / "a.json").write_text(json.dumps({"imageHeight": 20, "imageWidth": 20, "shapes": [shape]}))
    (pair,) = load_folder(tmp_path)
    mask = read_pair_mask(pair, (20, 20), "2")
    assert mask.objects == 1 and "says nothing of annotations" in mask.notes[0]


def test_shared_data_of_a_bucket_are_kept_apart_by_rule_and_keep_their_names_without() -> None:
    plain = DataConfig(path="data")
    named = [shared_data._name(plain.model_copy(update={"foreground": rule})) for rule in ("", "1", "1 ignore 255")]
    assert len(set(named)) == 3
    cleaning = [plain.image_size, plain.crop_bottom, plain.mask_erosion, plain.min_object_pixels]
    assert named[0] == f"data/paths/{stable_hash([plain.path, *cleaning])}.json"
