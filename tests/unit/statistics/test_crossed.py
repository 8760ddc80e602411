"""The analysis of a study's arms: rates by simulation, mean squares against statsmodels, and what must not matter."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.formula.api import mixedlm, ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from benchmarks.verdicts import SPREADS, naive_rates, planned, rates, truth
from sage_ray.statistics import paired_interval
from sage_ray.statistics.claims import CLAIMS, depth, holm_adjusted, judge, rule_of
from sage_ray.statistics.combined import combine, t_quantile, two_sided_p
from sage_ray.statistics.crossed import Images, components, contrasts, in_pool, seed_spread
from sage_ray.statistics.power import design, error_of, images_needed, minimum_detectable, power_of, seeds_needed

MANY = 5000
"""Studies per setting: 5 % is then known within 0.9 points (three standard errors), 80 % within 1.7."""
NULL = {2: 12_000, 7: 5_000}
"""By arms, where 5 % has to be told from 6 %; seven arms give six intervals per study."""


def study(seed: int, num_arms: int = 4, num_images: int = 6, num_seeds: int = 3) -> np.ndarray:
    """Scores (num_arms, num_images, num_seeds) in which every part of the model varies."""
    rng = np.random.default_rng(seed)
    draw = rng.standard_normal
    shared = 0.1 * draw((1, num_images, 1)) + 0.02 * draw((1, 1, num_seeds)) + 0.01 * draw((1, num_images, num_seeds))
    own = 0.03 * draw((num_arms, num_images, 1)) + 0.03 * draw((num_arms, 1, num_seeds))
    return 0.8 + shared + own + 0.02 * draw((num_arms, num_images, num_seeds))


# --- the numbers that the design of this analysis rests on ----------------------------------------------------------


def test_three_seeds_alone_need_more_than_three_standard_deviations() -> None:
    """A paired t on three seeds finds, at 80 % power, 3.3 standard deviations; pooled over seven arms 1.9."""
    alone = TTestPower().solve_power(nobs=3, alpha=0.05, power=0.8)
    assert alone == pytest.approx(3.3, abs=0.05)
    true = truth(arm_image=0.0, arm_seed=1.0, rest=0.0)
    pair = design(true, num_seeds=3, num_images=28, num_arms=2, images="these")
    assert minimum_detectable(true, pair) / math.sqrt(2) == pytest.approx(alone, rel=1e-3)
    pooled = minimum_detectable(true, replace(pair, num_arms=7, comparisons=1)) / math.sqrt(2)
    assert pooled == pytest.approx(1.8, abs=0.1)


def test_naive_analyses_call_equal_arms_different() -> None:
    called = naive_rates(SPREADS["seeds"], num_seeds=3, studies=2000)
    assert called["bootstrap"] == pytest.approx(0.17, abs=0.04)
    assert min(called["cells"], called["images"]) > 0.4
    assert called["seeds"] < 0.065


# --- mean squares and components ------------------------------------------------------------------------------------


def long(scores: np.ndarray) -> pd.DataFrame:
    index = pd.MultiIndex.from_product([range(n) for n in scores.shape], names=["arm", "image", "seed"])
    return pd.Series(scores.ravel(), index, name="y").reset_index()


def test_components_match_the_analysis_of_variance_of_statsmodels() -> None:
    scores = study(1, num_arms=3, num_images=5, num_seeds=4)
    model = ols("y ~ C(arm)*C(image) + C(arm)*C(seed) + C(image)*C(seed)", long(scores)).fit()
    anova = anova_lm(model)
    squares = anova["sum_sq"] / anova["df"]
    found = components(scores)
    assert found.rest == pytest.approx(squares["Residual"])
    assert found.arm_seed == pytest.approx((squares["C(arm):C(seed)"] - squares["Residual"]) / 5)
    assert found.arm_image == pytest.approx((squares["C(arm):C(image)"] - squares["Residual"]) / 4)
    assert found.image_seed == pytest.approx(max((squares["C(image):C(seed)"] - squares["Residual"]) / 3, 0))
    mixed = squares["C(arm):C(image)"] + squares["C(image):C(seed)"] - squares["Residual"]
    assert found.image == pytest.approx((squares["C(image)"] - mixed) / 12)
    assert (found.df_arm_seed, found.df_arm_image, found.df_rest) == (
        anova["df"]["C(arm):C(seed)"],
        anova["df"]["C(arm):C(image)"],
        anova["df"]["Residual"],
    )
    # These images: the contrast of two arms with the error MS_AS, by hand from the same table.
    error = math.sqrt(2 * squares["C(arm):C(seed)"] / 20)
    assert contrasts(scores, images="these", pool=True).error == pytest.approx([error, error])


@pytest.mark.filterwarnings("ignore:The MLE may be on the boundary")
def test_components_match_restricted_maximum_likelihood() -> None:
    """On a balanced table with positive estimates REML and the analysis of variance agree."""
    scores = study(14, num_arms=3, num_images=8, num_seeds=5)
    frame = long(scores).assign(group=1)
    parts = {
        "arm_image": "0 + C(arm):C(image)",
        "arm_seed": "0 + C(arm):C(seed)",
        "image": "0 + C(image)",
        "seed": "0 + C(seed)",
        "image_seed": "0 + C(image):C(seed)",
    }
    fit = mixedlm("y ~ C(arm)", frame, groups="group", vc_formula=parts).fit(reml=True, method="lbfgs")
    reml = dict(zip(fit.model.exog_vc.names, fit.vcomp, strict=True))
    found = components(scores)
    assert min(reml.values()) > 1e-6
    for name, value in reml.items():
        assert getattr(found, name) == pytest.approx(value, rel=0.02)
    assert found.rest == pytest.approx(fit.scale, rel=0.02)


def test_components_are_unbiased() -> None:
    true = truth(arm_image=0.02, arm_seed=0.01)
    rng, found = np.random.default_rng(0), []
    sds = [math.sqrt(v) for v in (true.image, true.seed, true.image_seed, true.arm_image, true.arm_seed, true.rest)]
    shapes = [(1, 28, 1), (1, 1, 5), (1, 28, 5), (7, 28, 1), (7, 1, 5), (7, 28, 5)]
    for _ in range(300):
        parts = components(sum(sd * rng.standard_normal(shape) for sd, shape in zip(sds, shapes, strict=True)))
        found.append([parts.image, parts.seed, parts.image_seed, parts.arm_image, parts.arm_seed, parts.rest])
    np.testing.assert_allclose(np.mean(found, axis=0), np.square(sds), rtol=0.1)


def test_scores_once_a_run() -> None:
    runs = study(4).mean(axis=1, keepdims=True)
    found = components(runs, once_a_run=True)
    left = runs[:, 0] - runs[:, 0].mean(axis=0) - runs[:, 0].mean(axis=1, keepdims=True) + runs.mean()
    assert found.arm_seed == pytest.approx(np.square(left).sum() / 6)
    assert found.num_images == 0 and math.isnan(found.arm_image)
    error, df = error_of(found, design(found))
    straight = contrasts(runs, images="these", pool=True)
    assert (error, df) == (pytest.approx(straight.error[0]), straight.df[0])


# --- what must not matter -------------------------------------------------------------------------------------------

TABLES = st.builds(study, st.integers(0, 10**6), st.integers(2, 6), st.integers(2, 8), st.integers(2, 5))


@given(TABLES, st.sampled_from(["new", "these"]), st.sampled_from([None, True, False]))
def test_swapping_arm_and_reference_turns_the_sign(scores: np.ndarray, images: Images, pool: bool | None) -> None:
    there, back = (contrasts(scores, reference, images=images, pool=pool) for reference in (0, 1))
    assert back.difference[0] == pytest.approx(-there.difference[0])
    assert (back.error[0], back.df[0]) == (pytest.approx(there.error[0]), pytest.approx(there.df[0]))


@given(TABLES, st.floats(0.01, 100), st.floats(-10, 10), st.sampled_from(["new", "these"]))
def test_units_of_the_score_do_not_matter(scores: np.ndarray, scale: float, shift: float, images: Images) -> None:
    before, after = contrasts(scores, images=images), contrasts(scale * scores + shift, images=images)
    np.testing.assert_allclose(after.difference, scale * before.difference, atol=1e-12)
    np.testing.assert_allclose(after.error, scale * before.error, rtol=1e-6)
    np.testing.assert_allclose(after.df, before.df, rtol=1e-6)
    np.testing.assert_array_equal(after.pooled, before.pooled)


@given(TABLES, st.randoms(use_true_random=False))
def test_order_does_not_matter(scores: np.ndarray, chance: object) -> None:
    arms, images, seeds = (list(range(n)) for n in scores.shape)
    for places in (arms, images, seeds):
        chance.shuffle(places)  # type: ignore[attr-defined]
    turned = scores[np.ix_(arms, images, seeds)]
    before, after = contrasts(scores, 0), contrasts(turned, arms.index(0))
    where = {arm: k for k, arm in enumerate([arm for arm in arms if arm != 0])}
    order = [where[arm] for arm in range(1, len(arms))]
    np.testing.assert_allclose(after.difference[order], before.difference, atol=1e-12)
    np.testing.assert_allclose(after.error[order], before.error, rtol=1e-9)


@given(TABLES)
def test_what_the_arms_share_cancels(scores: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    shared = rng.standard_normal(scores.shape[1:])
    before, after = contrasts(scores), contrasts(scores + shared)
    np.testing.assert_allclose(after.difference, before.difference, atol=1e-9)
    np.testing.assert_allclose(after.error, before.error, rtol=1e-6)


@given(TABLES)
def test_studies_together_are_studies_one_by_one(scores: np.ndarray) -> None:
    both = contrasts(np.stack([scores, scores[::-1]]))
    for k, one in enumerate((contrasts(scores), contrasts(scores[::-1]))):
        np.testing.assert_allclose(both.error[k], one.error)
        np.testing.assert_allclose(both.df[k], one.df)


@given(st.builds(study, st.integers(0, 10**6), st.just(2), st.integers(2, 8), st.integers(2, 5)))
def test_two_arms_are_the_paired_interval(scores: np.ndarray) -> None:
    """`compare` and the tables of a study give one answer to one question."""
    interval, found = paired_interval(scores[1], scores[0]), contrasts(scores)
    assert interval.mean == pytest.approx(found.difference[0])
    assert interval.high - interval.mean == pytest.approx(found.half_width(0.95)[0])
    assert (interval.df, interval.p_value) == (
        pytest.approx(found.df[0]),
        pytest.approx(found.p_values(found.difference)[0]),
    )


@given(TABLES)
def test_unpooled_comparisons_are_those_of_the_pair_alone(scores: np.ndarray) -> None:
    found = contrasts(scores, pool=False)
    for k in range(1, len(scores)):
        alone = contrasts(scores[[0, k]])
        assert (found.error[k - 1], found.df[k - 1]) == (pytest.approx(alone.error[0]), pytest.approx(alone.df[0]))


# --- the pool -------------------------------------------------------------------------------------------------------


def test_an_arm_far_out_of_line_is_taken_out_of_the_pool() -> None:
    scores = study(7, num_arms=6, num_images=20, num_seeds=5)
    scores[4] += 10 * (scores[4].mean(axis=0) - scores[4].mean())
    np.testing.assert_array_equal(in_pool(scores), [True] * 4 + [False, True])
    found = contrasts(scores)
    np.testing.assert_array_equal(found.pooled, [True] * 3 + [False, True])
    assert found.error[3] == pytest.approx(contrasts(scores[[0, 4]]).error[0])
    np.testing.assert_allclose(found.error[[0, 1, 2, 4]], contrasts(np.delete(scores, 4, axis=0), pool=True).error)
    assert seed_spread(scores, in_pool(scores))[4] > 5
    assert not contrasts(scores, reference=4).pooled.any()
    assert in_pool(scores, pool=True).all() and not in_pool(scores, pool=False).any()


def test_spread_over_seeds_relative_to_the_pool() -> None:
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((5, 1, 4000)) * np.array([1, 1, 1, 1, 3])[:, None, None]
    ratios = seed_spread(scores, np.array([True] * 4 + [False]))
    np.testing.assert_allclose(ratios, [1, 1, 1, 1, 3], rtol=0.05)
    still = np.zeros((3, 2, 4))
    still[2] = [0, 1, 2, 3]
    inside = in_pool(still)
    assert list(inside) == [True, True, False] and math.isinf(seed_spread(still, inside)[2])
    assert list(contrasts(still).error[:1]) == [0]


# --- t, claims, Holm ------------------------------------------------------------------------------------------------


@given(st.floats(1e-4, 1e4), st.floats(1e-4, 1e4), st.floats(1e-4, 1e4), st.integers(1, 40), st.integers(1, 24))
def test_degrees_of_freedom_lie_between_those_of_a_source_and_of_all(
    images: float, seeds: float, rest: float, df_images: int, df_seeds: int
) -> None:
    variance, df = combine(images, seeds, rest, df_images, df_seeds, df_images * df_seeds)
    assert variance >= max(rest, images + seeds - rest) * (1 - 1e-12)
    assert df >= min(df_images, df_seeds)


def test_p_values_agree_with_the_interval() -> None:
    distance, error = np.linspace(0.01, 5, 200), 1.0
    for df in (1.0, 2.3, 24.0):
        outside = distance > error * t_quantile(df, 0.95)
        np.testing.assert_array_equal(two_sided_p(distance, error, df) < 0.05, outside)
    np.testing.assert_array_equal(two_sided_p(np.array([0.0, 1.0]), 0.0, 4), [1, 0])


@pytest.mark.parametrize(
    ("claim", "margin", "words"),
    [
        # Gains -3, -1, 0, 1, 3 with intervals of half width 0.5.
        ("better", 0.0, [-1, -1, 0, 1, 1]),
        ("better", 2.0, [-1, -1, -1, -1, 1]),
        ("worse", 0.0, [1, 1, 0, -1, -1]),
        ("worse", 2.0, [1, -1, -1, -1, -1]),
        ("no_worse", 2.0, [-1, 1, 1, 1, 1]),
        ("no_worse", 1.2, [-1, 0, 1, 1, 1]),
        ("equivalent", 2.0, [-1, 1, 1, 1, -1]),
        ("equivalent", 0.8, [-1, 0, 1, 0, -1]),
    ],
)
def test_verdicts_follow_the_interval(claim: str, margin: float, words: list[int]) -> None:
    gains, df = np.array([-3.0, -1.0, 0.0, 1.0, 3.0]), 10.0
    error = 0.5 / t_quantile(df, 0.95)
    inside = depth(gains, claim, margin)  # type: ignore[arg-type]
    p_values = two_sided_p(inside, error, df)
    assert list(judge(inside, np.full(5, error), p_values, 0.05)) == words
    low, high = gains - 0.5, gains + 0.5
    region = {
        "better": (margin, math.inf),
        "worse": (-math.inf, -margin),
        "no_worse": (-margin, math.inf),
        "equivalent": (-margin, margin),
    }[claim]
    agree = (low > region[0]) & (high < region[1])
    contradict = (high <= region[0]) | (low >= region[1])
    assert words == [int(a) - int(c) for a, c in zip(agree, contradict, strict=True)]


def test_gains_without_error_are_judged_by_themselves() -> None:
    inside, none, some = np.array([0.0, 1.0, -1.0]), np.zeros(3), np.full(3, 0.5)
    assert list(judge(inside, none, two_sided_p(inside, none, 4), 0.05)) == [-1, 1, -1]
    assert list(judge(inside[:1], some[:1], two_sided_p(inside[:1], 0.5, 4), 0.05)) == [0]


def test_holm_corrects_each_study_by_itself() -> None:
    p_values = np.random.default_rng(0).random((4, 6)) ** 3
    expected = [multipletests(row, method="holm")[1] for row in p_values]
    np.testing.assert_allclose(holm_adjusted(p_values), expected)


@pytest.mark.parametrize("claim", CLAIMS)
def test_the_rule_names_what_it_is_about(claim: str) -> None:
    rule = rule_of(claim, 0.02, 0.95, False, 6)  # type: ignore[arg-type]
    assert "0.02" in rule and "95 %" in rule and "6 comparisons below 0.05" in rule and "one seed" in rule
    assert "Holm" not in rule_of(claim, 0.02, 0.95, True, 1)  # type: ignore[arg-type]


# --- planning -------------------------------------------------------------------------------------------------------


def test_power_is_that_of_a_t_test_when_only_seeds_vary() -> None:
    true = truth(arm_image=0.0, arm_seed=0.02, rest=0.0)
    plan = design(true, num_seeds=6, num_images=28, num_arms=2, images="these")
    expected = TTestPower().power(0.03 / (math.sqrt(2) * 0.02), nobs=6, alpha=0.025, alternative="larger")
    assert power_of(0.03, true, plan) == pytest.approx(expected)
    assert power_of(-0.03, true, plan) == pytest.approx(expected)


def test_planning_agrees_with_itself() -> None:
    true = SPREADS["both"]
    plan = planned(true, 7, 5, "new")
    least = minimum_detectable(true, plan)
    assert power_of(least, true, plan) == pytest.approx(0.8, abs=1e-4)
    needed = seeds_needed(1.001 * least, true, plan)
    assert needed.seeds == 5 and "5 seeds" in needed.why
    assert minimum_detectable(true, replace(plan, num_seeds=10)) < least
    assert minimum_detectable(true, replace(plan, num_images=100)) < least
    assert minimum_detectable(true, replace(plan, comparisons=1)) < least
    assert minimum_detectable(true, replace(plan, images="these")) < least


def test_images_can_limit_what_any_number_of_seeds_finds() -> None:
    true = SPREADS["images"]
    plan = planned(true, 2, 5, "new")
    floor = minimum_detectable(true, replace(plan, num_seeds=10**8))
    refused = seeds_needed(0.9 * floor, true, plan)
    assert refused.seeds is None and "no number of seeds" in refused.why and "28 images" in refused.why
    granted = seeds_needed(1.1 * floor, true, plan)
    assert granted.seeds is not None and granted.seeds > 1
    assert seeds_needed(0.9 * floor, true, replace(plan, images="these")).seeds is not None
    assert seeds_needed(0.9 * floor, true, replace(plan, num_images=60)).seeds is not None


def test_images_needed_are_the_fewest_that_find_the_difference() -> None:
    true = SPREADS["images"]
    plan = planned(true, 2, 5, "new")
    small = 0.5 * minimum_detectable(true, plan)
    needed = images_needed(small, true, plan)
    assert needed is not None and needed > plan.num_images
    assert power_of(small, true, replace(plan, num_images=needed)) >= 0.8
    assert power_of(small, true, replace(plan, num_images=needed - 1)) < 0.8
    noisy = truth(arm_image=0.0, arm_seed=0.02, rest=0.0)
    assert images_needed(0.001, noisy, planned(noisy, 2, 2, "new")) is None, "seeds differ, whatever the images"


def test_seeds_needed_find_the_difference() -> None:
    true = SPREADS["both"]
    plan = planned(true, 2, 2, "new")
    needed = seeds_needed(0.03, true, plan)
    assert needed.seeds is not None and 3 <= needed.seeds <= 12
    assert rates(true, replace(plan, num_seeds=needed.seeds), studies=MANY, effect=0.03).found > 0.77
    assert rates(true, replace(plan, num_seeds=needed.seeds - 1), studies=MANY, effect=0.03).found < 0.83


def test_one_seed_plans_nothing() -> None:
    pilot = components(study(2, num_seeds=1))
    plan = design(pilot, num_seeds=5)
    assert math.isnan(minimum_detectable(pilot, plan)) and math.isnan(power_of(0.1, pilot, plan))
    refused = seeds_needed(0.1, pilot, plan)
    assert refused.seeds is None and "one seed" in refused.why
    assert seeds_needed(0.0, SPREADS["both"], planned(SPREADS["both"], 2, 3, "new")).seeds is None


@pytest.mark.parametrize(
    ("scores", "images", "message"),
    [
        (np.ones((1, 4, 3)), "new", "nothing to compare"),
        (np.ones((2, 1, 3)), "new", "one image"),
    ],
)
def test_bad_tables_are_refused(scores: np.ndarray, images: Images, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contrasts(scores, images=images)
