"""Arms of a study compared with their reference over the same images and seeds, seed variance pooled over the arms.

Score y[a, i, s] of arm a, image i and seed s is modelled as

    y[a,i,s] = mu_a + image_i + seed_s + (image x seed)_is + (arm x image)_ai + (arm x seed)_as + rest_ais.

Whatever the arms share cancels in a difference d[i, s] = y[a,i,s] - y[r,i,s], whose mean over n_I images and n_S seeds
has the variance 2 (v_AI / n_I + v_AS / n_S + v_R / (n_I n_S)). Two targets:
  * "new" images of the same source: all three terms, from MS_AI + MS_AS - MS_R (`combined.combine`);
  * "these" images: they are no sample, v_AI is part of what is estimated, and MS_AS alone is the error; an exact t.

MS_AI is the pair's own: images are many, so that nothing is gained by borrowing, and a bad arm differs more from image
to image than two good ones. MS_AS has only n_S - 1 degrees of freedom for a pair, (n_arms - 1)(n_S - 1) over the arms;
three seeds and a pair need t = 4.3, three seeds and seven arms t = 2.2. It is pooled over the arms, and MS_R with it,
unless arms are plainly unequal: an arm whose seed-to-seed deviations exceed the others' (one-sided F test of its
contrast with the other arms, Bonferroni over the arms, at OUT_OF_LINE) leaves the pool, and its comparisons use the
pair's own MS_AS, which holds for unequal arms; if the reference leaves, all do. benchmarks/verdicts.py simulates it:
equal arms lose next to nothing by it; of arms with three times the spread over five seeds two in three are found, over
three seeds fewer than half, and several such arms hide one another, so that up to one in ten A/A studies of such arms
is called different. `pool=False` is for studies whose arms are known to be that unequal.

Crops of one micrograph are clusters: for "new" images the micrograph takes the place of the image (`clusters`), in all
of the above. "These" images are no sample, and what they are crops of does not matter then.

All functions take leading axes (...) of independent studies, so that simulations run what users run.

Source: Satterthwaite, Biometrics Bulletin 2, 1946; Scheffe, The Analysis of Variance, 1959, ch. 8 (mixed model).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy.special import fdtrc

from sage_ray.statistics.clusters import Clusters, by_group
from sage_ray.statistics.combined import combine, mean_squares, residual_squares, t_quantile, two_sided_p

Images = Literal["new", "these"]
IMAGES: tuple[Images, ...] = get_args(Images)
OUT_OF_LINE = 0.05
"""Chance that any of equal arms is taken out of the pool."""


@dataclass(frozen=True)
class Contrasts:
    """Differences of the other arms to the reference, arrays (..., n_arms - 1) in the order of the arms."""

    difference: np.ndarray
    error: np.ndarray
    """Standard error; NaN with one seed, as `df`, `seed_sd` and `image_sd` then."""
    df: np.ndarray
    pooled: np.ndarray
    """bool: the seeds' mean square is that of the pool, not of the pair."""
    seed_sd: np.ndarray
    """Standard deviation of the paired difference of two runs, each averaged over the images."""
    image_sd: np.ndarray
    """Standard deviation of the paired difference at one image (or micrograph, of crops), averaged over the seeds;
    NaN with one."""

    def half_width(self, level: float) -> np.ndarray:
        """Half the width of the intervals at `level`."""
        return np.asarray(self.error * t_quantile(self.df, level))

    def p_values(self, distance: np.ndarray) -> np.ndarray:
        """Two-sided p-values that a gain lies `distance` or more from its true value."""
        return two_sided_p(distance, self.error, self.df)


@dataclass(frozen=True)
class Components:
    """Variances of a study (in squared units of the score), with the degrees of freedom of their mean squares.

    `image`, `seed` and `image_seed` are shared by the arms and cancel in every difference. `rest` is the arm x image x
    seed variance. Scores that exist once per run have `num_images` 0, NaN for all that needs images, and their rest in
    `arm_seed`. Where images are crops, an "image" here is a micrograph. With one seed nothing can be told: all NaN. A
    negative estimate is given as 0.
    """

    image: float
    seed: float
    image_seed: float
    arm_image: float
    arm_seed: float
    rest: float
    num_arms: int
    num_images: int
    num_seeds: int
    df_arm_image: float
    df_arm_seed: float
    df_rest: float
    evenness: float = 1.0
    """Degrees of freedom over micrographs, relative to their number less one: below 1 if they have unequal numbers of
    crops."""


