"""Which mask belongs to which image: usual names, ambiguous ones, `data.masks`, and what is passed over."""

from __future__ import annotations

import tempfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_ray.config import resolve
from sage_ray.data import mask_names
from sage_ray.data.check import check
from sage_ray.data.pairs import (
    find_pairs,
    fingerprint,
    folder_fingerprint,
    hash_files,
    load_folder,
    look_through,
    patterns_for,
)
from sage_ray.data.prepare import prepare
from sage_ray.data.synth import write_dataset
from sage_ray.errors import UserError
from sage_ray.sections import DataConfig

NFC, NFD = (unicodedata.normalize(form, "müller") for form in ("NFC", "NFD"))


def touched(root: Path, *names: str) -> Path:
    """Empty files of these names; nothing of a pairing is decoded."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def paired(root: Path, masks: str = "") -> dict[str, str]:
    """Mask by image, both as names below the folder; there must be no problem."""
    pairs, problems = find_pairs(root, masks)
    assert not problems
    return {pair.image.relative_to(root).as_posix(): pair.mask.relative_to(root).as_posix() for pair in pairs}


LAYOUTS: dict[str, tuple[dict[str, str], str]] = {
    "suffix _mask": ({"images/a.png": "masks/a_mask.png", "images/b.png": "masks/b_mask.png"}, "masks/NAME_mask"),
    "suffix _m, folders that say nothing": (
        {"SEM/a.tif": "drawn/a_m.tif", "SEM/b.tif": "drawn/b_m.tif"},
        "drawn/NAME_m",
    ),
    "suffix -labels": ({"images/a.png": "masks/a-labels.tif"}, "masks/NAME-labels"),
    "suffix _seg in one folder": ({"a.png": "a_seg.png", "b.png": "b_seg.png"}, "NAME_seg"),
    "suffix _gt in one folder": ({"a.png": "a_gt.png"}, "NAME_gt"),
    "suffix of words": ({"a.tif": "a_Simple Segmentation.tif"}, "NAME_simple segmentation"),
    "two suffixes": ({"a.tif": "a_cp_masks.png"}, "NAME_cp_masks"),
    "prefix mask_": ({"a.png": "mask_a.png", "b.png": "mask_b.png"}, "mask_NAME"),
    "prefix label-": ({"images/a.png": "masks/label-a.png"}, "masks/label-NAME"),
    "image and mask named": ({"img_1.png": "mask_1.png", "img_2.png": "mask_2.png"}, "mask_NAME"),
    "words before numbers": ({"image001.png": "mask001.png"}, "maskNAME"),
    "folder labels": ({"images/a.png": "labels/a.png"}, "labels/NAME"),
    "folder gt": ({"input/a.png": "gt/a.png"}, "gt/NAME"),
    "folder beside its twin": ({"TiO2/a.tif": "TiO2_masks/a_m.tif"}, "TiO2_masks/NAME_m"),
    "nnU-Net": ({"imagesTr/a_0000.png": "labelsTr/a.png"}, "labelsTr/NAME"),
    "Pascal VOC": ({"JPEGImages/a.jpg": "SegmentationClass/a.png"}, "SegmentationClass/NAME"),
    "JPEG and PNG of one name": ({"a.jpg": "a.png", "b.jpg": "b.png"}, "NAME"),
    "upper case in folders": ({"Images/a.PNG": "Masks/A.png"}, "Masks/NAME"),
    "upper case in endings": ({"images/a.TIF": "masks/a_MASK.TIFF"}, "masks/NAME_mask"),
    "upper case in names": ({"images/A.png": "masks/a.PNG"}, "masks/NAME"),
    "NFC and NFD": ({f"images/{NFC}.png": f"masks/{NFD}.png"}, "masks/NAME"),
    "NFD and NFC with a suffix": ({f"images/{NFD}.png": f"masks/{NFC}_m.png"}, "masks/NAME_m"),
    "NFD in folders": ({f"{NFD}/images/a.png": f"{NFC}/masks/a.png"}, "masks/NAME"),
    "mask with both endings": ({"images/a.tif": "masks/a.tif.png"}, "masks/NAME"),
    "OME-TIFF": ({"images/a.ome.tif": "masks/a.png"}, "masks/NAME"),
    "both endings and a suffix": ({"a.tif": "a.tif_mask.png"}, "NAME_mask"),
    "sub-folders with both": (
        {"day1/images/a.png": "day1/masks/a.png", "day2/images/a.png": "day2/masks/a.png"},
        "day1/masks/NAME",
    ),
    "sub-folders of both": ({"images/day1/a.png": "masks/day1/a.png", "images/day2/a.png": "masks/day2/a.png"}, "day"),
    "sub-folders, one folder of masks": ({"day1/a.png": "masks/a.png", "day2/b.png": "masks/b.png"}, "masks/NAME"),
    "dots in names": ({"images/1.5nm.png": "masks/1.5nm_m.png", "images/1.6nm.png": "masks/1.6nm_m.png"}, "NAME_m"),
    "a name that ends as a mask's": ({"labels/../a.png": "a_m.png", "a_m_x.png": "a_m_x_m.png"}, "NAME_m"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_usual_layout_is_found_and_said(name: str, tmp_path: Path) -> None:
    wanted, rule = LAYOUTS[name]
    wanted = {image.replace("labels/../", ""): mask for image, mask in wanted.items()}
    touched(tmp_path, *wanted, *wanted.values())
    assert paired(tmp_path) == wanted
    found = look_through(tmp_path)
    assert rule in found.rule and not found.usual and not found.passed_over()


def test_what_was_paired_before_is_paired_so_now(tmp_path: Path) -> None:
    """Also where a file in images/ has a mask's name, and other folders and sub-folders hold pictures."""
    names = ("a", "a_m", "mask_a", "c.x")
    others = ("images/deeper/d.png", "masks/deeper/d.png", "labels/a.png", "segmaps/a.png", "raw/a.png", "a_mask.png")
    touched(tmp_path, *(f"{folder}/{n}.png" for folder in ("images", "masks") for n in names), *others)
    assert paired(tmp_path) == {f"images/{n}.png": f"masks/{n}.png" for n in names}
    assert [pair.stem for pair in find_pairs(tmp_path)[0]] == sorted(names)
    assert look_through(tmp_path).usual


