"""Whether two machines share a folder, and what of the environment travels between them."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest

from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.runtime.home_signs import HomeSigns, answer_signs, sign_missing
from sage_ray.runtime.node_answers import listing
from sage_ray.runtime.surroundings import Surroundings, settings_of_processes, shared_places, surroundings_of


def test_a_machine_that_shares_the_folder_answers(tmp_path: Path) -> None:
    signs = HomeSigns({"home": tmp_path})
    signs.put()
    assert answer_signs({"home": str(tmp_path)}, signs.token, "node-1", 0.0) is None
    assert signs.read_back("node-1", 0.0) is None
    assert signs.read_back("node-2", 0.0) == "home", "another one has left nothing"
    signs.clear()
    assert list(tmp_path.iterdir()) == []


def test_another_disk_at_the_same_path_is_found(tmp_path: Path) -> None:
    signs = HomeSigns({"home": tmp_path / "driver"})
    signs.put()
    other = tmp_path / "node"
    assert sign_missing(other, signs.token, 0.0) == f"is not there ({other})"
    other.mkdir()
    wrong = answer_signs({"home": str(other)}, signs.token, "n", 0.0)
    assert wrong == f"home is not the driver's: another disk lies at {other}"
    assert list(other.iterdir()) == [], "nothing is left there"


def test_a_folder_that_cannot_be_written_is_found(tmp_path: Path) -> None:
    (tmp_path / ".nodes").write_text("in the way")
    with pytest.raises(UserError, match="home cannot be written here"):
        HomeSigns({"home": tmp_path}).put()
    signs = HomeSigns({"home": tmp_path / "home"})
    signs.put()
    (tmp_path / "home" / ".nodes" / signs.token / "n").mkdir()
    wrong = answer_signs({"home": str(tmp_path / "home")}, signs.token, "n", 0.0)
    assert wrong is not None and wrong.startswith("home cannot be written")


def test_a_listing_differs_by_number_names_and_sizes(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(b"12")
    first = listing(str(tmp_path))
    assert first.startswith("2 files") and listing(str(tmp_path / "nowhere")) == "nothing"
    (tmp_path / "images" / "a.png").write_bytes(b"123")
    longer = listing(str(tmp_path))
    (tmp_path / "images" / "a.png").rename(tmp_path / "images" / "b.png")
    assert len({first, longer, listing(str(tmp_path))}) == 3
    assert listing(str(tmp_path / "images" / "b.png")) == "a file of 3 bytes"


def test_what_travels_and_what_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs.db")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very secret")
    monkeypatch.setenv("MLFLOW_RUN_ID", "mine")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/not/there.json")
    monkeypatch.setenv("GOOGLE_BASE_URL", "http://store.lab")
    found = surroundings_of(Home(tmp_path / "home"))
    assert found.variables["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/runs.db", "relative to the driver's folder"
    assert "MLFLOW_RUN_ID" not in found.variables and "very secret" not in repr(found)
    assert "AWS_SECRET_ACCESS_KEY" not in settings_of_processes({}), "which everybody can read"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "the node's own")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/the/nodes/own.json")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the node's own")
    other = tmp_path / "elsewhere"
    other.mkdir()
    monkeypatch.chdir(other)
    travelled: Surroundings = pickle.loads(pickle.dumps(found))
    travelled.take_on()
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "very secret" and Path.cwd() == tmp_path
    assert "MLFLOW_EXPERIMENT_NAME" not in os.environ, "runs go where the driver's go"
    assert os.environ["GOOGLE_APPLICATION_CREDENTIALS"] == "/the/nodes/own.json", "the driver's file is not here"
    assert Home(tmp_path / "home").mlflow_uri == found.variables["MLFLOW_TRACKING_URI"]


def test_settings_that_a_submitted_job_has_are_not_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_CHDIR_TO_TRIAL_DIR", "0")
    monkeypatch.setenv("TUNE_FUNCTION_THREAD_TIMEOUT_S", "150")
    settings = {"RAY_CHDIR_TO_TRIAL_DIR": "0"}
    assert settings_of_processes(settings).keys() >= {"RAY_CHDIR_TO_TRIAL_DIR", "TUNE_FUNCTION_THREAD_TIMEOUT_S"}
    job = {"runtime_env": {"env_vars": {"RAY_CHDIR_TO_TRIAL_DIR": "1"}}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    assert "RAY_CHDIR_TO_TRIAL_DIR" not in settings_of_processes(settings)


@pytest.mark.parametrize("uri", ["file:/tmp/mlruns", "file:///tmp/mlruns", "mlruns", "/tmp/mlruns"])
def test_a_store_that_is_a_folder_of_the_driver_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match="a folder of this machine alone"):
        shared_places(Home(tmp_path))


def test_the_folder_of_a_database_outside_the_home_is_to_be_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path / "home")
    assert shared_places(home) == {"home": home.path}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/else/mlflow.db")
    places = shared_places(home)
    assert places["folder of MLFLOW_TRACKING_URI"] == tmp_path / "else"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://user:word@host/db")
    assert shared_places(home) == {"home": home.path}
