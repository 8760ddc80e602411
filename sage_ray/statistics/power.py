"""What a planned study would find: power, smallest detectable difference and the seeds needed, from pilot variances.

A planned comparison of two arms has the error of `crossed.contrasts` with the variances known; its t statistic is
taken for a noncentral t with the degrees of freedom that the expected mean squares give. "Found" means called
different on the right side, at the first step of Holm's correction, (1 - level) / comparisons: what a lone real
difference has to pass. benchmarks/verdicts.py simulates: the stated power is met within 5 points from three seeds on
(8 where arms differ neither from seed to seed nor from image to image). It is as good as the pilot's variances; those
of a pilot of few seeds are themselves uncertain by a factor of two or more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from scipy.optimize import brentq

from sage_ray.statistics.combined import combine
from sage_ray.statistics.crossed import Components, Images

MOST_SEEDS = 1000
MOST_IMAGES = 100_000
ENDLESS = 10**9


@dataclass(frozen=True)
class PlannedStudy:
    """A planned study.

    The `comparisons` are corrected together. Where images are crops, `num_images` counts micrographs, whose numbers of
    crops are taken to be as unequal as in the pilot.
    """

    num_seeds: int
    num_images: int
    num_arms: int
    comparisons: int
    images: Images
    level: float


@dataclass(frozen=True)
class SeedsNeeded:
    """Seeds of each arm that find a difference at the wanted power; None if none suffice. `why` is a sentence."""

    seeds: int | None
    why: str


def design(
    components: Components,
    num_seeds: int | None = None,
    num_images: int | None = None,
    num_arms: int | None = None,
    comparisons: int | None = None,
    images: Images = "new",
    level: float = 0.95,
) -> PlannedStudy:
    """A plan like the pilot except for what is given; all arms but one are compared unless said otherwise."""
    arms = num_arms or components.num_arms
    return PlannedStudy(
        components.num_seeds if num_seeds is None else num_seeds,
        components.num_images if num_images is None else num_images,
        arms,
        comparisons or max(arms - 1, 1),
        images if components.num_images else "these",
        level,
    )


def error_of(components: Components, plan: PlannedStudy) -> tuple[float, float]:
    """Standard error of a difference between two arms of the plan, and its degrees of freedom; NaN with one seed."""
    if plan.num_seeds < 2 or not math.isfinite(components.arm_seed):
        return math.nan, math.nan
    freedom = (plan.num_arms - 1) * (plan.num_seeds - 1)
    if not components.num_images:
        return math.sqrt(2 * components.arm_seed / plan.num_seeds), float(freedom)
    rest = 0.0 if math.isnan(components.rest) else components.rest
    seeds = rest + plan.num_images * components.arm_seed
    cells = plan.num_images * plan.num_seeds
    if plan.images == "these":
        return math.sqrt(2 * seeds / cells), float(freedom)
    images = rest + plan.num_seeds * components.arm_image
    one_less = (plan.num_images - 1) * components.evenness
    variance, df = combine(images, seeds, rest, one_less, freedom, freedom * one_less)
    return math.sqrt(2 * float(variance) / cells), float(df)


def power_of(difference: float, components: Components, plan: PlannedStudy) -> float:
    """Chance that the plan finds a true difference of this size beyond the margin of its claim; NaN if not known.

    Args:
        difference: distance of the truth from the claim's boundary, in units of the score; its sign does not matter.
        components: of a pilot.
        plan: of the study.
    """
    from statsmodels.stats.power import ttest_power

    error, df = error_of(components, plan)
    if not math.isfinite(error):
        return math.nan
    if error == 0:
        return 1.0 if difference else 0.0
    alpha = (1 - plan.level) / (2 * plan.comparisons)
    found = float(ttest_power(abs(difference) / error, nobs=1, alpha=alpha, df=df, alternative="larger"))
    # Far beyond any doubt the noncentral t underflows to NaN.
    return 1.0 if math.isnan(found) else found


def minimum_detectable(components: Components, plan: PlannedStudy, power: float = 0.8) -> float:
    """Smallest true difference beyond the claim's margin that the plan finds with that chance; NaN if not known."""
    error, _ = error_of(components, plan)
    if not math.isfinite(error) or error == 0:
        return error
    high = 1.0
    while power_of(high * error, components, plan) < power:
        high *= 2
    return error * float(brentq(lambda size: power_of(size * error, components, plan) - power, 0.0, high, xtol=1e-6))


def seeds_needed(difference: float, components: Components, plan: PlannedStudy, power: float = 0.8) -> SeedsNeeded:
    """Fewest seeds of each arm with which the plan, its own number of seeds aside, finds that difference.

    Args:
        difference: as in `power_of`.
        components: as in `power_of`.
        plan: as in `power_of`.
        power: wanted chance.
    """

    def found(seeds: int) -> float:
        return power_of(difference, components, _with_seeds(plan, seeds))

    if not math.isfinite(found(2)):
        return SeedsNeeded(None, "one seed tells nothing of the spread over seeds; run a pilot of two or more")
    if difference == 0:
        return SeedsNeeded(None, "a difference of 0 is never found; name the smallest one that matters")
    for seeds in range(2, MOST_SEEDS + 1):
        if found(seeds) >= power:
            share = found(seeds)
            return SeedsNeeded(
                seeds, f"{seeds} seeds of each arm find a difference of {abs(difference):.4g} in {share:.0%} of studies"
            )
    if found(ENDLESS) >= power:
        return SeedsNeeded(None, f"more than {MOST_SEEDS} seeds of each arm would be needed")
    floor = minimum_detectable(components, _with_seeds(plan, ENDLESS), power)
    return SeedsNeeded(
        None,
        f"no number of seeds suffices: with {plan.num_images} images and endless seeds the smallest difference found "
        f"in {power:.0%} of studies is {floor:.4g}, as the arms differ from image to image; score more images",
    )


def images_needed(difference: float, components: Components, plan: PlannedStudy, power: float = 0.8) -> int | None:
    """Fewest images (micrographs, where images are crops) with which the plan finds that difference.

    None where `MOST_IMAGES` are not enough, as the arms differ from seed to seed, or where nothing is known.

    Args:
        difference: as in `power_of`.
        components: as in `power_of`.
        plan: as in `power_of`; its own number of images aside.
        power: wanted chance.
    """

    def suffices(images: int) -> bool:
        return power_of(difference, components, replace(plan, num_images=images)) >= power

    if not components.num_images or not suffices(MOST_IMAGES):
        return None
    low, high = 1, 2
    while not suffices(high):
        low, high = high, min(2 * high, MOST_IMAGES)
    # `low` is too few, `high` suffices.
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high


def _with_seeds(plan: PlannedStudy, num_seeds: int) -> PlannedStudy:
    return PlannedStudy(num_seeds, plan.num_images, plan.num_arms, plan.comparisons, plan.images, plan.level)
