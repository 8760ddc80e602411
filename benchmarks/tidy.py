"""Seconds and memory of the tidy table of 2,000 recorded runs: claim, under 10 s and under 1 GB in a fresh process.

Each run has what a run writes: config, record, 60 epochs of 20 numbers, 8 scores and 3 pixel counts of 28 validation
and 28 test images. The table is made from nothing, asked for again unchanged, and again after a hundredth of the runs
changed.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from sage_ray.config import ExperimentConfig, dump
from sage_ray.files import write_json, write_text
from sage_ray.metrics.definitions import COUNTS, IMAGE_SCORES, VALIDATION_SCORES, definitions
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunRecord

LIMIT_S, LIMIT_MB = 10.0, 1000.0
EPOCHS, PRETRAIN, IMAGES, SEEDS, ARMS = 60, 24, 28, 5, 10
LOSSES = ("loss", "loss_rec_mask", "loss_id_mask", "loss_adv_image", "loss_adv_mask", "loss_disc_image")
CURVES = (*VALIDATION_SCORES, *(f"train/{name}" for name in LOSSES))


def write_home(home: Home, num_runs: int) -> None:
    """Write folders as runs leave them, study by study of ARMS arms and SEEDS seeds."""
    home.check_writable()
    draws = np.random.default_rng(0)
    for number in range(num_runs):
        study, place = divmod(number, ARMS * SEEDS)
        arm, seed = divmod(place, SEEDS)
        config = ExperimentConfig().with_values({"adversarial.lambda_cycle": 1.0 + arm, "seed": seed})
        labels = {"study": f"study{study:03d}", "arm": f"arm{arm}", "trial": place, "parent": f"study{study:03d}"}
        folder = RunFolder(home.runs / f"study{study:03d}-arm{arm}-s{seed}")
        folder.path.mkdir()
        write_text(folder.path / "config.yaml", _config_text(config), durable=False)
        write_metrics(folder, draws)
        folder.write_per_image(_image_rows(draws))
        record = RunRecord(
            run_id=folder.run_id, seed=seed, attempt=1, state="COMPLETE", epoch=EPOCHS, selected_epoch=EPOCHS,
            config_hash=config.config_hash(), data_fingerprint="f" * 16, split_id="5" * 16, commit="c" * 40,
            seconds=600.0, numerics={"device": "cpu"}, parameters={"segmenter": 1_963_554}, test_reads=1, **labels,
        )  # fmt: skip
        folder.write(record, durable=False)


_TEXTS: dict[str, str] = {}


def _config_text(config: ExperimentConfig) -> str:
    # Writing YAML takes longer than all else here, and the runs of an arm differ in their seed alone.
    arm = config.with_values({"seed": 0})
    key = arm.config_hash()
    if key not in _TEXTS:
        _TEXTS[key] = dump(arm)
    return _TEXTS[key].replace("\nseed: 0\n", f"\nseed: {config.seed}\n")


def write_metrics(folder: RunFolder, draws: np.random.Generator) -> None:
    """Write metrics.jsonl, one line per epoch."""
    values = draws.random((EPOCHS, len(CURVES)))
    lines = []
    for epoch in range(1, EPOCHS + 1):
        second = epoch > PRETRAIN
        head = {"epoch": epoch, "phase": "adversarial" if second else "pretrain", "lr": 1e-4, "seconds": 9.8765}
        head["phase_epoch"] = epoch - PRETRAIN * second
        tail = {"synthetic_steps": epoch, "generator_updates": epoch, "replayed": False, "time_ms": 1795176836718}
        lines.append(json.dumps({**head, **dict(zip(CURVES, values[epoch - 1].tolist(), strict=True)), **tail}) + "\n")
    write_text(folder.path / "metrics.jsonl", "".join(lines), durable=False)


def _image_rows(draws: np.random.Generator) -> list[dict[str, object]]:
    names = (*IMAGE_SCORES, *COUNTS)
    defined = definitions(
        min_object_pixels=15, boundary_tolerance=2.0, mask_erosion=0, min_truth_pixels=0, image_size=(512, 768)
    )
    return [
        {"part": part, "checkpoint": "best", "image_sha": f"{part}{image:060x}", "score": name, "value": value,
         "definition": defined[name]}
        for part in ("val", "test")
        for image in range(IMAGES)
        for name, value in zip(names, draws.random(len(names)).tolist(), strict=True)
    ]  # fmt: skip


def measure(folder: str) -> dict[str, float]:
    """Seconds of `collect`, imports included, and the peak memory of this process, which must be a fresh one."""
    started, busy = time.perf_counter(), time.process_time()
    from sage_ray.analysis.tidy import collect

    tidy = collect(folder)
    seconds, cpu = time.perf_counter() - started, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = tidy.path.stat().st_size / 2**20
    return {"read": tidy.read, "seconds": seconds, "cpu_seconds": cpu, "peak_mb": peak, "table_mb": size}


def in_fresh_process(home: Home) -> dict[str, float]:
    """What `measure` says in a process of its own."""
    words = [sys.executable, __file__, "--measure", str(home.path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=True)
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> int:
    """Exit code: 0 if the claim holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--measure", metavar="HOME", help="of a home that is there, without saving")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return 0
    from record import save

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home")
        write_home(home, options.runs)
        rows.append({"case": "from nothing", "runs": options.runs, **in_fresh_process(home)})
        rows.append({"case": "unchanged", "runs": options.runs, **in_fresh_process(home)})
        for run_id in home.run_ids()[::100]:
            write_json(home.runs / run_id / "record.json", RunFolder(home.runs / run_id).read().model_dump(mode="json"))
        rows.append({"case": "1 % changed", "runs": options.runs, **in_fresh_process(home)})
    held = all(row["seconds"] < LIMIT_S and row["peak_mb"] < LIMIT_MB for row in rows)
    notes = [
        f"Limits {LIMIT_S:g} s and {LIMIT_MB:g} MB, imports included: {'hold' if held else 'FAIL'}. On a machine that "
        "is busy with something else compare the CPU seconds."
    ]
    save("tidy", "Tidy table of recorded runs", rows, notes)
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
