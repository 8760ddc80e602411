"""`sage_ray/analysis/arm_differences.py`: tidy frames in, rows with intervals and verdicts out."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.verdicts import SPREADS
from sage_ray.analysis.arm_differences import Row, compare_arms
from sage_ray.analysis.arm_means import arm_means
from sage_ray.errors import UserError
from sage_ray.statistics import mean_interval, paired_interval
from sage_ray.statistics.crossed import contrasts
from sage_ray.statistics.power import design, minimum_detectable, seeds_needed

ARMS = ["hybrid", "dice", "focal", "tversky"]


def frame(
    effects: tuple[float, ...] = (0.0, -0.1, 0.0, 0.1), num_seeds: int = 5, num_images: int = 12, seed: int = 1
) -> pd.DataFrame:
    """Scores of as many arms as effects, around 0.8, with arm x image, arm x seed and residual spread of 0.01."""
    rng, arms = np.random.default_rng(seed), len(effects)
    image = 0.05 * rng.standard_normal((1, num_images, 1))
    parts = [(arms, num_images, 1), (arms, 1, num_seeds), (arms, num_images, num_seeds)]
    values = 0.8 + image + np.reshape(effects, (-1, 1, 1)) + sum(0.01 * rng.standard_normal(part) for part in parts)
    names = [ARMS[:arms], [f"image{k:02d}" for k in range(num_images)], list(range(num_seeds))]
    index = pd.MultiIndex.from_product(names, names=["arm", "image", "seed"])
    return pd.Series(values.ravel(), index, name="value").reset_index()


def cube(scores: pd.DataFrame, arm: str) -> np.ndarray:
    """One arm's scores (images, seeds)."""
    return scores[scores["arm"] == arm].pivot(index="image", columns="seed", values="value").to_numpy()


def runs(scores: pd.DataFrame) -> pd.DataFrame:
    """One value a run."""
    return scores.groupby(["arm", "seed"], sort=False)["value"].mean().reset_index()


def test_rows_say_what_the_data_hold() -> None:
    scores = frame()
    comparison = compare_arms(scores, "hybrid")
    assert [row.arm for row in comparison.rows] == ["dice", "focal", "tversky"]
    assert [row.verdict for row in comparison.rows] == ["refuted", "undecided", "supported"]
    arm, reference = cube(scores, "tversky"), cube(scores, "hybrid")
    row = comparison.rows[2]
    assert (row.mean, row.reference_mean) == (pytest.approx(arm.mean()), pytest.approx(reference.mean()))
    assert row.difference == pytest.approx((arm - reference).mean())
    assert row.effect_relative == pytest.approx(100 * row.difference / reference.mean())
    image_sd = (arm - reference).mean(axis=1).std(ddof=1)
    assert row.effect_image_sd == pytest.approx(row.difference / image_sd)
    assert row.low < 0.1 < row.high and row.low == pytest.approx(2 * row.difference - row.high)
    assert (row.num_images, row.num_seeds, row.reference, row.level) == (12, 5, "hybrid", 0.95)
    assert row.p_holm >= row.p_value and row.df > 12
    assert "new images" in row.speaks_of and "12" in row.speaks_of
    assert comparison.detectable == pytest.approx(
        minimum_detectable(comparison.components, design(comparison.components))
    )
    assert comparison.components.num_arms == 4 and comparison.power == 0.8


def test_effect_over_seeds_is_that_of_runs() -> None:
    """With every arm in the pool the seed effect is in units of the pooled sd of the difference of two runs."""
    scores = frame()
    table = runs(scores).pivot(index="arm", columns="seed", values="value")
    left = table.sub(table.mean(axis=1), axis=0).sub(table.mean(axis=0), axis=1) + table.to_numpy().mean()
    sd = math.sqrt(2 * float(np.square(left.to_numpy()).sum()) / (3 * 4))
    for row in compare_arms(scores, "hybrid", pool=True).rows:
        assert row.pooled and row.effect_seed_sd == pytest.approx(row.difference / sd)


def test_frame_has_a_line_a_row() -> None:
    comparison = compare_arms(frame(), "hybrid")
    table = comparison.to_frame()
    assert list(table.columns) == [field.name for field in fields(Row)] and len(table) == 3
    assert table["difference"].tolist() == [row.difference for row in comparison.rows]


