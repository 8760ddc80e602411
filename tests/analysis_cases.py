"""Homes with recorded runs of known scores, written with the classes that training writes them with."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml

from sage_ray.config import ExperimentConfig
from sage_ray.evaluation.score_tables import long_rows
from sage_ray.files import write_json
from sage_ray.metrics.definitions import COUNTS, IMAGE_SCORES
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunLabels
from sage_ray.training.scoring import per_image_rows, score_definitions

REPO = Path(__file__).resolve().parents[1]
FINGERPRINT, SPLIT = "371c403c839736f4", "9fe1ad6e31b0c9aa"
PRETRAIN, ADVERSARIAL = 5, 10
EPOCHS = PRETRAIN + ADVERSARIAL


def run_script(name: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """`python analysis/NAME.py WORDS` in a process of its own."""
    command = [sys.executable, str(REPO / "analysis" / f"{name}.py"), *map(str, words)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120, check=False)


def write_design(home: Home, name: str, arms: Sequence[str], reference: str, **more: Any) -> None:
    """studies/NAME as `sage-ray ablate` leaves it. Args: more has not_run and labels by arm, seeds, fraction."""
    folder = home.studies / name
    folder.mkdir(parents=True)
    not_run: Mapping[str, str] = more.get("not_run", {})
    labels: Mapping[str, str] = more.get("labels", {})
    named = {arm: {"label": labels[arm]} if arm in labels else {} for arm in arms}
    listed = [{"name": arm, "not_run": not_run.get(arm), "levels": {}, "values": {}, **named[arm]} for arm in arms]
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
    subset: int | None = None,
    noise: float = 0.0,
    **record: Any,
) -> RunFolder:
    """A run's folder. Every score of image i is level + .01 i, plus noise; its curve is `curve`, or rises to `level`.

    Args:
        home, study, arm, seed, trial, fold, subset: where it belongs.
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
    tail = ("" if fold is None else f"-f{fold}") + ("" if subset is None else f"-u{subset}")
    owner = study or record.get("parent")
    name = f"{owner}-{arm if arm is not None else f't{trial or 0:04d}'}-s{seed}{tail}"
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
            folder.write_per_image(long_rows(rows, [f"f{sha[1:]}" for sha in shas], score_definitions(config), "best"))
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
        "epoch": epoch, "phase": "pretrain" if first else "adversarial", "lr": 1e-4, "train/loss": 1.0 / epoch,
        **scores, "phase_epoch": epoch if first else epoch - PRETRAIN, "val/loss": 1 - dice, "synthetic_steps": 0,
        "generator_updates": 0, "seconds": 2.0, "replayed": False,
    }  # fmt: skip


def _image_scores(value: float) -> dict[str, float]:
    # 1000 true pixels, as many predicted: the Dice of the counts is their share of hits.
    hits = round(1000 * value)
    counts = dict(zip(COUNTS, (hits, 1000 - hits, 1000 - hits), strict=True))
    return {name: value for name in IMAGE_SCORES} | {name: float(count) for name, count in counts.items()}


def write_sweep(
    home: Home,
    name: str,
    paths: Mapping[str, Sequence[Any]],
    levels: Sequence[float],
    *,
    states: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
) -> None:
    """A search: trial k has value k of each setting and scores `levels[k]`; `states` are COMPLETE unless given."""
    folder = home.studies / name
    folder.mkdir(parents=True)
    write_json(folder / "study.json", {"format_version": 1, "name": name, "kind": "sweep"})
    space = {
        "name": name,
        "objective": {"metric": "val/dice"},
        "seeds": list(seeds),
        "space": {p: {"categorical": sorted(set(v))} for p, v in paths.items()},
    }
    (folder / "space.yaml").write_text(yaml.safe_dump(space))
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'optuna.db'}")
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
    kinds = {path: _distribution(values) for path, values in paths.items()}
    for trial, level in enumerate(levels):
        state = states[trial] if states else "COMPLETE"
        values = {path: given[trial] for path, given in paths.items()}
        value = level if state == "COMPLETE" else None
        told = optuna.trial.create_trial(
            params=values, distributions=kinds, value=value, state=optuna.trial.TrialState[state]
        )
        study.add_trial(told)
        for seed in seeds:
            write_run(home, name, None, seed, level=level, values=values, state=state, trial=trial, test=False)


def _distribution(values: Sequence[Any]) -> optuna.distributions.BaseDistribution:
    if isinstance(values[0], str):
        return optuna.distributions.CategoricalDistribution(sorted(set(values)))
    if all(isinstance(value, int) for value in values):
        return optuna.distributions.IntDistribution(min(values), max(values))
    return optuna.distributions.FloatDistribution(min(values), max(values))


def write_attention(folder: RunFolder, epochs: Sequence[int], *, size: int = 24) -> None:
    """Maps of two gates and two images, ever closer to the boundary of a disc as training goes on."""
    place = folder.artifacts / "attention"
    place.mkdir(parents=True, exist_ok=True)
    down, right = np.mgrid[:size, :size]
    distance = abs(np.hypot(down - size / 2, right - size / 2) - size / 4)
    truth = np.hypot(down - size / 2, right - size / 2) < size / 4
    for number, epoch in enumerate(epochs, start=1):
        gate = (255 * np.exp(-distance * number / size)).astype(np.uint8)
        arrays = {
            "image": np.stack([120 + 80 * truth] * 2).astype(np.uint8),
            "truth": np.stack([255 * truth] * 2).astype(np.uint8),
            "gate_1": np.stack([gate[::2, ::2]] * 2), "gate_2": np.stack([gate] * 2), "epoch": np.int32(epoch),
        }  # fmt: skip
        np.savez_compressed(place / f"epoch_{epoch:04d}.npz", **arrays)
