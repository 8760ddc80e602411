"""Trials on a Postgres server: homes that share it, addresses and passwords, and a server that goes away."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgres_cases import PASSWORD, PostgresServer
from storage_cases import POINTS, facts, opened
from study_cases import Study, tiny_space

from sage_ray.errors import UserError
from sage_ray.record import patient_storage
from sage_ray.record.home import Home
from sage_ray.record.optuna_store import store_of_study
from sage_ray.record.overview import overview
from sage_ray.record.patient_storage import Patience, StorageAway
from sage_ray.search.opening import write_study
from sage_ray.search.rebuild import is_sound, rebuild
from sage_ray.search.storage import Progress, read_rows
from sage_ray.search.study_folder import StudyFolder
from sage_ray.search.study_status import study_rows
from sage_ray.terminal.cli import call
from sage_ray.terminal.doctor_checks import trial_storages
from sage_ray.upkeep.forget import forget


def test_homes_share_a_server_and_no_study(addresses: dict[str, str], tmp_path: Path) -> None:
    studies = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        space = tiny_space(tmp_path / name, storage=addresses["postgres"], trials=4, **POINTS)
        studies.append(Study(Home(tmp_path / name / "home"), space, running=1 + (name == "other")))
    one, other = studies
    assert (len(one.storage.rows()), len(other.storage.rows())) == (1, 2)
    # A copy of a home is a home of its own: it makes its trials anew and leaves those of the original alone.
    shutil.copytree(one.home.path, tmp_path / "copy")
    copied = StudyFolder(Home(tmp_path / "copy"), "tiny")
    storage, _ = opened(copied)
    assert copied.store().study_name != one.folder.store().study_name
    storage.enqueue(one.space.fixed, one.space)
    storage.tell_failed(storage.draw(None, one.space).number, "crashed")
    assert [row.state for row in one.storage.rows()] == ["RUNNING"]
    # A home that was moved is the same home.
    shutil.move(other.home.path, tmp_path / "moved")
    moved = StudyFolder(Home(tmp_path / "moved"), "tiny")
    assert len(study_rows(moved, other.space)) == 2 and len(read_rows(moved.path, "tiny", moved.store())) == 2


def test_forget_removes_the_trials_from_the_server(
    addresses: dict[str, str], postgres: PostgresServer, tmp_path: Path
) -> None:
    space = tiny_space(tmp_path, storage=addresses["postgres"], trials=4, **POINTS)
    study = Study(Home(tmp_path / "home"), space, running=1)
    study.storage.close()
    rebuild(study.folder, space)
    store = study.folder.store()
    assert len(store.names_on_server()) == 2, "those before are set aside"
    dry = forget("tiny", study.home)
    assert any(store.where in item.what for item in dry.items) and len(store.names_on_server()) == 2
    report = forget("tiny", study.home, remove=True)
    assert not store.names_on_server() and not study.folder.path.exists() and not report.kept
    left = postgres.execute(f"SELECT count(*) FROM studies WHERE study_name LIKE '%{study.home.identity}%'", "optuna")
    assert left == [(0,)]


def test_a_study_of_a_name_that_was_removed_by_hand_begins_empty(addresses: dict[str, str], tmp_path: Path) -> None:
    space = tiny_space(tmp_path, storage=addresses["postgres"], trials=4, **POINTS)
    study = Study(Home(tmp_path / "home"), space, running=2)
    shutil.rmtree(study.folder.path)
    study.folder.path.mkdir()
    write_study(study.folder, space, "f", [])
    storage, _ = opened(study.folder, spec=space)
    assert storage.rows() == []
    storage.close()


def test_the_file_comes_before_the_environment_before_sqlite(
    addresses: dict[str, str], home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sage_ray.addresses import store_address

    url = addresses["postgres"]
    assert store_of_study(home, "new").where == "optuna.db"
    monkeypatch.setenv("SAGE_OPTUNA_URL", url)
    assert store_of_study(home, "new").is_server and store_of_study(home, "new").secrets == {"password": PASSWORD}
    assert store_of_study(home, "new", store_address("journal")).where == "optuna.journal"
    assert store_of_study(home, "new", store_address("sqlite")).where == "optuna.db"
    # A study that exists stays where it is.
    folder = StudyFolder(home, "old")
    folder.path.mkdir(parents=True)
    folder.write_meta({"name": "old"})
    assert folder.store().where == "optuna.db"
    monkeypatch.setenv("SAGE_OPTUNA_URL", "mysql://u:hidden@h/d")
    with pytest.raises(UserError, match="unknown scheme mysql://: SAGE_OPTUNA_URL") as caught:
        store_of_study(home, "new")
    assert "hidden" not in str(caught.value)


def test_a_password_comes_from_the_environment_when_a_study_goes_on(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sage_ray.record.optuna_store._given", {})
    url = postgres.database("passwords")
    space = tiny_space(tmp_path, storage=url, trials=4, **POINTS)
    study = Study(Home(tmp_path / "home"), space, running=1)
    kept = study.folder.spec()
    assert kept.file.storage == postgres.url("passwords", password=None) and not kept.file.store.secrets
    monkeypatch.setattr("sage_ray.record.optuna_store._given", {})
    with pytest.raises(UserError, match="Postgres wants another password: postgresql://sage@127.0.0.1") as caught:
        study.folder.store().check()
    assert PASSWORD not in str(caught.value)
    for name, value in {"PGPASSWORD": PASSWORD, "SAGE_OPTUNA_URL": url}.items():
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert is_sound(study.folder), name
    pgpass = tmp_path / "pgpass"
    pgpass.write_text(f"127.0.0.1:{postgres.port}:*:sage:{PASSWORD}\n")
    pgpass.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(pgpass))
    assert is_sound(study.folder)


def bad(postgres: PostgresServer, kind: str) -> str:
    return {
        "port": "postgresql://sage:hidden-word@127.0.0.1:1/optuna",
        "password": postgres.url("optuna", password="hidden-word"),
        "user": postgres.url("optuna", user="nobody-there", password="hidden-word"),
        "database": postgres.url("nowhere"),
        "host": "postgresql://sage:hidden-word@no-such-host.invalid/optuna",
        "scheme": "mysql://sage:hidden-word@127.0.0.1/optuna",
    }[kind]


@pytest.mark.parametrize("given", ["file", "environment"])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("port", "Postgres refuses connections: postgresql://sage@127.0.0.1:1/optuna: start it"),
        ("password", "Postgres wants another password"),
        ("user", "Postgres wants another password"),
        ("database", "no such database in Postgres"),
        ("host", "unknown host of Postgres"),
        ("scheme", "unknown scheme mysql://"),
    ],
)
def test_a_server_that_cannot_be_used_is_one_line_before_any_training(
    postgres: PostgresServer,
    addresses: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    words: str,
    given: str,
) -> None:
    url = bad(postgres, kind)
    tiny_space(tmp_path, trials=3, **POINTS)
    path = tmp_path / "tiny.yaml"
    if given == "file":
        path.write_text(f"{path.read_text()}storage: {url}\n")
    else:
        monkeypatch.setenv("SAGE_OPTUNA_URL", url)
    home = tmp_path / "home"
    assert call(["sweep", str(path), "--home", str(home)]) == 2
    said = capsys.readouterr()
    lines = said.err.strip().splitlines()
    assert len(lines) == 1 and words in lines[0], said.err
    assert "hidden-word" not in said.err + said.out and PASSWORD not in said.err + said.out
    assert not list(home.glob("runs/*")) and not list(home.glob("studies/*/study.json"))


def test_no_command_that_is_advised_has_the_password(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_space(tmp_path, trials=3, **POINTS)
    words = ["--set", "storage=postgresql://sage:hidden-word@127.0.0.1:1/optuna", "--home", str(tmp_path / "home")]
    assert call(["plan", str(tmp_path / "tiny.yaml"), *words]) == 0
    said = capsys.readouterr()
    assert "storage=postgresql://sage:***@127.0.0.1:1/optuna" in said.out and "hidden-word" not in said.out + said.err


def test_a_database_of_mlflow_is_refused_and_left_as_it_is(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.database("tracked")
    postgres.execute("CREATE TABLE alembic_version (version_num varchar(32))", "tracked")
    postgres.execute("INSERT INTO alembic_version VALUES ('f5a4f2784254')", "tracked")
    from sage_ray.addresses import store_address

    with pytest.raises(UserError, match="tables of another program.*give Optuna a database of its own"):
        store_of_study(Home(tmp_path), "x", store_address(url)).check()
    tables = postgres.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", "tracked")
    assert tables == [("alembic_version",)]


def test_a_missing_driver_is_one_line(addresses: dict[str, str], home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from sage_ray.addresses import store_address

    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UserError, match=r"psycopg is missing: postgresql://sage@.*: pip install 'sage-ray\[cluster\]'"):
        store_of_study(home, "x", store_address(addresses["postgres"])).check()


def test_doctor_says_where_trials_are_and_whether_that_answers(
    addresses: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path / "home")
    assert [(c.ok, c.text) for c in trial_storages(home)] == [(True, "sqlite in the folder of each study")]
    space = tiny_space(tmp_path, storage=addresses["postgres"], trials=4, **POINTS)
    study = Study(home, space, running=1)
    (here,) = trial_storages(home)[1:]
    assert here.ok and here.text == f"{study.folder.store().where} (of study tiny) answers"
    monkeypatch.setenv("SAGE_OPTUNA_URL", addresses["postgres"])
    (only,) = trial_storages(home)
    assert only.ok and only.text.endswith("(SAGE_OPTUNA_URL) answers") and PASSWORD not in only.text
    monkeypatch.setenv("SAGE_OPTUNA_URL", "postgresql://sage:hidden-word@127.0.0.1:1/optuna")
    first, second = trial_storages(home)
    assert not first.ok and first.needed and "refuses connections" in first.text and "hidden" not in first.text
    assert second.ok and not second.needed


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(patient_storage, "LONGEST_PAUSE_S", 0.5)
    yield


def test_a_call_waits_for_a_server_that_is_started_again(
    postgres: PostgresServer, addresses: dict[str, str], tmp_path: Path, short: None
) -> None:
    import threading

    lines: list[str] = []
    space = tiny_space(tmp_path, storage=addresses["postgres"], trials=4, **POINTS)
    study = Study(Home(tmp_path / "home"), space, running=1, patience=Patience("the server", 60.0, lines.append))
    postgres.stop()
    timer = threading.Timer(4.0, postgres.start)
    timer.start()
    study.storage.report(0, 1, 0.5)
    assert study.storage.draw(None, space).number == 1
    study.storage.tell_complete(0, [0.75])
    timer.join()
    assert [(row.number, row.state) for row in study.storage.rows()] == [(0, "COMPLETE"), (1, "RUNNING")]
    assert len(lines) == 2 and "does not answer" in lines[0] and "answers again" in lines[1], lines


def test_a_server_that_stays_away_is_told_once_and_costs_no_more(
    postgres: PostgresServer, addresses: dict[str, str], tmp_path: Path, short: None, caplog: pytest.LogCaptureFixture
) -> None:
    space = tiny_space(tmp_path, storage=addresses["postgres"], trials=4, **POINTS)
    patience = Patience("the server", 2.0)
    study = Study(Home(tmp_path / "home"), space, running=2, patience=patience)
    study.train(0)
    study.storage.report(0, 1, 0.5)
    rows = study.storage.rows()
    told: list[str] = []
    postgres.stop()
    try:
        with pytest.raises(StorageAway, match="the server has not answered for"):
            study.storage.write_reports(at_once=True)
        study.storage.when_away(told.append, lambda: False)
        study.storage.tell_complete(0, [0.75])
        study.storage.tell_failed(1, "crashed")
        study.storage.forgive(1)
        assert study.storage.rows() == rows and study.storage.row(1) == rows[1], "as this driver knows them"
        with pytest.raises(StorageAway):
            study.storage.draw(None, space)
        assert told and set(told) == {study.storage.away}
        # What only reads tells the trials from their runs, and says so.
        with caplog.at_level(logging.WARNING):
            assert [row.state for row in study_rows(study.folder, space)] == ["COMPLETE"]
        assert "told from their runs" in caplog.text and PASSWORD not in caplog.text
        assert overview(study.home).studies[0].interrupted == 2, "a list asks no server"
        report = forget("tiny", study.home)
        assert any("not reached" in line and "optuna delete-study" in line for line in report.kept)
    finally:
        postgres.start()
    storage, _ = opened(study.folder)
    assert [row.state for row in storage.rows()] == ["RUNNING", "RUNNING"], "nothing is lost"
    storage.close()


@pytest.mark.parametrize("what", ["new trial", "queued trial", "end", "study"])
def test_what_was_done_and_not_answered_is_not_done_twice(
    addresses: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: None, what: str
) -> None:
    """The server commits, and the connection breaks before it says so."""
    space = tiny_space(tmp_path, storage=addresses["postgres"], trials=9, **POINTS)
    if what == "new trial":
        space = tiny_space(
            tmp_path,
            storage=addresses["postgres"],
            trials=9,
            points=[],
            space={"adversarial.lr": {"float": [1e-5, 1e-3]}},
        )
    study = Study(Home(tmp_path / "home"), space, running=1, patience=Patience("the server", 30.0))
    storage, backend = study.storage, study.storage._storage
    commit, broken = psycopg.Connection.commit, [0]

    def commit_and_break(connection: psycopg.Connection[Any]) -> None:
        commit(connection)
        if broken[0] > 0:
            broken[0] -= 1
            connection.close()
            raise psycopg.OperationalError("the connection is lost")

    monkeypatch.setattr(psycopg.Connection, "commit", commit_and_break)
    broken[0] = 2
    if what in ("new trial", "queued trial"):
        drawn = storage.draw(None, space, lambda number: Progress())
        assert drawn.number == 1 and len(storage.rows()) == 2
        assert storage.row(1).values == drawn.sample.values and storage.row(1).attempts == 1
    elif what == "end":
        storage.report(0, 1, 0.25)
        storage.tell_complete(0, [0.5])
        assert storage.row(0).state == "COMPLETE" and storage.row(0).value == 0.5
    else:
        from sage_ray.search.sampling import directions_of

        name = f"{study.folder.store().study_name} made twice"
        made = backend.create_new_study(directions_of(space), name)
        assert backend.get_study_id_from_name(name) == made
        broken[0] = 1
        backend.delete_study(made)
        with pytest.raises(KeyError):
            backend.get_study_id_from_name(name)
    assert broken[0] == 0, "the fault was met"
    assert facts(study_rows(study.folder, space)) == facts(storage.rows()), "each is there once"
    storage.close()


def test_every_call_of_optunas_storage_is_patient() -> None:
    """A canary: a method of Optuna's that asks the database and is not repeated would end a study."""
    import inspect

    from optuna.storages import RDBStorage

    asking: dict[str, Callable[..., Any]] = {
        name: method
        for name, method in vars(RDBStorage).items()
        if inspect.isfunction(method) and "_create_scoped_session(" in inspect.getsource(method)
    }
    heartbeats = {"record_heartbeat", "_get_stale_trial_ids"}
    patient = set(vars(patient_storage.PatientStorage)) | {"get_all_trials"}
    assert len(asking) > 15 and set(asking) - heartbeats <= patient, set(asking) - patient
