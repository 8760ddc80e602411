"""Intervals over images crossed with seeds, claims and verdicts, and what a planned study would find."""

from __future__ import annotations

from sage_ray.statistics.paired import (
    Interval,
    Verdict,
    align,
    holm,
    holm_verdicts,
    mean_interval,
    paired_interval,
    verdict,
)

__all__ = ["Interval", "Verdict", "align", "holm", "holm_verdicts", "mean_interval", "paired_interval", "verdict"]
