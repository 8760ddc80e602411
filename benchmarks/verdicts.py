"""Claim: verdicts hold their stated rates. Simulated studies through `sage_ray.statistics`: how often equal arms are
called different, how often intervals cover, how often a planted difference is found; beside what naive analyses do."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.record import save
from sage_ray.statistics.claims import SUPPORTED, holm_adjusted, judge
from sage_ray.statistics.clusters import by_group
from sage_ray.statistics.combined import t_quantile
from sage_ray.statistics.crossed import Components, Images, contrasts, in_pool
from sage_ray.statistics.power import PlannedStudy, design, minimum_detectable

NUM_IMAGES = 28
LEVEL = 0.95
CHUNK = 2000


def truth(arm_image: float, arm_seed: float, rest: float = 0.02) -> Components:
    """True variances, given as standard deviations; those that the arms share are of the size of Dice's."""
    parts = {
        "image": 0.1,
        "seed": 0.01,
        "image_seed": 0.005,
        "arm_image": arm_image,
        "arm_seed": arm_seed,
        "rest": rest,
    }
    none = {"num_arms": 2, "num_images": NUM_IMAGES, "num_seeds": 2, "df_arm_image": 0, "df_arm_seed": 0, "df_rest": 0}
    return Components(**{name: sd**2 for name, sd in parts.items()}, **none)


SPREADS = {
    "seeds": truth(arm_image=0.01, arm_seed=0.02),
    "images": truth(arm_image=0.04, arm_seed=0.003),
    "both": truth(arm_image=0.025, arm_seed=0.01),
}
"""Which of arm x seed and arm x image variance makes the error of a difference."""
NEITHER = truth(arm_image=0.0, arm_seed=0.0)


@dataclass(frozen=True)
class Rates:
    """Shares, of studies or of intervals."""

    called: float
    """Studies in which an arm that equals the reference is called different, after Holm."""
    called_last: float
    """Studies in which the last arm is called different by its own interval, without Holm."""
    covered: float
    """Intervals that hold the true difference."""
    found: float
    """Studies in which the last arm, which carries the planted effect, is called better, after Holm."""
    pooled: float
    """Studies in which all arms share one seed variance."""


def rates(
    true: Components,
    plan: PlannedStudy,
    *,
    studies: int = 10_000,
    effect: float = 0.0,
    pool: bool | None = None,
    seed_scale: tuple[float, ...] = (),
    heavy: bool = False,
    key: int = 0,
) -> Rates:
    """Rates over simulated studies, each analysed with `contrasts` as a user's study is.

    Args:
        true: variances of the simulation.
        plan: arms, images, seeds, level and target.
        studies: number of them.
        effect: planted in the last arm.
        pool: as `contrasts`.
        seed_scale: factor of the arm x seed standard deviation by arm; empty for equal arms.
        heavy: variates from a skewed, long-tailed distribution instead of the normal.
        key: of the random numbers.
    """
    sums = np.zeros(5)
    for scores in _studies(true, plan, studies, seed_scale, heavy, key):
        scores[:, -1] += effect
        found = contrasts(scores, 0, images=plan.images, pool=pool)
        gains = np.zeros(plan.num_arms - 1)
        gains[-1] = effect
        away = found.difference - gains
        adjusted = holm_adjusted(found.p_values(found.difference))
        equal = adjusted[:, :-1] if effect else adjusted
        words = judge(found.difference, found.error, adjusted, 1 - plan.level)
        inside = np.abs(away) <= found.half_width(plan.level)
        sums += (
            (equal < 1 - plan.level).any(axis=1).sum(),
            (~inside[:, -1]).sum(),
            inside.mean(axis=1).sum(),
            (words[:, -1] == SUPPORTED).sum(),
            in_pool(scores, pool).all(axis=1).sum(),
        )
    return Rates(*(float(share) for share in sums / studies))


def _studies(
    true: Components, plan: PlannedStudy, studies: int, seed_scale: tuple[float, ...], heavy: bool, key: int
) -> Iterator[np.ndarray]:
    """Scores (n, n_arms, n_images, n_seeds) of equal arms, a chunk at a time."""
    rng = np.random.default_rng([key, plan.num_arms, plan.num_images, plan.num_seeds])
    arms, images, seeds = plan.num_arms, plan.num_images, plan.num_seeds
    scale = np.asarray(seed_scale or [1.0] * arms)[:, None, None]

    def draw(variance: float, *shape: int) -> np.ndarray:
        if heavy:
            # Lognormal, unit variance: skewness 3.3, excess kurtosis 21.
            normal = rng.standard_normal(shape)
            values = (np.exp(0.75 * normal) - math.exp(0.28125)) / math.sqrt(math.exp(1.125) - math.exp(0.5625))
            return math.sqrt(variance) * values
        return math.sqrt(variance) * rng.standard_normal(shape)

    for start in range(0, studies, CHUNK):
        n = min(CHUNK, studies - start)
        arm_image = draw(true.arm_image, n, arms, images, 1)
        if plan.images == "these":
            # The arms are equal on these very images.
            arm_image = arm_image - arm_image.mean(axis=2, keepdims=True)
        shared = draw(true.image, n, 1, images, 1) + draw(true.seed, n, 1, 1, seeds)
        shared = shared + draw(true.image_seed, n, 1, images, seeds)
        arm_seed = scale * draw(true.arm_seed, n, arms, 1, seeds)
        yield shared + arm_image + arm_seed + draw(true.rest, n, arms, images, seeds)


