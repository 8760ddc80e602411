"""How long the report of a search of many trials takes, and how large it is.

    python benchmarks/report.py [--trials 50] [--epochs 60] [--home DIR]

The search is recorded, not trained: its runs are written with the classes that training writes them with. The report is
made by `sage-ray report` in a process of its own, as a user would, start of Python and imports included. The exit code
is 1 if it takes more than 10 s or 5 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from sage_ray.config import dump, resolve
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunLabels
from sage_ray.search.storage import StudyStorage
from sage_ray.search.study_folder import StudyFolder
from sage_ray.study.space import Space, load_space
from sage_ray.training.scoring import per_image_rows, score_definitions

LIMIT_S, LIMIT_BYTES = 10.0, 5_000_000
VALIDATION_IMAGES = 12
NAME = "fifty"
SETTINGS: dict[str, Any] = {
    "adversarial.lambda_cycle": {"float": [0.1, 10], "log": True},
    "adversarial.lr": {"float": [3e-4, 3e-3], "log": True},
    "segmentation_loss.alpha": {"float": [0.2, 0.8]},
    "adversarial.mask_path": {"categorical": ["straight_through", "soft"]},
}


def record_search(home: Home, trials: int, epochs: int) -> None:
    """A finished search with scores that depend on its settings, one trial in four stopped early."""
    import yaml

    home.check_writable()
    folder = StudyFolder(home, NAME)
    folder.path.mkdir(parents=True)
    sets = ["pretrain.epochs=20", f"adversarial.epochs={epochs - 20}", "data.image_size=[64, 64]"]
    base = resolve(preset="tiny_sage_gan", sets=sets).config
    folder.base_path.write_text(dump(base))
    space = {"name": NAME, "base": {"file": "base.yaml"}, "space": SETTINGS, "trials": trials}
    folder.spec_path.write_text(yaml.safe_dump({**space, "sampler": {"name": "random", "seed": 1}}))
    folder.write_meta({"name": NAME, "kind": "sweep", "created": "2026-11-30T12:00:00Z", "trials": trials})
    spec = load_space(folder.spec_path)
    storage = StudyStorage(folder.path, NAME, spec, store=folder.store(None))
    storage.enqueue(spec.fixed, spec)
    draws = np.random.default_rng(0)
    for number in range(trials):
        sample = storage.draw(None, spec).sample
        values = sample.values
        away = abs(np.log10(values.get("adversarial.lambda_cycle", 1.0))) + abs(
            values.get("segmentation_loss.alpha", 0.5) - 0.6
        )
        level = float(0.86 - 0.05 * away + 0.005 * draws.normal())
        state = "PRUNED" if number % 4 == 3 else "COMPLETE"
        _record_run(home, spec, number, values, level, epochs if state == "COMPLETE" else epochs // 2, state)
        if state == "COMPLETE":
            storage.tell_complete(number, [level])
        else:
            storage.report(number, epochs // 2, level - 0.05)
            storage.tell_pruned(number)


def _record_run(
    home: Home, spec: Space, number: int, values: dict[str, Any], level: float, epochs: int, state: str
) -> None:
    config = spec.run_configs(number, values)[0]
    place = spec.run_grid(number)[0]
    run = RunFolder.create(home.runs, place.run_id, config, RunLabels(study=NAME, trial=number))
    for epoch in range(1, epochs + 1):
        first = epoch <= 20
        dice = level * (1 - 0.5 * np.exp(-epoch / 8))
        scores = {"val/dice": dice, "val/f1_object_50": dice - 0.05, "val/f1_pixel": dice, "val/loss": 1 - dice}
        losses = {"train/loss": 1.0 / epoch, "train/loss_gen_adv_image": 0.3 + 1 / epoch, "train/loss_disc_image": 0.4}
        run.append_metrics(
            {
                "epoch": epoch, "phase": "pretrain" if first else "adversarial",
                "phase_epoch": epoch if first else epoch - 20, "lr": 1e-3, "synthetic_steps": 0,
                "generator_updates": 0, "seconds": 1.5, "replayed": first and number > 0, **scores, **losses,
            }
        )  # fmt: skip
    if state == "COMPLETE":
        names = [name for name in score_definitions(config) if not name.startswith("particles")]
        rows = [dict.fromkeys(names, min(level + 0.01 * k, 1.0)) for k in range(VALIDATION_IMAGES)]
        shas = [f"{k:064x}" for k in range(VALIDATION_IMAGES)]
        run.write_per_image(per_image_rows(rows, shas, config, part="val", checkpoint="best"))
    run.set_state(
        state,  # type: ignore[arg-type]
        attempt=1, data_fingerprint="371c403c839736f4", split_id="9fe1ad6e31b0c9aa", epoch=epochs, seconds=1.5 * epochs,
        commit="c0ffee" + "0" * 34, parts={"train": 40, "validation": VALIDATION_IMAGES, "test": 12},
        reused_epochs=20 if number and state == "COMPLETE" else 0, numerics={"device": "cpu", "threads": 1},
        selected_epoch=epochs,
    )  # fmt: skip


def measure(home: Home) -> tuple[float, float, dict[str, Any]]:
    """Wall seconds and seconds of computing of `sage-ray report`, and its answer."""
    before, start = os.times(), time.perf_counter()
    command = [sys.executable, "-m", "sage_ray", "report", NAME, "--home", str(home.path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    wall, after = time.perf_counter() - start, os.times()
    computing = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, computing, json.loads(done.stdout.strip().splitlines()[-1])


def main() -> int:
    """Exit code: 0 if the report is within its limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--home", type=Path, help="folder that is made for it and kept [default: a temporary one]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = Home(options.home or Path(temporary) / "home")
        start = time.perf_counter()
        record_search(home, options.trials, options.epochs)
        print(f"{options.trials} trials of {options.epochs} epochs recorded in {time.perf_counter() - start:.1f} s")
        wall, computing, answer = measure(home)
        again, _, _ = measure(home)
        page = Path(answer["paths"]["html"])
        size = page.stat().st_size
        figures = sorted(path.stem for path in page.with_suffix("").glob("*.svg"))
    print(f"report: {wall:.1f} s ({computing:.1f} s of computing) of at most {LIMIT_S:g} s; unchanged: {again:.1f} s")
    print(f"{size / 1e6:.2f} MB of at most {LIMIT_BYTES / 1e6:g} MB; figures: {', '.join(figures)}")
    return int(wall > LIMIT_S or size > LIMIT_BYTES)


if __name__ == "__main__":
    sys.exit(main())
