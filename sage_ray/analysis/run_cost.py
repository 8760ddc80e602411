"""What runs cost: parameters of the segmenter, seconds of all epochs and of extra pairs, and GPU seconds."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from sage_ray.analysis.arms import ArmRuns
from sage_ray.analysis.study_facts import StudyFacts
from sage_ray.analysis.tidy import Tidy


def run_costs(tidy: Tidy, runs: ArmRuns) -> pd.DataFrame:
    """One row per run: arm, parameters of its segmenter, its epochs, its seconds (`cost_seconds`), and GPU seconds."""
    seconds = cost_seconds(tidy, runs.facts)
    table = runs.runs.set_index("run_id")
    found = pd.DataFrame({"arm": table["arm"], "seconds": seconds.reindex(table.index)})
    found["epochs"] = table["epoch"].astype(float)
    wall = table["seconds"].astype(float)
    found["gpu_seconds"] = found["seconds"] * (table["gpu_seconds"].astype(float) / wall.where(wall > 0))
    known = "parameters_segmenter" in table
    found["parameters"] = table["parameters_segmenter"].astype(float) if known else float("nan")
    return found.reset_index()


def cost_seconds(tidy: Tidy, facts: StudyFacts) -> pd.Series:
    """Seconds of all epochs of each run of a study and of making its extra pairs, by run id.

    What was taken from another run's stage counts with the seconds that it took there: each run as if it were alone.
    """
    rows = tidy.rows(kind="epoch", studies=[facts.name], scores=["seconds"], columns=["run_id", "value"])
    epochs: pd.Series = rows.groupby("run_id")["value"].sum()
    runs = tidy.runs([facts.name])
    if "extra_pairs" not in runs:
        return epochs
    pairs = runs.set_index("run_id")["extra_pairs"].map(_pair_seconds)
    return epochs + pairs.reindex(epochs.index).fillna(0.0)


def _pair_seconds(told: Any) -> float:
    return float(json.loads(told).get("seconds") or 0.0) if isinstance(told, str) else 0.0
