"""Studies of a home as Optuna's dashboard gets them: read while they are written, and never changed."""

from __future__ import annotations

import io
import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from postgres_cases import PostgresServer
from study_cases import Study, tiny_space

from sage_ray.dashboards import home_studies
from sage_ray.dashboards.dashboard_servers import LEFT_OUT
from sage_ray.dashboards.home_studies import HomeStudies
from sage_ray.dashboards.study_copies import StudySource, copy_database
from sage_ray.dashboards.trial_pictures import TrialRuns
from sage_ray.record.home import Home
from sage_ray.record.overview import overview
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunLabels
from sage_ray.search.rebuild import rebuild
from sage_ray.search.study_note import metric_names, study_note

STORES = ["sqlite", "journal", pytest.param("postgres", marks=pytest.mark.cluster)]


@pytest.fixture(autouse=True)
def _look_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home_studies, "LOOK_S", 0.0)


@pytest.fixture(params=STORES)
def kept_in(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        monkeypatch.setenv("SAGE_OPTUNA_URL", server.url())
    yield request.param


def begun(home: Home, folder: Path, name: str = "tiny", running: int = 2, **changes: Any) -> Study:
    study = Study(home, tiny_space(folder, name=name, **changes), running=running)
    study.storage.describe(metric_names(study.space), study_note(study.space))
    return study


def asked(app: Any, path: str, method: str = "GET", host: str = "127.0.0.1:8080", body: bytes = b"") -> tuple[str, Any]:
    """Status and answer of the page."""
    told: list[str] = []
    environ = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "HTTP_HOST": host,
        "HTTP_ACCEPT_ENCODING": "",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": io.StringIO(),
        "wsgi.url_scheme": "http",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "8080",
    }
    answer = b"".join(app(environ, lambda status, headers, exc_info=None: told.append(status)))
    return told[0], json.loads(answer) if answer[:1] == b"{" else answer


def test_a_study_is_seen_as_it_goes_on_and_two_never_share_an_id(home: Home, tmp_path: Path, kept_in: str) -> None:
    study = begun(home, tmp_path, storage="journal") if kept_in == "journal" else begun(home, tmp_path)
    begun(home, tmp_path, name="other", running=1)
    shown = HomeStudies(home)
    assert [s.study_name for s in shown.get_all_studies()] == ["other", "tiny"]
    study_id = shown.get_study_id_from_name("tiny")

    def states() -> list[str]:
        return [trial.state.name for trial in shown.get_all_trials(study_id)]

    assert states() == ["RUNNING", "RUNNING"]
    study.storage.report(0, 1, 0.25)
    study.storage.write_reports(at_once=True)
    assert shown.get_all_trials(study_id)[0].intermediate_values == {1: 0.25}
    study.storage.tell_complete(0, [0.5])
    study.storage.draw(None, study.space)
    assert states() == ["COMPLETE", "RUNNING", "RUNNING"]
    assert shown.get_best_trial(study_id).value == 0.5
    ids = [trial._trial_id for s in shown.get_all_studies() for trial in shown.get_all_trials(s._study_id)]
    assert len(set(ids)) == len(ids) == 4
    assert all(shown.get_trial(trial_id)._trial_id == trial_id for trial_id in ids)
    # Optuna itself gets what it needs to draw and to judge.
    found = optuna.load_study(study_name="tiny", storage=shown)
    assert found.best_trial.number == 0 and found.metric_names == ["val/dice"]


def test_nothing_of_a_home_is_written(home: Home, tmp_path: Path, kept_in: str) -> None:
    study = begun(home, tmp_path, storage="journal") if kept_in == "journal" else begun(home, tmp_path)
    study.storage.close()

    def files() -> dict[str, tuple[bytes, int]]:
        found = [path for path in home.studies.rglob("*") if path.is_file()]
        return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}

    before = files()
    shown = HomeStudies(home)
    study_id = shown.get_all_studies()[0]._study_id
    trial_id = shown.get_all_trials(study_id)[0]._trial_id
    for change in (
        lambda: shown.delete_study(study_id),
        lambda: shown.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "new"),
        lambda: shown.set_study_user_attr(study_id, "key", 1),
        lambda: shown.set_trial_state_values(trial_id, optuna.trial.TrialState.FAIL),
        lambda: shown.set_trial_system_attr(trial_id, "key", 1),
    ):
        with pytest.raises(PermissionError, match="not changed"):
            change()
    assert files() == before


def test_a_storage_that_is_made_anew_damaged_or_gone_is_followed(home: Home, tmp_path: Path) -> None:
    study, shown = begun(home, tmp_path), HomeStudies(home)
    study_id = shown.get_all_studies()[0]._study_id
    assert len(shown.get_all_trials(study_id)) == 2
    study.storage.close()
    rebuild(study.folder, study.space)  # no run is known: a new and empty storage at the same place
    assert shown.get_all_trials(study_id) == []
    file = study.folder.path / "optuna.db"
    file.write_bytes(b"no database" * 400)
    assert shown.get_all_trials(study_id) == []  # what cannot be read stays what it was
    assert "not a database" in HomeStudies(home).unreadable()["tiny"]
    assert HomeStudies(home).get_all_studies() == []
    study.folder.path.rename(tmp_path / "gone")
    assert shown.get_all_studies() == []
    with pytest.raises(KeyError):
        shown.get_all_trials(study_id)


