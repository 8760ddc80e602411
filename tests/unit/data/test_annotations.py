"""COCO, labelme and ImageJ regions as masks: which pixels they give, how they are found, and what is refused."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sage_ray.data.annotations import read_annotation
from sage_ray.data.check import check
from sage_ray.data.imagej_roi import parse_roi
from sage_ray.data.images import BadFile
from sage_ray.data.pairs import folder_fingerprint, load_folder
from sage_ray.data.prepare import prepare
from sage_ray.errors import UserError
from sage_ray.sections import DataConfig

SHAPE = (40, 60)
SQUARE = [(10, 5), (20, 5), (20, 15), (10, 15)]
"""x and y; rows 5 to 14 and columns 10 to 19."""
OTHER = [(30, 20), (50, 20), (50, 30), (30, 30)]
KINDS = {"polygon": 0, "rectangle": 1, "oval": 2, "line": 3, "freehand": 7, "traced": 8, "point": 10}


def roi(
    kind: str,
    box: tuple[int, int, int, int],
    points: Sequence[tuple[float, float]] = (),
    *,
    floats: bool = False,
    composite: int = 0,
) -> bytes:
    """The bytes of an ImageJ region; `box` is left, top, right, bottom, `points` are x and y in the image's frame."""
    left, top, right, bottom = box
    head = bytearray(64)
    head[:4] = b"Iout"
    struct.pack_into(">hB", head, 4, 228, KINDS[kind])
    struct.pack_into(">4hH", head, 8, top, left, bottom, right, len(points))
    if floats and not points:
        struct.pack_into(">4f", head, 18, left + 0.5, top, right - left, bottom - top)
    struct.pack_into(">i", head, 36, composite)
    struct.pack_into(">h", head, 50, 128 if floats else 0)
    whole = b"".join(struct.pack(">h", int(p[axis]) - (left, top)[axis]) for axis in (0, 1) for p in points)
    exact = b"".join(struct.pack(">f", p[axis]) for axis in (0, 1) for p in points) if floats else b""
    return bytes(head) + whole + exact


def box_of(points: Sequence[tuple[float, float]]) -> tuple[int, int, int, int]:
    xs, ys = zip(*points, strict=True)
    return int(min(xs)), int(min(ys)), int(max(xs)), int(max(ys))


def polygon(points: Sequence[tuple[float, float]] = SQUARE, kind: str = "polygon") -> bytes:
    return roi(kind, box_of(points), points)


def coco(*annotations: dict[str, Any], names: Sequence[str] = ("a.png",)) -> dict[str, Any]:
    images = [{"id": i, "file_name": n, "height": SHAPE[0], "width": SHAPE[1]} for i, n in enumerate(names)]
    whole = [{"id": i, "image_id": 0, "category_id": 1, **annotation} for i, annotation in enumerate(annotations)]
    return {"images": images, "annotations": whole, "categories": [{"id": 1, "name": "particle"}]}


def flat(points: Sequence[tuple[float, float]]) -> list[float]:
    return [value for point in points for value in point]


def labelme(*shapes: dict[str, Any]) -> dict[str, Any]:
    whole = [{"label": "particle", "shape_type": "polygon", "group_id": None, **shape} for shape in shapes]
    return {"version": "5.0", "shapes": whole, "imagePath": "a.png", "imageHeight": SHAPE[0], "imageWidth": SHAPE[1]}


def packed(runs: Sequence[int]) -> str:
    """Run lengths in COCO's compressed form."""
    text = ""
    for place, run in enumerate(runs):
        value, more = run - (runs[place - 2] if place > 2 else 0), True
        while more:
            code, value = value & 0x1F, value >> 5
            more = value != (-1 if code & 0x10 else 0)
            text += chr((code | (0x20 if more else 0)) + 48)
    return text


def runs_of(mask: np.ndarray) -> list[int]:
    values = mask.ravel(order="F").astype(int)
    ends = np.flatnonzero(np.diff(values)) + 1
    lengths = np.diff(np.r_[0, ends, values.size]).tolist()
    return [0, *lengths] if values[0] else lengths


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, list):
        with zipfile.ZipFile(path, "w") as archive:
            for number, entry in enumerate(content):
                archive.writestr(f"{number:04d}.roi", entry)
    else:
        path.write_text(json.dumps(content))
    return path


def squares() -> np.ndarray:
    labels = np.zeros(SHAPE, np.int32)
    labels[5:15, 10:20], labels[20:30, 30:50] = 1, 2
    return labels


