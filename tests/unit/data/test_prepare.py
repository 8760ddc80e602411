"""`prepare`: arrays, fingerprint, cache, damage, renamed files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prepare_cases import NUM, config_of, entries, pairs_in

from sage_ray.data.check import check
from sage_ray.data.manifest import COLUMNS, manifest, read_manifest, write_manifest
from sage_ray.data.prepare import PreparedData, prepare
from sage_ray.data.preprocess import prepare_image, prepare_mask
from sage_ray.data.synth import draw_pair, write_dataset
from sage_ray.errors import UserError
from sage_ray.files import sha256_of
from sage_ray.identity import identity_tree
from sage_ray.sections import DataConfig


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return pairs_in(tmp_path / "data")


def same(a: PreparedData, b: PreparedData) -> bool:
    return np.array_equal(a.images, b.images) and np.array_equal(a.masks, b.masks) and a.shas == b.shas


def test_rows_are_the_prepared_files_sorted_by_contents(folder: Path, tmp_path: Path) -> None:
    data = prepare(config_of(folder, mask_erosion=2, min_object_pixels=4), tmp_path / "cache")
    assert data.images.shape == data.masks.shape == (NUM, 32, 48)
    assert data.images.dtype == data.masks.dtype == np.uint8 and set(np.unique(data.masks)) == {0, 1}
    assert list(data.shas) == sorted(data.shas) and len(set(data.stems)) == NUM
    for row, stem in enumerate(data.stems):
        image_file, mask_file = folder / "images" / f"{stem}.png", folder / "segmaps" / f"{stem}.png"
        assert data.shas[row] == sha256_of(image_file)
        np.testing.assert_array_equal(data.images[row], prepare_image(np.asarray(Image.open(image_file)), (32, 48)))
        labels = np.asarray(Image.open(mask_file))
        want = prepare_mask(labels, (32, 48), erosion=2, min_object_pixels=4)
        np.testing.assert_array_equal(data.masks[row], want)
        assert data.facts[row].coverage == pytest.approx((labels > 0).mean())
        assert data.facts[row].objects == labels.max()
    with pytest.raises(ValueError, match="read-only"):
        data.images[0, 0, 0] = 1


def test_images_of_different_sizes(folder: Path, tmp_path: Path) -> None:
    for index, (rows, columns) in enumerate(((20, 70), (64, 33))):
        pair = draw_pair(np.random.default_rng(index), 80)
        for name, values in (("images", pair.image), ("segmaps", pair.labels)):
            Image.fromarray(values[:rows, :columns]).save(folder / name / f"other{index}.png")
    data = prepare(config_of(folder), tmp_path / "cache")
    assert data.images.shape == (NUM + 2, 32, 48)
    assert {(fact.rows, fact.columns) for fact in data.facts} == {(40, 40), (20, 70), (64, 33)}


def test_second_call_reads_the_cache_and_decodes_nothing(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = prepare(config_of(folder), cache)
    (key,) = entries(cache)
    stamp = (cache / key / "meta.json").stat().st_mtime_ns
    assert same(first, prepare(config_of(folder), cache))
    assert (cache / key / "meta.json").stat().st_mtime_ns == stamp and entries(cache) == [key]
    for values in ({"mask_erosion": 2}, {"min_object_pixels": 20}, {"crop_bottom": 3}, {"image_size": (32, 32)}):
        before = len(entries(cache))
        prepare(config_of(folder, **values), cache)
        assert len(entries(cache)) == before + 1, values
    prepare(config_of(folder, split={"seed": 5}), cache)
    assert len(entries(cache)) == 5, "the split is no part of the decoded images"


def test_fingerprint_and_split_follow_contents_not_names(folder: Path, tmp_path: Path) -> None:
    first = prepare(config_of(folder), tmp_path / "cache")
    renamed = tmp_path / "renamed"
    for name in ("images", "segmaps"):
        (renamed / name).mkdir(parents=True)
        for index, path in enumerate(sorted((folder / name).iterdir())):
            shutil.copy(path, renamed / name / f"{(index * 5) % NUM}_new.png")
    second = prepare(config_of(renamed), tmp_path / "cache")
    assert second.fingerprint == first.fingerprint and second.split.split_id == first.split.split_id
    assert second.shas == first.shas and second.stems != first.stems
    assert len(entries(tmp_path / "cache")) == 1
    path = folder / "segmaps" / f"{first.stems[0]}.png"
    labels = np.array(Image.open(path))
    labels[0, 0] = 0 if labels[0, 0] else 1
    Image.fromarray(labels).save(path)
    third = prepare(config_of(folder), tmp_path / "cache")
    assert third.fingerprint != first.fingerprint and third.shas == first.shas


def test_same_size_change_is_seen(folder: Path, tmp_path: Path) -> None:
    """The kept hashes must not hide a file that changed: same name, same length."""
    path = folder / "images" / "ordered_00000.bmp"
    old = folder / "images" / "ordered_00000.png"
    image = np.array(Image.open(old))
    old.unlink()
    Image.fromarray(image).save(path)
    first = prepare(config_of(folder), tmp_path / "cache")
    image[0, 0] ^= 1
    Image.fromarray(image).save(path)
    assert prepare(config_of(folder), tmp_path / "cache").fingerprint != first.fingerprint


@pytest.mark.parametrize("damage", ["flip", "cut", "lost", "meta", "format"])
def test_damaged_cache_is_built_again_and_said(folder: Path, tmp_path: Path, damage: str) -> None:
    cache, said = tmp_path / "cache", []
    first = prepare(config_of(folder), cache)
    images = np.array(first.images)
    (key,) = entries(cache)
    target = cache / key / ("meta.json" if damage in ("meta", "format") else "images.npy")
    content = bytearray(target.read_bytes())
    if damage == "flip":
        content[-100] ^= 1
    elif damage == "format":
        content = bytearray(content.replace(b'"format_version": 1', b'"format_version": 0'))
    else:
        content = content[: len(content) // 2]
    target.unlink()
    if damage != "lost":
        target.write_bytes(content)
    again = prepare(config_of(folder), cache, say=said.append)
    np.testing.assert_array_equal(again.images, images)
    assert len(said) == 1 and "damaged cache" in said[0] and key in said[0]
    said.clear()
    prepare(config_of(folder), cache, say=said.append)
    assert not said and entries(cache) == [key]


def test_left_overs_of_a_killed_builder_are_removed(folder: Path, tmp_path: Path) -> None:
    prepare(config_of(folder), tmp_path / "cache")
    (key,) = entries(tmp_path / "cache")
    left = tmp_path / "cache" / f".{key}.killed"
    left.mkdir()
    (left / "images.npy").write_bytes(b"half")
    shutil.rmtree(tmp_path / "cache" / key)
    prepare(config_of(folder), tmp_path / "cache")
    assert entries(tmp_path / "cache") == [key]


def test_drawn_source_equals_the_written_folder(tmp_path: Path) -> None:
    config = DataConfig(path="synthetic://ordered?num=8&size=48&seed=2", image_size=(32, 32))
    drawn = prepare(config, tmp_path / "cache")
    written = write_dataset(tmp_path / "out", num=8, size=48, seed=2)
    read = prepare(DataConfig(path=str(written), image_size=(32, 32)), tmp_path / "cache")
    by_stem = {stem: row for row, stem in enumerate(read.stems)}
    for row, stem in enumerate(drawn.stems):
        np.testing.assert_array_equal(drawn.images[row], read.images[by_stem[stem]])
        np.testing.assert_array_equal(drawn.masks[row], read.masks[by_stem[stem]])
    assert list(drawn.shas) == sorted(drawn.shas) and len(drawn.fingerprint) == 16
    again = prepare(config, tmp_path / "cache")
    assert again.fingerprint == drawn.fingerprint and again.stems == drawn.stems
    with pytest.raises(UserError, match="leaves nothing of 48 rows"):
        prepare(DataConfig(path="synthetic://ordered?num=8&size=48", crop_bottom=48), tmp_path / "cache")


def test_manifest_tells_every_image_and_its_part(folder: Path, tmp_path: Path) -> None:
    data = prepare(config_of(folder), tmp_path / "cache")
    table, facts = read_manifest(write_manifest(data, tmp_path / "manifest.parquet"))
    assert tuple(table.columns) == COLUMNS and table.equals(manifest(data))
    assert facts == {"fingerprint": data.fingerprint, "split_id": data.split.split_id, "format_version": "1"}
    assert list(table["image_sha256"]) == list(data.shas)
    assert [table["part"].tolist().count(part) for part in ("train", "validation", "test")] == [
        len(data.split.train), len(data.split.validation), len(data.split.test),
    ]  # fmt: skip
    for row in table.itertuples():
        assert (folder / "images" / row.image_file).is_file() and (folder / "segmaps" / row.mask_file).is_file()
        assert sha256_of(folder / "segmaps" / row.mask_file) == row.mask_sha256
        assert (row.rows, row.columns) == (40, 40) and 0 < row.coverage < 1 and row.objects > 0
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="unreadable manifest"):
        read_manifest(tmp_path / "broken.parquet")


@pytest.mark.real
def test_real_micrographs(emps: Path, tmp_path: Path) -> None:
    config = DataConfig(path=str(emps), image_size=(64, 96))
    data = prepare(config, tmp_path / "cache")
    total = len(list((emps / "images").glob("*.png")))
    assert data.images.shape == (total, 64, 96)
    validation, test = round(config.split.validation * total), round(config.split.test * total)
    parts = data.split.train, data.split.validation, data.split.test
    assert [len(part) for part in parts] == [total - validation - test, validation, test]
    coverages = np.array([fact.coverage for fact in data.facts])
    for part in (data.split.validation, data.split.test):
        assert abs(coverages[part].mean() - coverages.mean()) < 0.05


def test_the_stretch_is_part_of_the_cache_and_of_no_older_name(folder: Path, tmp_path: Path) -> None:
    """One hot pixel: with `percentile` the others keep their contrast, and the default keeps hash and numbers."""
    name = sorted(path.stem for path in (folder / "images").iterdir())[0]
    path = folder / "images" / f"{name}.png"
    deep = np.asarray(Image.open(path)).astype(np.uint16) * 10
    deep[0, 0] = 65535
    Image.fromarray(deep).save(path)
    said: list[str] = []
    usual = prepare(config_of(folder), tmp_path / "cache", say=said.append)
    steady = prepare(config_of(folder, stretch="percentile"), tmp_path / "cache", say=said.append)
    row = usual.stems.index(name)
    assert usual.fingerprint == steady.fingerprint and usual.split.split_id == steady.split.split_id
    assert steady.images[row].std() > 5 * usual.images[row].std()
    (line,) = said
    assert f"{name}.png: 1 pixel takes 9" in line and "data.stretch=percentile" in line
    given = DataConfig(path="a", stretch="minmax")
    assert identity_tree(given) == identity_tree(DataConfig(path="a")) and "stretch" not in identity_tree(given)
    assert identity_tree(DataConfig(path="a", stretch="percentile"))["stretch"] == "percentile"
    assert check(folder).as_dict()["warnings"] == [line] and line in check(folder).lines()
