"""Seconds that record keeping and the mirror in MLflow add to a trial: claim, at most 0.3 s of CPU beside its training.

Each trial writes what a run writes (config, record, 24 epochs of 20 metrics, per-image scores, four pictures) and is
then sent whole, with its data set, to a sqlite store, in one process, after imports and the creation of the store.
Wall seconds are shown too; on a busy machine they tell less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from sage_ray.config import ExperimentConfig
from sage_ray.files import write_json
from sage_ray.record import provenance
from sage_ray.record.home import Home
from sage_ray.record.mlflow_mirror import Mirror
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunLabels

LIMIT_S = 0.3
EPOCHS, METRICS, IMAGES, SCORES = 24, 20, 20, 12
PARTS = {"train": 200, "validation": 20, "test": 20}
PICTURE_BYTES = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)


def record_trial(home: Home, number: int) -> RunFolder:
    """Write a trial's folder as a run does, epoch by epoch."""
    config = ExperimentConfig().with_values({"seed": number})
    folder = RunFolder.create(home.runs, f"t{number:04d}", config, RunLabels(study="bench", trial=number))
    with folder.lock("driver", 1), folder.lock("writer", 1):
        write_json(folder.artifacts / "environment.json", provenance.environment(), durable=False)
        folder.update(attempt=1, data_fingerprint="0123456789abcdef", split_id="0", parts=PARTS)
        for epoch in range(1, EPOCHS + 1):
            report = {f"train/loss_{m}": epoch / (m + 1) for m in range(METRICS)}
            folder.append_metrics({"epoch": epoch, **report})
            folder.update(durable=False, epoch=epoch, metrics=report)
        row = {"part": "val", "checkpoint": "best", "definition": "mean over images of the foreground Dice"}
        folder.write_per_image(
            {**row, "image_sha": f"{i:064x}", "score": f"score_{s}", "value": 0.5}
            for i in range(IMAGES)
            for s in range(SCORES)
        )
        folder.set_state("COMPLETE", selected_epoch=EPOCHS, selected_metrics=report)
    return folder


def timed(function: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10)
    trials = parser.parse_args().trials
    records, sends = [], []
    with tempfile.TemporaryDirectory() as folder:
        home = Home(folder)
        home.check_writable()
        mirror = Mirror(home)
        mirror.parent_run("bench")
        mirror.push(record_trial(home, 0))  # imports and caches
        for number in range(1, trials + 1):
            records.append(timed(lambda number=number: record_trial(home, number)))
            run = RunFolder.open(home.runs, f"t{number:04d}")
            for name in ("curves", "predictions", "attention", "generated"):
                Image.fromarray(PICTURE_BYTES).save(run.artifacts / f"{name}.png", compress_level=1)
            sends.append(timed(lambda run=run: mirror.push(run)))
    figures = {
        "record_s": statistics.median(wall for wall, _ in records),
        "record_cpu_s": statistics.median(cpu for _, cpu in records),
        "mirror_s": statistics.median(wall for wall, _ in sends),
        "mirror_cpu_s": statistics.median(cpu for _, cpu in sends),
    }
    total_cpu = figures["record_cpu_s"] + figures["mirror_cpu_s"]
    for name, value in figures.items():
        print(f"{name:14s} {value:.3f}")
    held = total_cpu <= LIMIT_S
    print(f"a trial adds {total_cpu:.3f} CPU s (limit {LIMIT_S}): {'holds' if held else 'FAILS'}")
    print(json.dumps({"benchmark": "mlflow_sink", "trials": trials, **figures, "limit_s": LIMIT_S, "ok": held}))
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
