"""Searches with as many trials as wanted, of which one was really trained and the others' records are made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from study_cases import Study
from sweep_cases import write_space
from tiny_cases import SMALLEST

from sage_ray.metrics.definitions import COUNTS, IMAGE_SCORES
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunLabels
from sage_ray.study.space import load_space
from sage_ray.training.scoring import per_image_rows

SEARCHED: dict[str, Any] = {
    "adversarial.lambda_cycle": {"float": [0.1, 10], "log": True},
    "adversarial.lr": {"float": [3.0e-5, 3.0e-2], "log": True},
    "pretrain.lr": {"float": [3.0e-5, 3.0e-2], "log": True},
    "adversarial.mask_path": {"categorical": ["straight_through", "soft", "argmax"]},
    "pretrain.batch_size": {"categorical": [2, 4, 8]},
    "segmentation_loss.alpha": {"float": [0.2, 0.8]},
}
EPOCHS = {"pretrain.epochs": 2, "adversarial.epochs": 6}


def write_search(home: Home, folder: Path, name: str, trials: int, searched: dict[str, Any] | None = None) -> None:
    """A finished search: trial 1 is trained, every third trial was stopped early, and trial 5 failed.

    Trial 1 scores best, so that it is chosen.
    """
    base = {**SMALLEST, **EPOCHS, "runtime.pictures": False}
    path = write_space(
        folder, base=base, name=name, space=searched or SEARCHED, trials=trials, points=[{}],
        sampler={"name": "random", "seed": 0},
    )  # fmt: skip
    study = Study(home, load_space(path), running=trials)
    for number in range(trials):
        run = study.train(number) if number == 1 else _made_up(study, number)
        record = run.read()
        for line in run.metrics():
            study.storage.report(number, line["epoch"], line["val/dice"])
        if record.state == "COMPLETE":
            study.storage.tell_complete(number, [1.0 if number == 1 else run.metrics()[-1]["val/dice"]])
        elif record.state == "PRUNED":
            study.storage.tell_pruned(number)
        else:
            study.storage.tell_failed(number, "diverged: made up")
    study.storage.close()


def _made_up(study: Study, number: int) -> RunFolder:
    values = study.samples[number].values
    config = study.space.config(values, 0)
    run_id = study.space.run_grid(number)[0].run_id
    folder = RunFolder.create(study.home.runs, run_id, config, RunLabels(study=study.space.name, trial=number))
    draws = np.random.default_rng(number)
    state: Any = "FAIL" if number == 5 else "PRUNED" if number % 3 == 2 else "COMPLETE"
    level = 0.6 + 0.3 * draws.random()
    last = 8 if state == "COMPLETE" else 4
    for epoch in range(1, last + 1):
        score = float(level * (1 - 0.5**epoch) + 0.01 * draws.normal())
        folder.append_metrics(_report(epoch, score) | {"replayed": epoch <= 2 and number > 0})
    if state == "COMPLETE":
        rows = [_scores(level + 0.02 * draws.normal()) for _ in range(3)]
        folder.write_per_image(
            per_image_rows(rows, [f"{k:064x}" for k in range(3)], config, part="val", checkpoint="best")
        )
    first = RunFolder.open(study.home.runs, study.space.run_grid(1)[0].run_id).read() if number > 1 else None
    folder.set_state(
        state, attempt=1, epoch=last, seconds=5.0 + 10 * draws.random(), reused_epochs=2 if number else 0,
        selected_epoch=last if state == "COMPLETE" else None, commit="c0ffee" + "0" * 34, dirty=False,
        data_fingerprint=first.data_fingerprint if first else None, split_id=first.split_id if first else None,
    )  # fmt: skip
    return folder


def _report(epoch: int, dice: float) -> dict[str, Any]:
    first = epoch <= 2
    return {
        "epoch": epoch, "phase": "pretrain" if first else "adversarial", "phase_epoch": epoch if first else epoch - 2,
        "lr": 1e-4, "train/loss": 3.0 / epoch, **({} if first else {"train/loss_disc_image": 0.7}),
        "val/dice": dice, "val/loss": 1 - dice, "synthetic_steps": 0, "generator_updates": 0, "seconds": 2.0,
        "replayed": False,
    }  # fmt: skip


def _scores(value: float) -> dict[str, float]:
    counts = dict(zip(COUNTS, (round(1000 * value), 100, 100), strict=True))
    return {name: value for name in IMAGE_SCORES} | {name: float(count) for name, count in counts.items()}
