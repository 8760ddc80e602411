"""Every kind of image and mask file reads as the same pixels; grey values are told from labels."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from emps_cases import EmpsFacts
from PIL import Image, ImageFilter

from sage_ray.data.check import check
from sage_ray.data.images import BadFile, read_image
from sage_ray.data.masks import classify_values, read_mask
from sage_ray.data.pairs import find_pairs
from sage_ray.data.preprocess import prepare_image, prepare_mask, stretch
from sage_ray.data.synth import DrawnSource

PAIR = DrawnSource(1, 48, 5).draw(0)


def colour(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def alpha(grey: np.ndarray) -> np.ndarray:
    return np.concatenate([colour(grey), np.full((*grey.shape, 1), 90, np.uint8)], axis=2)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF", ".bmp", ".jpg", ".JPEG"])
@pytest.mark.parametrize("make", [np.asarray, colour])
def test_image_formats(tmp_path: Path, suffix: str, make: object) -> None:
    path = tmp_path / f"a{suffix}"
    options = {"quality": 100, "subsampling": 0} if suffix.lower() in (".jpg", ".jpeg") else {}
    Image.fromarray(make(PAIR.image)).save(path, **options)  # type: ignore[operator]
    difference = np.abs(read_image(path).astype(int) - PAIR.image)
    assert difference.max() <= (3 if options else 0)


def test_image_with_alpha_palette_and_16_bit(tmp_path: Path) -> None:
    Image.fromarray(alpha(PAIR.image)).save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), PAIR.image)
    Image.fromarray(PAIR.image).convert("P").save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), PAIR.image)
    deep = PAIR.image.astype(np.uint16) * 200 + 17
    for name in ("deep.png", "deep.tif"):
        Image.fromarray(deep).save(tmp_path / name)
        read = read_image(tmp_path / name)
        assert read.dtype == np.uint16
        np.testing.assert_array_equal(read, deep)
    Image.fromarray(PAIR.image.astype(np.float32) / 255).save(tmp_path / "float.tif")
    np.testing.assert_array_equal(stretch(read_image(tmp_path / "float.tif")), stretch(PAIR.image / np.float32(255)))
    Image.fromarray(np.full((20, 20), np.nan, np.float32)).save(tmp_path / "nan.tif")
    with pytest.raises(BadFile, match="not finite: .*nan.tif"):
        read_image(tmp_path / "nan.tif")


def mask_variants() -> dict[str, tuple[np.ndarray | Image.Image, str]]:
    mask, labels = PAIR.mask, PAIR.labels
    palette = Image.fromarray(labels.astype(np.uint8), mode="L").convert("P")
    rng = np.random.default_rng(0)
    colours = np.vstack([[[0, 0, 0]], rng.integers(1, 255, (int(labels.max()), 3))]).astype(np.uint8)
    palette.putpalette(colours[np.minimum(np.arange(256), len(colours) - 1)].ravel().tolist())
    return {
        "0 and 255": (mask * np.uint8(255), ".png"),
        "0 and 1": (mask, ".png"),
        "0 and 128": (mask * np.uint8(128), ".bmp"),
        "one bit": (Image.fromarray(mask.astype(bool)), ".tif"),
        "colour": (colour(mask * np.uint8(255)), ".png"),
        "with alpha": (alpha(mask * np.uint8(255)), ".png"),
        "labels 8 bit": (labels.astype(np.uint8), ".png"),
        "labels 16 bit": (labels, ".png"),
        "labels 16 bit TIFF": (labels, ".tif"),
        "labels as float": (labels.astype(np.float32), ".tif"),
        "coloured labels": (colours[labels], ".png"),
        "palette of labels": (palette, ".png"),
    }


@pytest.mark.parametrize("name", mask_variants())
def test_mask_formats(tmp_path: Path, name: str) -> None:
    values, suffix = mask_variants()[name]
    picture = values if isinstance(values, Image.Image) else Image.fromarray(values)
    picture.save(tmp_path / f"mask{suffix}")
    mask = read_mask(tmp_path / f"mask{suffix}")
    np.testing.assert_array_equal(mask.foreground, PAIR.mask > 0)
    assert mask.foreground.dtype == bool
    if "label" in name:
        assert mask.objects == PAIR.labels.max()
    else:
        assert 0 < mask.objects <= PAIR.labels.max(), "touching particles are one object of a binary mask"


@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize("seed", range(6))
def test_grey_masks_are_told_from_labels(size: int, seed: int) -> None:
    """Across drawn layouts: labels in any order and at a quarter of the size pass, all kinds of softened masks fail."""
    pair = DrawnSource(1, size, seed).draw(0)
    shuffled = np.r_[0, np.random.default_rng(seed).permutation(int(pair.labels.max())) + 1]
    few = np.where(pair.labels > 3, pair.labels, 0)
    for values in (pair.labels, shuffled[pair.labels], pair.labels[::4, ::4], few):
        np.testing.assert_array_equal(classify_values(values).foreground, values > 0)
    binary = Image.fromarray(pair.mask * np.uint8(255))
    jpeg = io.BytesIO()
    binary.save(jpeg, format="JPEG", quality=85)
    soft = {
        "jpeg": np.asarray(Image.open(jpeg)),
        "blur": np.asarray(binary.filter(ImageFilter.GaussianBlur(2))),
        "resized": np.asarray(binary.resize((size - 5, size - 3), Image.Resampling.BILINEAR)),
        "image": pair.image,
    }
    for name, values in soft.items():
        with pytest.raises(BadFile, match="neither binary nor an instance map"):
            classify_values(values, name)


def test_all_foreground_and_no_background() -> None:
    assert classify_values(np.full((8, 8), 255, np.uint8)).foreground.all()
    two = np.ones((8, 8), np.uint8)
    two[4:] = 2
    with pytest.raises(BadFile, match="no background value 0"):
        classify_values(two)
    with pytest.raises(BadFile, match="negative"):
        classify_values(np.pad(np.array([[-1, 2], [3, 4]], np.int32), 3))


def test_pairs_are_found_by_stem_whatever_the_format(tmp_path: Path) -> None:
    for name in ("images", "segmaps", "unrelated"):
        (tmp_path / name).mkdir()
    for stem, suffix in (("b", ".tif"), ("a", ".JPG"), ("c.x", ".png")):
        Image.fromarray(PAIR.image).save(tmp_path / "images" / f"{stem}{suffix}")
        Image.fromarray(PAIR.labels).save(tmp_path / "segmaps" / f"{stem}.png")
    (tmp_path / "images" / ".DS_Store").write_bytes(b"")
    (tmp_path / "images" / "readme.txt").write_text("notes")
    pairs, problems = find_pairs(tmp_path)
    assert [pair.stem for pair in pairs] == ["a", "b", "c.x"] and not problems
    assert check(tmp_path).facts[0].objects == PAIR.labels.max()
    (tmp_path / "masks").mkdir()
    assert len(find_pairs(tmp_path)[1]) == 3, "masks/ goes before segmaps/"


def test_stretch_is_the_formula_for_every_depth() -> None:
    rng = np.random.default_rng(1)
    for dtype, high in ((np.uint8, 255), (np.uint16, 65535)):
        image = rng.integers(3, high, (40, 50)).astype(dtype)
        low, top = float(image.min()), float(image.max())
        want = (255 * (image.astype(np.float64) - low) / (top - low + 1e-6)).astype(np.uint8)
        np.testing.assert_array_equal(stretch(image), want)
        np.testing.assert_array_equal(stretch(image.astype(np.float64)), want)
    assert not stretch(np.full((4, 4), 7, np.uint8)).any()


def test_information_bar_is_cut_before_the_stretch() -> None:
    image = np.full((20, 16), 100, np.uint8)
    image[0, 0], image[16:] = 50, 255
    prepared = prepare_image(image, (16, 16), crop_bottom=4)
    assert prepared[0, 0] == 0 and prepared[8, 8] == 254
    mask = np.zeros((20, 16), np.uint8)
    mask[17:] = 1
    assert prepare_mask(mask, (16, 16)).any() and not prepare_mask(mask, (16, 16), crop_bottom=4).any()


def test_mask_cleaning_by_hand() -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[0:3, 0:3] = 1
    mask[5:7, 5:8] = 1
    # Erosion by 2 ignores what is outside: the block at the corner keeps its first row and column.
    want = np.zeros((8, 8), np.uint8)
    want[0:3, 0:3] = 1
    want[6, 6:8] = 1
    np.testing.assert_array_equal(prepare_mask(mask, (8, 8), erosion=2), want)
    np.testing.assert_array_equal(prepare_mask(mask, (8, 8), erosion=1), mask)
    assert prepare_mask(mask, (8, 8), min_object_pixels=6).sum() == 15
    assert prepare_mask(mask, (8, 8), min_object_pixels=7).sum() == 9
    assert set(np.unique(prepare_mask(mask * 9, (5, 5)))) <= {0, 1}


@pytest.mark.real
def test_real_micrographs_have_no_problem(emps: Path, emps_facts: EmpsFacts | None) -> None:
    report = check(emps)
    assert report.ok, report.lines()
    objects = report.as_dict()["objects"]["total"]
    assert objects >= len(report.facts) > 1
    if emps_facts is not None:
        assert (len(report.facts), objects) == (emps_facts.pairs, emps_facts.objects)
