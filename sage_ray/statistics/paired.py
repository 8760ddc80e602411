"""Means and paired differences of two arms over images crossed with seeds, with their intervals.

Both arms score the same images with the same seeds. The differences d[i, s] of image i and seed s are modelled as

    d[i, s] = mu + image_i + seed_s + rest[i, s],    independent, with variances v_I, v_S, v_R,

because a claim about a method speaks of further images *and* of further training runs. With n_I images and n_S seeds
the mean over all cells has the variance v_I / n_I + v_S / n_S + v_R / (n_I n_S). The analysis of variance gives mean
squares with expectations

    E MS_I = v_R + n_S v_I,    E MS_S = v_R + n_I v_S,    E MS_R = v_R,

so that (MS_I + MS_S - MS_R) / (n_I n_S) is an unbiased estimate of it; `sage_ray/statistics/combined.py` says how the
half width follows. Taking all n_I n_S cells for independent, or averaging the seeds first and ignoring v_S, makes
intervals too short when seeds matter. A simulation in its test finds that a 95 % interval covers at least 93 % in
every setting tried, two seeds included, with which it is very wide. One seed leaves an interval over images alone,
which speaks of these trained weights and of no method.

Crops of one micrograph are no independent images: with `groups` the micrograph takes the place of the image
(`clusters`), and the mean stays the mean over images.

This is the pair alone; `crossed` analyses the arms of a study together, with the same formula, and pools their seeds.
What an interval says of a claim is in `claims`.

Source: Satterthwaite, Biometrics Bulletin 2, 1946; Burdick and Graybill, Confidence Intervals on Variance Components,
1992.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sage_ray.statistics.clusters import Clusters, by_group
from sage_ray.statistics.combined import combine, mean_squares, t_quantile, two_sided_p


@dataclass(frozen=True)
class Interval:
    """Mean of scores or of differences, with the interval that holds it at `level`.

    `error` is the standard error of the mean, `df` its effective degrees of freedom, and `over` says what the interval
    generalises over. `p_value` is two-sided for a mean of 0 and agrees with the interval: it is below 1 - level exactly
    when 0 lies outside.
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
    error: float
    num_groups: int
    """Micrographs that the images are crops of; `num_images` where each is its own."""


def mean_interval(scores: np.ndarray, level: float = 0.95, groups: Sequence[Hashable] | None = None) -> Interval:
    """Mean of one arm's scores with its interval over images and, with two seeds or more, over seeds.

    Args:
        scores: (n_images, n_seeds) float, complete; one seed: (n_images, 1) or (n_images,).
        level: share of such intervals that hold the true mean, such as 0.95.
        groups: name of the micrograph that each image is a crop of; None: every image is its own.

    Raises:
        ValueError: fewer than two images or groups, missing or non-finite scores, or a level outside (0, 1).
    """
    table = _checked(scores)
    if not 0 < level < 1:
        raise ValueError(f"level {level} is no share between 0 and 1; use 0.95")
    together = by_group(groups, len(table))
    if together.num_groups < 2:
        raise ValueError("all images are crops of one micrograph: an interval needs two micrographs or more")
    error, df = _error(table, together)
    mean, half = float(table.mean()), error * float(t_quantile(df, level))
    num_images, num_seeds = table.shape
    over = f"{together.text()} x {num_seeds} seeds"
    if num_seeds == 1:
        over = f"{together.text()}, one seed: speaks of these trained weights only"
    p_value = float(two_sided_p(mean, error, df))
    return Interval(
        mean=mean,
        low=mean - half,
        high=mean + half,
        level=level,
        df=df,
        over=over,
        num_images=num_images,
        num_seeds=num_seeds,
        p_value=p_value,
        error=error,
        num_groups=together.num_groups,
    )


def paired_interval(
    arm: np.ndarray, reference: np.ndarray, level: float = 0.95, groups: Sequence[Hashable] | None = None
) -> Interval:
    """Mean of `arm - reference` over the same images and seeds, with its interval.

    Args:
        arm: scores (n_images, n_seeds) float.
        reference: scores of the same images (rows) and seeds (columns); `align` makes such a pair.
        level: as `mean_interval`.
        groups: as `mean_interval`.

    Raises:
        ValueError: shapes differ, or as `mean_interval`.
    """
    if np.shape(arm) != np.shape(reference):
        raise ValueError(
            f"arm {np.shape(arm)} and reference {np.shape(reference)} differ in images or seeds; pair them with `align`"
        )
    return mean_interval(np.asarray(arm, np.float64) - np.asarray(reference, np.float64), level, groups)


def align(
    arm: Mapping[Hashable, Mapping[str, float]], reference: Mapping[Hashable, Mapping[str, float]]
) -> tuple[np.ndarray, np.ndarray, list[str], list[Hashable]]:
    """Two tables (n_images, n_seeds) of the arms' scores with equal rows and columns, the image ids, and the seeds.

    Args:
        arm: scores by seed, then by image id.
        reference: likewise. Seeds that only one of the two has are left out.

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


def _checked(scores: np.ndarray) -> np.ndarray:
    table = np.asarray(scores, np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or table.shape[0] < 2 or table.shape[1] < 1:
        raise ValueError(f"scores of shape {np.shape(scores)}: an interval needs (images, seeds) with 2 images or more")
    if not np.isfinite(table).all():
        raise ValueError("a score is missing or not finite; every seed must have a score for every image")
    return table


def _error(table: np.ndarray, together: Clusters) -> tuple[float, float]:
    """Standard error of the mean of a table (n_images, n_seeds), and its degrees of freedom."""
    table = together.gather(table)
    images, seeds, rest = mean_squares(table)
    df_images, df_seeds = together.df, table.shape[1] - 1
    if not df_seeds:
        return float(np.sqrt(images / table.size)), df_images
    variance, df = combine(images, seeds, rest, df_images, df_seeds, df_images * df_seeds)
    return float(np.sqrt(variance / table.size)), float(df)
