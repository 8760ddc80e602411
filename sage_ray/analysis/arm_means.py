"""Mean of each arm over its images and seeds, with the interval of its own runs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from sage_ray.analysis.score_array import check_choice, check_share, score_array
from sage_ray.statistics.combined import t_quantile
from sage_ray.statistics.crossed import IMAGES, Images
from sage_ray.statistics.paired import mean_interval


@dataclass(frozen=True)
class ArmMean:
    """Mean of one arm with its interval; NaN bounds with one seed."""

    arm: str
    mean: float
    low: float
    high: float
    level: float
    sd_seeds: float
    """Standard deviation over seeds of a run's mean score."""
    num_images: int
    num_groups: int
    num_seeds: int
    speaks_of: str


def arm_means(
    scores: pd.DataFrame,
    level: float = 0.95,
    *,
    images: Images = "new",
    bounds: tuple[float, float] | None = None,
) -> list[ArmMean]:
    """Mean of every arm with an interval of its own runs, in the order in which the arms first appear.

    Two such intervals say nothing of a difference, which is paired: use `compare_arms`.

    Args:
        scores: columns arm, seed, value and, for scores of images, image, and of crops, group.
        level: of the intervals.
        images: as `compare_arms` has it; without an image column it is always these.
        bounds: least and largest value that a score can have; cuts the interval, which knows nothing of them.

    Raises:
        UserError: an unknown option, or a frame that is not complete.
    """
    check_choice("images", images, IMAGES)
    check_share("level", level)
    table = score_array(scores, by_image="image" in scores.columns)
    speaks_of = table.speaks_of(images)
    means = []
    for arm, values in zip(table.arms, table.values, strict=True):
        runs = values.mean(axis=0)
        mean, half = float(values.mean()), math.nan
        if len(runs) > 1 and images == "new" and table.images and table.together.num_groups > 1:
            half = mean_interval(values, level, table.together.index.tolist()).high - mean
        elif len(runs) > 1:
            half = float(runs.std(ddof=1) / math.sqrt(len(runs)) * t_quantile(len(runs) - 1, level))
        low, high = mean - half, mean + half
        if bounds is not None and math.isfinite(half):
            low, high = max(low, bounds[0]), min(high, bounds[1])
        spread = float(runs.std(ddof=1)) if len(runs) > 1 else math.nan
        means.append(
            ArmMean(arm, mean, low, high, level, spread, len(table.images), table.num_groups, len(runs), speaks_of)
        )
    return means
