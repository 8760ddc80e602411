"""One number from the scores of a run's epochs: what the trials of a study are compared by."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

PLATEAU_SHARE = 0.2


def reduce_scores(reports: Iterable[Mapping[str, Any]], *, metric: str, reduce: str, maximize: bool) -> float:
    """A score over the epochs of the last phase that `reports` has; NaN if one of them has no finite score.

    plateau: median of the last ceil(0.2 n) of its n epochs (DESIGN section 6); last: its last one; best: its best one.

    Args:
        reports: a run's reports in epoch order, or lines of metrics.jsonl (None where a number was not finite).
        metric: name of the score in the reports.
        reduce: plateau, last or best.
        maximize: whether the highest is the best.
    """
    listed = list(reports)
    if not listed:
        return math.nan
    phase = listed[-1]["phase"]
    scores = [_number(report.get(metric)) for report in listed if report["phase"] == phase]
    if reduce == "best":
        best = max if maximize else min
        return math.nan if any(math.isnan(score) for score in scores) else best(scores)
    window = 1 if reduce == "last" else math.ceil(PLATEAU_SHARE * len(scores))
    kept = scores[-window:]
    return math.nan if any(math.isnan(score) for score in kept) else statistics.median(kept)


def _number(value: Any) -> float:
    if value is None or not math.isfinite(value):
        return math.nan
    return float(value)
