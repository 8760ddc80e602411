"""Exports of particles are read back to the labels that they were made of."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from scipy import ndimage

from sage_ray.apply.particle_exports import ParticleExports, parse_exports
from sage_ray.data.annotations import read_annotation
from sage_ray.data.imagej_roi import parse_roi, read_rois, roi_bytes
from sage_ray.errors import UserError
from sage_ray.imaging.particles import particle_table


def drawn(seed: int, shape: tuple[int, int]) -> tuple[np.ndarray, pd.DataFrame]:
    """Labels of ragged particles, some with holes, some cut by the frame, and their table."""
    noise = np.random.default_rng(seed).normal(size=shape)
    mask = ndimage.gaussian_filter(noise, 2.5) > 0.02
    return ndimage.label(mask)[0].astype(np.uint16), particle_table(mask)


def test_rois_and_coco_come_back_as_the_labels(tmp_path: Path) -> None:
    shapes = {"one.png": (300, 90), "two.tif": (70, 310)}
    drawings = {name: drawn(seed, shape) for seed, (name, shape) in enumerate(shapes.items())}
    with ParticleExports(tmp_path, ("imagej", "coco")) as exports:
        for name, (labels, table) in drawings.items():
            stem = Path(name).stem
            tifffile.imwrite(tmp_path / f"{stem}.tif", labels, tile=(256, 256), compression="zlib")
            exports.add(name, stem, labels.shape, tmp_path / f"{stem}.tif", table)
    for name, (labels, table) in drawings.items():
        assert table.holes.sum() > 0 and table.touches_border.any()
        for source in (tmp_path / "rois" / f"{Path(name).stem}.zip", tmp_path / "coco.json"):
            np.testing.assert_array_equal(read_annotation(source, tmp_path / name, labels.shape), labels)
    assert [roi.name for roi in read_rois(tmp_path / "rois" / "one.zip")][:2] == ["0001", "0002"]
    tree = json.loads((tmp_path / "coco.json").read_text())
    assert set(tree) == {"info", "licenses", "categories", "annotations", "images"}
    assert [image["file_name"] for image in tree["images"]] == list(shapes)
    assert tree["images"][1]["height"] == 70 and tree["images"][1]["width"] == 310
    labels, table = drawings["two.tif"]
    mine = [annotation for annotation in tree["annotations"] if annotation["image_id"] == 2]
    assert len({annotation["id"] for annotation in tree["annotations"]}) == len(tree["annotations"])
    for annotation, row in zip(mine, table.itertuples(), strict=True):
        x, y = np.array(annotation["segmentation"][0]).reshape(-1, 2).T
        assert annotation["bbox"] == [x.min(), y.min(), np.ptp(x), np.ptp(y)]
        assert annotation["area"] == row.area_px and annotation["iscrowd"] == 0 and annotation["category_id"] == 1


def test_a_folder_without_particles_and_one_without_exports(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((30, 40), np.uint16), tile=(256, 256))
    table = particle_table(np.zeros((30, 40), bool))
    with ParticleExports(tmp_path, ("imagej", "coco")) as exports:
        exports.add("a.png", "a", (30, 40), tmp_path / "a.tif", table)
    tree = json.loads((tmp_path / "coco.json").read_text())
    assert tree["annotations"] == [] and len(tree["images"]) == 1
    assert read_rois(tmp_path / "rois" / "a.zip") == []
    with ParticleExports(tmp_path / "none", ()) as exports:
        exports.add("a.png", "a", (30, 40), tmp_path / "a.tif", table)
    assert not (tmp_path / "none").exists()


def test_a_fault_leaves_the_earlier_coco_file(tmp_path: Path) -> None:
    (tmp_path / "coco.json").write_text("earlier")
    with pytest.raises(RuntimeError, match="full"), ParticleExports(tmp_path, ("coco",)):
        raise RuntimeError("full")
    assert [path.name for path in tmp_path.iterdir()] == ["coco.json"]
    assert (tmp_path / "coco.json").read_text() == "earlier"


@pytest.mark.parametrize("shift", [0, 30_000, 40_000, 90_000])
def test_a_region_far_from_the_corner_keeps_its_place(shift: int) -> None:
    outline = np.array([(0, 0), (0, 9), (12, 9), (12, 0)]) + shift
    content = roi_bytes(outline)
    np.testing.assert_array_equal(parse_roi(content, "r").outline, outline)
    # By the format: kind traced, bounds top, left, bottom, right, number of points.
    assert content[:4] == b"Iout" and content[6] == 8 and struct.unpack_from(">H", content, 16) == (4,)
    if shift < 40_000:
        assert struct.unpack_from(">4h", content, 8) == (shift, shift, shift + 9, shift + 12)


def test_a_region_of_very_many_points() -> None:
    steps = np.repeat(np.arange(35_000), 2)
    outline = np.stack([np.append(steps[1:], 35_000), steps], axis=1)
    outline = np.concatenate([outline, [(0, 35_000)]])
    np.testing.assert_array_equal(parse_roi(roi_bytes(outline), "r").outline, outline)


def test_formats_are_named_or_refused_in_one_line() -> None:
    assert parse_exports("coco, ImageJ") == ("imagej", "coco") and parse_exports("") == ()
    assert parse_exports(["coco"]) == ("coco",)
    with pytest.raises(UserError, match="unknown format of export: voc: choose among imagej, coco") as caught:
        parse_exports("imagej,voc")
    assert "\n" not in str(caught.value)