def test_rows_are_those_of_the_engine_whatever_the_order_of_the_frame() -> None:
    scores = frame()
    expected = contrasts(np.stack([cube(scores, arm) for arm in ARMS]), 1)
    shuffled = scores.sample(frac=1, random_state=0)
    found = {row.arm: row for row in compare_arms(shuffled, "dice").rows}
    for k, arm in enumerate(["hybrid", "focal", "tversky"]):
        assert found[arm].difference == pytest.approx(expected.difference[k])
        assert found[arm].high - found[arm].difference == pytest.approx(expected.half_width(0.95)[k])


def test_two_arms_agree_with_compare() -> None:
    scores = frame((0.0, 0.01))
    row = compare_arms(scores, "hybrid").rows[0]
    interval = paired_interval(cube(scores, "dice"), cube(scores, "hybrid"))
    assert (row.low, row.high, row.p_value) == pytest.approx((interval.low, interval.high, interval.p_value))
    assert not row.pooled and row.p_holm == row.p_value and "alone" not in row.why


def test_these_images_are_known_better_than_new_ones() -> None:
    scores = frame()
    new, these = compare_arms(scores, "hybrid"), compare_arms(scores, "hybrid", images="these")
    assert these.rows[0].high - these.rows[0].low < new.rows[0].high - new.rows[0].low
    assert "these 12 images" in these.speaks_of and "nothing of other images" in these.speaks_of
    assert these.detectable < new.detectable


def test_the_claim_has_a_direction() -> None:
    scores = frame()
    words = {
        claim: [row.verdict for row in compare_arms(scores, "hybrid", claim=claim, margin=0.05).rows]
        for claim in ("better", "worse", "no_worse", "equivalent")
    }
    assert words == {
        "better": ["refuted", "refuted", "supported"],
        "worse": ["supported", "refuted", "refuted"],
        "no_worse": ["refuted", "supported", "supported"],
        "equivalent": ["refuted", "supported", "refuted"],
    }


def test_where_lower_is_better_the_words_turn_and_the_numbers_do_not() -> None:
    scores = frame()
    up, down = compare_arms(scores, "hybrid"), compare_arms(scores, "hybrid", higher_is_better=False)
    assert [row.difference for row in up.rows] == [row.difference for row in down.rows]
    assert [row.verdict for row in down.rows] == ["supported", "undecided", "refuted"]
    assert "lower is better" in down.rule and "higher is better" in up.rule


def test_holm_withdraws_what_chance_among_many_explains() -> None:
    for seed in range(400):
        scores = frame((0.0,) * 4, num_seeds=3, seed=seed)
        alone = compare_arms(scores, "hybrid", correction="none")
        together = compare_arms(scores, "hybrid")
        for single, row in zip(alone.rows, together.rows, strict=True):
            assert single.p_holm == single.p_value == row.p_value
            if single.p_value < 0.05 <= row.p_holm:
                assert single.verdict != "undecided" and row.verdict == "undecided"
                assert "among 3 comparisons" in row.why and "Holm over 3" in row.why
                assert "Holm" in together.rule and "Holm" not in alone.rule
                assert alone.detectable < together.detectable
                return
    pytest.fail("no study in 400 was decided by its interval and not by Holm")


def test_a_noisy_arm_is_compared_on_its_own_and_named() -> None:
    scores = frame((0.0,) * 4)
    wild = scores["arm"] == "focal"
    scores.loc[wild, "value"] += 0.2 * scores.loc[wild, "seed"].map({0: 1, 1: -1, 2: 0.5, 3: -1.5, 4: 1})
    comparison = compare_arms(scores, "hybrid")
    assert [row.pooled for row in comparison.rows] == [True, False, True]
    assert "pair alone, as focal varies more" in comparison.rows[1].why
    assert len(comparison.notes) == 1 and "focal" in comparison.notes[0] and "times" in comparison.notes[0]
    assert comparison.components.num_arms == 3
    turned = compare_arms(scores, "focal")
    assert not any(row.pooled for row in turned.rows) and "no comparison pools" in turned.notes[0]
    assert turned.detectable > 5 * comparison.detectable
    assert not compare_arms(frame(), "hybrid").notes


