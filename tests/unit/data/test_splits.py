"""Splits: disjoint, complete, of the right size, blind to names and order, stratified, groups whole."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_ray.data.splits import Split, make_split
from sage_ray.errors import UserError
from sage_ray.sections import SplitConfig


def shas_of(count: int, seed: int = 0) -> list[str]:
    return [hashlib.sha256(f"{seed}/{i}".encode()).hexdigest() for i in range(count)]


def coverages_of(count: int, seed: int = 0) -> list[float]:
    return list(np.random.default_rng(seed).uniform(0, 1, count))


def contents(split: Split, shas: list[str]) -> dict[str, set[str]]:
    return {name: {shas[i] for i in getattr(split, name)} for name in ("train", "validation", "test")}


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, int, SplitConfig]:
    count = draw(st.integers(16, 80))
    folds = draw(st.sampled_from([0, 0, 2, 3, 5, 10]))
    config = SplitConfig(
        test=draw(st.sampled_from([0.0, 0.1, 0.2, 0.33])),
        validation=draw(st.sampled_from([0.0, 0.15, 0.5])),
        folds=folds,
        fold=draw(st.integers(0, max(folds - 1, 0))),
        seed=draw(st.integers(0, 5)),
    )
    return count, draw(st.integers(0, 1000)), config


@given(cases())
@settings(max_examples=80, deadline=None)
def test_parts_are_disjoint_complete_and_of_the_right_size(case: tuple[int, int, SplitConfig]) -> None:
    count, data_seed, config = case
    split = make_split(shas_of(count, data_seed), coverages_of(count, data_seed), [""] * count, config)
    together = np.concatenate([split.train, split.validation, split.test])
    assert sorted(together) == list(range(count))
    assert len(split.train) >= 1
    assert abs(len(split.test) - config.test * count) <= 1
    expected = (count - len(split.test)) / config.folds if config.folds else config.validation * count
    assert abs(len(split.validation) - expected) < 1 if config.folds else abs(len(split.validation) - expected) <= 1
    for array in (split.train, split.validation, split.test):
        assert (np.diff(array) > 0).all() and not array.flags.writeable


@given(cases(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_names_and_order_change_nothing(case: tuple[int, int, SplitConfig], random: object) -> None:
    count, data_seed, config = case
    shas, coverages = shas_of(count, data_seed), coverages_of(count, data_seed)
    order = list(range(count))
    random.shuffle(order)  # type: ignore[attr-defined]
    split = make_split(shas, coverages, [f"a{i}" for i in range(count)], config)
    moved_shas = [shas[i] for i in order]
    moved = make_split(moved_shas, [coverages[i] for i in order], [f"z{i}" for i in order], config)
    assert contents(split, shas) == contents(moved, moved_shas)
    assert split.split_id == moved.split_id


@given(cases())
@settings(max_examples=40, deadline=None)
def test_folds_cover_all_but_the_test_set_once(case: tuple[int, int, SplitConfig]) -> None:
    count, data_seed, config = case
    folds = config.folds or 4
    shas, coverages = shas_of(count, data_seed), coverages_of(count, data_seed)
    splits = [
        make_split(shas, coverages, [""] * count, config.model_copy(update={"folds": folds, "fold": fold}))
        for fold in range(folds)
    ]
    held = np.concatenate([split.validation for split in splits])
    assert sorted(held) == sorted(set(range(count)) - set(splits[0].test))
    assert all(np.array_equal(split.test, splits[0].test) for split in splits)
    sizes = [len(split.validation) for split in splits]
    assert max(sizes) - min(sizes) <= 1
    assert len({split.split_id for split in splits}) == folds


def test_test_part_depends_on_contents_and_fraction_alone() -> None:
    shas, coverages = shas_of(50), coverages_of(50)

    def split(**values: object) -> dict[str, set[str]]:
        config = SplitConfig.model_validate(values)
        return contents(make_split(shas, coverages, [""] * 50, config), shas)

    reference = split()
    for values in ({"seed": 9}, {"validation": 0.3}, {"folds": 5, "fold": 3}, {"folds": 4, "seed": 2}):
        assert split(**values)["test"] == reference["test"], values
    assert split(seed=1)["validation"] != reference["validation"]
    assert split(folds=5, seed=1)["validation"] != split(folds=5)["validation"]
    assert split(test=0.3)["test"] != reference["test"]
    other = shas_of(50, 1)
    positions = [shas.index(sha) for sha in reference["test"]]
    moved = contents(make_split(other, coverages, [""] * 50, SplitConfig()), other)["test"]
    assert sorted(other.index(sha) for sha in moved) != sorted(positions), "other contents, other choice"


def test_parts_are_stratified_by_coverage() -> None:
    """Every part spans the coverages: its mean is nearer to the data's than a random choice's typically is."""
    deviations = []
    for seed in range(20):
        coverages = np.array(coverages_of(60, seed))
        split = make_split(shas_of(60, seed), list(coverages), [""] * 60, SplitConfig())
        deviations += [abs(coverages[part].mean() - coverages.mean()) for part in (split.validation, split.test)]
    random_sd = coverages.std() / np.sqrt(10)
    assert np.mean(deviations) < 0.4 * random_sd


@given(
    st.lists(st.integers(1, 7), min_size=6, max_size=25),
    st.sampled_from([0, 3, 5]),
    st.integers(0, 3),
    st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_crops_of_one_micrograph_never_straddle(sizes: list[int], folds: int, seed: int, data_seed: int) -> None:
    stems = [f"wafer{group}_crop{i}" for group, size in enumerate(sizes) for i in range(size)]
    count = len(stems)
    config = SplitConfig(folds=folds, seed=seed, group="wafer([0-9]+)")
    try:
        split = make_split(shas_of(count, data_seed), coverages_of(count, data_seed), stems, config)
    except UserError as error:
        # Many small groups may be needed for the test set, which leaves too few for the folds: refused by name.
        assert "fewer groups than folds" in str(error) and folds == 5 and len(sizes) < 15
        return
    parts = [{stems[i].split("_")[0] for i in part} for part in (split.train, split.validation, split.test)]
    assert all(parts), "no part is empty"
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    assert sum(map(len, parts)) == len(sizes)
    assert abs(len(split.test) - 0.2 * count) <= max(sizes)


def test_group_takes_the_first_group_or_the_whole_match() -> None:
    stems = ["a_1", "a_2", "b_1", "b_2", "c_1", "c_2"]
    config = SplitConfig(test=0.3, validation=0.3, group="^[a-z]")
    split = make_split(shas_of(6), coverages_of(6), stems, config)
    assert {len(part) for part in (split.train, split.validation, split.test)} == {2}
    assert sorted(split.parts()) == ["test"] * 2 + ["train"] * 2 + ["validation"] * 2


@pytest.mark.parametrize(("count", "ok"), [(3, True), (2, False), (1, False)])
def test_each_part_gets_an_image_or_the_split_is_refused(count: int, ok: bool) -> None:
    make = lambda: make_split(shas_of(count), coverages_of(count), [""] * count, SplitConfig(), "here")  # noqa: E731
    if ok:
        split = make()
        assert min(len(split.train), len(split.validation), len(split.test)) == 1
    else:
        with pytest.raises(ValueError, match="fewer images than the parts of the split need .*: here: "):
            make()


@given(st.integers(30, 80), st.integers(0, 1000), st.integers(0, 3), st.sampled_from([0.0, 0.2]))
@settings(max_examples=40, deadline=None)
def test_the_parts_a_b_c_are_disjoint_thirds_outside_one_test_set(
    count: int, data_seed: int, seed: int, test: float
) -> None:
    shas, coverages = shas_of(count, data_seed), coverages_of(count, data_seed)
    split = lambda **sets: make_split(shas, coverages, [""] * count, SplitConfig(test=test, **sets))  # noqa: E731
    whole = split(seed=seed)
    parts = [split(part=part, seed=seed) for part in "ABC"]
    inside = [set(part.train) | set(part.validation) for part in parts]
    assert all(np.array_equal(part.test, whole.test) for part in parts)
    assert sorted(i for part in inside for i in part) == sorted([*whole.train, *whole.validation])
    assert max(map(len, inside)) - min(map(len, inside)) <= 1
    assert len({whole.split_id, *(part.split_id for part in parts)}) == 4
    share = len(parts[0].validation) / len(inside[0])
    assert abs(share - 0.15 / (1 - test)) <= 0.5 / len(inside[0]) + 1e-9
    # Which part an image is in depends on no seed, so that runs of several seeds are judged by one judge.
    moved = split(part="A", seed=seed + 1)
    assert set(moved.train) | set(moved.validation) == inside[0]
    assert parts[0].parts(count).count("other") == len(inside[1]) + len(inside[2])


def test_crops_of_one_micrograph_are_in_one_part() -> None:
    stems = [f"m{n}_crop{crop}" for n in range(20) for crop in range(1 + n % 3)]
    shas, coverages = shas_of(len(stems)), coverages_of(len(stems))
    micrographs = []
    for part in "ABC":
        split = make_split(shas, coverages, stems, SplitConfig(group="m([0-9]+)", part=part))
        micrographs.append({stems[i].split("_")[0] for i in [*split.train, *split.validation]})
    assert not (micrographs[0] & micrographs[1] or micrographs[0] & micrographs[2] or micrographs[1] & micrographs[2])


def test_a_part_that_is_too_small_is_refused() -> None:
    with pytest.raises(UserError, match="fewer images in part A than the split needs .*: data.split: "):
        make_split(shas_of(5), coverages_of(5), [""] * 5, SplitConfig(part="A"))
