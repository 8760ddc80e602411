"""Home, record and run folder: what is on disk after a crash or a replay."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sage_ray.config import ExperimentConfig, resolve
from sage_ray.errors import UserError
from sage_ray.files import replacing, write_text
from sage_ray.record.home import Home
from sage_ray.record.run_folder import PER_IMAGE_SCHEMA, RunFolder
from sage_ray.record.run_record import RunLabels
from sage_ray.training.scoring import score_definitions

CONFIG = ExperimentConfig().with_values({"pretrain.epochs": 2, "adversarial.epochs": 3})
CONTRACT_FIELDS = [
    "run_id",
    "study",
    "trial",
    "arm",
    "seed",
    "fold",
    "attempt",
    "state",
    "error",
    "config_hash",
    "data_fingerprint",
    "split_id",
    "stage_keys",
    "numerics",
    "commit",
    "epoch",
    "selected_epoch",
    "seconds",
    "gpu_seconds",
    "synthetic_steps",
    "generator_updates",
    "weights_sha",
    "test_reads",
]


def make(home: Home, run_id: str = "run-1", **labels: object) -> RunFolder:
    home.check_writable()
    return RunFolder.create(home.runs, run_id, CONFIG, RunLabels.model_validate(labels))


def report(epoch: int, dice: float = 0.5, **more: object) -> dict[str, object]:
    return {"epoch": epoch, "phase": "pretrain", "val/dice": dice, "seconds": 1.0, "replayed": False, **more}


# home


def test_home_is_absolute_and_chosen_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Home().path == tmp_path / "sage_runs"
    monkeypatch.setenv("SAGE_HOME", "elsewhere")
    assert Home().path == tmp_path / "elsewhere"
    assert Home("given").path == tmp_path / "given"
    assert not Home().path.exists(), "naming a home must not create it"


def test_mlflow_uri_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = Home("h")
    assert home.mlflow_uri == f"sqlite:///{tmp_path}/h/mlflow.db" == home.registry_uri
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mine.db?timeout=5")
    assert home.mlflow_uri == f"sqlite:///{tmp_path}/mine.db?timeout=5" == home.registry_uri
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "sqlite:////abs/registry.db")
    assert (home.mlflow_uri, home.registry_uri) == ("http://127.0.0.1:5000", "sqlite:////abs/registry.db")


def test_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("no folder")
    with pytest.raises(UserError, match="home cannot be written: .*file.*--home"):
        Home(blocker / "home").check_writable()
    with pytest.raises(UserError, match="home cannot be written"):
        Home("/proc/nowhere").check_writable()
    Home(tmp_path / "good").check_writable()
    shown = sorted(p.name for p in (tmp_path / "good").iterdir() if not p.name.startswith("."))
    assert shown == ["cache", "home.json", "runs", "stages", "studies"]


# files


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="half way"), replacing(path) as temporary:
        temporary.write_text("ne")
        raise RuntimeError("half way")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


# record


def test_record_has_the_fields_of_the_contract(home: Home) -> None:
    folder = make(home, study="s", trial=3, arm="a")
    value = json.loads((folder.path / "record.json").read_text())
    assert set(CONTRACT_FIELDS) <= set(value)
    assert value["format_version"] == 1
    assert value["config_hash"] == CONFIG.config_hash()
    assert (value["study"], value["trial"], value["arm"], value["state"]) == ("s", 3, "a", "RUNNING")
    assert value["test_reads"] == 0
    assert resolve(file=folder.path / "config.yaml").config == CONFIG == folder.config()


def test_fold_comes_from_the_config_or_the_label(home: Home) -> None:
    folds = CONFIG.with_values({"data.split.folds": 4, "data.split.fold": 2})
    home.check_writable()
    assert RunFolder.create(home.runs, "a", folds, RunLabels()).read().fold == 2
    assert RunFolder.create(home.runs, "b", CONFIG, RunLabels()).read().fold is None
    assert RunFolder.create(home.runs, "c", CONFIG, RunLabels(fold=1)).read().fold == 1


def test_a_run_folder_is_taken_up_or_refused(home: Home) -> None:
    folder = make(home)
    folder.update(attempt=1, epoch=4)
    assert make(home).read().epoch == 4
    other = CONFIG.with_values({"seed": 7})
    with pytest.raises(UserError, match="run exists with another config: run-1"):
        RunFolder.create(home.runs, "run-1", other, RunLabels())
    RunFolder.create(home.runs, "run-1", CONFIG.with_values({"runtime.threads": 3}), RunLabels())


@pytest.mark.parametrize("name", ["../up", "", "a/b", ".hidden", "x" * 201])
def test_bad_run_ids_are_refused(home: Home, name: str) -> None:
    with pytest.raises(UserError, match="bad run id"):
        make(home, name)


def test_missing_damaged_and_newer_records_are_named(home: Home) -> None:
    home.check_writable()
    with pytest.raises(UserError, match="no such run: ghost"):
        RunFolder.open(home.runs, "ghost")
    folder = make(home)
    (folder.path / "record.json").write_text('{"format_version": 99}')
    with pytest.raises(UserError, match="newer format"):
        folder.read()
    (folder.path / "record.json").write_text("{ torn")
    with pytest.raises(UserError, match="damaged record"):
        folder.read()


def test_states_and_errors(home: Home) -> None:
    folder = make(home)
    folder.write_error("Traceback\n  line\nNonFiniteLoss: x\n")
    assert folder.set_state("FAIL", error="two\nlines " + "x" * 900).error == ("two lines " + "x" * 900)[:500]
    assert not folder.read().finished
    assert folder.set_state("COMPLETE").error is None
    assert folder.read().finished
    assert (folder.path / "error.txt").read_text().endswith("NonFiniteLoss: x\n")


def test_nonfinite_numbers_are_null_in_json(home: Home) -> None:
    folder = make(home)
    folder.update(metrics={"val/dice": 0.5, "train/loss": math.inf}, selected_metrics={})
    text = (folder.path / "record.json").read_text()
    assert "Infinity" not in text
    assert folder.read().metrics == {"val/dice": 0.5, "train/loss": None}
    folder.append_metrics(report(1, math.nan))
    assert folder.metrics()[0]["val/dice"] is None
    assert not folder.append_metrics(report(1, math.nan)), "a replayed NaN is the same NaN"


# metrics.jsonl


def test_replayed_epochs_keep_their_line_and_time(home: Home) -> None:
    folder = make(home)
    for epoch in (1, 2, 3):
        assert folder.append_metrics(report(epoch, epoch / 10))
    before = (folder.path / "metrics.jsonl").read_bytes()
    again = RunFolder(folder.path)
    for epoch in (1, 2, 3):
        assert not again.append_metrics(report(epoch, epoch / 10, replayed=True, seconds=0.0))
    assert (folder.path / "metrics.jsonl").read_bytes() == before
    assert again.append_metrics(report(4))
    assert [line["epoch"] for line in again.metrics()] == [1, 2, 3, 4]
    assert all(isinstance(line["time_ms"], int) for line in again.metrics())


def test_an_epoch_with_other_scores_replaces_what_follows(home: Home) -> None:
    folder = make(home)
    for epoch in (1, 2, 3):
        folder.append_metrics(report(epoch, 0.1))
    stamp = folder.metrics()[1]["time_ms"]
    assert folder.append_metrics(report(2, 0.9))
    assert [(line["epoch"], line["val/dice"]) for line in folder.metrics()] == [(1, 0.1), (2, 0.9)]
    assert folder.metrics()[1]["time_ms"] == stamp
    assert folder.append_metrics(report(3, 0.9))
    assert [line["epoch"] for line in folder.metrics()] == [1, 2, 3]


@pytest.mark.parametrize("torn", [b'{"epoch": 3, "val/d', b'{"epoch": 3, "val/dice": 0.1}', b"\x00\x00\x00\n", b"[]\n"])
def test_a_torn_last_line_is_dropped(home: Home, torn: bytes) -> None:
    folder = make(home)
    for epoch in (1, 2):
        folder.append_metrics(report(epoch))
    path = folder.path / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    again = RunFolder(folder.path)
    assert [line["epoch"] for line in again.metrics()] == [1, 2], "a reader sees whole lines only"
    again.append_metrics(report(3))
    assert [line["epoch"] for line in again.metrics()] == [1, 2, 3]
    assert path.read_bytes().startswith(whole)
    assert path.read_bytes().count(b"\n") == 3


# per_image.parquet


def rows(part: str, value: float, checkpoint: str = "selected") -> list[dict[str, object]]:
    row = {"part": part, "checkpoint": checkpoint, "score": "dice", "definition": "mean foreground Dice"}
    return [{**row, "image_sha": f"{i:064x}", "value": value} for i in range(3)]


def test_per_image_rows_replace_their_own_part_only(home: Home) -> None:
    folder = make(home)
    assert folder.per_image() == []
    folder.write_per_image(rows("val", 0.1))
    folder.write_per_image(rows("test", 0.2))
    folder.write_per_image(rows("val", 0.3))
    kept = folder.per_image()
    assert sorted((row["part"], row["value"]) for row in kept) == [("test", 0.2)] * 3 + [("val", 0.3)] * 3
    assert {row["run_id"] for row in kept} == {"run-1"}
    assert list(kept[0]) == ["run_id", "part", "checkpoint", "image_sha", "score", "definition", "value", "group"]


def test_definitions_of_an_earlier_release_are_completed_when_they_are_read(home: Home) -> None:
    folder = make(home)
    whole = score_definitions(folder.config())
    short = {
        "dice": whole["dice"].rpartition(", at ")[0],
        "tp": "tp pixels of the foreground, for pooling, truth eroded by 0",
    }
    of_before = [row | {"score": name, "definition": short[name]} for name in short for row in rows("val", 1)]
    folder.write_per_image([*of_before, *rows("test", 0.2)])
    raw = pq.read_table(folder.per_image_path).to_pylist()
    assert {row["definition"] for row in raw if row["part"] == "val"} == set(short.values())
    found = {(row["part"], row["score"]): row["definition"] for row in folder.per_image()}
    assert found == {
        ("val", "dice"): whole["dice"], ("val", "tp"): whole["tp"], ("test", "dice"): "mean foreground Dice",
    }  # fmt: skip
    assert folder.per_image_encoded().cast(PER_IMAGE_SCHEMA).equals(folder.per_image_table())
    # Without its config the run keeps the texts that it has.
    (folder.path / "config.yaml").unlink()
    assert {row["definition"] for row in folder.per_image()} == {row["definition"] for row in raw}


# locks and provenance


def test_two_drivers_are_refused(home: Home) -> None:
    folder = make(home)
    assert not folder.alive()
    with folder.lock("driver", 1):
        assert folder.alive()
        with pytest.raises(UserError, match="run is being computed: run-1"), RunFolder(folder.path).lock("driver", 0.1):
            pass
    assert not folder.alive()


def test_stop_request_is_seen_by_others(home: Home) -> None:
    folder = make(home)
    assert not folder.stop_requested()
    RunFolder.open(home.runs, "run-1").request_stop()
    assert folder.stop_requested()