MASK = squares() > 0
GOOD: dict[str, tuple[str, object]] = {
    "COCO polygons": ("coco.json", coco({"segmentation": [flat(SQUARE)]}, {"segmentation": [flat(OTHER)]})),
    "COCO runs": (
        "coco.json",
        coco(*({"segmentation": {"counts": runs_of(squares() == n), "size": SHAPE}} for n in (1, 2))),
    ),
    "COCO packed runs": (
        "coco.json",
        coco(*({"segmentation": {"counts": packed(runs_of(squares() == n)), "size": SHAPE}} for n in (1, 2))),
    ),
    "labelme polygons": ("a.json", labelme({"points": SQUARE}, {"points": OTHER})),
    "labelme rectangles": (
        "a.json",
        labelme(*({"shape_type": "rectangle", "points": [p[0], p[2]]} for p in (SQUARE, OTHER))),
    ),
    "ROI set": ("a.zip", [polygon(), polygon(OTHER)]),
    "ROI set of every closed kind": ("a_RoiSet.zip", [roi("rectangle", box_of(SQUARE)), polygon(OTHER, "traced")]),
    "ROI set without a name": ("RoiSet.zip", [polygon(SQUARE, "freehand"), roi("rectangle", box_of(OTHER))]),
    "ROIs of sub-pixel resolution": (
        "a.zip",
        [roi("polygon", box_of(p), [(x + 0.25, y - 0.25) for x, y in p], floats=True) for p in (SQUARE, OTHER)],
    ),
}


@pytest.mark.parametrize("folder", ["", "annotations/"])
@pytest.mark.parametrize("name", GOOD)
def test_annotations_give_a_label_a_particle(name: str, folder: str, tmp_path: Path) -> None:
    file, content = GOOD[name]
    path = write(tmp_path / f"{folder}{file}", content)
    image = tmp_path / ("images/a.png" if folder else "a.png")
    image.parent.mkdir(exist_ok=True)
    Image.fromarray(np.tile(np.arange(60, dtype=np.uint8), (40, 1))).save(image)
    np.testing.assert_array_equal(read_annotation(path, image, SHAPE), squares())
    report = check(tmp_path)
    assert report.ok and report.facts[0].objects == 2
    tool = name.split()[0].replace("ROIs", "ImageJ").replace("ROI", "ImageJ")
    assert f"({tool}" in report.rule and not report.passed_over
    assert load_folder(tmp_path)[0].mask == path


def test_one_coco_file_for_many_images(tmp_path: Path) -> None:
    names = [f"images/day{day}/{name}.png" for day in (1, 2) for name in "ab"]
    rng = np.random.default_rng(0)
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, SHAPE, np.uint8)).save(tmp_path / name)
    tree = coco({"segmentation": [flat(SQUARE)]}, names=[name.removeprefix("images/") for name in names])
    tree["annotations"] += [{"id": 8, "image_id": 3, "segmentation": [flat(SQUARE), flat(OTHER)]}]
    path = write(tmp_path / "annotations" / "instances.json", tree)
    config = DataConfig(path=str(tmp_path), image_size=(40, 60))
    data = prepare(config, tmp_path / "sage_runs")
    covered = {data.files[i][0] + str(int(data.masks[i].sum())) for i in range(4)}
    assert len(data.images) == 4 and covered == {"a.png100", "a.png0", "b.png0", "b.png300"}
    before = folder_fingerprint(tmp_path)
    tree["info"] = "said again"
    write(path, tree)
    assert folder_fingerprint(tmp_path) == before, "only what is said of an image counts"
    tree["annotations"].pop()
    write(path, tree)
    assert folder_fingerprint(tmp_path) != before


def test_shapes_of_several_parts_and_with_holes_are_one_particle(tmp_path: Path) -> None:
    inner = [(12, 7), (18, 7), (18, 13), (12, 13)]
    tree = labelme({"points": SQUARE, "group_id": 1}, {"points": inner, "group_id": 1}, {"points": OTHER})
    labels = read_annotation(write(tmp_path / "a.json", tree), tmp_path / "a.png", SHAPE)
    assert (labels == 1).sum() == 100 - 36 and (labels == 2).sum() == 200


def test_round_shapes_have_the_area_of_their_formula(tmp_path: Path) -> None:
    circle = labelme({"shape_type": "circle", "points": [(30, 20), (30, 30)]})
    oval = roi("oval", (10, 10, 50, 30))
    for file, content, area in (("a.json", circle, np.pi * 100), ("a.roi", oval, np.pi * 20 * 10)):
        labels = read_annotation(write(tmp_path / file, content), tmp_path / "a.png", SHAPE)
        assert abs(labels.sum() - area) < 0.02 * area
    shifted = read_annotation(
        write(tmp_path / "b.roi", roi("oval", (10, 10, 50, 30), floats=True)), tmp_path / "a.png", SHAPE
    )
    assert abs(shifted.sum() - np.pi * 200) < 12


