"""Intervals over images crossed with seeds, claims and verdicts, and what a planned study would find."""

from __future__ import annotations

from sage_ray.statistics.claims import Verdict, verdicts
from sage_ray.statistics.clusters import Clusters, by_group, coarser
from sage_ray.statistics.paired import Interval, align, mean_interval, paired_interval

__all__ = [
    "Clusters",
    "Interval",
    "Verdict",
    "align",
    "by_group",
    "coarser",
    "mean_interval",
    "paired_interval",
    "verdicts",
]
