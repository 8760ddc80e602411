"""The objective of a trial: one number from the reports of a run's last phase."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sage_ray.metrics.reduction import PLATEAU_SHARE, reduce_scores
from sage_ray.study.file_schema import ObjectivePart

__all__ = ["PLATEAU_SHARE", "reduce_reports"]

LOSS_METRIC = "val/loss"


def reduce_reports(reports: Iterable[Mapping[str, Any]], objective: ObjectivePart) -> float:
    """The objective of a run, as `reduce_scores` with the metric, reduction and direction of `objective`.

    A run without a segmenter has one validation score, `val/loss`: in an ablation it is worth that (a search by another
    score is refused). The definitions beside the values keep it apart from the other arms.
    """
    listed = list(reports)
    only_loss = bool(listed) and objective.metric not in listed[-1] and LOSS_METRIC in listed[-1]
    if only_loss and objective.metric.startswith("val/"):
        return reduce_scores(listed, metric=LOSS_METRIC, reduce=objective.reduce, maximize=False)
    return reduce_scores(listed, metric=objective.metric, reduce=objective.reduce, maximize=objective.maximize)
