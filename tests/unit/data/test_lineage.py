"""Extra pairs that know images of the locked test, or of the validation part, are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_cases import tiny_config

from sage_ray.data.lineage import (
    UNKNOWN,
    Lineage,
    check_contents,
    check_lineage,
    handed_on,
    lineage_of_model,
    read_lineage,
    write_lineage,
)
from sage_ray.data.manifest import write_manifest
from sage_ray.data.prepare import PreparedData, prepare
from sage_ray.errors import UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepare(tiny_config().data, tmp_path_factory.mktemp("cache"))


def first(data: PreparedData, part: str) -> int:
    return int(getattr(data.split, part)[0])


@pytest.mark.parametrize("list_name", ["trained_on", "chosen_on", "source_masks"])
def test_a_lineage_that_meets_the_locked_test_is_refused(data: PreparedData, list_name: str) -> None:
    met = Lineage("generator", **{list_name: ("0" * 64, data.shas[first(data, "test")])})
    with pytest.raises(UserError, match=r"1 of the 3 images of the locked test part: here: make them"):
        check_lineage(met, data, "here")


def test_a_mask_file_of_the_locked_test_is_refused(data: PreparedData) -> None:
    met = Lineage("generator", source_mask_files=(data.facts[first(data, "test")].mask_sha,))
    with pytest.raises(UserError, match="locked test"):
        check_lineage(met, data, "here")


def test_of_the_validation_part_no_image_may_be_learned_from_but_weights_be_chosen_on_it(data: PreparedData) -> None:
    sha = data.shas[first(data, "validation")]
    check_lineage(Lineage("generator", chosen_on=(sha,)), data, "here")
    for list_name in ("trained_on", "source_masks"):
        with pytest.raises(UserError, match="validation part"):
            check_lineage(Lineage("generator", **{list_name: (sha,)}), data, "here")


def test_what_a_maker_has_seen_are_pictures_without_masks_and_mask_files_too() -> None:
    known = Lineage("generator", True, ("a",), ("b",), ("c",), ("d",), ("e",))
    assert known.seen == set("abcde")
    rendered = Lineage.of({"maker": "renderer", "trained_on": ["a"], "sizes_from_masks_of": ["b"]})
    assert rendered.seen == {"a", "b"} and not rendered.trained_on


def test_the_training_part_may_be_known_wholly(data: PreparedData) -> None:
    shas = tuple(data.shas[i] for i in data.split.train)
    check_lineage(Lineage("generator", trained_on=shas, source_masks=shas), data, "here")
    check_contents(data.masks[data.split.train], [], data, "here")


@pytest.mark.parametrize(("part", "says"), [("test", "locked test"), ("validation", "validation")])
def test_pictures_and_masks_of_the_other_parts_are_found_by_their_contents(
    data: PreparedData, part: str, says: str
) -> None:
    row = first(data, part)
    none, fact = np.zeros((1, 32, 32), np.uint8), data.facts[row]
    for shas in ((fact.image_sha, "x"), ("x", fact.pixel_sha)):
        with pytest.raises(UserError, match=f"hold 1 of the .* images of the {says} part"):
            check_contents(none, [shas], data, "here")
    with pytest.raises(UserError, match=f"show 1 masks of the {says} part"):
        check_contents(np.array(data.masks[[row, data.split.train[0]]]), [], data, "here")
    check_contents(np.concatenate([none, none + 1]), [("x", "y")], data, "here")


def test_a_mask_that_the_training_part_has_too_tells_nothing(data: PreparedData) -> None:
    masks = np.array(data.masks)
    masks[first(data, "test")] = masks[first(data, "train")]
    check_contents(masks[[first(data, "train")]], [], replace(data, masks=masks), "here")


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """Three training images have masks, eight are without."""
    return prepare(tiny_config("data.split.labels=3").data, tmp_path_factory.mktemp("cache"))


def test_masks_that_labels_leave_out_are_not_known_by_another_way(few: PreparedData) -> None:
    hidden = tuple(few.shas[i] for i in few.split.unlabelled)
    for list_name in ("trained_on", "source_masks"):
        with pytest.raises(UserError, match="come from 8 of the 8 images of the unlabelled part"):
            check_lineage(Lineage("generator", **{list_name: hidden}), few, "here")
    with pytest.raises(UserError, match="show 1 masks of the unlabelled part"):
        check_contents(np.array(few.masks[few.split.unlabelled[:1]]), [], few, "here")
    # Their pictures may be known.
    check_lineage(Lineage("generator", unlabelled=hidden), few, "here")
    check_lineage(Lineage.of({"maker": "renderer", "trained_on": hidden}), few, "here")
    with pytest.raises(UserError, match="unlabelled part"):
        check_lineage(Lineage.of({"maker": "renderer", "sizes_from_masks_of": hidden}), few, "here")


def test_pictures_that_were_learned_from_without_masks_may_not_be_those_of_the_test(data: PreparedData) -> None:
    sha = data.shas[first(data, "test")]
    for lineage in (
        Lineage("generator", unlabelled=(sha,)),
        Lineage.of({"maker": "renderer", "trained_on": [sha]}),
        Lineage("generator").also(Lineage("renderer", unlabelled=(sha,))),
    ):
        with pytest.raises(UserError, match="locked test"):
            check_lineage(lineage, data, "here")


def test_a_model_tells_images_without_masks_and_that_it_began_with_weights(few: PreparedData, tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    artifacts.mkdir()
    write_manifest(few, artifacts / "manifest.parquet")
    told = lineage_of_model(artifacts / "model")
    assert told.known and len(told.trained_on) == 3 and len(told.unlabelled) == 8
    (tmp_path / "config.yaml").write_text("pretrain: {epochs: 0, checkpoint: other}")
    assert not lineage_of_model(artifacts / "model").known
    (artifacts / "manifest.parquet").unlink()
    (tmp_path / "config.yaml").unlink()
    for checkpoint, known in ((None, True), ("other", False)):
        provenance = {"seen_shas": ["a"], "config": {"pretrain": {"checkpoint": checkpoint}}}
        (artifacts / "provenance.json").write_text(json.dumps(provenance))
        assert lineage_of_model(artifacts / "model").known is known


def test_a_folder_tells_its_lineage_or_none(tmp_path: Path) -> None:
    assert read_lineage(tmp_path) == UNKNOWN
    told = Lineage("generator", True, ("a", "b"), ("c",), ("d",), ("e",))
    write_lineage(tmp_path, told)
    assert read_lineage(tmp_path) == told
    (tmp_path / "lineage.json").write_text(json.dumps({"format_version": 99}))
    with pytest.raises(UserError, match="unreadable lineage"):
        read_lineage(tmp_path)


def test_what_a_maker_learned_from_extra_pairs_counts() -> None:
    own, extra = Lineage("generator", trained_on=("a",)), Lineage("drawn", False, ("b",), ("c",), ("d",), ("e",))
    assert own.also(extra) == Lineage("generator", False, ("a", "b", "d"), ("c",), (), ("e",))


def write_model(place: Path, data: PreparedData, part: str, checkpoint: Path | None = None) -> Path:
    """The folder of a model of a run, trained on one part of the data, that may have started from another model's."""
    folder = place / "artifacts" / "model"
    folder.mkdir(parents=True)
    only = replace(data.split, **{name: np.array([], np.int64) for name in ("train", "validation", "test")})
    write_manifest(replace(data, split=replace(only, **{part: data.split.test})), folder.parent / "manifest.parquet")
    text = "pretrain: {}" if checkpoint is None else f"pretrain: {{checkpoint: {checkpoint}/segmenter.safetensors}}"
    (place / "config.yaml").write_text(text)
    return folder


