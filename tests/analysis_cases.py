"""Homes with recorded runs of known scores, written with the classes that training writes them with."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sage_ray.config import ExperimentConfig
from sage_ray.metrics import COUNTS, IMAGE_SCORES
from sage_ray.registry.scores import definitions, long_rows
from sage_ray.runtime.files import write_json
from sage_ray.runtime.home import Home
from sage_ray.runtime.record import RunFolder, RunLabels
from sage_ray.training.evaluate import per_image_rows

REPO = Path(__file__).resolve().parents[1]
FINGERPRINT, SPLIT = "371c403c839736f4", "9fe1ad6e31b0c9aa"
PRETRAIN, ADVERSARIAL = 5, 10
EPOCHS = PRETRAIN + ADVERSARIAL


def run_script(name: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """`python analysis/NAME.py WORDS` in a process of its own."""
    command = [sys.executable, str(REPO / "analysis" / f"{name}.py"), *map(str, words)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120, check=False)


def write_design(home: Home, name: str, arms: Sequence[str], reference: str, **more: Any) -> None:
    """studies/NAME as `sage-ray ablate` leaves it. Args: more has not_run by arm, seeds, fraction."""
    folder = home.studies / name
    folder.mkdir(parents=True)
    not_run: Mapping[str, str] = more.get("not_run", {})
    listed = [{"name": arm, "not_run": not_run.get(arm), "levels": {}, "values": {}} for arm in arms]
    meta = {"format_version": 1, "name": name, "kind": "ablation", "design": "arms", "reference": reference}
    write_json(folder / "study.json", {**meta, "test": True, "arms": listed, "data_fingerprint": FINGERPRINT})
    design = {"name": name, "kind": "arms", "reference": reference, "seeds": list(more.get("seeds", []))}
    (folder / "design.yaml").write_text(yaml.safe_dump({**design, "arms": {arm: {"set": {}} for arm in arms}}))


def write_run(
    home: Home,
    study: str | None,
    arm: str | None,
    seed: int,
    *,
    level: float = 0.7,
    values: Mapping[str, Any] | None = None,
    state: str = "COMPLETE",
    curve: Sequence[float] | None = None,
    images: int = 6,
    test: bool = True,
    trial: int | None = None,
    fold: int | None = None,
    noise: float = 0.0,
    **record: Any,
) -> RunFolder:
    """A run's folder. Every score of image i is level + .01 i, plus noise; its curve is `curve`, or rises to `level`.

    Args:
        home, study, arm, seed, trial, fold: where it belongs.
        level: of its scores.
        values: of its config.
        state: as recorded; a run that is not COMPLETE has half its epochs and no scores of images.
        curve: val/dice by epoch; the first five are phase 1.
        images: of each part.
        test: whether the locked test part was read.
        noise: sd, drawn from the seed.
        record: further fields of record.json.
    """
    config = ExperimentConfig().with_values({"pretrain.epochs": PRETRAIN, "seed": seed, **(values or {})})
    tail = "" if fold is None else f"-f{fold}"
    name = f"{study}-{arm if arm is not None else f't{trial or 0:04d}'}-s{seed}{tail}"
    home.check_writable()
    folder = RunFolder.create(home.runs, name, config, RunLabels(study=study, arm=arm, trial=trial, fold=fold))
    draws = np.random.default_rng([seed, len(name)])
    scores = list(curve) if curve is not None else [level * (1 - 0.5**epoch) for epoch in range(1, EPOCHS + 1)]
    for epoch, value in enumerate(scores if state == "COMPLETE" else scores[: len(scores) // 2], start=1):
        folder.append_metrics(_report(epoch, float(value + noise * draws.normal())))
    if state == "COMPLETE":
        rows = [_image_scores(level + 0.01 * place + noise * draws.normal()) for place in range(images)]
        shas = [f"{place:064x}" for place in range(images)]
        folder.write_per_image(per_image_rows(rows, shas, config, part="val", checkpoint="best"))
        if test:
            folder.write_per_image(long_rows(rows, [f"f{sha[1:]}" for sha in shas], definitions(config), "best"))
    facts: dict[str, Any] = {
        "attempt": 1, "data_fingerprint": FINGERPRINT, "split_id": SPLIT, "commit": "c0ffee" + "0" * 34, "dirty": False,
        "epoch": len(folder.metrics()), "seconds": 20.0, "numerics": {"device": "cpu", "threads": 1},
        "parameters": {"segmenter": 123_456},
    }  # fmt: skip
    if state == "COMPLETE":
        facts |= {"selected_epoch": EPOCHS, "test_reads": int(test), "weights_sha": "0" * 64}
    folder.set_state(state, **(facts | record))  # type: ignore[arg-type]
    return folder


def write_ablation(
    home: Home, name: str, levels: Mapping[str, float], reference: str, seeds: Sequence[int] = (0, 1, 2), **more: Any
) -> None:
    """A whole study: every arm with every seed. Args: more goes to `write_run`, `values` by arm."""
    write_design(home, name, list(levels), reference, seeds=seeds)
    by_arm = more.pop("values", {})
    for number, (arm, level) in enumerate(levels.items()):
        for seed in seeds:
            given = {"level": level, "values": by_arm.get(arm), "trial": number, "noise": 0.002, **more}
            write_run(home, name, arm, seed, **given)


def _report(epoch: int, dice: float) -> dict[str, Any]:
    first = epoch <= PRETRAIN
    scores = {f"val/{name}": dice for name in (*IMAGE_SCORES, "f1_pixel")}
    return {
        "epoch": epoch, "phase": "pretrain" if first else "adversarial", "lr": 1e-4, "train/loss": 1.0 / epoch, **scores,
        "phase_epoch": epoch if first else epoch - PRETRAIN, "val/loss": 1 - dice, "synthetic_steps": 0,
        "generator_updates": 0, "seconds": 2.0, "replayed": False,
    }  # fmt: skip


def _image_scores(value: float) -> dict[str, float]:
    # 1000 true pixels, as many predicted: the Dice of the counts is their share of hits.
    hits = round(1000 * value)
    counts = dict(zip(COUNTS, (hits, 1000 - hits, 1000 - hits), strict=True))
    return {name: value for name in IMAGE_SCORES} | {name: float(count) for name, count in counts.items()}
