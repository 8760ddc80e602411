"""Paired comparison of two arms over images crossed with seeds: interval and verdict.

Both arms score the same images with the same seeds. The differences d[i, s] of image i and seed s are modelled as

    d[i, s] = mu + image_i + seed_s + rest[i, s],    independent, with variances v_I, v_S, v_R,

because a claim about a method speaks of further images *and* of further training runs. With n_I images and n_S seeds
the mean over all cells has the variance v_I / n_I + v_S / n_S + v_R / (n_I n_S). The analysis of variance gives mean
squares with expectations

    E MS_I = v_R + n_S v_I,    E MS_S = v_R + n_I v_S,    E MS_R = v_R,

so that (MS_I + MS_S - MS_R) / (n_I n_S) is an unbiased estimate of it. Taking all n_I n_S cells for independent, or
averaging the seeds first and ignoring v_S, makes intervals too short when seeds matter. The estimate is never taken
below MS_I or MS_S over n_I n_S: noise in MS_R must not shrink it.

Half width, two approximations of which the wider holds:
  * Satterthwaite: t(df) sqrt(max(MS_I + MS_S - MS_R, MS_I, MS_S)), df = that value squared over
    MS_I^2/(n_I - 1) + MS_S^2/(n_S - 1) + MS_R^2/((n_I - 1)(n_S - 1)), at least min(n_I, n_S) - 1. Right when one of the
    sources dominates; too short when few seeds matter about as much as the images.
  * modified large sample: sqrt(t(n_I - 1)^2 max(MS_I, MS_R) + t(n_S - 1)^2 max(MS_S - MS_R, 0)), each source
    with its own t. Right where the first fails, too short when the images hardly differ. With two seeds
    MS_S - MS_R cannot be told from nothing, so MS_S enters whole.
(All over sqrt(n_I n_S).) tests/unit/test_statistics.py simulates: a 95 % interval covers at least 93 % in every
setting tried, two seeds included, with which it is very wide. One seed leaves an interval over images alone, which
speaks of these trained weights and of no method.

Source: Satterthwaite, Biometrics Bulletin 2, 1946; Graybill and Wang, J. Am. Stat. Assoc. 75, 1980; Burdick and
Graybill, Confidence Intervals on Variance Components, 1992.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtrit

MIN_SEEDS = 2
RULE = (
    "supported: the {level:.0%} interval of the difference, over images and seeds, lies above {margin:g}; "
    "refuted: it does not reach above {margin:g}; undecided: anything else, or fewer than 2 seeds"
)
Word = Literal["supported", "refuted", "undecided"]


@dataclass(frozen=True)
class Interval:
    """Mean of scores or of differences, with the interval that holds it at `level`.

    `df` are effective degrees of freedom, `over` says what the interval generalises over, `p_value` is two-sided for
    a mean of 0 and agrees with the interval: it is below 1 - level exactly when 0 lies outside.
    """

    mean: float
    low: float
    high: float
    level: float
    df: float
    over: str
    num_images: int
    num_seeds: int
    p_value: float


@dataclass(frozen=True)
class Verdict:
    """What the data say of "the arm is better than the reference", and the rule that says so."""

    word: Word
    rule: str


@dataclass(frozen=True)
class _Spread:
    """Mean squares of a crossed table and what follows from them."""

    images: float
    seeds: float
    rest: float
    num_images: int
    num_seeds: int

    @property
    def variance(self) -> float:
        """n_I n_S times the floored variance of the mean."""
        return max(self.images + self.seeds - self.rest, self.images, self.seeds)

    @property
    def df(self) -> float:
        """Satterthwaite's degrees of freedom of `variance`."""
        images, seeds = self.num_images - 1, self.num_seeds - 1
        if self.num_seeds == 1:
            return float(images)
        spread = self.images**2 / images + self.seeds**2 / seeds + self.rest**2 / (images * seeds)
        return max(self.variance**2 / spread, min(images, seeds)) if spread > 0 else float(min(images, seeds))

    def half_width(self, alpha: float) -> float:
        """Half the width of the interval that misses with probability `alpha`."""

        def quantile(df: float) -> float:
            return -float(stdtrit(df, alpha / 2))

        images, cells = self.num_images - 1, self.num_images * self.num_seeds
        if self.num_seeds == 1:
            return quantile(images) * math.sqrt(self.images / cells)
        satterthwaite = quantile(self.df) ** 2 * self.variance
        seeds = self.seeds if self.num_seeds == 2 else max(self.seeds - self.rest, 0.0)
        large_sample = quantile(images) ** 2 * max(self.images, self.rest) + quantile(self.num_seeds - 1) ** 2 * seeds
        return math.sqrt(max(satterthwaite, large_sample) / cells)


def mean_interval(scores: np.ndarray, level: float = 0.95) -> Interval:
    """Mean of one arm's scores with its interval over images and, with two seeds or more, over seeds.

    Args:
        scores: (n_images, n_seeds) float, complete; one seed: (n_images, 1) or (n_images,).
        level: share of such intervals that hold the true mean, such as 0.95.

    Raises:
        ValueError: fewer than two images, missing or non-finite scores, or a level outside (0, 1).
    """
    table = _checked(scores)
    if not 0 < level < 1:
        raise ValueError(f"level {level} is no share between 0 and 1; use 0.95")
    spread, mean = _mean_squares(table), float(table.mean())
    half = spread.half_width(1 - level)
    num_images, num_seeds = table.shape
    over = f"{num_images} images x {num_seeds} seeds"
    if num_seeds == 1:
        over = f"{num_images} images, one seed: speaks of these trained weights only"
    p_value = _p_value(mean, spread)
    return Interval(mean, mean - half, mean + half, level, spread.df, over, num_images, num_seeds, p_value)


