"""Recorded studies for reports: a search with final trainings of known test scores, made without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import yaml

from benchmarks.report import NAME, record_search
from sage_ray.config import dump
from sage_ray.evaluation.score_tables import long_rows
from sage_ray.metrics.definitions import COUNTS, IMAGE_SCORES
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunLabels
from sage_ray.registry.final_plan import FinalPlan, declare
from sage_ray.search.storage import StudyStorage
from sage_ray.search.study_folder import StudyFolder
from sage_ray.study.design import load_design
from sage_ray.study.design_schema import FINAL_ARM
from sage_ray.training.scoring import score_definitions

TEST_IMAGES = 12


def searched(home: Home, trials: int = 8, finals: Mapping[str, Sequence[float]] | None = None) -> str:
    """A recorded search, and final trainings by choice (base, best, a number), each with the Dice of its seeds."""
    record_search(home, trials, 30)
    for choice, levels in (finals or {}).items():
        finally_trained(home, choice, levels)
    return NAME


def finally_trained(home: Home, choice: str, levels: Sequence[float], fingerprint: str = "371c403c839736f4") -> str:
    """A final training whose seed k scores `levels[k]` on the locked test, a little other on each image."""
    config = StudyFolder(home, NAME).spec().untuned
    plan = declare(
        FinalPlan(
            final_id=f"final-{NAME}-{choice}", model_name="sage-gan", source=NAME, study=NAME, choice=choice,
            trial=0 if choice == "base" else 1, rule="for a test", seeds=tuple(range(len(levels))),
            config=config.model_dump(mode="json"),
        ),
        home,
    )  # fmt: skip
    for seed, level in enumerate(levels):
        labels = RunLabels(study=NAME, trial=plan.trial, arm=FINAL_ARM, parent=plan.final_id)
        run = RunFolder.create(home.runs, plan.run_id(seed), plan.run_config(seed), labels)
        places = np.arange(TEST_IMAGES)
        values = level + 0.02 * np.sin(places) + 0.001 * np.cos(places * (seed + 2))
        rows = [{name: float(value) for name in IMAGE_SCORES} | dict.fromkeys(COUNTS, 10.0) for value in values]
        shas = [f"f{place:063x}" for place in places]
        run.write_per_image(long_rows(rows, shas, score_definitions(run.config()), "last"))
        run.set_state(
            "COMPLETE", data_fingerprint=fingerprint, split_id="9fe1ad6e31b0c9aa", epoch=30, seconds=60.0, test_reads=1
        )
    return plan.final_id


def compared(home: Home, scores: Mapping[str, Sequence[float]], labels: Mapping[str, str]) -> str:
    """A recorded ablation "parts" whose arms, the first the reference, have these scores of their seeds."""
    arms = {arm: {"label": labels[arm]} if arm in labels else {} for arm in scores}
    for number, arm in enumerate(list(scores)[1:]):
        arms[arm]["set"] = {"adversarial.lambda_cycle": 0.5 * number}
    seeds = list(range(len(next(iter(scores.values())))))
    folder = StudyFolder(home, "parts")
    folder.path.mkdir(parents=True)
    tree = {"name": "parts", "base": {"preset": "tiny_sage_gan"}, "reference": next(iter(scores)), "seeds": seeds}
    (folder.path / "given.yaml").write_text(yaml.safe_dump({**tree, "arms": arms}, sort_keys=False))
    design = load_design(folder.path / "given.yaml")
    folder.base_path.write_text(dump(design.base))
    (folder.path / design.file_name).write_text(design.to_yaml("base.yaml"))
    meta = {"name": "parts", "space_hash": design.hash, "data_fingerprint": "371c403c839736f4", "starts": 1}
    folder.write_meta({**meta, "created": "2026-11-30T12:00:00Z", **design.facts()})
    storage = StudyStorage(folder.path, "parts", design, store=folder.store(None))
    storage.enqueue(design.fixed, design)
    for number in range(design.trials):
        sample = storage.draw(None, design).sample
        (place,) = design.run_grid(number)
        score = scores[str(place.arm)][place.seed]
        run = RunFolder.create(
            home.runs, place.run_id, design.config(sample.values, place.seed, place.fold),
            RunLabels(study="parts", trial=number, arm=place.arm),
        )  # fmt: skip
        run.append_metrics({"epoch": 1, "phase": "pretrain", "val/dice": score, "seconds": 1.0, "replayed": False})
        run.set_state("COMPLETE", data_fingerprint="371c403c839736f4", epoch=1, seconds=1.0)
        storage.tell_complete(number, [score])
    storage.close()
    return "parts"
