"""Seconds of epochs that the runs of a home have recorded, the newest runs first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sage_ray.config import ExperimentConfig
from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunRecord
from sage_ray.runtime.devices import gpus_held
from sage_ray.search.epoch_cost import Images, Measured, kind_of, likeness_of, steady_mean

LOOKED_AT = 64
"""Runs of a home that are read at most, the newest ones: what a home computes with changes, and reading takes time."""
LEFT_OUT = ("channels_last",)
"""Entries of `numerics` that do not make seconds unlike."""


def recorded_epochs(home: Home, place: Mapping[str, Any], at_most: int = LOOKED_AT) -> list[Measured]:
    """What the newest runs of a home measured at a place, one entry per run and kind of epoch.

    Of the epochs in metrics.jsonl those count that the run trained itself: replayed ones have the seconds that they
    took in the run that trained them. The first epoch that a run trains of a kind is left out where it has others: it
    compiles, and lets the device choose its kernels. A run's seconds beside its epochs count where it is complete, was
    started once, and had no reason to wait for a stage of another run.
    """
    found: list[Measured] = []
    for folder in _newest(home)[:at_most]:
        try:
            record = folder.read()
            if record.numerics and _numbers(record.numerics).items() <= place.items():
                found += _of_run(folder, record, place)
        except (UserError, OSError, KeyError, ValueError, pa.ArrowException):
            continue  # a run that is damaged, or of another time, has nothing to tell here
    return found


def comparable_place(numerics: Mapping[str, Any], gpu: str | None, gpus: float) -> dict[str, Any]:
    """Where seconds are comparable: numerics, the model of GPU (None: a CPU, or not known), and GPUs per run."""
    return {**_numbers(numerics), "gpu": gpu, "gpus": round(gpus, 4)}


def _newest(home: Home) -> list[RunFolder]:
    paths = [home.runs / run_id / "record.json" for run_id in home.run_ids()]
    return [RunFolder(path.parent) for path in sorted(paths, key=_time, reverse=True)]


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _numbers(numerics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in numerics.items() if name not in LEFT_OUT}


def _of_run(folder: RunFolder, record: RunRecord, place: Mapping[str, Any]) -> list[Measured]:
    config = folder.config()
    here = comparable_place(record.numerics, _gpu(record), gpus_held(config.runtime))
    if place["gpu"] is None:
        here["gpu"] = None  # the trials' model is not known: any will do
    if here != dict(place):
        return []
    images = _images(folder)
    reports = folder.metrics()
    rest = _rest(record, reports)
    return [
        Measured(kind, steady_mean(seconds), len(seconds), folder.run_id, seen, rest)
        for kind, seconds in _trained(config, reports).items()
        for seen in [likeness_of(config, kind, images, place)]
    ]


def _gpu(record: RunRecord) -> str | None:
    models = dict.fromkeys(where.rsplit(", torch", 1)[0] for where in record.computed_on)
    return " and ".join(models) if record.numerics["device"] == "cuda" else None


def _images(folder: RunFolder) -> Images:
    parts = pq.read_table(folder.artifacts / "manifest.parquet", columns=["part"])["part"].to_pylist()
    return Images(parts.count("train"), parts.count("validation"))


def _trained(config: ExperimentConfig, reports: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Seconds of the epochs that the run trained itself, by kind."""
    found: dict[str, list[float]] = defaultdict(list)
    for report in reports:
        if not report["replayed"]:
            found[kind_of(config, report["phase"], report["phase_epoch"])].append(float(report["seconds"]))
    return {kind: seconds[1:] or seconds for kind, seconds in found.items()}


def _rest(record: RunRecord, reports: list[dict[str, Any]]) -> float | None:
    if not record.finished or record.attempt != 1 or any(report["replayed"] for report in reports):
        return None
    epochs = sum(float(report["seconds"]) for report in reports)
    return max(record.seconds - epochs - record.pair_seconds_spent, 0.0)
