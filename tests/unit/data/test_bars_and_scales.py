"""What data check says of bars and scales, and masks that were drawn without the bar of their images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from sage_ray.data.check import CheckReport, check
from sage_ray.data.prepare import prepare
from sage_ray.data.synth import DrawnSource
from sage_ray.errors import UserError
from sage_ray.sections import DataConfig, SplitConfig
from sage_ray.terminal.data_answers import Looked, checked
from sage_ray.terminal.shell import Answer, Session

SIZE = 96
DRAWN = DrawnSource.parse(f"synthetic://ordered?num=4&size={SIZE}&seed=3")


def folder(root: Path, rows: tuple[int, ...] = (16, 16, 16), *, masks_lack: bool = False, per_nm: float = 2.0) -> Path:
    """Pairs whose images have black bars of so many rows below them, and a scale as ImageJ writes it."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for index, high in enumerate(rows):
        pair = DRAWN.draw(index)
        bar = np.zeros((high, SIZE), np.uint8)
        bar[high // 3 : high // 2, 4:40] = 255
        mask = pair.mask if masks_lack else np.concatenate([pair.mask, np.zeros((high, SIZE), pair.mask.dtype)])
        Image.fromarray((mask > 0).astype(np.uint8) * 255).save(root / "masks" / f"i{index}.png")
        image = np.concatenate([pair.image, bar])
        options = {"imagej": True, "resolution": (per_nm, per_nm), "metadata": {"unit": "nm"}} if per_nm else {}
        tifffile.imwrite(root / "images" / f"i{index}.tif", image, **options)  # type: ignore[arg-type]
    return root


def answer(report: CheckReport, crop_bottom: int = 0) -> Answer:
    return checked(report, Looked(report.path, crop_bottom), Session("data check", None, True))


def test_bars_alike_are_proposed_and_scales_told(tmp_path: Path) -> None:
    report = check(folder(tmp_path / "d"))
    bar = "bar: all 3 images: the lowest 16 rows are an information bar, by its look: set data.crop_bottom=16"
    assert report.ok and report.warnings[0] == bar
    assert "scale: 3 of 3 images say their scale: 0.5 nm per pixel, from ImageJ (3)" in report.lines()
    told = report.as_dict()
    assert told["information_bars"] == {"16": 3} and told["proposed_crop_bottom"] == 16
    assert told["nm_per_pixel"] == {"images": 3, "min": 0.5, "max": 0.5}
    assert all("data.crop_bottom=16" in command for command in answer(report).next)
    cut = check(tmp_path / "d", 16)
    assert cut.ok and not cut.warnings and cut.as_dict()["proposed_crop_bottom"] == 0
    some = check(tmp_path / "d", 6)
    assert "bar: i0, i1, i2: the information bar has 16 rows, of which data.crop_bottom=6 leaves some" in some.warnings


def test_bars_that_differ_are_told_apart(tmp_path: Path) -> None:
    report = check(folder(tmp_path / "d", (16, 16, 24), per_nm=0))
    line = report.warnings[0]
    assert line.startswith(
        "bar: information bars differ, by its look: 16 rows (i0, i1), 24 rows (i2): data.crop_bottom"
    )
    assert report.as_dict()["proposed_crop_bottom"] == 0 and not any(
        text.startswith("scale") for text in report.lines()
    )
    assert not any("crop_bottom" in command for command in answer(report).next)


def test_images_without_bars_say_nothing_of_them(tmp_path: Path) -> None:
    report = check(folder(tmp_path / "d", (0, 0, 0), per_nm=0))
    assert report.ok and not report.warnings and report.as_dict()["information_bars"] == {"0": 3}


def test_masks_that_lack_the_bar(tmp_path: Path) -> None:
    path = folder(tmp_path / "d", masks_lack=True)
    report = check(path)
    assert len(report.problems) == 1
    said = str(report.problems[0])
    assert said.startswith(f"mask is {SIZE} x {SIZE} pixels, its image {SIZE + 16} x {SIZE}: ")
    assert "i0.png and 2 more: set data.crop_bottom=16 if its lowest rows are an information bar, else" in said
    assert answer(report).next[0].endswith(f"data check {path} --crop-bottom 16")
    split = SplitConfig(validation=0.34, test=0.0)
    size = (SIZE, SIZE)
    with pytest.raises(UserError, match="set data.crop_bottom=16 if"):
        prepare(DataConfig(path=str(path), image_size=size, split=split), tmp_path / "cache")
    assert check(path, 16).ok
    lacking = prepare(DataConfig(path=str(path), image_size=size, crop_bottom=16, split=split), tmp_path / "cache")
    whole = folder(tmp_path / "whole")
    full = prepare(DataConfig(path=str(whole), image_size=size, crop_bottom=16, split=split), tmp_path / "cache")
    assert lacking.masks.any() and np.array_equal(lacking.masks, full.masks)
    assert np.array_equal(lacking.images, full.images) and lacking.shas == full.shas


def test_another_number_of_rows_than_the_mask_lacks(tmp_path: Path) -> None:
    report = check(folder(tmp_path / "d", masks_lack=True), 10)
    assert len(report.problems) == 1 and "set data.crop_bottom=16, not 10 if" in str(report.problems[0])


@pytest.mark.parametrize(("shape", "said"), [((56, 48), "another scale (0.5 of"), ((112, 40), "save both at one size")])
def test_a_mask_of_another_size_is_one_line(tmp_path: Path, shape: tuple[int, int], said: str) -> None:
    path = folder(tmp_path / "d", (16,))
    Image.fromarray(np.zeros(shape, np.uint8)).save(path / "masks" / "i0.png")
    report = check(path)
    first = str(report.problems[0])
    assert said in first and "crop_bottom" not in first and "\n" not in first