def test_a_fingerprint_is_that_of_all_files(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", num=3, size=32, seed=1)
    pairs = load_folder(data)
    shas = hash_files([pair.image for pair in pairs]), hash_files([pair.mask for pair in pairs])
    assert folder_fingerprint(data) == (fingerprint(list(zip(*shas, strict=True))), 3)
    before = folder_fingerprint(data)
    (data / "masks").rename(data / "labels")
    for path in (data / "labels").iterdir():
        path.rename(path.with_name(f"{path.stem}_seg.png"))
    assert folder_fingerprint(data) == before, "names are no part of it"


AMBIGUOUS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "two masks in one folder": (("a.png", "a_mask.png", "a_gt.png"), ("a_mask.png", "a_gt.png")),
    "two masks in masks/": (
        ("images/a.png", "masks/a_1.png", "masks/a_m.png", "masks/a_seg.png"),
        ("a_m.png", "a_seg"),
    ),
    "two folders of masks": (("images/a.png", "labels/a.png", "gt/a.png"), ("labels/a.png", "gt/a.png")),
    "two images": (("day1/a.png", "day2/a.png", "masks/a.png"), ("day1/a.png", "day2/a.png")),
    "folders that say nothing": (("A/a.png", "B/a.png"), ("A/a.png", "B/a.png")),
    "two pictures of one name": (("a.png", "a.tif"), ("a.png", "a.tif")),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_an_ambiguous_pairing_is_refused_with_its_candidates(name: str, tmp_path: Path) -> None:
    files, candidates = AMBIGUOUS[name]
    touched(tmp_path, *files)
    with pytest.raises(UserError, match="^ambiguous pairing, ") as error:
        load_folder(tmp_path)
    text = str(error.value)
    assert all(candidate in text for candidate in candidates) and "data.masks=" in text and "\n" not in text


PATTERNS = {
    "*_m.tif": {"SEM/a.tif": "B/a_m.tif"},
    "B/*_m.tif": {"SEM/a.tif": "B/a_m.tif"},
    "b/*_M": {"SEM/a.tif": "B/a_m.tif"},
    "{name}_m.tif": {"SEM/a.tif": "B/a_m.tif"},
    "B/*": {"A/a.png": "B/a.png"},
    "*/masks/*": {"day1/x/a.png": "day1/masks/a.png", "day2/x/b.png": "day2/masks/b.png"},
    "**/gt of *.png": {"a.png": "x/y/gt of a.png"},
    "*_gt.png | *_truth.png": {"a.png": "a_gt.png", "b.png": "b_truth.png"},
    "*.roi": {"a.png": "a.roi"},
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_masks_are_where_the_setting_says(pattern: str, tmp_path: Path) -> None:
    wanted = PATTERNS[pattern]
    touched(tmp_path, *wanted, *wanted.values())
    assert paired(tmp_path, pattern) == wanted


def test_the_setting_decides_an_ambiguous_pairing(tmp_path: Path) -> None:
    touched(tmp_path, "a.png", "a_mask.png", "a_gt.png")
    assert paired(tmp_path, "*_gt.png") == {"a.png": "a_gt.png"}
    assert look_through(tmp_path, "*_gt.png").passed_over() == "1 file passed over: 1 image without a mask (a_mask.png)"


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        ("x_*", "data.masks fits no file: x_*"),
        ("masks/a.png", "bad pattern of data.masks"),
        ("a*b*", "bad pattern"),
        ("*b.png", "no image for the masks"),
    ],
)
def test_a_pattern_that_fits_nothing_is_one_clear_line(pattern: str, what: str, tmp_path: Path) -> None:
    touched(tmp_path, "a.png", "xb.png")
    with pytest.raises(UserError) as error:
        find_pairs(tmp_path, pattern)
    assert str(error.value).startswith(what) and "\n" not in str(error.value)


