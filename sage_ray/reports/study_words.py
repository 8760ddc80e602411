"""A study and its trials in words, for pages and for the terminal alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def score_text(value: Any) -> str:
    """A score with four decimals; "-" if there is none yet."""
    return f"{value:.4f}" if isinstance(value, int | float) and math.isfinite(value) else "-"


def objective_text(metric: str, value: Any) -> str:
    """The value of an objective: seconds with one decimal, a score with four; "-" if there is none yet."""
    if metric.endswith("seconds") and isinstance(value, int | float) and math.isfinite(value):
        return f"{value:.1f}"
    return score_text(value)


def further_objectives(status: Any) -> list[str]:
    """Metrics of the objectives of a study beside the one that its score is."""
    return list(field_of(status, "objectives") or {})[1:]


def objectives_text(status: Any) -> str:
    """What the trials of a study are judged by: "val/dice, maximize; gpu_seconds, minimize"."""
    stated = field_of(status, "objectives") or {field_of(status, "metric"): field_of(status, "direction")}
    return "; ".join(f"{metric}, {direction}" for metric, direction in stated.items())


def judged_by(status: Any) -> str:
    """The same for a page: "`val/dice`, higher is better, and `gpu_seconds`, lower is better"."""
    stated = field_of(status, "objectives") or {field_of(status, "metric"): field_of(status, "direction")}
    better = {"maximize": "higher", "minimize": "lower"}
    return ", and ".join(f"`{metric}`, {better.get(sense, sense)} is better" for metric, sense in stated.items())


def field_of(row: Any, name: str, default: Any = None) -> Any:
    """A field of a trial or status, whether it is a mapping or an object."""
    return row.get(name, default) if isinstance(row, Mapping) else getattr(row, name, default)


def target_of(status: Any) -> int | None:
    """Trials that the study is to have, if the status knows."""
    for name in ("target", "total"):
        if field_of(status, name):
            return int(field_of(status, name))
    return None


def tally(status: Any) -> str:
    """ "3 of 12 done, 1 pruned, 0 failed, 2 running"; what was cut off, and what it waits for where it waits."""
    target = target_of(status)
    done = f"{field_of(status, 'done') or 0}{f' of {target}' if target else ''} done"
    counts = "".join(f", {field_of(status, name) or 0} {name}" for name in ("pruned", "failed", "running"))
    cut_off = field_of(status, "interrupted") or 0
    counts += f", {cut_off} cut off" if cut_off else ""
    pending, awaits = field_of(status, "pending") or 0, field_of(status, "awaits")
    return f"{done}{counts}" + (f", {pending} pending" if pending else "") + (f", waits for {awaits}" if awaits else "")