def planned(true: Components, num_arms: int, num_seeds: int, images: Images) -> PlannedStudy:
    """A study of these arms and seeds over NUM_IMAGES images, corrected for all its comparisons."""
    return design(true, num_seeds, NUM_IMAGES, num_arms, None, images, LEVEL)


def naive_rates(true: Components, num_seeds: int, studies: int, key: int = 1) -> dict[str, float]:
    """Share of A/A studies of two arms, over these images and seeds, that other analyses call different.

    "cells": t over all images x seeds as if independent. "images": seeds averaged, t over images. "bootstrap": seeds
    and, in them, images drawn again, percentile interval. "seeds": images averaged, t over seeds, which holds its rate.
    """
    plan = planned(true, 2, num_seeds, "these")
    rng, called = np.random.default_rng(key), dict.fromkeys(("cells", "images", "bootstrap", "seeds"), 0.0)
    resamples, cells = 500, NUM_IMAGES * num_seeds
    which_seeds = rng.integers(num_seeds, size=(resamples, num_seeds))
    seed_weights = np.stack([np.bincount(row, minlength=num_seeds) for row in which_seeds]) / num_seeds
    image_weights = rng.multinomial(NUM_IMAGES, [1 / NUM_IMAGES] * NUM_IMAGES, size=resamples) / NUM_IMAGES
    for scores in _studies(true, plan, studies, (), False, key):
        gaps = scores[:, 1] - scores[:, 0]
        for name, values in (
            ("cells", gaps.reshape(len(gaps), cells)),
            ("images", gaps.mean(axis=2)),
            ("seeds", gaps.mean(axis=1)),
        ):
            count = values.shape[1]
            half = t_quantile(count - 1, LEVEL) * values.std(axis=1, ddof=1) / math.sqrt(count)
            called[name] += float((np.abs(values.mean(axis=1)) > half).sum())
        by_seed = np.einsum("bi,nis->nbs", image_weights, gaps, optimize=True)
        means = np.einsum("nbs,bs->nb", by_seed, seed_weights)
        low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
        called["bootstrap"] += float(((low > 0) | (high < 0)).sum())
    return {name: count / studies for name, count in called.items()}


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def equal_arms(studies: int) -> list[dict[str, Any]]:
    """One row a setting: A/A rate, coverage, and power at the smallest difference that 80 % power is stated for."""
    rows = []
    settings = [(2, 2), (2, 3), (2, 5), (7, 2), (7, 3), (7, 5)]
    cases = [*((name, true, False) for name, true in SPREADS.items()), ("neither", NEITHER, False)]
    cases.append(("both, skewed", SPREADS["both"], True))
    for name, true, heavy in cases:
        for images in ("new", "these"):
            for num_arms, num_seeds in settings:
                plan = planned(true, num_arms, num_seeds, images)
                least = minimum_detectable(true, plan)
                null = rates(true, plan, studies=studies, heavy=heavy)
                planted = rates(true, plan, studies=studies, effect=least, heavy=heavy, key=2)
                rows.append(
                    {
                        "error from": name,
                        "images": images,
                        "arms": num_arms,
                        "seeds": num_seeds,
                        "A/A called different %": _percent(null.called),
                        "intervals that cover %": _percent(null.covered),
                        "planted": least,
                        "found % (stated 80)": _percent(planted.found),
                    }
                )
    return rows


def unequal_arms(studies: int) -> list[dict[str, Any]]:
    """One row a setting: arms that differ in their spread over seeds, pooled by choice, always and never."""
    rows = []
    for num_seeds in (5, 3):
        for name, scale in {
            "equal": (1.0,) * 7,
            "last arm 2 x": (*(1.0,) * 6, 2.0),
            "last arm 3 x": (*(1.0,) * 6, 3.0),
            "last arm 5 x": (*(1.0,) * 6, 5.0),
            "reference 3 x": (3.0, *(1.0,) * 6),
            "three arms 3 x": (*(1.0,) * 4, *(3.0,) * 3),
        }.items():
            for pool in (None, True, False):
                plan = planned(SPREADS["seeds"], 7, num_seeds, "new")
                found = rates(SPREADS["seeds"], plan, studies=studies, pool=pool, seed_scale=scale)
                rows.append(
                    {
                        "seed-to-seed sd": name,
                        "seeds": num_seeds,
                        "pooled": {None: "arms that agree", True: "all", False: "none"}[pool],
                        "A/A called different % (Holm)": _percent(found.called),
                        "last arm's interval misses %": _percent(found.called_last),
                        "studies that pool all arms %": _percent(found.pooled),
                    }
                )
    return rows


