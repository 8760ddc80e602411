"""Bad folders: one line that names the bad item, beside a good twin that is accepted."""

from __future__ import annotations

import io
import resource
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sage_ray.data.check import check
from sage_ray.data.images import MAX_PIXELS
from sage_ray.data.pairs import load_folder
from sage_ray.data.prepare import prepare
from sage_ray.data.synth import DrawnSource, write_dataset
from sage_ray.errors import UserError
from sage_ray.sections import DataConfig, SplitConfig

SIZE = (32, 32)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """Six drawn pairs, stems ordered_00000 to ordered_00005."""
    return write_dataset(tmp_path / "data", num=6, size=32, seed=3)


def prepared(path: Path, **values: object) -> int:
    """Number of images that `prepare` yields, with its cache beside the data."""
    data = DataConfig.model_validate({"path": str(path), "image_size": SIZE, **values})
    return len(prepare(data, path.parent / "cache").images)


def image_of(folder: Path, index: int = 2) -> Path:
    return folder / "images" / f"ordered_{index:05d}.png"


def mask_of(folder: Path, index: int = 2) -> Path:
    return folder / "masks" / f"ordered_{index:05d}.png"


def write_mask(folder: Path, values: np.ndarray, index: int = 2) -> Path:
    Image.fromarray(values).save(mask_of(folder, index))
    return mask_of(folder, index)


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def grey_ramp(folder: Path) -> Path:
    return write_mask(folder, np.tile(np.arange(32, dtype=np.uint8), (32, 1)))


def grey_picture(folder: Path) -> Path:
    mask_of(folder).write_bytes(image_of(folder).read_bytes())
    return mask_of(folder)


def jpeg_mask(folder: Path) -> Path:
    """A binary mask that went through JPEG: grey values round every edge."""
    stored = io.BytesIO()
    Image.open(mask_of(folder)).save(stored, format="JPEG", quality=60)
    return write_mask(folder, np.asarray(Image.open(stored)))


def soft_mask(folder: Path) -> Path:
    smooth = Image.open(mask_of(folder)).resize((11, 11), Image.Resampling.BILINEAR)
    return write_mask(folder, np.asarray(smooth.resize((32, 32), Image.Resampling.BICUBIC)))


def three_levels(folder: Path) -> Path:
    values = np.zeros((32, 32), np.uint8)
    values[4:12, 4:12], values[20:28, 20:28] = 128, 255
    return write_mask(folder, values)


def orphan_image(folder: Path) -> Path:
    mask_of(folder).unlink()
    return image_of(folder)


def orphan_mask(folder: Path) -> Path:
    image_of(folder).unlink()
    return mask_of(folder)


def zero_bytes(folder: Path) -> Path:
    image_of(folder).write_bytes(b"")
    return image_of(folder)


def no_image(folder: Path) -> Path:
    image_of(folder).write_bytes(b"this is no picture")
    return image_of(folder)


def cut_image(folder: Path) -> Path:
    truncate(image_of(folder))
    return image_of(folder)


def cut_mask(folder: Path) -> Path:
    truncate(mask_of(folder))
    return mask_of(folder)


def other_size(folder: Path) -> Path:
    return write_mask(folder, np.zeros((32, 30), np.uint8))


def same_stem(folder: Path) -> Path:
    copy = image_of(folder).with_suffix(".tif")
    Image.open(image_of(folder)).save(copy)
    return copy