def paired_interval(arm: np.ndarray, reference: np.ndarray, level: float = 0.95) -> Interval:
    """Mean of `arm - reference` over the same images and seeds, with its interval.

    Args:
        arm, reference: (n_images, n_seeds) float; row i is the same image and column s the same seed in both (`align`).

    Raises:
        ValueError: shapes differ, or as `mean_interval`.
    """
    if np.shape(arm) != np.shape(reference):
        raise ValueError(
            f"arm {np.shape(arm)} and reference {np.shape(reference)} differ in images or seeds; pair them with `align`"
        )
    return mean_interval(np.asarray(arm, np.float64) - np.asarray(reference, np.float64), level)


def align(
    arm: Mapping[Hashable, Mapping[str, float]], reference: Mapping[Hashable, Mapping[str, float]]
) -> tuple[np.ndarray, np.ndarray, list[str], list[Hashable]]:
    """Two tables (n_images, n_seeds) of the arms' scores with equal rows and columns, the image ids, and the seeds.

    Args:
        arm, reference: scores by seed, then by image id. Seeds that only one arm has are left out.

    Raises:
        ValueError: no seed in common, or a common seed whose images differ (between arms or from seed to seed).
    """
    seeds = sorted(set(arm) & set(reference), key=str)
    if not seeds:
        raise ValueError("the arms have no seed in common; run both with the same seeds")
    images = sorted(arm[seeds[0]])
    for seed in seeds:
        for side in (arm, reference):
            if sorted(side[seed]) != images:
                raise ValueError(f"seed {seed} was scored on other images; score both arms on the same split")
    tables = [np.array([[side[seed][image] for seed in seeds] for image in images]) for side in (arm, reference)]
    return tables[0], tables[1], images, seeds


def verdict(interval: Interval, margin: float = 0.0) -> Verdict:
    """What the interval of a paired difference says of "better by more than `margin`"; higher scores are better.

    An interval over fewer than two seeds always says undecided, as it speaks of no method. Two arms without any
    difference refute the claim.
    """
    rule = RULE.format(level=interval.level, margin=margin)
    if interval.num_seeds < MIN_SEEDS:
        return Verdict("undecided", rule)
    word: Word = "undecided"
    if interval.low > margin:
        word = "supported"
    elif interval.high <= margin:
        word = "refuted"
    return Verdict(word, rule)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: below alpha for all that the step-down test at alpha rejects.

    Source: Holm, Scand. J. Statist. 6, 1979.
    """
    order = np.argsort(p_values, kind="stable")
    scaled = np.asarray(p_values, np.float64)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0) if len(p_values) else scaled
    return [float(value) for value in adjusted]


def holm_verdicts(intervals: Mapping[str, Interval]) -> dict[str, tuple[Verdict, float]]:
    """Verdicts on "better than the reference" of several arms at once, each with its Holm-adjusted p-value.

    A single verdict stands only if the adjusted p-value is below 1 - level, so that the chance of any wrong supported
    or refuted among them stays below it. An arm without any difference stays refuted.
    """
    adjusted = holm([interval.p_value for interval in intervals.values()])
    verdicts = {}
    for (name, interval), p_value in zip(intervals.items(), adjusted, strict=True):
        single = verdict(interval)
        rule = f"{single.rule}; Holm-corrected over {len(intervals)} comparisons"
        stands = p_value < 1 - interval.level or interval.low == interval.high == 0
        verdicts[name] = (Verdict(single.word if stands else "undecided", rule), p_value)
    return verdicts


def _checked(scores: np.ndarray) -> np.ndarray:
    table = np.asarray(scores, np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or table.shape[0] < 2 or table.shape[1] < 1:
        raise ValueError(f"scores of shape {np.shape(scores)}: an interval needs (images, seeds) with 2 images or more")
    if not np.isfinite(table).all():
        raise ValueError("a score is missing or not finite; every seed must have a score for every image")
    return table


def _mean_squares(table: np.ndarray) -> _Spread:
    num_images, num_seeds = table.shape
    mean, image_means, seed_means = table.mean(), table.mean(axis=1), table.mean(axis=0)
    images = num_seeds * float(np.square(image_means - mean).sum()) / (num_images - 1)
    if num_seeds == 1:
        return _Spread(images, 0.0, 0.0, num_images, 1)
    seeds = num_images * float(np.square(seed_means - mean).sum()) / (num_seeds - 1)
    rest = table - image_means[:, None] - seed_means[None, :] + mean
    rest_square = float(np.square(rest).sum()) / ((num_images - 1) * (num_seeds - 1))
    return _Spread(images, seeds, rest_square, num_images, num_seeds)


def _p_value(mean: float, spread: _Spread) -> float:
    # The level at which the interval just touches 0; the half width grows from 0 to infinity with the level.
    if mean == 0:
        return 1.0
    smallest = 1e-12

    def reach(log_p: float) -> float:
        return spread.half_width(math.exp(log_p)) - abs(mean)

    if reach(math.log(smallest)) <= 0:
        return smallest
    return math.exp(brentq(reach, math.log(smallest), -1e-12))