def naive(studies: int) -> list[dict[str, Any]]:
    """One row a setting: other analyses on three and five seeds."""
    rows = []
    for name, true in (SPREADS | {"arm x seed 0.3 of rest": truth(0.01, 0.006)}).items():
        for num_seeds in (3, 5):
            called = naive_rates(true, num_seeds, studies)
            ours = rates(true, planned(true, 2, num_seeds, "these"), studies=studies)
            rows.append(
                {
                    "error from": name,
                    "seeds": num_seeds,
                    **{f"{kind} %": _percent(share) for kind, share in called.items()},
                    "this project %": _percent(ours.called),
                }
            )
    return rows


CROPS = {
    "7 of 4": (4,) * 7,
    "1 to 10 of 8": (1, 2, 2, 3, 4, 6, 8, 10),
    "1 to 11 of 7": (1, 1, 2, 2, 3, 8, 11),
    "1 to 4 of 20": (1, 2, 3, 4) * 5,
}
ALIKE = (0.0, 0.2, 0.5, 0.9)
"""Share of the arm x image variance that crops of one micrograph have in common."""


def crops(studies: int) -> list[dict[str, Any]]:
    """One row a setting: coverage of a paired difference's interval, crops taken for images and for clusters."""
    rows = []
    for name, sizes in CROPS.items():
        for share in ALIKE:
            for num_seeds in (2, 5):
                scores = crop_studies(sizes, share, num_seeds, studies)
                groups = np.repeat(np.arange(len(sizes)), sizes).tolist()
                found = {}
                for kind, together in (("images", None), ("micrographs", by_group(groups, len(groups)))):
                    one = contrasts(scores, 0, together=together)
                    found[kind] = float((np.abs(one.difference) <= one.half_width(LEVEL)).mean())
                rows.append(
                    {
                        "crops of micrographs": name,
                        "in common": share,
                        "seeds": num_seeds,
                        "crops as images cover %": _percent(found["images"]),
                        "as clusters cover %": _percent(found["micrographs"]),
                    }
                )
    return rows


def crop_studies(sizes: tuple[int, ...], share: float, num_seeds: int, studies: int) -> np.ndarray:
    """Scores (studies, 2, n_images, n_seeds) of equal arms on crops, with the variances of `both`."""
    true = SPREADS["both"]
    index = np.repeat(np.arange(len(sizes)), sizes)
    rng = np.random.default_rng([len(sizes), round(100 * share), num_seeds])

    def draw(variance: float, *shape: int) -> np.ndarray:
        return math.sqrt(variance) * rng.standard_normal((studies, *shape))

    common = draw(share * true.arm_image, 2, len(sizes), 1)[:, :, index]
    own = draw((1 - share) * true.arm_image, 2, len(index), 1) + draw(true.rest, 2, len(index), num_seeds)
    return np.asarray(common + own + draw(true.arm_seed, 2, 1, num_seeds))


def main() -> None:
    """Simulate and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=10_000)
    parser.add_argument("--only-crops", action="store_true", help="the table of crops alone")
    options = parser.parse_args()
    studies = options.studies
    save(
        "verdicts_crops",
        "Intervals of a difference between two equal arms on crops of micrographs",
        crops(studies),
        [
            f"{studies} simulated studies a row, 95 % intervals. In common: share of the arm x image variance that "
            "crops of one micrograph have alike. As images: every crop is an image of its own; as clusters: "
            "`data.split.group`, what this project does. The mean is that over images in both."
        ],
    )
    if options.only_crops:
        return
    what = f"{studies} simulated studies a row, {NUM_IMAGES} images, 95 % intervals, claims at 5 %."
    save(
        "verdicts",
        "Rates of the verdicts, arms of equal variances",
        equal_arms(studies),
        [
            what + ' "error from": which variances make the error of a difference; image, seed, image x seed, arm x '
            "image, arm x seed and residual variance are all there, except under `neither`, where arms differ in "
            "neither way and intervals are wider than need be. `skewed`: lognormal variates (skewness 3.3). Planted: "
            "the smallest difference for which 80 % power is stated, in one arm, found after Holm."
        ],
    )
    save(
        "verdicts_unequal_arms",
        "Rates of the verdicts, arms of unequal spread over seeds",
        unequal_arms(studies),
        [what + " 7 arms without any difference; the error comes from the seeds."],
    )
    save(
        "verdicts_naive",
        "A/A studies of two arms that other analyses call different",
        naive(studies),
        [
            what + " Claims about these images. cells: t over images x seeds as if independent; images: t over images "
            "of the seeds' mean; bootstrap: hierarchical, seeds then images; seeds: t over the seeds' means."
        ],
    )


if __name__ == "__main__":
    main()