def contrasts(
    scores: np.ndarray,
    reference: int = 0,
    *,
    images: Images = "new",
    pool: bool | None = None,
    together: Clusters | None = None,
) -> Contrasts:
    """Differences of all other arms to the reference, each with its error.

    Args:
        scores: (..., n_arms, n_images, n_seeds) float, complete; scores that exist once per run have one "image" and
            need `images="these"`.
        reference: index of the arm that all are compared with.
        images: what the error speaks of, see the module's docstring.
        pool: pool the seed variance over all arms (True), over none (False), or over those that agree (None).
        together: which images are crops of one micrograph; None: none are.

    Raises:
        ValueError: fewer than two arms, or one image (or micrograph) where new ones are spoken of.
    """
    table = np.asarray(scores, np.float64)
    if table.shape[-3] < 2:
        raise ValueError("one arm: there is nothing to compare it with")
    units = together if together is not None and images == "new" else by_group(None, table.shape[-2])
    table = units.gather(table)
    num_arms, num_images, num_seeds = table.shape[-3:]
    if images == "new" and num_images < 2:
        raise ValueError('one image says nothing of new ones; use images="these" or score more images')
    others = [arm for arm in range(num_arms) if arm != reference]
    means = table.mean(axis=(-2, -1))
    difference = means[..., others] - means[..., [reference]]
    if num_seeds == 1:
        nan = np.full(difference.shape, np.nan)
        return Contrasts(difference, nan, nan, np.zeros(difference.shape, bool), nan, nan)
    inside = in_pool(table, pool)
    pooled = inside[..., others] & inside[..., [reference]]
    size = np.maximum(inside.sum(axis=-1), 2)[..., None] - 1
    # A difference of two arms has twice the variance of one.
    halved = (table[..., others, :, :] - table[..., [reference], :, :]) / np.sqrt(2)
    by_image, own_seeds, own_rest = mean_squares(halved)
    seeds = np.where(pooled, _pool_seeds(table, inside)[..., None], own_seeds)
    df_seeds = np.where(pooled, size, 1) * (num_seeds - 1)
    if images == "these":
        variance, df = seeds, df_seeds.astype(np.float64)
    else:
        rest = np.where(pooled, _pool_rest(table, inside)[..., None], own_rest)
        variance, df = combine(by_image, seeds, rest, units.df, df_seeds, df_seeds * units.df)
    return Contrasts(
        difference=difference,
        error=np.sqrt(2 * variance / (num_images * num_seeds)),
        df=df,
        pooled=pooled,
        seed_sd=np.sqrt(2 * seeds / num_images),
        image_sd=np.sqrt(2 * by_image / num_seeds),
    )


def in_pool(scores: np.ndarray, pool: bool | None = None) -> np.ndarray:
    """Which arms share one seed variance: bool (..., n_arms). Two arms always do.

    Args:
        scores: (..., n_arms, n_images, n_seeds), two seeds or more.
        pool: True for all arms, False for none, None for those that pass the test of the module's docstring.
    """
    table = np.asarray(scores, np.float64).mean(axis=-2)
    num_arms, num_seeds = table.shape[-2:]
    inside = np.full(table.shape[:-1], pool is not False or num_arms == 2)
    if pool is not None or num_arms == 2:
        return inside
    going = np.full(table.shape[:-2], True)
    for _ in range(num_arms - 2):
        p_values = _out_of_line(table, inside)
        worst = p_values.argmin(axis=-1)
        going = going & (p_values.min(axis=-1) < OUT_OF_LINE)
        if not going.any():
            break
        inside = inside & ~(going[..., None] & (np.arange(num_arms) == worst[..., None]))
    return inside


