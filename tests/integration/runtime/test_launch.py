"""run and train in one process: every end of a run, and what taking it up again does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_cases import tiny_config

from sage_ray.config import ExperimentConfig, dump, resolve
from sage_ray.errors import RunStopped, StageBusy, UserError
from sage_ray.imaging import drawing
from sage_ray.record import mlflow_client
from sage_ray.record.home import Home
from sage_ray.record.mlflow_mirror import Mirror
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunLabels
from sage_ray.runtime.launch import default_run_id, run, train, with_checkpoint
from sage_ray.stages.lease import stage_lease
from sage_ray.stages.store import StageStore


def tiny(*sets: str) -> ExperimentConfig:
    return tiny_config("pretrain.epochs=2", "adversarial.epochs=2", "runtime.pictures=false", *sets)


CONFIG = tiny()


def as_asked(folder: RunFolder) -> ExperimentConfig:
    """The run's config as it was before device, GPUs and precision were settled."""
    asked = {"runtime.device": "auto", "runtime.gpus_per_worker": "auto", "runtime.precision": "auto"}
    return folder.config().with_values(asked)


def epochs(folder: RunFolder) -> list[int]:
    return [line["epoch"] for line in folder.metrics()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with one finished run, `whole`."""
    home = Home(tmp_path_factory.mktemp("finished") / "home")
    run(CONFIG, home, "whole", labels=RunLabels(study="s", trial=1), mirror=False)
    return home


def test_a_finished_run_leaves_all_that_the_contract_names(finished: Home) -> None:
    folder = RunFolder.open(finished.runs, "whole")
    record = folder.read()
    assert (record.state, record.attempt, record.epoch, record.error) == ("COMPLETE", 1, 4, None)
    assert (record.study, record.trial, record.seed, record.test_reads) == ("s", 1, 0, 0)
    assert record.weights_sha is not None and len(record.weights_sha) == 64
    assert record.selected_epoch in (3, 4)
    assert set(record.stage_keys) == set(record.lr_drops) == {"pretrain", "adversarial"}
    assert record.numerics["threads"] == 1
    assert record.seconds > 0 and record.gpu_seconds == 0 or torch.cuda.is_available()
    assert epochs(folder) == [1, 2, 3, 4]
    selected = folder.metrics()[record.selected_epoch - 1]
    assert record.selected_metrics["val/dice"] == selected["val/dice"]
    rows = folder.per_image()
    assert {row["part"] for row in rows} == {"val"}
    dice = [row["value"] for row in rows if row["score"] == "dice"]
    assert sum(dice) / len(dice) == pytest.approx(selected["val/dice"], abs=1e-6)
    environment = json.loads((folder.path / record.environment).read_text())
    assert environment["packages"]["torch"]
    assert as_asked(folder) == CONFIG
    assert not folder.alive()


def test_the_model_folder_loads_and_knows_its_run(finished: Home) -> None:
    from sage_ray.imaging.model import load_model_folder

    folder = RunFolder.open(finished.runs, "whole")
    model = load_model_folder(folder.model)
    assert model.generator is not None
    assert model.spec["run_id"] == "whole"
    assert model.spec["weights_sha"] == folder.read().weights_sha
    assert (model.spec["image_size"], model.spec["native_size"]) == ([32, 32], [32, 32])


@pytest.mark.parametrize("validation", [0.3, 0.0])
def test_pictures_of_a_run(finished: Home, validation: float) -> None:
    """With a validation part and, as in a final training, without one."""
    sets = ("runtime.pictures=true",)
    if not validation:
        sets += ("data.split.validation=0", "evaluation.select=last", "pretrain.handoff=last")
    record = run(tiny(*sets), finished, f"pictures-{validation}", mirror=False)
    assert record.state == "COMPLETE"
    folder = finished.runs / record.run_id / "artifacts" / "pictures"
    assert sorted(path.name for path in folder.iterdir()) == [
        "attention.png", "curves.png", "generated.png", "predictions.png",
    ]  # fmt: skip
    for path in folder.iterdir():
        with Image.open(path) as picture:
            assert np.asarray(picture.convert("L")).std() > 5, f"{path.name} shows something"


def test_a_picture_that_cannot_be_drawn_costs_no_run(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:

    def broken(*_: Any, **__: Any) -> None:
        raise OSError("no fonts here")

    monkeypatch.setattr(drawing, "learning_curves", broken)
    record = run(tiny("runtime.pictures=true", "adversarial.epochs=0"), home, "r", mirror=False)
    assert record.state == "COMPLETE"
    assert "no fonts here" in (home.runs / "r" / "artifacts" / "pictures" / "error.txt").read_text()


def test_a_finished_run_returns_at_once(finished: Home) -> None:
    seen: list[Any] = []
    before = RunFolder.open(finished.runs, "whole").read()
    assert run(CONFIG, finished, "whole", on_report=seen.append, mirror=False) == before
    assert seen == []
    with pytest.raises(UserError, match="run exists with another config: whole"):
        run(tiny("seed=1"), finished, "whole", mirror=False)


def test_the_same_config_again_costs_no_epoch(finished: Home) -> None:
    """`train -c runs/ID/config.yaml`, under another name: all of it comes from the stage store."""
    again = resolve(file=finished.runs / "whole" / "config.yaml").config
    seen: list[Any] = []
    record = run(again, finished, "again", on_report=seen.append, mirror=False)
    whole = RunFolder.open(finished.runs, "whole").read()
    assert record.weights_sha == whole.weights_sha
    assert record.selected_metrics == whole.selected_metrics
    assert [r["epoch"] for r in seen] == [1, 2, 3, 4]
    assert all(r["replayed"] for r in seen)


def test_another_run_can_start_from_a_run_by_its_name(finished: Home) -> None:
    config = tiny("pretrain.epochs=0", "pretrain.checkpoint=whole")
    record = run(config, finished, "from-whole", mirror=False)
    assert (record.state, record.epoch) == ("COMPLETE", 2)
    assert record.config_hash == config.config_hash(), "the identity keeps the name, not this machine's path"
    assert as_asked(RunFolder.open(finished.runs, "from-whole")) == config
    weights = finished.runs / "whole" / "artifacts" / "model" / "segmenter.safetensors"
    for named in (weights, weights.parent):
        given = tiny("pretrain.epochs=0").with_values({"pretrain.checkpoint": str(named)})
        assert with_checkpoint(given, finished).pretrain.checkpoint == str(weights)
    pickled = finished.path / "weights.safetensors"
    pickled.write_bytes(b"\x80\x04pickle")
    with pytest.raises(UserError, match=f"pickled weights are not loaded: pretrain.checkpoint={pickled}"):
        with_checkpoint(tiny("pretrain.epochs=0", f"pretrain.checkpoint={pickled}"), finished)
    with pytest.raises(UserError, match="no such segmenter: pretrain.checkpoint=ghost"):
        run(tiny("pretrain.epochs=0", "pretrain.checkpoint=ghost"), finished, "x", mirror=False)


def test_another_run_can_start_from_a_registered_model(finished: Home, tmp_path: Path) -> None:
    package = tmp_path / "package" / "artifacts"
    shutil.copytree(finished.runs / "whole" / "artifacts" / "model", package / "model")
    client = mlflow_client.connect(finished)
    client.create_registered_model("m")
    version = client.create_model_version("m", source=package.parent.as_uri())
    client.set_registered_model_alias("m", "champion", version.version)
    given = tiny("pretrain.epochs=0", "pretrain.checkpoint=models:/m@champion")
    weights = finished.runs / "whole" / "artifacts" / "model" / "segmenter.safetensors"
    for named in ("models:/m@champion", "models:/m/1"):
        found = with_checkpoint(given.with_values({"pretrain.checkpoint": named}), finished).pretrain.checkpoint
        assert found is not None and Path(found).read_bytes() == weights.read_bytes()
    for missing, why in (("m@nobody", "version.*@nobody"), ("m/7", "version.*7"), ("ghost/1", "model.*ghost")):
        with pytest.raises(UserError, match=f"no such .*{why}"):
            with_checkpoint(given.with_values({"pretrain.checkpoint": f"models:/{missing}"}), finished)


def stop_at(epoch: int, error: BaseException) -> Any:
    def on_report(report: dict[str, Any]) -> None:
        if report["epoch"] == epoch:
            raise error

    return on_report


@pytest.mark.parametrize(
    ("error", "state", "passed_on"),
    [
        (RunStopped("asha"), "PRUNED", False),
        (SystemExit(0), "PRUNED", True),
        (KeyboardInterrupt(), "INTERRUPTED", True),
        (ZeroDivisionError("a bug"), "FAIL", False),
    ],
)
@pytest.mark.parametrize("epoch", [1, 3])
def test_every_end_has_its_state_and_goes_on_to_the_same_weights(
    finished: Home, tmp_path: Path, error: BaseException, state: str, passed_on: bool, epoch: int
) -> None:
    home = Home(tmp_path / "home")
    if passed_on:
        with pytest.raises(type(error)):
            run(CONFIG, home, "r", on_report=stop_at(epoch, error), mirror=False)
    else:
        assert run(CONFIG, home, "r", on_report=stop_at(epoch, error), mirror=False).state == state
    folder = RunFolder.open(home.runs, "r")
    record = folder.read()
    assert (record.state, record.epoch, record.attempt) == (state, epoch, 1)
    assert (folder.path / "error.txt").exists() == (state == "FAIL")
    if state == "FAIL":
        assert record.error == "ZeroDivisionError: a bug"
        assert "Traceback" in (folder.path / "error.txt").read_text()
    times = [line["time_ms"] for line in folder.metrics()]
    again = run(CONFIG, home, "r", mirror=False)
    assert (again.state, again.attempt, again.error) == ("COMPLETE", 2, None)
    assert again.weights_sha == RunFolder.open(finished.runs, "whole").read().weights_sha
    assert again.seconds > record.seconds
    assert epochs(folder) == [1, 2, 3, 4]
    assert [line["time_ms"] for line in folder.metrics()][:epoch] == times, "no reported epoch was written again"


@pytest.mark.parametrize("phase", ["pretrain", "adversarial"])
def test_a_run_leaves_a_stage_that_another_one_computes(finished: Home, home: Home, phase: str) -> None:
    key = RunFolder.open(finished.runs, "whole").read().stage_keys[phase]
    told: list[int] = []
    with stage_lease(StageStore(home.stages), key, lambda: False):
        record = run(
            CONFIG, home, "r", mirror=False, launcher="inline", on_waiting=lambda: told.append(1), stage_patience_s=1.0
        )
    assert (record.state, record.epoch) == ("INTERRUPTED", 0 if phase == "pretrain" else 2) and told
    assert record.error == f"{StageBusy.state}: {key} is being computed by another trial"
    again = run(CONFIG, home, "r", mirror=False, stage_patience_s=0.0)
    assert (again.state, again.error) == ("COMPLETE", None)
    assert again.weights_sha == RunFolder.open(finished.runs, "whole").read().weights_sha


def test_stop_wishes_prune(home: Home) -> None:
    asked: list[int] = []

    def wish() -> bool:
        asked.append(1)
        return len(asked) == 2

    record = run(CONFIG, home, "asked", should_stop=wish, mirror=False)
    assert (record.state, record.epoch) == ("PRUNED", 2)

    def stop_from_outside(report: dict[str, Any]) -> None:
        RunFolder.open(home.runs, "file").request_stop()

    record = run(CONFIG, home, "file", on_report=stop_from_outside, mirror=False)
    assert (record.state, record.epoch) == ("PRUNED", 1)
    assert run(CONFIG, home, "file", mirror=False).state == "COMPLETE", "an old wish does not stop a new attempt"


@pytest.mark.parametrize("error", [None, RunStopped("tune"), SystemExit(0), ZeroDivisionError("a bug")], ids=repr)
def test_a_pause_is_no_pruning(home: Home, tmp_path: Path, error: BaseException | None) -> None:
    pause, states = tmp_path / "pause", []

    def pause_at_2(report: dict[str, Any]) -> None:
        states.append(RunFolder.open(home.runs, "r").read().state)
        if report["epoch"] == 2:
            pause.touch()
            if error is not None:
                raise error

    passed_on = pytest.raises(SystemExit) if isinstance(error, SystemExit) else nullcontext()
    with passed_on:
        run(CONFIG, home, "r", on_report=pause_at_2, pause_path=pause, mirror=False)
    record = RunFolder.open(home.runs, "r").read()
    assert (record.state, record.epoch) == ("FAIL" if isinstance(error, ZeroDivisionError) else "INTERRUPTED", 2)
    assert states == ["RUNNING", "RUNNING"]
    pause.unlink()
    again = run(CONFIG, home, "r", pause_path=pause, mirror=False)
    assert (again.state, again.attempt) == ("COMPLETE", 2)


def test_divergence_is_a_named_failed_state(home: Home) -> None:
    record = run(tiny("pretrain.lr=1e30", "pretrain.epochs=4"), home, "d", mirror=False)
    assert record.state == "FAIL"
    assert record.error is not None
    assert record.error.startswith("diverged: non-finite loss in pretrain, epoch")
    assert "NonFiniteLoss" in (home.runs / "d" / "error.txt").read_text()
    assert record.weights_sha is None


def test_a_full_disk_at_a_snapshot_fails_the_run_and_keeps_the_old_one(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sage_ray.stages.store import StageStore

    original = StageStore._write

    def full(store: StageStore, path: str, content: bytes) -> None:
        if len(store.epochs(path.split("/")[-3])) >= 1:
            raise OSError(28, "No space left on device")
        original(store, path, content)

    monkeypatch.setattr(StageStore, "_write", full)
    config = tiny("runtime.snapshot_seconds=0")
    record = run(config, home, "full", mirror=False)
    assert record.state == "FAIL"
    assert record.error is not None and record.error.startswith("snapshot_failed:") and "No space left" in record.error
    monkeypatch.undo()
    assert run(config, home, "full", mirror=False).state == "COMPLETE"


def test_bad_input_makes_no_run(home: Home, tmp_path: Path) -> None:
    bad: dict[str, tuple[str, ...]] = {
        "no such folder": ("data.path=/nowhere/at/all",),
        "unknown model": ("segmenter.name=v_net",),
        "no such score": ("evaluation.metric=val/dicee",),
        "no such segmenter": ("pretrain.epochs=0", "pretrain.checkpoint=/nowhere.safetensors"),
    }
    if not torch.cuda.is_available():
        bad["no GPU here: runtime.device=cuda"] = ("runtime.device=cuda",)
        bad["no GPU here: runtime.gpus_per_worker=1"] = ("runtime.gpus_per_worker=1",)
    for message, sets in bad.items():
        with pytest.raises(UserError, match=message):
            run(tiny(*sets), home, "bad", mirror=False)
    with pytest.raises(UserError, match="one process has one worker"):
        run(tiny("runtime.workers=2"), home, "bad", launcher="inline", mirror=False)
    blocker = tmp_path / "file"
    blocker.touch()
    with pytest.raises(UserError, match="home cannot be written"):
        run(CONFIG, Home(blocker / "home"), "bad", mirror=False)
    assert home.run_ids() == []


def test_data_that_changed_under_a_run_are_refused(home: Home, tmp_path: Path) -> None:
    from sage_ray.data.synth import write_dataset

    write_dataset(tmp_path / "data", num=12, size=32, seed=1)
    config = tiny(f"data.path={tmp_path / 'data'}", "adversarial.epochs=1", "pretrain.epochs=1")
    assert run(config, home, "r", mirror=False).state == "COMPLETE"
    mask = sorted((tmp_path / "data" / "images").iterdir())[0]
    mask.unlink()
    (tmp_path / "data" / "masks" / mask.name).unlink()
    with pytest.raises(UserError, match="data have changed since the run began"):
        run(config, home, "r", mirror=False)


def test_train_names_the_run_after_its_config(home: Home) -> None:
    assert default_run_id(CONFIG) == f"run-{CONFIG.config_hash()[:8]}-s0"
    record = train(CONFIG, str(home.path), name="tiny_sage_gan", mirror=False)
    assert record.run_id == f"tiny_sage_gan-{CONFIG.config_hash()[:8]}-s0"
    assert record.finished


def test_a_run_is_mirrored_and_an_absent_server_is_no_error(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    said: list[str] = []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    record = run(CONFIG, home, "r", say=said.append)
    assert record.state == "COMPLETE"
    assert len([line for line in said if "sage-ray sync" in line]) == 1
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    said.clear()
    assert run(CONFIG, home, "r", say=said.append) == record, "a finished run is sent when it is asked for again"
    assert [line for line in said if not line.startswith("data: ")] == []
    folder = RunFolder.open(home.runs, "r")
    assert Mirror(home).up_to_date(folder)
    client = mlflow_client.connect(home)
    (found,) = client.search_runs([mlflow_client.experiment_id(client, home)])
    assert (found.info.status, found.info.run_name) == ("FINISHED", "r")
    assert len(client.get_metric_history(found.info.run_id, "val/dice")) == 4


KILLED = """
import sys
from sage_ray.config import resolve
from sage_ray.runtime.launch import train
config = resolve(file=sys.argv[1]).config
train(config, sys.argv[2], "r", mirror=False, on_report=lambda r: print(r["epoch"], flush=True))
"""


def test_a_killed_process_is_taken_up_where_it_was(finished: Home, home: Home, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(dump(tiny("adversarial.epochs=40")))
    command = [sys.executable, "-c", KILLED, str(path), str(home.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "5\n":
                os.kill(process.pid, signal.SIGKILL)
                break
        process.wait(30)
    folder = RunFolder.open(home.runs, "r")
    assert folder.read().state == "RUNNING"
    seen = len(epochs(folder))
    assert 5 <= seen < 42
    started = time.monotonic()
    record = run(tiny("adversarial.epochs=40"), home, "r", mirror=False, should_stop=lambda: len(epochs(folder)) > seen)
    assert time.monotonic() - started < 60
    assert (record.state, record.attempt, record.epoch) == ("PRUNED", 2, seen + 1)
    assert epochs(folder) == list(range(1, seen + 2))