def png_header(rows: int, columns: int) -> bytes:
    """A valid grey 8-bit PNG of black pixels, without ever holding them: one row compresses like another."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    squeeze, packed = zlib.compressobj(1), bytearray()
    line = bytes(columns + 1)
    for _ in range(rows):
        packed += squeeze.compress(line)
    packed += squeeze.flush()
    header = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", bytes(packed)) + chunk(b"IEND", b"")


BREAKAGES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "image without mask": (orphan_image, "image without mask"),
    "mask without image": (orphan_mask, "mask without image"),
    "zero bytes": (zero_bytes, "empty file"),
    "no image": (no_image, "unreadable image file"),
    "truncated image": (cut_image, "truncated image file"),
    "truncated mask": (cut_mask, "truncated image file"),
    "mask of another size": (other_size, "mask is 32 x 30 pixels, its image 32 x 32"),
    "two files of a stem": (same_stem, "two files of one stem"),
    "grey ramp": (grey_ramp, "mask is neither binary nor an instance map"),
    "grey picture": (grey_picture, "mask is neither binary nor an instance map"),
    "JPEG mask": (jpeg_mask, "mask is neither binary nor an instance map"),
    "soft mask": (soft_mask, "mask is neither binary nor an instance map"),
    "three grey levels": (three_levels, "mask is neither binary nor an instance map"),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_broken_pair_is_refused_by_name_and_its_good_twin_runs(good: Path, name: str) -> None:
    assert prepared(good) == 6
    assert check(good).ok
    damage, what = BREAKAGES[name]
    bad = damage(good)
    with pytest.raises(UserError) as error:
        prepared(good)
    assert str(error.value).startswith(what) and str(bad) in str(error.value)
    assert "\n" not in str(error.value)
    report = check(good)
    assert [problem.where for problem in report.problems] == [str(bad)]
    assert report.problems[0].what.startswith(what)


def test_check_reports_every_problem_at_once(good: Path) -> None:
    image_of(good, 0).write_bytes(b"")
    truncate(image_of(good, 1))
    write_mask(good, np.zeros((8, 8), np.uint8), 2)
    mask_of(good, 3).unlink()
    truncate(mask_of(good, 4))
    truncate(image_of(good, 4))
    report = check(good)
    found = {(problem.what.split(" (")[0], Path(problem.where).name) for problem in report.problems}
    assert found == {
        ("empty file", "ordered_00000.png"),
        ("truncated image file", "ordered_00001.png"),
        ("mask is 8 x 8 pixels, its image 32 x 32", "ordered_00002.png"),
        ("image without mask", "ordered_00003.png"),
        ("truncated image file", "ordered_00004.png"),
    }
    assert len(report.problems) == 6, "image and mask of pair 4 are both reported"
    assert len(report.facts) == 1 and not report.ok
    lines = report.lines()
    assert all(str(problem) in lines for problem in report.problems)
    assert report.as_dict()["pairs"] == 1 and len(report.as_dict()["problems"]) == 6


def test_training_says_how_many_more_problems_there_are(good: Path) -> None:
    image_of(good, 0).write_bytes(b"")
    image_of(good, 1).write_bytes(b"")
    with pytest.raises(UserError, match="1 more: `sage-ray data check` lists all"):
        prepared(good)


def test_missing_folders(tmp_path: Path, good: Path) -> None:
    assert len(load_folder(good)) == 6
    with pytest.raises(UserError, match="no such folder: .*nowhere"):
        check(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no such folder"):
        prepared(image_of(good))
    for name in ("images", "masks"):
        lacking = tmp_path / f"only_{name}"
        (lacking / name).mkdir(parents=True)
        with pytest.raises(UserError, match="no pairs, .* is missing: .*only_"):
            check(lacking)
    hollow = tmp_path / "hollow"
    (hollow / "images").mkdir(parents=True)
    (hollow / "segmaps").mkdir()
    (hollow / "images" / "notes.txt").write_text("no picture")
    with pytest.raises(UserError, match="^no pairs: .*hollow"):
        prepared(hollow)


def test_all_masks_empty_but_one_is_enough(good: Path) -> None:
    for index in range(6):
        write_mask(good, np.zeros((32, 32), np.uint8), index)
    with pytest.raises(UserError, match=f"^all masks are empty: {good}"):
        prepared(good)
    assert [problem.what for problem in check(good).problems] == ["all masks are empty"]
    write_mask(good, np.pad(np.full((8, 8), 255, np.uint8), 12), 0)
    assert prepared(good) == 6
    assert check(good).as_dict()["empty_masks"] == 5
    with pytest.raises(UserError, match="all masks are empty after cleaning"):
        prepared(good, min_object_pixels=65)
    assert prepared(good, min_object_pixels=64) == 6


def test_foreground_only_in_the_cut_off_bar_counts_as_empty(good: Path) -> None:
    bar = np.zeros((32, 32), np.uint8)
    bar[28:] = 255
    for index in range(6):
        write_mask(good, bar, index)
    assert prepared(good, crop_bottom=3) == 6
    with pytest.raises(UserError, match="all masks are empty"):
        prepared(good, crop_bottom=4)
    assert [problem.what for problem in check(good, crop_bottom=4).problems] == ["all masks are empty"]
    with pytest.raises(UserError, match="data.crop_bottom 32 leaves nothing of 32 rows: .*ordered_00000.png"):
        prepared(good, crop_bottom=32)


def test_huge_training_image_is_refused_from_its_header(good: Path) -> None:
    huge = png_header(40_000, 40_000)
    image_of(good).write_bytes(huge)
    mask_of(good).write_bytes(huge)
    limit = Image.MAX_IMAGE_PIXELS
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"too large to train on \(40000 x 40000 pixels\): .*ordered_00002.png"):
        prepared(good)
    assert {problem.where for problem in check(good).problems} == {str(image_of(good)), str(mask_of(good))}
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * (1 if sys.platform == "darwin" else 1024) < 200e6, "1.6 GB of pixels were decoded"
    assert limit == Image.MAX_IMAGE_PIXELS, "Pillow's own guard is left as it was"
    assert MAX_PIXELS < 40_000**2


def test_duplicate_pictures_are_refused_where_images_are_held_out(good: Path) -> None:
    # The same picture saved in another format: other bytes, same pixels.
    Image.open(image_of(good, 1)).save(good / "images" / "copy_00001.tif")
    Image.open(mask_of(good, 1)).save(good / "masks" / "copy_00001.tif")
    with pytest.raises(UserError, match="^duplicate pictures: copy_00001 = ordered_00001: "):
        prepared(good)
    assert [problem.where for problem in check(good).problems] == ["copy_00001 = ordered_00001"]
    assert prepared(good, split={"test": 0, "validation": 0}) == 7
    assert prepared(good, split={"group": "[0-9]+"}) == 7


def test_fewer_images_than_the_split_needs(good: Path) -> None:
    assert prepared(good, split={"folds": 5}) == 6
    with pytest.raises(UserError, match=r"fewer images than folds \(5 beside 1 of the test set, 6 folds\)"):
        prepared(good, split={"folds": 6})
    assert prepared(good, split={"folds": 6, "test": 0}) == 6
    with pytest.raises(UserError, match="fewer groups"):
        prepared(good, split={"group": "ordered"})
    with pytest.raises(UserError, match="group expression does not match ordered_0000"):
        prepared(good, split={"group": "x[0-9]"})
    with pytest.raises(UserError, match="bad regular expression"):
        prepared(good, split={"group": "("})


@pytest.mark.parametrize(
    "path",
    [
        "synthetic://lattice?num=4",
        "synthetic://ordered?num=0",
        "synthetic://ordered?num=4&size=8",
        "synthetic://ordered?num=4&sizes=64",
        "synthetic://ordered?num=4&num=5",
        "synthetic://ordered?num=4.5",
        "synthetic://ordered?seed=-1",
        "synthetic://ordered/more?num=4",
    ],
)
def test_bad_drawn_source(path: str, tmp_path: Path) -> None:
    assert DrawnSource.parse("synthetic://ordered?num=4&size=64&seed=1") == DrawnSource(4, 64, 1)
    with pytest.raises(UserError) as error:
        prepare(DataConfig(path=path), tmp_path)
    assert path in str(error.value)


def test_drawn_source_too_large_for_memory(tmp_path: Path) -> None:
    data = DataConfig(path="synthetic://ordered?num=100000&size=64", image_size=(512, 512))
    with pytest.raises(UserError, match="too many drawn pixels"):
        prepare(data, tmp_path)


def test_unwritable_cache(good: Path) -> None:
    (good.parent / "cache").write_text("a file where the cache should be")
    with pytest.raises(UserError, match="choose a writable --home"):
        prepared(good)


def test_split_that_leaves_no_training_image(good: Path) -> None:
    for index in range(2, 6):
        image_of(good, index).unlink()
        mask_of(good, index).unlink()
    data = DataConfig(path=str(good), image_size=SIZE, split=SplitConfig(test=0.2, validation=0))
    assert len(prepare(data, good.parent / "cache").split.train) == 1
    with pytest.raises(UserError, match=r"fewer images than the parts of the split need \(2, 3 needed\)"):
        prepared(good)