def test_one_seed_gives_point_estimates_and_says_why() -> None:
    scores = frame(num_seeds=1)
    for comparison in (compare_arms(scores, "hybrid"), compare_arms(runs(scores), "hybrid")):
        assert [row.verdict for row in comparison.rows] == ["undecided"] * 3
        for row in comparison.rows:
            assert "one seed" in row.why and "one seed" in row.speaks_of
            assert math.isnan(row.low) and math.isnan(row.p_holm) and math.isnan(row.df)
            assert math.isfinite(row.difference) and math.isfinite(row.effect_relative)
        assert "one seed" in comparison.notes[0] and math.isnan(comparison.detectable)
    assert all(math.isnan(mean.low) and math.isfinite(mean.mean) for mean in arm_means(scores))


def test_arms_without_any_difference_refute_better() -> None:
    scores = frame((0.0, 0.0))
    hybrid = scores[scores["arm"] == "hybrid"]
    twins = pd.concat([hybrid, hybrid.assign(arm="dice")])
    row = compare_arms(twins, "hybrid").rows[0]
    assert (row.low, row.high, row.verdict) == (0, 0, "refuted")
    assert math.isnan(row.effect_seed_sd)
    # Beside arms that differ, equal means within a known spread are not proof of equality.
    three = pd.concat([twins, scores[scores["arm"] == "dice"].assign(arm="focal")])
    assert compare_arms(three, "hybrid", pool=True).rows[0].verdict == "undecided"


def test_scores_once_a_run_are_paired_by_seed() -> None:
    scores = frame()
    comparison = compare_arms(runs(scores), "hybrid")
    by_image = compare_arms(scores, "hybrid", images="these")
    for once, row in zip(comparison.rows, by_image.rows, strict=True):
        assert (once.low, once.high, once.df) == pytest.approx((row.low, row.high, row.df))
        assert once.num_images == 0 and math.isnan(once.effect_image_sd)
        assert "one value a run" in once.speaks_of
    assert comparison.detectable == pytest.approx(by_image.detectable)


def test_means_of_arms() -> None:
    scores = frame()
    for mean in arm_means(scores, 0.9):
        interval = mean_interval(cube(scores, mean.arm), 0.9)
        assert (mean.low, mean.high) == pytest.approx((interval.low, interval.high))
    these, once = arm_means(scores, images="these"), arm_means(runs(scores))
    assert [mean.arm for mean in these] == ARMS
    for known, run in zip(these, once, strict=True):
        assert (known.low, known.high, known.sd_seeds) == pytest.approx((run.low, run.high, run.sd_seeds))
        assert (known.num_images, run.num_images) == (12, 0)
    high = frame((0.19, 0.19))
    assert arm_means(high)[0].high > 1 and arm_means(high, bounds=(0.0, 1.0))[0].high == 1


def test_seeds_needed_from_a_pilot() -> None:
    pilot = compare_arms(frame(num_seeds=3), "hybrid").components
    plan = design(pilot, num_arms=2)
    wanted = 1.2 * minimum_detectable(pilot, design(pilot, num_seeds=8, num_arms=2))
    needed = seeds_needed(wanted, pilot, plan)
    assert needed.seeds is not None and 2 <= needed.seeds <= 8
    assert seeds_needed(1e-5, pilot, plan).seeds is None


def test_the_frame_gives_the_rates_of_the_engine() -> None:
    """150 A/A studies through the public face: 5 %, and no more than chance above it."""
    rng, true, called = np.random.default_rng(0), SPREADS["both"], 0
    index = pd.MultiIndex.from_product([["a", "b"], range(28), range(5)], names=["arm", "image", "seed"])
    for _ in range(150):
        values = math.sqrt(true.arm_image) * rng.standard_normal((2, 28, 1))
        values = values + math.sqrt(true.arm_seed) * rng.standard_normal((2, 1, 5))
        values = values + math.sqrt(true.rest) * rng.standard_normal((2, 28, 5))
        scores = pd.Series(values.ravel(), index, name="value").reset_index()
        called += compare_arms(scores, "a").rows[0].verdict != "undecided"
    assert 1 <= called <= 16


GOOD = frame(num_images=3, num_seeds=2)


def without(**cell: Any) -> pd.DataFrame:
    """GOOD without the rows that have these values."""
    mask = np.ones(len(GOOD), bool)
    for column, value in cell.items():
        mask &= (GOOD[column] == value).to_numpy()
    return GOOD[~mask]


