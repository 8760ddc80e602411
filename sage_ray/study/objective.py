"""The objective of a trial: one number from the reports of a run's last phase."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sage_ray.metrics.reduction import PLATEAU_SHARE, reduce_scores
from sage_ray.study.file_schema import ObjectivePart

__all__ = ["PLATEAU_SHARE", "reduce_reports"]


def reduce_reports(reports: Iterable[Mapping[str, Any]], objective: ObjectivePart) -> float:
    """The objective of a run, as `reduce_scores` with the metric, reduction and direction of `objective`."""
    return reduce_scores(reports, metric=objective.metric, reduce=objective.reduce, maximize=objective.maximize)
