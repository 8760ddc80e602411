"""What one run is worth under each objective of its study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sage_ray.config import ExperimentConfig
from sage_ray.metrics.definitions import DEVICE_SECONDS
from sage_ray.runtime.devices import gpus_held
from sage_ray.study.file_schema import ObjectivePart
from sage_ray.study.objective import reduce_reports


def run_objectives(
    reports: Sequence[Mapping[str, Any]],
    config: ExperimentConfig,
    objectives: Sequence[ObjectivePart],
    pair_seconds: float = 0.0,
) -> list[float]:
    """Each objective of a run, from its reports in epoch order; NaN where a score is not finite.

    gpu_seconds are those of all its epochs, also of those that came from the stage store, and those of its extra pairs
    (`RunRecord.pair_seconds`), whoever made them: what the configuration would cost by itself.
    """
    seconds = device_seconds(reports, config, pair_seconds)
    return [
        seconds if objective.metric == DEVICE_SECONDS else reduce_reports(reports, objective)
        for objective in objectives
    ]


def on_front(values: Sequence[Sequence[float]], objectives: Sequence[ObjectivePart]) -> list[bool]:
    """Of each trial, by its objectives, whether it is on the Pareto front.

    It is, if no other trial is better in one objective and at least as good in all others.
    """
    signs = np.array([-1.0 if part.maximize else 1.0 for part in objectives])
    losses = np.array(values, dtype=float).reshape(-1, len(objectives)) * signs
    return [not np.any(np.all(losses <= loss, axis=1) & np.any(losses < loss, axis=1)) for loss in losses]


def device_seconds(reports: Sequence[Mapping[str, Any]], config: ExperimentConfig, pair_seconds: float = 0.0) -> float:
    """Seconds of all epochs of a run and of its extra pairs, times the GPUs that it held, or on a CPU its workers."""
    return (sum(float(report["seconds"]) for report in reports) + pair_seconds) * devices_of(config)


def devices_of(config: ExperimentConfig) -> float:
    """GPUs that a run holds, or on a CPU its workers."""
    return gpus_held(config.runtime) or config.runtime.workers
