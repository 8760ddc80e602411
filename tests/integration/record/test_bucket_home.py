"""A home in a bucket: what one machine computed, another one lists, scores, predicts with and forgets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from bucket_cases import HomeInBucket
from mlflow import MlflowClient
from postgres_cases import PostgresServer
from s3_cases import S3Server
from tiny_cases import SMALLEST, as_sets, tiny_config

from sage_ray import followed
from sage_ray.data.prepare import prepare
from sage_ray.data.synth import write_dataset
from sage_ray.errors import UserError
from sage_ray.evaluation import ledger
from sage_ray.evaluation.locked_test import score_locked_test
from sage_ray.evaluation.shared_reads import readings_of
from sage_ray.object_store import open_object_store
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunLabels
from sage_ray.registry.final_plan import declare, make_plan
from sage_ray.registry.register import register
from sage_ray.runtime.home_signs import CheckedNodes
from sage_ray.runtime.launch import run
from sage_ray.study.design_schema import FINAL_ARM
from sage_ray.terminal.cli import call

QUICK = {**SMALLEST, "pretrain.epochs": 2, "adversarial.epochs": 2, "runtime.pictures": False}


@pytest.fixture(scope="module")
def trained(s3_of_module: S3Server, postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> HomeInBucket:
    """A lab with run `r`, trained on a machine that has gone since."""
    made = HomeInBucket(s3_of_module, postgres, "trained", tmp_path_factory.mktemp("lab"))
    process = made.start("first", "train", "--preset", "tiny_sage_gan", "--run-id", "r", *sets(QUICK))
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    return made


@pytest.fixture
def place(trained: HomeInBucket, monkeypatch: pytest.MonkeyPatch) -> HomeInBucket:
    return trained.enter(monkeypatch)


def sets(values: dict[str, Any]) -> list[str]:
    return [word for text in as_sets(values) for word in ("--set", text)]


def test_a_run_of_another_machine_is_there_to_the_bit(
    place: HomeInBucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tiny_config(*as_sets(QUICK))
    alone = run(config, Home(tmp_path / "folder"), "r", mirror=False)
    place.on("second", monkeypatch)
    there = RunFolder.open(place.home.runs, "r").read()
    assert (there.state, there.weights_sha, there.stage_keys) == ("COMPLETE", alone.weights_sha, alone.stage_keys)
    assert [line["epoch"] for line in place.epochs("r")] == [1, 2, 3, 4]
    again = run(config, place.home, "r")
    assert again == there, "nothing is trained again"
    other = run(config, place.home, "other", mirror=False)
    assert other.reused_epochs == 4 and other.weights_sha == alone.weights_sha, "stages are shared by all machines"
    (mirrored,) = [
        found
        for experiment in MlflowClient(place.home.mlflow_uri).search_experiments()
        for found in MlflowClient(place.home.mlflow_uri).search_runs([experiment.experiment_id])
    ]
    assert mirrored.info.artifact_uri.startswith(f"{place.address}/mlartifacts") and mirrored.info.status == "FINISHED"


def test_verbs_on_another_machine(
    place: HomeInBucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place.on("third", monkeypatch)
    assert [found["run_id"] for found in place.say(capsys, "list")["runs"]][-1] == "r"
    answer = place.say(capsys, "status", "r")
    assert answer["home"] == place.address and answer["paths"]["run"] == f"{place.address}/runs/r"
    write_dataset(tmp_path / "new", 2, 32, 7)
    assert place.say(capsys, "predict", "r", tmp_path / "new" / "images", "-o", tmp_path / "out")["images"] == 2
    first = place.say(capsys, "evaluate", "r")
    place.on("fourth", monkeypatch)
    second = place.say(capsys, "evaluate", "r")
    assert (first["test_reads"], second["test_reads"]) == (1, 1) and first["scores"] == second["scores"]
    reads = ledger.read(place.home.path / ledger.TEST_READS)
    assert [row["reader"] for row in reads] == ["r"]
    assert place.say(capsys, "sync")["ok"]


def test_the_seeds_of_a_final_training_vote_on_another_machine(
    place: HomeInBucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(followed, "SMALL_BYTES", 1000)  # weights come in only where they are asked for
    plans, scores = [], []
    for machine, seed in (("trains", 4), ("trains too", 2)):
        place.on(machine, monkeypatch)
        config = tiny_config(*as_sets(QUICK))
        plan = declare(make_plan(config, place.home, trial="best", seeds=(4, 2), model_name="voters"), place.home)
        labels = RunLabels(arm=FINAL_ARM, parent=plan.final_id)
        assert run(plan.run_config(seed), place.home, plan.run_id(seed), labels=labels, mirror=False).finished
        scores.append(score_locked_test(plan.run_id(seed), place.home, purpose="final"))
        plans.append(plan)
        followed.push(place.home.path)
    assert plans[0] == plans[1]
    place.on("registers", monkeypatch)
    version = register(plans[0], place.home, pd.concat(scores, ignore_index=True))
    assert version.tags["sage.packed_seeds"] == "4,2"
    followed.push(place.home.path)
    place.on("predicts", monkeypatch)
    write_dataset(tmp_path / "new", 1, 32, 7)
    for number, model in enumerate((version.uri, plans[0].final_id)):
        words = ("predict", model, tmp_path / "new" / "images", "-o", tmp_path / str(number), "--seeds", "all")
        answer = place.say(capsys, *words)
        assert answer["seeds"] == [4, 2] and len(answer["doubtful"]) == 1


def test_a_reading_is_counted_once_whoever_notes_it(place: HomeInBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"reader": "x", "read": 1, "test_set": "t", "weights_sha": "w"}
    for machine, first in (("one", True), ("two", False)):
        place.on(machine, monkeypatch)
        assert ledger.append_once(place.home.path / ledger.PROMOTIONS, row, tuple(row)) is first
    (kept,) = ledger.read(place.home.path / ledger.PROMOTIONS)
    assert {**kept, **row} == kept and kept["when"] and kept["who"]


def test_what_is_forgotten_is_gone_from_the_bucket(
    place: HomeInBucket, s3_of_module: S3Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place.on("fifth", monkeypatch)
    run(tiny_config(*as_sets(QUICK), "seed=9"), place.home, "gone")
    store = open_object_store(place.address)
    assert store.names("runs/gone")
    read = place.say(capsys, "evaluate", "gone")["readings"]
    place.on("sixth", monkeypatch)
    assert call(["forget", "gone", "--yes", "--quiet", "--home", place.address]) == 0
    kept = f"counted in test_reads.jsonl and {s3_of_module.uri}/.sage-test-reads for ever"
    assert kept in " ".join(capsys.readouterr().out.split()), "what was read was read"
    assert readings_of(place.home, read["test_set"]).total == read["total"] >= 1
    assert store.names("runs/gone") == [] and "gone" not in place.home.run_ids()
    place.on("seventh", monkeypatch)
    assert "gone" not in place.home.run_ids()


def test_a_copy_of_a_bucket_has_an_identity_of_its_own(place: HomeInBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    store, copy = open_object_store(place.address), open_object_store(f"{place.address}-copy")
    copy.write("home.json", store.read("home.json"))
    home = Home(copy.uri)
    news = home.settle_identity()
    assert news is not None and f"is a copy of {place.address}" in news
    assert home.identity != place.home.identity and Home(copy.uri).settle_identity() is None


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("MLFLOW_TRACKING_URI", None, "holds no database of MLflow"),
        ("MLFLOW_REGISTRY_URI", "sqlite:////tmp/registry.db", "holds no database of MLflow"),
        ("SAGE_OPTUNA_URL", None, "holds no database of trials"),
    ],
)
def test_what_such_a_home_lacks_is_named_before_anything_is_trained(
    place: HomeInBucket,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str,
    value: str | None,
    words: str,
) -> None:
    if value is None:
        monkeypatch.delenv(variable)
    else:
        monkeypatch.setenv(variable, value)
    assert call(["sweep", "search_tiny", "--home", f"{place.address}-new"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and "give a folder as the home" in line


def test_a_bucket_that_is_not_there_is_one_line(
    place: HomeInBucket, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["list", "--home", "s3://no-such-bucket/home"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no-such-bucket" in line and "Traceback" not in line


def test_a_machine_without_the_images_gets_them_by_their_content(
    place: HomeInBucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pictures = tmp_path / "pictures"
    write_dataset(pictures, 12, 32, 3)
    config = tiny_config(*as_sets({**QUICK, "data.path": str(pictures)}))
    first = run(config, place.home, "pictures", mirror=False)
    pictures.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="no such folder"):
        prepare(config.data, tmp_path / "cache")
    place.on("without", monkeypatch)
    home = place.home
    found = prepare(config.data, home.cache)
    assert (
        found.fingerprint == first.data_fingerprint and len(found.images) == 12 and found.files[0][0].endswith(".png")
    )
    again = run(config, home, "pictures-again", mirror=False)
    assert (again.weights_sha, again.reused_epochs) == (first.weights_sha, 4)
    place.on("damaged", monkeypatch)
    store = open_object_store(f"{place.address}/data")
    (name,) = [entry.name for entry in store.names() if entry.name.endswith("images.npy")]
    store.write(name, b"damaged")
    with pytest.raises(UserError, match="no such folder"):
        prepare(config.data, place.home.cache)
    with pytest.raises(UserError, match="data have changed since the run began"):
        other = CheckedNodes(fingerprint="0" * 16)
        run(tiny_config(*as_sets(QUICK)), place.home, "other-data", mirror=False, checked=other)
