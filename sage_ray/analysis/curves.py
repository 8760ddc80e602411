"""Numbers that stand for a whole learning curve: best epoch, plateau and pooled F1; one definition per column."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sage_ray.errors import UserError
from sage_ray.metrics.definitions import COUNTS
from sage_ray.study.objective import PLATEAU_SHARE


def one_definition(found: Iterable[str | None], score: str, where: str) -> str:
    """The one definition that all rows of a column have.

    Raises:
        UserError: they have several; a column must not mix them.
    """
    texts = sorted({str(text) for text in found if isinstance(text, str)})
    if len(texts) > 1:
        raise UserError(
            f"mixed definitions of {score}", f"{where}: {' | '.join(texts)}", "tabulate runs that were scored alike"
        )
    return texts[0] if texts else "not recorded"


def is_better(a: float, b: float, *, lower: bool) -> bool:
    """Whether `a` is the better score of the two."""
    return a < b if lower else a > b


def window(count: int) -> int:
    """Number of last epochs that the plateau is taken over: ceil(0.2 n) of n epochs."""
    return math.ceil(PLATEAU_SHARE * count)


def plateau(values: Sequence[float] | np.ndarray) -> float:
    """Median of the last ceil(0.2 n) of n epochs' scores; nan if one of them is not finite or there is none."""
    scores = np.asarray(values, np.float64)
    kept = scores[len(scores) - window(len(scores)) :]
    return float(np.median(kept)) if len(kept) and np.isfinite(kept).all() else math.nan


def best_score(values: Sequence[float] | np.ndarray, *, lower: bool = False) -> tuple[float, int]:
    """The best of the finite scores and its place, counted from 0; (nan, -1) if none is finite."""
    scores = np.asarray(values, np.float64)
    if not np.isfinite(scores).any():
        return math.nan, -1
    place = int(np.nanargmin(scores) if lower else np.nanargmax(np.where(np.isfinite(scores), scores, -np.inf)))
    return float(scores[place]), place


def pooled_f1(counts: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Pixel F1 = 2 TP / (2 TP + FP + FN) of the counts of all images of a group; 1 where nothing was there or found.

    Args:
        counts: rows with `score` in tp, fp, fn, `value` in pixels, and the columns `by`.
        by: columns that name a group, such as the run.

    Returns:
        One row per group: `by` and `value`.
    """
    sums = counts.pivot_table(index=list(by), columns="score", values="value", aggfunc="sum", observed=True)
    tp, fp, fn = (sums[name].to_numpy(float) for name in COUNTS)
    whole = 2 * tp + fp + fn
    value = np.where(whole > 0, 2 * tp / np.where(whole > 0, whole, 1.0), 1.0)
    return sums.reset_index()[list(by)].assign(value=value)


def curve_facts(curve: pd.DataFrame, *, lower: bool = False) -> dict[str, Any]:
    """Best epoch, plateau, last epoch and number of epochs of one phase of one run.

    Args:
        curve: rows of one run, phase and score, with `epoch` and `value`.
        lower: whether the lowest score is the best.
    """
    ordered = curve.sort_values("epoch")
    values = ordered["value"].to_numpy(float)
    top, place = best_score(values, lower=lower)
    return {
        "epochs": len(values),
        "best": top,
        "best_epoch": int(ordered["epoch"].iloc[place]) if place >= 0 else None,
        "plateau": plateau(values),
        "last": float(values[-1]) if len(values) else math.nan,
    }