def test_the_patterns_of_one_folder_are_taken_for_another_only_if_they_fit(tmp_path: Path) -> None:
    like, unlike = touched(tmp_path / "like", "A/a.png", "B/a.png"), touched(tmp_path / "unlike", "a.png", "a_m.png")
    assert patterns_for(like, "B/*") == "B/*"
    assert patterns_for(unlike, "B/*") == patterns_for(like, "") == patterns_for("synthetic://ordered", "B/*") == ""


def test_a_folder_of_very_many_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touched(tmp_path, "images/a.png", "masks/a.png", "x.txt", "y.txt")
    monkeypatch.setattr("sage_ray.data.folder_files.MAX_FILES", 3)
    assert "more than 3 files in the folder" in look_through(tmp_path).passed_over()
    with pytest.raises(UserError, match="^more than 3 files in the folder"):
        look_through(tmp_path, "masks/*")


def test_the_setting_changes_no_hash_while_it_is_not_used() -> None:
    config = resolve("tiny_unet").config
    assert "masks" not in config.identity()["data"]
    assert config.with_values({"data.masks": "*_m.png"}).config_hash() != config.config_hash()


def test_files_passed_over_are_counted_by_kind(tmp_path: Path) -> None:
    touched(
        tmp_path, "b.png", "b_mask.png", "a.png", *(f"{n}.txt" for n in range(8)), "x/1.db", "x/2.db", "3.DB", ".hid"
    )
    found = look_through(tmp_path)
    assert found.passed_over() == "12 files passed over: 8 .txt, 3 .db, 1 image without a mask (a.png)"
    touched(tmp_path, "notes", "sage_runs/cache/a_mask.png", "home/mlflow.db", "home/a_seg.png")
    assert look_through(tmp_path).passed_over().startswith("13 files passed over: 8 .txt, ")


def test_files_that_lack_a_partner_are_problems_where_a_folder_promises_one(tmp_path: Path) -> None:
    touched(tmp_path, "images/a.png", "images/b.png", "labels/a.png", "labels/c.png")
    _, problems = find_pairs(tmp_path)
    assert [(p.what, Path(p.where).name) for p in problems] == [
        ("image without mask", "b.png"),
        ("mask without image", "c.png"),
    ]