def test_a_driver_writes_on_while_its_study_is_read_without_a_pause(home: Home, tmp_path: Path) -> None:
    study = begun(home, tmp_path)
    source = StudySource(study.folder.store())
    over, read = threading.Event(), [0]

    def go_on() -> None:
        while not over.is_set():
            source.read()
            read[0] += 1

    def write(count: int) -> list[float]:
        taken = []
        for step in range(count):
            began = time.monotonic()
            study.storage.report(0, step, 0.1 + step / 1000 + 1e-6 * len(taken))
            study.storage.write_reports(at_once=True)
            taken.append(time.monotonic() - began)
        return taken

    reader = threading.Thread(target=go_on)
    reader.start()
    try:
        taken = write(80)
    finally:
        over.set()
        reader.join(30)
    assert read[0] >= 2 and len(source.read().trials[0].intermediate_values) == 80
    # A lock that was held would show in a whole second, sqlite's own pauses in tenths.
    assert sorted(taken)[72] < 0.5 and max(taken) < 5.0, sorted(taken)[-5:]


def test_a_database_that_stays_locked_is_waited_for_a_moment_only(home: Home, tmp_path: Path) -> None:
    study, shown = begun(home, tmp_path), HomeStudies(home)
    study_id = shown.get_all_studies()[0]._study_id
    file = study.folder.path / "optuna.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as writer, closing(sqlite3.connect(":memory:")) as copy:
        writer.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        with pytest.raises(sqlite3.OperationalError):
            copy_database(file, copy)
        assert time.monotonic() - began < 30
        writer.execute("ROLLBACK")
        assert len(shown.get_all_trials(study_id)) == 2


_KILLED = """
import os, signal, sqlite3, sys
writer = sqlite3.connect(sys.argv[1], isolation_level=None)
writer.execute("PRAGMA cache_size = 1")
writer.execute("BEGIN IMMEDIATE")
writer.execute("UPDATE trials SET state = 'FAIL'")
writer.execute("CREATE TABLE filler (x)")
for _ in range(200):
    writer.execute("INSERT INTO filler VALUES (zeroblob(4000))")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_driver_left_half_written_is_read_as_it_was_before(home: Home, tmp_path: Path) -> None:
    study = begun(home, tmp_path)
    file = study.folder.path / "optuna.db"
    study.storage.close()
    subprocess.run([sys.executable, "-c", _KILLED, str(file)], check=False)
    left = {path.name: path.read_bytes() for path in file.parent.glob("optuna.db*")}
    assert len(left) == 2, "there is a journal beside the database"
    with pytest.raises(sqlite3.OperationalError), closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as raw:
        raw.execute("SELECT * FROM trials")
    shown = HomeStudies(home)
    (found,) = shown.get_all_studies()
    assert [trial.state.name for trial in shown.get_all_trials(found._study_id)] == ["RUNNING", "RUNNING"]
    assert [(one.state, one.running, one.interrupted) for one in overview(home).studies] == [("interrupted", 0, 2)]
    assert study.folder.store().is_sound(thorough=True), "it need not be made anew"
    assert {path.name: path.read_bytes() for path in file.parent.glob("optuna.db*")} == left


def test_the_page_shows_trials_their_runs_and_pictures_and_refuses_changes(home: Home, tmp_path: Path) -> None:
    from sage_ray.dashboards.optuna_page import page

    study = begun(home, tmp_path)
    config = study.space.config(study.samples[0].values, 0)
    run = RunFolder.create(home.runs, "tiny-t0000-s0", config, RunLabels(study="tiny", trial=0))
    (run.artifacts / "pictures").mkdir(parents=True)
    (run.artifacts / "pictures" / "curves.png").write_bytes(b"a picture")
    study.storage.tell_failed(1, "NonFiniteLoss: loss is nan")
    app = page(home)
    status, answer = asked(app, "/api/studies/1")
    assert status.startswith("200") and answer["objective_names"] == ["val/dice"]
    assert "| `adversarial.lr` | 1e-05 to 0.001, on a log scale |" in answer["note"]["body"]
    assert "median of the last fifth" in answer["note"]["body"]
    first, second = answer["trials"]
    assert first["note"]["body"].startswith("- run `tiny-t0000-s0`: ")
    assert second["note"]["body"].startswith("Failed: NonFiniteLoss")
    assert [attr["key"] for attr in second["user_attrs"]] == ["error"]
    (picture,) = first["artifacts"]
    assert picture["filename"] == "tiny-t0000-s0 curves.png"
    place = f"/artifacts/1/{first['trial_id']}/{picture['artifact_id']}"
    assert asked(app, place) == ("200 OK", b"a picture")
    for method, path in (("DELETE", "/api/studies/1"), ("POST", "/api/studies"), ("PUT", "/api/studies/1/note")):
        status, answer = asked(app, path, method, body=b"{}")
        assert status.startswith("403") and "not changed" in answer["reason"]
    (study.folder.path.parent / "lost").mkdir()
    (study.folder.path.parent / "lost" / "study.json").write_text('{"name": "lost", "created": ""}')
    assert list(asked(app, LEFT_OUT)[1]) == ["lost"]
    assert asked(app, "/api/studies", host="evil.example:8080")[0].startswith("403")
    assert asked(app, "/api/studies", host="localhost:9999")[0].startswith("200")
    with pytest.raises(ValueError):
        TrialRuns(home).open_reader("0" * 32)


def test_what_a_study_says_of_itself_is_written_once_and_an_edited_note_is_kept(home: Home, tmp_path: Path) -> None:
    study = begun(home, tmp_path)
    file = study.folder.path / "optuna.db"
    before = file.read_bytes()
    study.storage.describe(metric_names(study.space), study_note(study.space))
    assert file.read_bytes() == before
    study.storage._storage.set_study_system_attr(1, "dashboard:note_ver", 2)
    study.storage._storage.set_study_system_attr(1, "dashboard:note_str:0", "my own words")
    study.storage.describe(metric_names(study.space), study_note(study.space))
    attrs = HomeStudies(home).get_all_studies()[0].system_attrs
    assert attrs["dashboard:note_str:0"] == "my own words"