BAD: dict[str, tuple[str, object, str]] = {
    "ROI outside": ("a.zip", [polygon(), polygon([(100, 5), (120, 5), (120, 15)])], "ROI 0001 lies outside its image"),
    "ROI mostly outside": ("a.roi", polygon([(55, 5), (80, 5), (80, 15), (55, 15)]), "lies outside its image"),
    "labelme outside": ("a.json", labelme({"points": [(0, 50), (9, 50), (9, 60)]}), "shape 1 lies outside its image"),
    "COCO outside": ("coco.json", coco({"segmentation": [[70, 1, 80, 1, 80, 9]]}), "annotation 0 lies outside"),
    "line": ("a.roi", roi("line", (0, 0, 9, 9)), "a is a straight line"),
    "point": ("a.zip", [roi("point", (0, 0, 9, 9))], "0000 is a point"),
    "composite": ("a.roi", roi("rectangle", (0, 0, 9, 9), composite=12), "composite region, which is not supported"),
    "cut off": ("a.roi", polygon()[:70], "fewer points than its head says"),
    "no ROI": ("a.roi", b"GIF89a" * 20, "no ImageJ region"),
    "labelme line": ("a.json", labelme({"shape_type": "linestrip", "points": SQUARE}), "shape 1 is a linestrip"),
    "labelme without points": ("a.json", labelme({"label": "x"}), "labelme annotations that cannot be used"),
    "COCO without segmentation": ("coco.json", coco({"bbox": [0, 0, 9, 9]}), "COCO annotations that cannot be used"),
    "COCO of nonsense": (
        "coco.json",
        {**coco(), "images": [3, coco()["images"][0]], "annotations": [4, {"image_id": 0}]},
        "COCO",
    ),
    "labelme of nonsense": ("a.json", {"shapes": [3, None]}, "labelme annotations that cannot be used"),
    "COCO runs of another size": (
        "coco.json",
        coco({"segmentation": {"counts": [10, 15], "size": [5, 5]}}),
        "run-length mask of 5 x 5 pixels",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_one_clear_line(name: str, tmp_path: Path) -> None:
    file, content, what = BAD[name]
    Image.fromarray(np.tile(np.arange(60, dtype=np.uint8), (40, 1))).save(tmp_path / "a.png")
    path = write(tmp_path / file, content)
    with pytest.raises(BadFile) as error:
        read_annotation(path, tmp_path / "a.png", SHAPE)
    problem = str(error.value.problem)
    assert what in problem and str(path) in problem and "\n" not in problem
    report = check(tmp_path)
    assert [str(found) for found in report.problems] == [problem]
    with pytest.raises(UserError, match="that cannot be used"):
        prepare(DataConfig(path=str(tmp_path), image_size=(40, 60)), tmp_path / "sage_runs")


def test_annotations_of_an_image_of_another_size(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((20, 60), np.uint8)).save(tmp_path / "a.png")
    write(tmp_path / "a.json", labelme({"points": SQUARE}))
    with pytest.raises(UserError, match="^mask is 40 x 60 pixels, its image 20 x 60: .*a.json"):
        load_folder(tmp_path)


def test_files_that_only_look_like_annotations_are_passed_over(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        Image.fromarray(MASK.astype(np.uint8) * 255).save(tmp_path / folder / "a.png")
    Image.fromarray(MASK.astype(np.uint8) * 255).save(tmp_path / "images" / "b.png")
    write(tmp_path / "images" / "b.json", {"scale": 3})
    (tmp_path / "images" / "b.zip").write_bytes(b"PK")
    report = check(tmp_path)
    assert [problem.what for problem in report.problems] == ["image without mask"]
    assert report.passed_over == "2 files passed over: 1 .json (images/b.json), 1 .zip (images/b.zip)"


@given(st.binary(max_size=120), st.sampled_from(list(KINDS)))
def test_any_bytes_are_a_region_or_a_named_error(tail: bytes, kind: str) -> None:
    content = roi(kind, (0, 0, 9, 9))[:34] + tail
    try:
        assert parse_roi(content, "x").outline.shape[1] == 2
    except ValueError as error:
        assert str(error).startswith("x ")


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=12))
def test_packed_runs_are_read_as_they_were_written(runs: list[int]) -> None:
    from sage_ray.data.annotations import _unpacked

    assert _unpacked(packed(runs)) == runs