@pytest.mark.parametrize(
    ("scores", "options", "said"),
    [
        (without(arm="dice", seed=1), {}, ["unequal", "arm dice lacks seed 1"]),
        (without(arm="focal", seed=0, image="image01"), {}, ["arm focal, seed 0 lacks image image01"]),
        (pd.concat([GOOD, GOOD.iloc[[4]]]), {}, ["given twice", "arm hybrid, image image02, seed 0"]),
        (GOOD.assign(value=GOOD["value"].where(GOOD["arm"] != "dice")), {}, ["not finite", "arm dice"]),
        (GOOD.drop(columns="image"), {}, ["given twice", "column `image`"]),
        (GOOD.drop(columns="seed"), {}, ["lack a column", "seed"]),
        (GOOD.iloc[:0], {}, ["no scores"]),
        (GOOD[GOOD["arm"] == "hybrid"], {}, ["one arm only"]),
        (GOOD[GOOD["image"] == "image00"], {}, ["one image", 'images="these"']),
        (GOOD, {"reference": "hybird"}, ["unknown reference", "did you mean hybrid"]),
        (GOOD, {"claim": "best"}, ["unknown claim", "better"]),
        (GOOD, {"images": "old"}, ["unknown images"]),
        (GOOD, {"correction": "bonferroni"}, ["unknown correction"]),
        (GOOD, {"margin": -0.1}, ["margin is negative"]),
        (GOOD, {"claim": "equivalent"}, ["needs a margin"]),
        (GOOD, {"level": 95}, ["level", "0.95"]),
        (GOOD, {"power": 1.0}, ["power"]),
    ],
)
def test_bad_input_is_refused_in_one_line(scores: pd.DataFrame, options: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(UserError) as refused:
        compare_arms(scores, options.pop("reference", "hybrid"), **options)
    message = str(refused.value)
    assert all(part in message for part in said) and "\n" not in message


def test_the_good_twin_runs() -> None:
    assert len(compare_arms(GOOD, "hybrid").rows) == 3
    assert len(compare_arms(GOOD[GOOD["image"] == "image00"], "hybrid", images="these").rows) == 3
    assert len(compare_arms(runs(GOOD), "hybrid").rows) == 3


@pytest.mark.parametrize("call", [arm_means, lambda scores: compare_arms(scores, "hybrid")])
def test_unequal_runs_are_refused_everywhere(call: Any) -> None:
    with pytest.raises(UserError, match="arm tversky lacks seed 0"):
        call(runs(without(arm="tversky", seed=0)))


def crops(scores: pd.DataFrame, sizes: tuple[int, ...]) -> pd.DataFrame:
    """The frame with its images as crops of as many micrographs as sizes."""
    names = [f"m{group}" for group, size in enumerate(sizes) for _ in range(size)]
    return scores.assign(group=scores["image"].map(dict(zip(sorted(scores["image"].unique()), names, strict=True))))


def test_crops_are_compared_over_micrographs() -> None:
    scores = frame((0.0, 0.01))
    grouped = crops(scores, (1, 2, 4, 5))
    comparison = compare_arms(grouped, "hybrid")
    row, plain = comparison.rows[0], compare_arms(scores, "hybrid").rows[0]
    assert row.difference == pytest.approx(plain.difference) and (row.num_images, row.num_groups) == (12, 4)
    groups = grouped[grouped["arm"] == "dice"].drop_duplicates("image").sort_values("image")["group"].tolist()
    interval = paired_interval(cube(scores, "dice"), cube(scores, "hybrid"), groups=groups)
    assert (row.low, row.high, row.p_value) == pytest.approx((interval.low, interval.high, interval.p_value))
    assert "new micrographs from the source of these 4 micrographs (12 images)" in comparison.speaks_of
    assert comparison.images == "4 micrographs (12 images)"
    mean = arm_means(grouped)[1]
    assert mean.high == pytest.approx(mean_interval(cube(scores, "dice"), groups=groups).high)
    these = compare_arms(grouped, "hybrid", images="these").rows[0]
    assert these.low == pytest.approx(compare_arms(scores, "hybrid", images="these").rows[0].low)


def test_crops_of_one_micrograph_say_nothing_of_new_ones() -> None:
    grouped = crops(frame((0.0, 0.01)), (12,))
    with pytest.raises(UserError, match="crops of one micrograph say nothing of new ones"):
        compare_arms(grouped, "hybrid")
    assert math.isfinite(compare_arms(grouped, "hybrid", images="these").rows[0].low)
    twice = pd.concat([grouped.iloc[:1].assign(group="other"), grouped.iloc[1:]])
    with pytest.raises(UserError, match="image is in two groups"):
        compare_arms(twice, "hybrid")