def test_a_model_knows_what_the_segmenter_knew_that_it_started_from(data: PreparedData, tmp_path: Path) -> None:
    first = write_model(tmp_path / "first", data, "train")
    second = write_model(
        tmp_path / "second", replace(data, split=replace(data.split, test=data.split.train)), "train", first
    )
    third = write_model(tmp_path / "third", data, "validation", second)
    tested = {data.shas[i] for i in data.split.test}
    assert set(handed_on(third).trained_on) == tested | {data.shas[i] for i in data.split.train}
    assert handed_on(first) == Lineage("model")
    with pytest.raises(UserError, match="locked test"):
        check_lineage(lineage_of_model(second), data, "here")
    file = tmp_path / "elsewhere" / "segmenter.safetensors"
    assert not lineage_of_model(write_model(tmp_path / "last", data, "train", file.parent)).known
    assert not handed_on(tmp_path / "last" / "artifacts" / "model").known
    moved = tmp_path.rename(tmp_path.with_name("moved")) / "second" / "artifacts" / "model"
    assert handed_on(moved).known and set(handed_on(moved).trained_on) == tested


def test_images_without_labels_count_as_learned_from(data: PreparedData, tmp_path: Path) -> None:
    assert set(lineage_of_model(write_model(tmp_path, data, "unlabelled")).unlabelled) == {
        data.shas[i] for i in data.split.test
    }
