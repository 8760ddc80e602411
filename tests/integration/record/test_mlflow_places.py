"""Artifact places in a home's own MLflow database follow the home."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
import sqlalchemy

from sage_ray.record.home import Home
from sage_ray.record.mlflow_client import EXPERIMENT, connect, one_line_of
from sage_ray.record.mlflow_mirror import Mirror
from sage_ray.record.mlflow_places import follow_home, forget_unmade


def filled(path: Path) -> tuple[Home, str]:
    """A home whose MLflow store has one run with one artifact and one model version; the run's id."""
    home = Home(path)
    home.check_writable()
    mirror = Mirror(home)
    run = mirror.parent_run("study")
    file = home.path / "note.txt"
    file.write_text("kept")
    mirror.log_parent_artifact("study", file)
    client = mirror.client
    client.create_registered_model("net")
    client.create_model_version("net", f"{client.get_run(run).info.artifact_uri}/model", run)
    return home, run


@pytest.mark.parametrize("name", ["moved", "a b", "grün", "50% #1", "what?", "a%20b", "q?x=1#y%3Fz"])
def test_a_moved_home_finds_and_keeps_its_artifacts(tmp_path: Path, name: str) -> None:
    home, run = filled(tmp_path / "first")
    home.path.rename(tmp_path / name)
    moved = Home(tmp_path / name)
    client = connect(moved)
    got = mlflow.artifacts.download_artifacts(
        client.get_run(run).info.artifact_uri + "/note.txt", dst_path=str(tmp_path), tracking_uri=moved.mlflow_uri
    )
    assert Path(got).read_text() == "kept"
    assert client.get_model_version("net", "1").source.startswith(moved.artifact_root.as_uri() + "/")
    assert client.get_model_version_download_uri("net", "1").startswith(moved.artifact_root.as_uri() + "/")
    mirror = Mirror(moved)
    other = mirror.parent_run("another study")
    mirror.log_parent_artifact("another study", moved.path / "note.txt")
    assert (moved.artifact_root / other / "artifacts" / "note.txt").is_file()
    assert not (tmp_path / "first").exists()
    assert {path.name for path in tmp_path.iterdir()} == {name, "note.txt"}, "nothing is made beside the home"
    moved.path.rename(tmp_path / "back")
    again = connect(Home(tmp_path / "back"))
    assert again.get_model_version_download_uri("net", "1").startswith((tmp_path / "back").as_uri() + "/mlartifacts/")


SEND = """
import sys
from sage_ray.record.home import Home
from sage_ray.record.mlflow_mirror import Mirror

home = Home(sys.argv[1])
Mirror(home).log_parent_artifact("study", home.path / "more.txt")
"""


def test_a_copy_never_writes_to_the_original(tmp_path: Path) -> None:
    home, run = filled(tmp_path / "first")
    copy = Home(tmp_path / "copy")
    shutil.copytree(home.path, copy.path)
    before = sorted(home.artifact_root.rglob("*"))
    (copy.path / "more.txt").write_text("new")
    # A process of its own: MLflow remembers where the artifacts of a run are for as long as the process lives.
    subprocess.run([sys.executable, "-c", SEND, str(copy.path)], check=True, timeout=120)
    assert (copy.artifact_root / run / "artifacts" / "more.txt").is_file()
    assert sorted(home.artifact_root.rglob("*")) == before


def test_nothing_changes_where_nothing_moved(tmp_path: Path) -> None:
    home, _ = filled(tmp_path / "first")
    assert home.database is not None
    assert not follow_home(home.database, EXPERIMENT, home.artifact_root)
    (tmp_path / "link").symlink_to(home.path)
    linked = Home(tmp_path / "link")
    assert not follow_home(linked.path / "mlflow.db", EXPERIMENT, linked.artifact_root)
    assert not follow_home(tmp_path / "none.db", EXPERIMENT, home.artifact_root)


def test_places_elsewhere_are_left_alone(tmp_path: Path) -> None:
    home, _ = filled(tmp_path / "first")
    client = connect(home)
    elsewhere = client.create_experiment("own", artifact_location=(tmp_path / "first" / "mlartifacts-2").as_uri())
    remote = client.create_experiment("remote", artifact_location="s3://bucket/x")
    home.path.rename(tmp_path / "moved")
    client = connect(Home(tmp_path / "moved"))
    assert client.get_experiment(elsewhere).artifact_location == (tmp_path / "first" / "mlartifacts-2").as_uri()
    assert client.get_experiment(remote).artifact_location == "s3://bucket/x"


def test_a_store_named_by_the_environment_is_not_the_homes_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    assert home.database == tmp_path / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert home.database is None


CUT_OFF = """
import os, signal, sys
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sage_ray.record.home import Home
from sage_ray.record.mlflow_client import connect

@event.listens_for(Engine, "before_cursor_execute")
def die(connection, cursor, statement, *rest):
    if statement.startswith("INSERT INTO _alembic_tmp_latest_metrics"):
        os.kill(os.getpid(), signal.SIGKILL)

connect(Home(sys.argv[1]))
"""


def test_a_database_whose_making_was_cut_off_is_made_anew(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", CUT_OFF, str(tmp_path)], timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    home = Home(tmp_path)
    assert home.database is not None and home.database.is_file()
    client = connect(home)
    assert client.create_experiment("another")
    assert not forget_unmade(home.database), "one that holds anything stays"
    assert client.get_experiment_by_name("another") is not None


def test_an_error_of_the_database_is_told_without_its_statement() -> None:
    with sqlalchemy.create_engine("sqlite://").connect() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE there (a)"))
        with pytest.raises(sqlalchemy.exc.OperationalError) as caught:
            connection.execute(sqlalchemy.text("CREATE TABLE there (a)"))
    said = one_line_of(caught.value)
    assert said.endswith("table there already exists") and "CREATE" not in said