def test_nothing_to_pair_says_what_is_there(tmp_path: Path) -> None:
    touched(tmp_path, "a.png", "day2/c.png", "b.xcf", "d.dm9")
    with pytest.raises(UserError) as error:
        check(tmp_path)
    assert str(error.value).startswith("no pairs, masks are missing (2 without: a.png, day2/c.png): ")
    assert str(error.value).endswith("2 files passed over: 1 .dm9 (d.dm9), 1 .xcf (b.xcf)")


def test_training_reads_masks_by_their_names_and_says_so(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", num=6, size=32, seed=3)
    plain = prepare(DataConfig(path=str(data), image_size=(32, 32)), tmp_path / "cache")
    for path in sorted((data / "masks").iterdir()):
        path.rename(data / f"{path.stem}_m.png")
    for path in sorted((data / "images").iterdir()):
        path.rename(data / path.name)
    (data / "notes.txt").touch()
    said: list[str] = []
    config = DataConfig(path=str(data), image_size=(32, 32))
    named = prepare(config, tmp_path / "cache", say=said.append)
    assert named.fingerprint == plain.fingerprint and named.split.split_id == plain.split.split_id
    rule = "all 6 masks are named NAME_m, NAME being the image's name"
    assert said == [f"{data}: {rule}", f"{data}: 1 file passed over: 1 .txt (notes.txt)"]
    report = check(data)
    assert report.ok and report.rule == rule and f"pairing: {rule}" in report.lines()
    assert report.as_dict()["warnings"] == ["1 file passed over: 1 .txt (notes.txt)"]
    assert prepare(config.model_copy(update={"masks": "*_m.png"}), tmp_path / "cache").fingerprint == plain.fingerprint


WORDS = st.text("abcdxyzäéñ0123456789", min_size=1, max_size=6)
NAMES = st.lists(
    WORDS.filter(lambda name: not any(mask_names.mask_readings(name)) and not mask_names.image_readings(name)),
    min_size=1,
    max_size=4,
    unique_by=mask_names.folded,
)
AFFIXES = (
    "{}_m",
    "{}_mask",
    "mask_{}",
    "{}-labels",
    "{}_seg",
    "{}_gt",
    "{} mask",
    "{}_CP_masks",
    "Label_{}",
    "{}.mask",
)


@given(
    names=NAMES,
    places=st.lists(st.sampled_from(["", "day1/", "day 2/x/"]), min_size=4, max_size=4),
    folders=st.sampled_from(
        [("images", "masks"), ("Images", "LABELS"), ("raw", "gt"), ("data", "data_masks"), ("", "")]
    ),
    affix=st.sampled_from(("{}", *AFFIXES)),
    endings=st.sampled_from([(".png", ".png"), (".tif", ".tif.png"), (".ome.tif", ".png"), (".JPG", ".PNG")]),
    forms=st.sampled_from([("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC")]),
    upper=st.booleans(),
    outside=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_layout_made_of_the_rules_is_paired_rightly(
    names: list[str],
    places: list[str],
    folders: tuple[str, str],
    affix: str,
    endings: tuple[str, str],
    forms: tuple[str, str],
    upper: bool,
    outside: bool,
) -> None:
    if not folders[1] and affix == "{}":
        affix = "{}_mask"
    wanted = {}
    for name, place in zip(names, places, strict=False):
        image, mask = (unicodedata.normalize(form, name) for form in forms)
        mask = affix.format(mask.upper() if upper else mask)
        inner = [f"{place}{folder}/" if outside else f"{folder}/{place}" for folder in folders]
        wanted[f"{inner[0]}{image}{endings[0]}".lstrip("/")] = f"{inner[1]}{mask}{endings[1]}".lstrip("/")
    with tempfile.TemporaryDirectory() as folder:
        root = touched(Path(folder), *wanted, *wanted.values(), "notes.txt")
        assert paired(root) == {str(Path(i)): str(Path(m)) for i, m in wanted.items()}
        assert look_through(root).passed_over() == "1 file passed over: 1 .txt (notes.txt)"


def test_a_folder_named_like_a_picture_is_none(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(b"x")
    (tmp_path / "images" / "thumbs.png").mkdir()
    found = look_through(tmp_path)
    assert [pair.stem for pair in found.pairs] == ["a"] and not found.problems
