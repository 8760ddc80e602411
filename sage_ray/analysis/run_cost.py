"""What runs cost: parameters of the segmenter, seconds of all epochs, and GPU seconds."""

from __future__ import annotations

import pandas as pd

from sage_ray.analysis.arms import ArmRuns
from sage_ray.analysis.study_facts import StudyFacts
from sage_ray.analysis.tidy import Tidy


def run_costs(tidy: Tidy, runs: ArmRuns) -> pd.DataFrame:
    """One row per run: arm, parameters of its segmenter, seconds of all its epochs, and GPU seconds of them.

    Epochs that were taken from another run's stage count with the seconds that they took there.
    """
    seconds = epoch_seconds(tidy, runs.facts)
    table = runs.runs.set_index("run_id")
    found = pd.DataFrame({"arm": table["arm"], "seconds": seconds.reindex(table.index)})
    wall = table["seconds"].astype(float)
    found["gpu_seconds"] = found["seconds"] * (table["gpu_seconds"].astype(float) / wall.where(wall > 0))
    known = "parameters_segmenter" in table
    found["parameters"] = table["parameters_segmenter"].astype(float) if known else float("nan")
    return found.reset_index()


def epoch_seconds(tidy: Tidy, facts: StudyFacts) -> pd.Series:
    """Seconds of all epochs of each run of a study, by run id; those taken from another run's stage included."""
    rows = tidy.rows(kind="epoch", studies=[facts.name], scores=["seconds"], columns=["run_id", "value"])
    return rows.groupby("run_id")["value"].sum()
