"""The objective of a trial: one number from the reports of a run's last phase."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from sage_ray.study.file_schema import ObjectivePart

PLATEAU_SHARE = 0.2


def reduce_reports(reports: Iterable[Mapping[str, Any]], objective: ObjectivePart) -> float:
    """The objective over the epochs of the last phase that `reports` has; NaN if one of them has no finite score.

    plateau: median of the last ceil(0.2 n) of its n epochs (DESIGN section 6); last: its last one; best: its best one.

    Args:
        reports: a run's reports in epoch order, or lines of metrics.jsonl (None where a number was not finite).
        objective: metric, reduction and direction.
    """
    listed = list(reports)
    if not listed:
        return math.nan
    phase = listed[-1]["phase"]
    scores = [_number(report.get(objective.metric)) for report in listed if report["phase"] == phase]
    if objective.reduce == "best":
        best = max if objective.maximize else min
        return math.nan if any(math.isnan(score) for score in scores) else best(scores)
    window = 1 if objective.reduce == "last" else math.ceil(PLATEAU_SHARE * len(scores))
    kept = scores[-window:]
    return math.nan if any(math.isnan(score) for score in kept) else statistics.median(kept)


def _number(value: Any) -> float:
    if value is None or not math.isfinite(value):
        return math.nan
    return float(value)
