"""Registration of a final training: once, with everything about it, also when MLflow was away first."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from tiny_cases import SMALLEST

from sage_ray.config import resolve
from sage_ray.data.synth import write_dataset
from sage_ray.errors import RunFailed, UserError
from sage_ray.evaluation.locked_test import evaluate, score_locked_test
from sage_ray.files import sha256_of
from sage_ray.imaging.seed_votes import load_seed_votes
from sage_ray.record.home import Home
from sage_ray.record.model_reference import MODEL_IN_RUN, SEGMENTER_FILE, resolve_model
from sage_ray.record.model_versions import has_files, list_versions, registry
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunLabels
from sage_ray.registry.final_plan import FinalPlan, declare, make_plan
from sage_ray.registry.register import register
from sage_ray.runtime.launch import run
from sage_ray.study.design_schema import FINAL_ARM
from sage_ray.terminal.cli import call

TINY = SMALLEST | {"pretrain.epochs": 1, "adversarial.epochs": 1, "runtime.pictures": False}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, FinalPlan, pd.DataFrame]:
    """A home with a final training of two seeds, trained in this process and scored, not yet registered."""
    home = Home(tmp_path_factory.mktemp("register") / "home")
    home.check_writable()
    config = resolve(preset="tiny_sage_gan", sets=TINY).config
    plan = declare(make_plan(config, home, trial="best", seeds=(5, 3), model_name="toy-gan"), home)
    for seed in plan.seeds:
        labels = RunLabels(arm=FINAL_ARM, parent=plan.final_id)
        assert run(plan.run_config(seed), home, plan.run_id(seed), labels=labels, mirror=False).finished
    frames = [score_locked_test(run_id, home, purpose="final") for run_id in plan.run_ids]
    return home, plan, pd.concat(frames, ignore_index=True)


Trained = tuple[Home, FinalPlan, pd.DataFrame]


def test_registered_once_with_all_that_is_known(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    home, plan, scores = trained
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises((RunFailed, ValueError), match="127.0.0.1:9") as caught:
        register(plan, home, scores)
    assert "\n" not in str(caught.value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    version = register(plan, home, scores)
    assert register(plan, home, scores) == version
    assert [v.version for v in list_versions(home, "toy-gan")] == [1]
    assert version.aliases == ("challenger",)
    first = plan.run_id(5)
    assert version.tags["sage.run_id"] == first and version.tags["sage.seeds"] == "5,3"
    assert version.tags["sage.declared"] == plan.created
    ref = resolve_model("models:/toy-gan@challenger", home)
    assert ref.run_id == first and ref.provenance is not None
    known = ref.config(home)
    assert known is not None and known.identity() == plan.run_config(5).identity()
    assert version.tags["sage.computed_on"] == f"CPU, torch {torch.__version__}"
    assert len(ref.provenance["seen_shas"]) == 13 and len(ref.provenance["test_shas"]) == 3
    stored = pd.read_parquet(ref.folder.parent / "test_scores.parquet")
    pd.testing.assert_frame_equal(stored, scores)
    assert set(stored["seed"]) == {5, 3}
    assert version.tags["sage.packed_seeds"] == "5,3"
    votes = load_seed_votes(ref.folder)
    shas = {seed: sha256_of(model.folder / SEGMENTER_FILE) for seed, model in votes.models.items()}
    assert shas == {seed: sha256_of(home.runs / plan.run_id(seed) / MODEL_IN_RUN / SEGMENTER_FILE) for seed in (5, 3)}
    assert resolve_model(home.finals / plan.final_id, home).run_id == first
    mlflow.set_tracking_uri(home.mlflow_uri)
    loaded = mlflow.pyfunc.load_model(version.uri)
    image = np.arange(40 * 36, dtype=np.uint8).reshape(1, 40, 36)
    expected = resolve_model(first, home).load().predict_mask(image[0])[0]
    np.testing.assert_allclose(loaded.predict(image)[0], expected, atol=1e-6)


def test_mlflow_has_the_runs_and_closes_their_parent(trained: Trained) -> None:
    home, plan, scores = trained
    version = register(plan, home, scores)
    with registry(home) as client:
        child = client.get_run(version.run_id)
        parent = client.get_run(child.data.tags["mlflow.parentRunId"])
        assert (parent.info.run_name, parent.info.status) == (plan.final_id, "FINISHED")
        assert child.data.tags["sage.test_reads"] == "1"
        runs = client.search_runs([child.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
        assert {r.data.tags["sage.run_id"] for r in runs} == set(plan.run_ids)
        text = client.get_model_version("toy-gan", str(version.version)).description
    assert text.startswith("# toy-gan") and "locked test" in text
    found = evaluate(version.uri, "test", home)
    assert found.part == "locked test" and not found.fresh and found.test_reads == 1


def test_a_version_whose_run_was_purged_is_named_and_registered_again(
    trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    home, plan, scores = trained
    version = register(plan, home, scores)
    where = ["--home", str(home.path)]
    assert call(["promote", "--model-name", "toy-gan", *where]) == 0
    with registry(home) as client:
        for run_id in plan.run_ids:
            mlflow_run = json.loads((home.runs / run_id / "mlflow.json").read_text())["mlflow_run_id"]
            client.delete_run(mlflow_run)
    gc = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", home.mlflow_uri]
    subprocess.run(
        gc, check=True, capture_output=True, timeout=200, env=os.environ | {"MLFLOW_TRACKING_URI": home.mlflow_uri}
    )
    shutil.rmtree(home.cache / "models", ignore_errors=True)
    assert not has_files(home, version)
    write_dataset(home.path / "pictures", 1, 32, 7)
    predict = ["predict", "models:/toy-gan@champion", str(home.path / "pictures" / "images"), "-o"]
    for number, verb in enumerate((["compare", "--model-name", "toy-gan"], [*predict, str(home.path / "out")])):
        capsys.readouterr()
        assert call([*verb, *where]) == 2, number
        err = capsys.readouterr().err
        assert len(err.splitlines()) == 1 and "Traceback" not in err
        assert "models:/toy-gan/1" in err and f"sage-ray resume {plan.final_id}" in err
    again = register(plan, home, scores)
    assert (again.version, again.aliases) == (1, ("champion",)) and "sage.restored" in again.tags
    assert call(["compare", "--model-name", "toy-gan", *where]) == 0
    assert call([*predict, str(home.path / "out"), *where]) == 0
    with registry(home) as client:
        found = client.search_runs([client.get_experiment_by_name("sage-ray").experiment_id])
        named = {run.data.tags.get("sage.run_id", run.info.run_name) for run in found}
        assert named == {plan.final_id, *plan.run_ids}
        assert {run.info.status for run in found} == {"FINISHED"}
    assert register(plan, home, scores).tags == again.tags, "what is there is not written again"


def test_the_package_stands_in_for_weights_that_were_removed(trained: Trained, tmp_path: Path) -> None:
    home, plan, scores = trained
    version = register(plan, home, scores)
    weights = RunFolder.open(home.runs, plan.run_ids[0]).model
    weights.rename(tmp_path / "weights")
    shutil.rmtree(home.artifact_root)
    try:
        assert not has_files(home, version)
        assert register(plan, home, scores).version == version.version and has_files(home, version)
        package = home.finals / plan.final_id / "package" / "artifacts" / "model"
        assert load_seed_votes(package).seeds == (5, 3) and (package / "generator.safetensors").is_file()
        shutil.rmtree(home.artifact_root)
        package = home.finals / plan.final_id / "package"
        package.rename(tmp_path / "package")
        with pytest.raises(UserError, match=f"weights of a final training are missing: .*{plan.run_ids[0]}"):
            register(plan, home, scores)
        (tmp_path / "package").rename(package)
    finally:
        (tmp_path / "weights").rename(weights)
    assert register(plan, home, scores).version == version.version
