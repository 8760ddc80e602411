"""The error of a mean over images crossed with seeds: its variance, its effective degrees of freedom, and t from them.

With n_I images and n_S seeds the mean of a table whose cells vary over images (v_I), over seeds (v_S) and otherwise
(v_R) has n_I n_S times the variance v_R + n_S v_I + n_I v_S. The mean squares of the analysis of variance have the
expectations E MS_I = v_R + n_S v_I, E MS_S = v_R + n_I v_S and E MS_R = v_R, so that

    V = max(MS_I + MS_S - MS_R, MS_R)

estimates it. Satterthwaite's degrees of freedom of V, with the few-seeds term weighted up and never below those of a
single source,

    df = max(V^2 / (MS_I^2 / f_I + k MS_S^2 / f_S + MS_R^2 / f_R), min(f_I, f_S)),    k = 1 + 8 / f_S^3,

make mean / sqrt(V / (n_I n_S)) nearly a t. Plain Satterthwaite has k = 1 and covers too little when f_S is 1 or 2, as
MS_S by chance near zero hides the seeds and raises df; k was found by simulation and is 1.02 from f_S = 8 on.
benchmarks/verdicts.py: over all ratios of the variances a 95 % interval covers 94 to 97 % (f_S of 2 or more; from
93.5 % with f_S = 1), except where neither images nor seeds add any variance of their own: there up to 99 %, as a
variance that is zero cannot be told from a small one.

Source: Satterthwaite, Biometrics Bulletin 2, 1946.
"""

from __future__ import annotations

import numpy as np
from scipy.special import stdtr, stdtrit

FEW_SEEDS = 8.0
"""The constant in k above: added to the weight of the seeds' mean square, over the cube of its degrees of freedom."""
Floats = np.ndarray | float


def mean_squares(table: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """MS_I, MS_S and MS_R of the module's docstring.

    Args:
        table: (..., n_images, n_seeds) float, complete.

    Returns:
        three arrays (...); NaN where there is one image (MS_I, MS_R) or one seed (MS_S, MS_R).
    """
    num_images, num_seeds = table.shape[-2:]
    by_image, by_seed = table.mean(axis=-1), table.mean(axis=-2)
    nan = np.full(table.shape[:-2], np.nan)
    images = num_seeds * by_image.var(axis=-1, ddof=1) if num_images > 1 else nan
    seeds = num_images * by_seed.var(axis=-1, ddof=1) if num_seeds > 1 else nan
    freedom = (num_images - 1) * (num_seeds - 1)
    rest = residual_squares(table) / freedom if freedom else nan
    return np.asarray(images), np.asarray(seeds), np.asarray(rest)


def residual_squares(table: np.ndarray) -> np.ndarray:
    """Sum of squares (...) of tables (..., n_images, n_seeds) after their row and column means are taken off."""
    left = table - table.mean(axis=-1, keepdims=True)
    left = left - left.mean(axis=-2, keepdims=True)
    return np.asarray(np.square(left).sum(axis=(-2, -1)))


def combine(
    images: Floats, seeds: Floats, rest: Floats, df_images: Floats, df_seeds: Floats, df_rest: Floats
) -> tuple[np.ndarray, np.ndarray]:
    """V and df of the module's docstring.

    Args:
        images: mean square MS_I, at least 0; all six have shapes that broadcast.
        seeds: mean square MS_S, at least 0.
        rest: mean square MS_R, at least 0.
        df_images: degrees of freedom of MS_I, at least 1.
        df_seeds: degrees of freedom of MS_S, at least 1.
        df_rest: degrees of freedom of MS_R, at least 1.

    Returns:
        variance of the mean times the number of cells, and effective degrees of freedom; of the common shape.
    """
    seeds_f = np.asarray(df_seeds, np.float64)
    variance = np.maximum(np.asarray(images) + seeds - rest, rest)
    weight = 1 + FEW_SEEDS / seeds_f**3
    spread = np.square(images) / df_images + weight * np.square(seeds) / seeds_f + np.square(rest) / df_rest
    least = np.minimum(df_images, seeds_f)
    df = np.divide(np.square(variance), spread, out=np.zeros_like(spread), where=spread > 0)
    return variance, np.maximum(df, least)


def t_quantile(df: Floats, level: float) -> np.ndarray:
    """Half width of a central `level` interval of Student's t, for `df` degrees of freedom of any shape."""
    return -np.asarray(stdtrit(df, (1 - level) / 2))


def two_sided_p(distance: Floats, error: Floats, df: Floats) -> np.ndarray:
    """P(|t| >= |distance| / error): below 1 - level exactly when error * t_quantile(df, level) < |distance|.

    Without any error a distance of 0 has p = 1 and any other has 0. NaN where the error is.
    """
    distance, error = np.abs(distance), np.asarray(error, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where((error == 0) & (distance == 0), 0.0, distance / error)
    return 2 * np.asarray(stdtr(df, -ratio))
