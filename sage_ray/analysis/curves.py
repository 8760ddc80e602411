"""What a score is, and which number of a learning curve is meant: definitions, best epoch, plateau, pooled F1."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sage_ray.errors import UserError
from sage_ray.metrics import COUNTS, IMAGE_SCORES, definition
from sage_ray.study.objective import PLATEAU_SHARE

POOLED = "f1_pixel"
LOWER_IS_BETTER = frozenset({"loss"})
RANGES_TO_ONE = (*IMAGE_SCORES, POOLED)
LABELS = {
    "dice": "Dice",
    "iou": "IoU",
    "precision": "precision",
    "recall": "recall",
    "f1_object_50": "object F1 (IoU > .5)",
    "f1_object_75": "object F1 (IoU > .75)",
    "f1_object_90": "object F1 (IoU > .9)",
    "boundary_f1": "boundary F1",
    "f1_pixel": "pixel F1 (pooled)",
    "loss": "validation loss",
}
_SETTINGS = (
    "evaluation.min_object_pixels",
    "evaluation.boundary_tolerance",
    "data.mask_erosion",
    "data.min_object_pixels",
    "data.image_size",
)


def definitions(settings: Mapping[str, Any]) -> dict[str, str]:
    """What each score of a run is, by name; two scores may share a column only if their texts are equal.

    The texts are those that `sage-ray evaluate` stores, so validation and test scores of one config agree.

    Args:
        settings: of the run's config, by dotted path; {} if they are not recorded gives {}.
    """
    if any(path not in settings for path in _SETTINGS):
        return {}
    cleaned = settings["data.min_object_pixels"]
    tail = f", truth objects under {cleaned} pixels dropped" if cleaned else ""
    tail += f", at {'x'.join(str(side) for side in settings['data.image_size'])} pixels"
    named = {
        name: definition(
            name,
            min_object_pixels=settings["evaluation.min_object_pixels"],
            boundary_tolerance=settings["evaluation.boundary_tolerance"],
            mask_erosion=settings["data.mask_erosion"],
        )
        + tail
        for name in RANGES_TO_ONE
    }
    return named | {name: f"pixels counted as {name} for: {named[POOLED]}" for name in COUNTS}


def label(score: str) -> str:
    """The score's name for people."""
    return LABELS.get(score, score)


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


def best(values: Sequence[float] | np.ndarray, *, lower: bool = False) -> tuple[float, int]:
    """(best score, its place from 0) over the epochs that have a finite score; (nan, -1) if none has one."""
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
        One row a group: `by` and `value`.
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
    top, place = best(values, lower=lower)
    return {
        "epochs": len(values),
        "best": top,
        "best_epoch": int(ordered["epoch"].iloc[place]) if place >= 0 else None,
        "plateau": plateau(values),
        "last": float(values[-1]) if len(values) else math.nan,
    }
