"""The error of a mean over images crossed with seeds and with subsets of labelled images.

Each of n_I images is scored under n_S seeds x n_U subsets, subsets being drawn anew as seeds are. Of a table
d[i, s, u] = mu + image_i + seed_s + subset_u + all their interactions, the mean has n_I n_S n_U times the variance

    V = v_R + n_U v_IS + n_S v_IU + n_I v_SU + n_S n_U v_I + n_I n_U v_S + n_I n_S v_U,

whose parts the mean squares of the analysis of variance give:

    V_runs = max(MS_S + MS_U - MS_SU, MS_SU),   R = max(MS_IS + MS_IU - MS_R, MS_R),   V = max(V_runs + MS_I - R, R).

Where there is one subset (or one seed) this is `combined.combine` of images and seeds (or subsets). Degrees of freedom
are Satterthwaite's, MS_S and MS_U weighted up as there, and never below those of a single source.

Source: as `combined`; benchmarks/labels_saved.py simulates the intervals that follow.
"""

from __future__ import annotations

import numpy as np

from sage_ray.statistics.clusters import Clusters, by_group
from sage_ray.statistics.combined import FEW_SEEDS, combine, mean_squares


def gathered(table: np.ndarray, together: Clusters) -> np.ndarray:
    """Scores (..., n_images, n_seeds, n_subsets) as those of micrographs, with the same mean (`clusters`)."""
    shape = table.shape
    flat = together.gather(table.reshape(*shape[:-2], shape[-2] * shape[-1]))
    return flat.reshape(*flat.shape[:-1], *shape[-2:])


def mean_error(table: np.ndarray, together: Clusters | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Standard error of the mean of tables, and its degrees of freedom.

    Args:
        table: (..., n_images, n_seeds, n_subsets) float, complete, two images or more.
        together: which images are crops of one micrograph; None: none are.

    Returns:
        two arrays (...). With one seed and one subset the error is over images alone, of these trained weights.
    """
    units = together if together is not None else by_group(None, table.shape[-3])
    table = gathered(np.asarray(table, np.float64), units)
    num_images, num_seeds, num_subsets = table.shape[-3:]
    cells = num_images * num_seeds * num_subsets
    if num_seeds == 1 or num_subsets == 1:
        flat = table.reshape(*table.shape[:-2], num_seeds * num_subsets)
        images, runs, rest = mean_squares(flat)
        df_runs = num_seeds * num_subsets - 1
        if not df_runs:
            return np.sqrt(images / cells), np.full(images.shape, units.df)
        variance, df = combine(images, runs, rest, units.df, df_runs, units.df * df_runs)
        return np.sqrt(variance / cells), df
    variance, df = _variance(table, units.df)
    return np.sqrt(variance / cells), df


def _variance(table: np.ndarray, df_images: float) -> tuple[np.ndarray, np.ndarray]:
    """V of the module's docstring and its degrees of freedom, of tables with two of each or more."""
    num_images, num_seeds, num_subsets = table.shape[-3:]
    df_seeds, df_subsets = num_seeds - 1, num_subsets - 1
    # mean_squares takes the last two axes, and a mean over the third; a mean of n has n times the mean square.
    seeds, subsets, both = (num_images * square for square in mean_squares(table.mean(axis=-3)))
    images, _, by_seed = (num_subsets * square for square in mean_squares(table.mean(axis=-1)))
    _, _, by_subset = (num_seeds * square for square in mean_squares(table.mean(axis=-2)))
    left = table - table.mean(axis=-3, keepdims=True)
    left = left - left.mean(axis=-2, keepdims=True)
    left = left - left.mean(axis=-1, keepdims=True)
    rest = np.square(left).sum(axis=(-3, -2, -1)) / ((num_images - 1) * df_seeds * df_subsets)

    runs = np.maximum(seeds + subsets - both, both)
    shared = np.maximum(by_seed + by_subset - rest, rest)
    variance = np.maximum(runs + images - shared, shared)
    spread = (
        np.square(images) / df_images
        + _weight(df_seeds) * np.square(seeds) / df_seeds
        + _weight(df_subsets) * np.square(subsets) / df_subsets
        + np.square(both) / (df_seeds * df_subsets)
        + np.square(shared) / (df_images * min(df_seeds, df_subsets))
    )
    df = np.divide(np.square(variance), spread, out=np.zeros_like(spread), where=spread > 0)
    return variance, np.maximum(df, min(df_images, df_seeds, df_subsets))


def _weight(df: int) -> float:
    return 1 + FEW_SEEDS / df**3