def seed_spread(scores: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Seed-to-seed standard deviation of each arm relative to that of the pool: (..., n_arms) float, inf if that is 0.

    Args:
        scores: (..., n_arms, n_images, n_seeds), two seeds or more.
        inside: of `in_pool`; an arm in it is related to the others there.
    """
    table = np.asarray(scores, np.float64).mean(axis=-2)
    ratios = []
    for arm in range(table.shape[-2]):
        others = inside & (np.arange(table.shape[-2]) != arm)
        count = others.sum(axis=-1)
        centred = table - _mean_over(table, others)[..., None, :]
        own = _spread(centred[..., arm, :])
        pooled = np.where(others, _spread(centred), 0.0).sum(axis=-1) / np.maximum(count - 1, 1)
        # The mean of the others, which is taken off, adds its own share to the arm's variance.
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios.append(np.sqrt(np.maximum(own - pooled / np.maximum(count, 1), 0) / pooled))
    return np.stack(ratios, axis=-1)


def components(scores: np.ndarray, once_a_run: bool = False, together: Clusters | None = None) -> Components:
    """Variance components of one study of arms that share their variances.

    Args:
        scores: (n_arms, n_images, n_seeds), two arms or more; scores that exist once per run have one "image".
        once_a_run: the scores are of this kind.
        together: as `contrasts`, where new images are spoken of.
    """
    table = np.asarray(scores, np.float64)
    units = together if together is not None else by_group(None, table.shape[-2])
    table = units.gather(table)
    num_arms, num_images, num_seeds = table.shape
    nan, arms, seeds, images = float("nan"), num_arms - 1, num_seeds - 1, units.df
    everything = np.ones(num_arms, bool)
    if num_seeds < 2:
        known = 0 if once_a_run else num_images
        return Components(nan, nan, nan, nan, nan, nan, num_arms, known, num_seeds, nan, nan, nan)
    arm_seed = float(_pool_seeds(table, everything))
    image, seed, image_seed = (num_arms * float(square) for square in mean_squares(table.mean(axis=-3)))
    if once_a_run or num_images < 2:
        seed = max((seed - arm_seed) / num_arms, 0.0)
        count = 0 if once_a_run else 1
        return Components(nan, seed, nan, nan, arm_seed, nan, num_arms, count, num_seeds, nan, float(arms * seeds), nan)
    rest = float(_pool_rest(table, everything))
    flipped = np.swapaxes(table, -1, -2)
    arm_image = float(_pool_seeds(flipped, everything))
    return Components(
        image=max((image - arm_image - image_seed + rest) / (num_arms * num_seeds), 0.0),
        seed=max((seed - arm_seed - image_seed + rest) / (num_arms * num_images), 0.0),
        image_seed=max((image_seed - rest) / num_arms, 0.0),
        arm_image=max((arm_image - rest) / num_seeds, 0.0),
        arm_seed=max((arm_seed - rest) / num_images, 0.0),
        rest=rest,
        num_arms=num_arms,
        num_images=num_images,
        num_seeds=num_seeds,
        df_arm_image=float(arms * images),
        df_arm_seed=float(arms * seeds),
        df_rest=float(arms * images * seeds),
        evenness=images / (num_images - 1),
    )


def _spread(values: np.ndarray) -> np.ndarray:
    """Unbiased variance along the last axis."""
    return np.asarray(values.var(axis=-1, ddof=1))


def _mean_over(values: np.ndarray, arms: np.ndarray) -> np.ndarray:
    """Mean over those arms: values (..., n_arms, n), arms bool (..., n_arms), result (..., n)."""
    count = np.maximum(arms.sum(axis=-1), 1)[..., None]
    return np.asarray((values * arms[..., None]).sum(axis=-2) / count)


def _pool_seeds(table: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """MS_AS over the arms of the pool: (...)."""
    means = table.mean(axis=-2)
    left = means - _mean_over(means, inside)[..., None, :]
    total = np.where(inside, _spread(left), 0.0).sum(axis=-1)
    return np.asarray(table.shape[-2] * total / np.maximum(inside.sum(axis=-1) - 1, 1))


def _pool_rest(table: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """MS_R over the arms of the pool: (...)."""
    num_images, num_seeds = table.shape[-2:]
    flat = table.reshape(*table.shape[:-2], num_images * num_seeds)
    shared = _mean_over(flat, inside).reshape(*table.shape[:-3], 1, num_images, num_seeds)
    total = np.where(inside, residual_squares(table - shared), 0.0).sum(axis=-1)
    freedom = np.maximum(inside.sum(axis=-1) - 1, 1) * (num_images - 1) * (num_seeds - 1)
    return np.asarray(total / freedom)


def _out_of_line(table: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Bonferroni p-values (..., n_arms) that an arm of the pool varies no more over seeds than the others; else 1.

    Args:
        table: (..., n_arms, n_seeds) means over the images.
        inside: (..., n_arms) bool.
    """
    freedom = table.shape[-1] - 1
    count = inside.sum(axis=-1)[..., None]
    left = table - _mean_over(table, inside)[..., None, :]
    squares = np.where(inside, _spread(left), 0.0) * freedom
    # The contrast "this arm minus the mean of the others", and what is orthogonal to it.
    own = squares * count / np.maximum(count - 1, 1)
    others = np.maximum(squares.sum(axis=-1, keepdims=True) - own, 0)
    df_others = (count - 2) * freedom
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (own / freedom) / (others / df_others)
    p_values = count * fdtrc(freedom, np.maximum(df_others, 1), ratio)
    testable = inside & (count > 2) & np.isfinite(p_values)
    return np.where(testable, p_values, 1.0)
