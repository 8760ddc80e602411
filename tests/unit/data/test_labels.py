"""Labelled subsets: nested, blind to names and order, apart from validation and test, crops of a micrograph whole."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_cases import tiny_config

from sage_ray.data.labelling import labelling_line, labels_seen, validation_choices
from sage_ray.data.prepare import headline, prepare
from sage_ray.data.splits import Split, make_split
from sage_ray.errors import UserError
from sage_ray.sections import SplitConfig


def shas_of(count: int) -> list[str]:
    return [hashlib.sha256(f"{i}".encode()).hexdigest() for i in range(count)]


def split_of(
    count: int = 60, order: list[int] | None = None, stems: list[str] | None = None, **config: object
) -> Split:
    order = order or list(range(count))
    shas, coverages = shas_of(count), list(np.random.default_rng(1).uniform(0, 1, count))
    stems = stems or [f"s{i}" for i in range(count)]
    return make_split(
        [shas[i] for i in order], [coverages[i] for i in order], [stems[i] for i in order],
        SplitConfig(**config),  # type: ignore[arg-type]
    )  # fmt: skip


def rows(array: np.ndarray, order: list[int] | None = None) -> set[int]:
    return {order[i] if order else int(i) for i in array}


@given(st.integers(1, 38), st.integers(1, 38), st.integers(0, 6), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_subsets_are_nested_and_blind_to_order(few: int, many: int, subset: int, random: object) -> None:
    few, many = sorted((few, many))
    whole, small = split_of(), split_of(labels=few, subset=subset)
    order = list(range(60))
    random.shuffle(order)  # type: ignore[attr-defined]
    large = split_of(order=order, labels=many, subset=subset)
    assert rows(small.train) <= rows(large.train, order) <= rows(whole.train)
    assert (len(small.train), len(large.train)) == (few, many)
    for split, back in ((small, None), (large, order)):
        assert rows(split.validation, back) == rows(whole.validation) and rows(split.test, back) == rows(whole.test)
        assert rows(split.train, back) | rows(split.unlabelled, back) == rows(whole.train)
        assert not rows(split.train, back) & rows(split.unlabelled, back)
    assert len(small.parts()) == 60 and small.parts().count("unlabelled") == len(whole.train) - few


def test_all_labels_are_the_split_without_the_setting() -> None:
    whole = split_of()
    assert len(whole.unlabelled) == 0
    every = [split_of(labels=len(whole.train), subset=subset) for subset in (0, 3)]
    assert {split.split_id for split in every} == {whole.split_id}
    ids = {split_of(labels=8, subset=subset).split_id for subset in range(5)}
    assert len(ids) == 5 and whole.split_id not in ids
    # What becomes of the others is no part of the split.
    assert split_of(labels=8, unlabelled="disc_image").split_id == split_of(labels=8).split_id


def test_subsets_are_as_alike_as_chance_makes_them() -> None:
    taken = np.zeros(60)
    for subset in range(400):
        taken[split_of(labels=8, subset=subset).train] += 1
    pool = split_of().train
    expected = 400 * 8 / len(pool)
    assert taken.sum() == 3200 and abs(taken[pool] - expected).max() < 5 * np.sqrt(expected)


@given(st.integers(3, 30), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_crops_of_one_micrograph_stay_together(labels: int, subset: int) -> None:
    stems = [f"m{i // 3}_{i}" for i in range(60)]
    given_ = {"group": r"(m\d+)_", "labels": labels, "subset": subset}
    split, larger = split_of(stems=stems, **given_), split_of(stems=stems, **given_ | {"labels": labels + 3})
    micrographs = {name: {i // 3 for i in getattr(split, name)} for name in ("train", "unlabelled", "validation")}
    assert not micrographs["train"] & micrographs["unlabelled"]
    assert labels - 2 <= len(split.train) <= labels and len(split.train) % 3 == 0
    assert rows(split.train) < rows(larger.train)


def test_what_cannot_be_labelled_is_refused() -> None:
    images = len(split_of().train)
    with pytest.raises(UserError, match=rf"{images + 1} labels, but {images} training images.*at most {images}"):
        split_of(labels=images + 1)
    with pytest.raises(UserError, match="fewer than the crops of the first micrograph"):
        split_of(stems=[f"m{i // 3}_{i}" for i in range(60)], group=r"(m\d+)_", labels=2)


def test_validation_labels_count_where_they_choose(tmp_path: Path) -> None:
    choosing = tiny_config("data.split.labels=4")
    data = prepare(choosing.data, tmp_path)
    assert validation_choices(choosing.get) == ["evaluation.select=best", "pretrain.handoff=best"]
    assert labels_seen(data.split, choosing) == 4 + len(data.split.validation)
    line = labelling_line(data.split, choosing)
    assert line is not None and line.endswith(f"{4 + len(data.split.validation)} labels in all")
    assert f"{len(data.split.unlabelled)} without labels" in headline(data, choosing.data)
    last = tiny_config("data.split.labels=4", "evaluation.select=last", "pretrain.handoff=last")
    assert labels_seen(data.split, last) == 4
    assert "no validation label chooses anything" in str(labelling_line(data.split, last))
    one_phase = tiny_config("evaluation.select=last", "adversarial.epochs=0", "pretrain.schedule.rule=plateau")
    assert validation_choices(one_phase.get) == ["pretrain.schedule.rule=plateau"]
    assert labelling_line(data.split, one_phase) is None
