"""From a study to a champion under Ray: best, final, compare, promote; and a final training that is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from tiny_cases import SMALLEST

from sage_ray.config import resolve
from sage_ray.errors import UserError
from sage_ray.evaluation import ledger
from sage_ray.evaluation.locked_test import evaluate
from sage_ray.record.home import Home
from sage_ray.record.model_reference import resolve_model
from sage_ray.record.model_versions import download, get_version, list_versions
from sage_ray.record.run_folder import RunFolder
from sage_ray.registry.compare import compare
from sage_ray.registry.final import final, is_final, resume_final
from sage_ray.registry.promote import promote
from sage_ray.search.best import best

pytestmark = pytest.mark.ray

TINY = SMALLEST | {
    "data.path": "synthetic://ordered?num=24&size=32&seed=0",
    "pretrain.epochs": 1,
    "adversarial.epochs": 2,
    "adversarial.freeze_epochs": 0,
    "runtime.pictures": False,
}
SPACE = """
name: toy
base:
  preset: tiny_sage_gan
  set: {sets}
objective: {{metric: val/dice, reduce: plateau, direction: maximize}}
space:
  adversarial.lr: {{float: [1.0e-4, 1.0e-3], log: true}}
points: [{{}}]
sampler: {{name: random, seed: 0}}
seeds: [0]
trials: 2
concurrency: 1
"""

KILLED = """
import os, signal, sys
from sage_ray.config import resolve
from sage_ray.registry.final import final
from sage_ray.record.home import Home

home, moment = sys.argv[1], sys.argv[2]
sets = {sets!r}

class Killer:
    lines = 0
    def line(self, text):
        if moment in text:
            os.kill(os.getpid(), signal.SIGKILL)
    def epoch(self, report, total, run=""):
        self.line("epoch " + str(report["epoch"]))
    def update(self, status): ...
    def close(self): ...

if __name__ == "__main__":
    final(resolve(preset="tiny_sage_gan", sets=sets).config, Home(home), seeds=(4, 2), watch=Killer())
"""


def test_study_to_champion(connected: None, home: Home, tmp_path: Path) -> None:
    from sage_ray.search.driver import sweep
    from sage_ray.study.space import load_space

    (tmp_path / "toy.yaml").write_text(SPACE.format(sets=TINY))
    study = sweep(load_space(tmp_path / "toy.yaml"), home)
    assert study.done == 2
    choice = best("toy", home)
    values = {trial.number: trial.value for trial in study.trials}
    assert choice.trial in values and choice.top_trial == max(values, key=values.__getitem__)
    assert choice.value == pytest.approx(values[choice.trial]) == pytest.approx(choice.seed_values[0])
    assert choice.config.adversarial.lr == pytest.approx(choice.params["adversarial.lr"])
    assert "validation images" in choice.rule and len(choice.runner_ups) == 1

    base = final("toy", home, trial="base", seeds=(0,))
    assert (base.study, base.trial, base.choice, base.verdict) == ("toy", 0, "base", "first version")
    assert promote(home).reason == "first version"
    tuned = final("toy", home, trial=1, seeds=(0,))
    assert tuned.version == 2 and tuned.trial == 1 and tuned.verdict == "undecided"
    assert tuned.runs[0].generator_updates > 0
    compared = compare(home)
    assert [row.version for row in compared.versions] == [1, 2]
    assert [found.readings.total for found in (base, tuned, compared)] == [1, 2, 2]
    assert promote(home, "2").promoted is False and promote(home, 2, force=True).champion == 2
    # The final runs are no trials: the study and its choice stay as they were.
    assert best("toy", home) == choice
    records = {run_id: RunFolder.open(home.runs, run_id).read() for run_id in home.run_ids()}
    finals = [record for record in records.values() if record.arm == "final"]
    assert {record.run_id for record in finals} == {base.runs[0].run_id, tuned.runs[0].run_id}
    assert all(record.test_reads == 1 and record.finished for record in finals)
    assert all(record.test_reads == 0 for record in records.values() if record.arm != "final")
    with pytest.raises(UserError, match="no such complete trial: study toy, trial 9: complete are 0, 1"):
        final("toy", home, trial=9)
    check_registered(home, tuned.runs[0].run_id)


def check_registered(home: Home, run_id: str) -> None:
    """The champion loads with plain MLflow, is the run's model, and knows which images it has seen."""
    mlflow.set_tracking_uri(home.mlflow_uri)
    loaded = mlflow.pyfunc.load_model("models:/sage-gan@champion")
    image = np.random.default_rng(0).integers(0, 256, (1, 40, 50), dtype=np.uint8)
    model = resolve_model(run_id, home).load()
    np.testing.assert_allclose(loaded.predict(image)[0], model.predict_mask(image[0])[0], atol=1e-6)
    assert loaded.predict(image, params={"task": "generate"}).shape == image.shape
    version = get_version(home, "sage-gan", "@champion")
    needed = {"data_fingerprint", "split_id", "test_set", "study", "trial", "config_hash", "weights_sha"}
    assert {f"sage.{name}" for name in needed} <= set(version.tags)
    rows = pd.read_parquet(download(home, version, "artifacts/test_scores.parquet"))
    assert set(rows["run_id"]) == {run_id} and set(rows["part"]) == {"test"}
    own = evaluate("models:/sage-gan@champion", TINY["data.path"], home)
    assert own.part == "locked test" and not own.fresh and own.test_reads == 1


def test_killed_final_goes_on_and_doubles_nothing(connected: None, home: Home, tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(sets=TINY))
    # Killed while the first seed trains, then between scoring and registering.
    for moment in ("epoch 2", "scored on the locked test"):
        done = subprocess.run(
            [sys.executable, str(script), str(home.path), moment], capture_output=True, text=True, timeout=240
        )
        assert done.returncode == -signal.SIGKILL, (moment, done.stderr[-2000:])
    (final_id,) = home.final_ids()
    assert is_final(final_id, home)
    result = resume_final(final_id, home)
    assert result.seeds == (4, 2) and result.registered_seed == 4 and result.version == 1
    again = final(resolve(preset="tiny_sage_gan", sets=TINY).config, home, seeds=(4, 2))
    assert again == result
    assert [v.version for v in list_versions(home)] == [1]
    assert list_versions(home)[0].tags["sage.run_id"] == f"{final_id}-s4"
    reads = ledger.read(home.path / ledger.TEST_READS)
    assert sorted(row["reader"] for row in reads) == [f"{final_id}-s2", f"{final_id}-s4"]
    for run in result.runs:
        folder = RunFolder.open(home.runs, run.run_id)
        assert folder.read().test_reads == 1
        assert [line["epoch"] for line in folder.metrics()] == [1, 2, 3]
        test_rows = [row for row in folder.per_image() if row["part"] == "test"]
        assert len({(row["image_sha"], row["score"]) for row in test_rows}) == len(test_rows)
