"""A sweep whose trials and whose MLflow are on a real Postgres: its driver is killed, and the server goes away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from postgres_cases import ENCODED, PASSWORD, PostgresServer
from sweep_cases import EPOCHS, answer, assert_whole, epochs_on_disk, kill, long_space, record, start, wait_until
from watch_cases import Heard

from sage_ray.errors import RunFailed, UserError
from sage_ray.record import patient_storage
from sage_ray.record.home import Home
from sage_ray.record.overview import overview
from sage_ray.search.driver import resume, sweep
from sage_ray.search.study_folder import StudyFolder
from sage_ray.search.study_status import status
from sage_ray.study.space import load_space
from sage_ray.upkeep.mlflow_sync import sync

pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.timeout(600)]

AWAY_S = 30.0


def when(condition: Callable[[], Any], act: Callable[[], None]) -> threading.Thread:
    """Do something beside the driver as soon as a condition holds."""

    def wait() -> None:
        while not condition():
            time.sleep(0.05)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def assert_no_password(folder: Path) -> None:
    """No file below the folder holds the password of the server, as it is or encoded."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 20
    for path in files:
        content = path.read_bytes()
        assert PASSWORD.encode() not in content and ENCODED.encode() not in content, path


def found_in(mlflow_url: str) -> list[Run]:
    client = MlflowClient(tracking_uri=mlflow_url)
    return list(client.search_runs([e.experiment_id for e in client.search_experiments()]))


def assert_in_mlflow(mlflow_url: str) -> None:
    """The study and its three runs are there once, and finished."""
    runs = found_in(mlflow_url)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert sorted(run.info.run_name for run in runs) == [*(f"t{n:04d}-s0 of tiny" for n in range(3)), "tiny"]


def test_a_killed_driver_goes_on_and_no_file_has_the_password(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optuna_url, mlflow_url = postgres.database("trials"), postgres.database("tracking")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_url)
    home = Home(tmp_path / "home")
    path = long_space(tmp_path, 0, storage=optuna_url)
    process = start("sweep", str(path), "--home", str(home.path), "--quiet")
    wait_until(lambda: len(epochs_on_disk(home, "tiny-t0001-s0")) >= 3, process)
    with monkeypatch.context() as patch, pytest.raises(UserError, match="study is being run"):
        patch.setenv("PGPASSWORD", PASSWORD)
        resume("tiny", home)
    wait_until(lambda: len(epochs_on_disk(home, "tiny-t0001-s0")) >= 9, process)
    kill(process)
    path.unlink()  # the user's own file had it
    assert StudyFolder(home, "tiny").meta()["storage"] == postgres.url("trials", password=None)
    assert not list(home.studies.glob("*/optuna.*"))
    before = {run_id: epochs_on_disk(home, run_id) for run_id in home.run_ids()}
    refused = start("resume", "tiny", "--home", str(home.path))
    _, errors = refused.communicate(timeout=120)
    assert refused.returncode == 2 and "Postgres wants another password" in errors and len(errors.splitlines()) == 1

    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    assert (status("tiny", home).state, status("tiny", home).interrupted) == ("interrupted", 1)
    (listed,) = overview(home).studies
    assert (listed.state, listed.done, listed.interrupted, listed.target) == ("interrupted", 1, 1, 3)
    again, errors = answer(start("resume", "tiny", "--home", str(home.path), "--json"))
    assert again["ok"] and again["done"] == 3, errors
    assert_whole(home, before)
    assert record(home, "tiny-t0001-s0")["attempt"] == 2
    (listed,) = overview(home).studies
    assert (listed.state, listed.done, listed.running) == ("finished", 3, 0)
    assert_no_password(tmp_path)

    assert_in_mlflow(mlflow_url)


def test_a_server_that_is_away_for_half_a_minute_costs_nothing(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow_url = postgres.database("tracking_interrupted")
    monkeypatch.setenv("SAGE_OPTUNA_URL", postgres.database("interrupted"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_url)
    home, heard = Home(tmp_path / "home"), Heard()

    def leave() -> None:
        postgres.stop()
        time.sleep(AWAY_S)
        postgres.start()

    thread = when(lambda: len(epochs_on_disk(home, "tiny-t0000-s0")) >= 5, leave)
    state = sweep(load_space(long_space(tmp_path)), home, watch=heard)
    thread.join(60)
    assert state.state == "finished" and state.done == 3
    assert_whole(home, {})
    assert all(record(home, run_id)["attempt"] == 1 for run_id in home.run_ids())
    assert [trial.value is not None for trial in state.trials] == [True] * 3
    told = [line for line in heard.lines if line.startswith("postgresql://")]
    assert len(told) == 2 and "does not answer" in told[0] and "answers again" in told[1], heard.lines
    assert not any(secret in line for secret in (PASSWORD, ENCODED) for line in heard.lines)
    # MLflow, on the same server, gets what it missed.
    sync(home)
    assert_in_mlflow(mlflow_url)
    runs = MlflowClient(tracking_uri=mlflow_url)
    (first,) = [run for run in found_in(mlflow_url) if run.info.run_name == "t0000-s0 of tiny"]
    history = runs.get_metric_history(first.info.run_id, "objective")
    assert [metric.step for metric in history] == list(range(1, EPOCHS + 1))


def test_a_server_that_stays_away_ends_the_study_cleanly(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_OPTUNA_URL", postgres.database("gone"))
    monkeypatch.setattr("sage_ray.search.opening.PATIENCE_S", 6.0)
    home, heard = Home(tmp_path / "home"), Heard()
    space = load_space(long_space(tmp_path))
    thread = when(lambda: len(epochs_on_disk(home, "tiny-t0001-s0")) >= 5, postgres.stop)
    try:
        with pytest.raises(RunFailed, match="has not answered for .* then `sage-ray resume tiny`"):
            sweep(space, home, watch=heard)
        thread.join(60)
        states = {run_id: record(home, run_id)["state"] for run_id in home.run_ids()}
        assert states["tiny-t0000-s0"] == "COMPLETE" and states["tiny-t0001-s0"] in ("INTERRUPTED", "COMPLETE")
        assert not StudyFolder(home, "tiny").driver_alive()
        before = {run_id: epochs_on_disk(home, run_id) for run_id in home.run_ids()}
        process = start("resume", "tiny", "--home", str(home.path))
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 2 and errors.startswith("Postgres refuses connections"), errors
        assert len(errors.splitlines()) == 1
        assert [trial.state for trial in status("tiny", home).trials][0] == "COMPLETE", "told from the runs"
    finally:
        postgres.start()
    monkeypatch.setattr("sage_ray.search.opening.PATIENCE_S", patient_storage.PATIENCE_S)
    assert resume("tiny", home, heard).state == "finished"
    assert_whole(home, before)
    assert max(len(lines) for lines in before.values()) == EPOCHS
