"""The analysis of a study's arms holds its stated rates, in thousands of simulated studies per setting."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.verdicts import SPREADS, planned, rates
from sage_ray.statistics.crossed import OUT_OF_LINE, Images
from sage_ray.statistics.power import minimum_detectable

MANY = 5000
"""Studies per setting: 5 % is then known within 0.9 points (three standard errors), 80 % within 1.7."""
NULL = {2: 12_000, 7: 5_000}
"""By arms, where 5 % has to be told from 6 %; seven arms give six intervals per study."""


@pytest.mark.parametrize("spread", ["seeds", "images"])
@pytest.mark.parametrize("num_arms", [2, 7])
def test_of_1000_studies_of_equal_arms_at_most_67_are_called_different(spread: str, num_arms: int) -> None:
    for images in ("new", "these"):
        plan = planned(SPREADS[spread], num_arms, 5, images)
        assert rates(SPREADS[spread], plan, studies=1000).called <= 0.067


@pytest.mark.parametrize("images", ["new", "these"])
@pytest.mark.parametrize("spread", list(SPREADS))
@pytest.mark.parametrize(("num_arms", "num_seeds"), [(2, 3), (2, 5), (7, 3), (7, 5)])
def test_stated_rates_hold(num_arms: int, num_seeds: int, spread: str, images: Images) -> None:
    """At most 5 % of A/A studies called different, 95 % of intervals cover, 80 % of planted differences are found."""
    true = SPREADS[spread]
    plan = planned(true, num_arms, num_seeds, images)
    null = rates(true, plan, studies=NULL[num_arms])
    assert null.called <= 0.06
    assert 0.93 <= null.covered <= 0.97
    found = rates(true, plan, studies=MANY // 2, effect=minimum_detectable(true, plan), key=2).found
    assert 0.75 <= found <= 0.85


@pytest.mark.parametrize("spread", list(SPREADS))
@pytest.mark.parametrize("num_arms", [2, 7])
def test_two_seeds_hold_their_rate(num_arms: int, spread: str) -> None:
    null = rates(SPREADS[spread], planned(SPREADS[spread], num_arms, 2, "new"), studies=MANY)
    assert null.called <= 0.065 and null.covered >= 0.93


@pytest.mark.parametrize(("level", "most"), [(0.9, 0.11), (0.99, 0.014)])
def test_other_levels_hold_their_rate(level: float, most: float) -> None:
    plan = replace(planned(SPREADS["both"], 7, 5, "new"), level=level)
    null = rates(SPREADS["both"], plan, studies=MANY)
    assert abs(null.covered - level) <= 0.02 and null.called <= most


def test_planted_differences_of_other_powers_are_found() -> None:
    true = SPREADS["both"]
    for power in (0.5, 0.95):
        plan = planned(true, 2, 5, "new")
        found = rates(true, plan, studies=MANY, effect=minimum_detectable(true, plan, power)).found
        assert found == pytest.approx(power, abs=0.05)


def test_a_noisy_arm_leaves_the_pool_and_is_called_different_far_less_often() -> None:
    """The last of seven equal arms varies three times as much over its five seeds as the others."""
    true, scale = SPREADS["seeds"], (*(1.0,) * 6, 3.0)
    plan = planned(true, 7, 5, "new")
    chosen, all_arms, none = (
        rates(true, plan, studies=MANY, pool=pool, seed_scale=scale) for pool in (None, True, False)
    )
    assert all_arms.called_last > 0.15  # what pooling does to an arm that is unlike the rest
    assert chosen.called_last < 0.13 and chosen.called < 0.09
    assert none.called_last < 0.06 and none.called < 0.06
    assert chosen.pooled < 0.45


def test_equal_arms_are_pooled_as_often_as_stated() -> None:
    plan = planned(SPREADS["seeds"], 7, 5, "new")
    assert rates(SPREADS["seeds"], plan, studies=MANY).pooled == pytest.approx(1 - OUT_OF_LINE, abs=0.01)


def test_skewed_scores_do_not_raise_the_rate() -> None:
    plan = planned(SPREADS["both"], 7, 5, "new")
    assert rates(SPREADS["both"], plan, studies=MANY, heavy=True).called <= 0.067
