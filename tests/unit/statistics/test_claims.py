"""The verdict rule: one rule for arms of a study and registered versions, and Holm's correction of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from sage_ray.analysis.arm_differences import compare_arms
from sage_ray.statistics import Interval, Verdict, mean_interval, paired_interval, verdicts
from sage_ray.statistics.claims import holm_adjusted, withdrawn


def verdict(interval: Interval, margin: float = 0.0) -> Verdict:
    return verdicts({"it": interval}, margin)["it"]


def test_words() -> None:
    rng = np.random.default_rng(5)
    noise = rng.normal(0, 0.01, (28, 3))
    assert verdict(mean_interval(noise + 0.05)).word == "supported"
    assert verdict(mean_interval(noise - 0.05)).word == "refuted"
    assert verdict(mean_interval(noise)).word == "undecided"
    assert verdict(mean_interval(noise + 0.05), margin=0.05).word == "undecided"
    assert verdict(mean_interval(noise + 0.05), margin=0.2).word == "refuted"
    one_seed = verdict(mean_interval(noise[:, :1] + 0.05))
    assert one_seed.word == "undecided" and "one seed only" in one_seed.rule
    assert verdicts({}) == {}


@given(st.integers(0, 10**6), st.floats(0, 0.1), st.sampled_from([0.8, 0.95, 0.99]))
def test_a_word_of_its_own_is_what_the_interval_says(seed: int, margin: float, level: float) -> None:
    rng = np.random.default_rng(seed)
    interval = mean_interval(rng.normal(rng.normal(0, 0.1), 0.05, (6, 3)), level)
    expected = "supported" if interval.low > margin else "refuted" if interval.high <= margin else "undecided"
    assert verdict(interval, margin).word == expected


def test_arms_without_any_difference_refute_better() -> None:
    scores = np.random.default_rng(6).random((10, 3))
    interval = paired_interval(scores, scores)
    assert (interval.low, interval.high, interval.p_value) == (0, 0, 1)
    assert verdict(interval).word == "refuted"
    many = {"same": interval, "noise": mean_interval(np.random.default_rng(8).normal(0, 1, (9, 3)))}
    assert verdicts(many)["same"].word == "refuted"


def test_holm_matches_statsmodels() -> None:
    p_values = np.array([0.04, 0.001, 0.03, 0.5, 0.012, 0.03])
    np.testing.assert_allclose(holm_adjusted(p_values), multipletests(p_values, method="holm")[1])
    assert holm_adjusted(np.array([])).size == 0


def test_holm_withdraws_a_verdict_that_chance_explains() -> None:
    rng = np.random.default_rng(7)
    draw = rng.standard_normal
    null = [mean_interval(draw((20, 1)) + draw((20, 3))) for _ in range(200)]
    lucky = min((i for i in null if i.low > 0 or i.high < 0), key=lambda i: -i.p_value)
    clear = mean_interval(0.1 * draw((20, 1)) + 0.1 * draw((20, 3)) + 2)
    many = {f"null{k}": i for k, i in enumerate(null[:20])} | {"lucky": lucky, "clear": clear}
    found = verdicts(many)
    assert verdict(lucky).word != "undecided" and found["lucky"].word == "undecided"
    assert found["clear"].word == "supported" and "22 comparisons" in found["clear"].rule
    assert withdrawn("refuted", 0.06, 0.95) == "undecided" and withdrawn("refuted", 0.04, 0.95) == "refuted"
    expected = multipletests([each.p_value for each in many.values()], method="holm")[1]
    np.testing.assert_allclose([each.p_value for each in found.values()], expected)


@pytest.mark.parametrize("shift", [-0.05, 0.0, 0.05])
def test_two_arms_and_two_versions_get_one_verdict(shift: float) -> None:
    rng = np.random.default_rng(9)
    reference = rng.normal(0.8, 0.1, (12, 1)) + rng.normal(0, 0.02, (12, 3))
    arm = reference + shift + rng.normal(0, 0.01, (12, 3))
    rows = [
        {"arm": name, "image": image, "seed": seed, "value": values[image, seed]}
        for name, values in (("reference", reference), ("arm", arm))
        for image in range(12)
        for seed in range(3)
    ]
    (row,) = compare_arms(pd.DataFrame(rows), "reference").rows
    found = verdict(paired_interval(arm, reference))
    assert (row.verdict, row.p_holm) == (found.word, pytest.approx(found.p_value))
