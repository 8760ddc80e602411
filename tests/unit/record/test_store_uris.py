"""Addresses of stores: built for any path, shown and noted without passwords."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from sqlalchemy import create_engine, make_url

from sage_ray.record.mlflow_rows import Cursor, hide_password
from sage_ray.record.store_uris import absolute, redacted, sqlite_file, sqlite_uri, store_mark

PATHS = ["plain", "a b", "grün", "50% of it", "what?", "a#b", "a%20b", "a%2520b", "q?x=1#y%3Fz", "a:b@c"]


@pytest.mark.parametrize("name", PATHS)
def test_a_database_is_opened_where_its_path_says(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    file = tmp_path / name / "x.db"
    uri = sqlite_uri(file)
    with create_engine(uri).connect() as connection:
        connection.exec_driver_sql("CREATE TABLE t (a)")
    assert file.is_file() and [path.name for path in tmp_path.iterdir()] == [name]
    assert sqlite_file(uri) == file and make_url(uri).database == str(file)


def test_addresses_of_before_are_spelled_as_they_were() -> None:
    assert sqlite_uri(Path("/a b/50% of it/x.db")) == "sqlite:////a b/50% of it/x.db"
    assert sqlite_file("http://host/x.db") is None and sqlite_file("sqlite:////a/x.db?timeout=3") == Path("/a/x.db")


def test_a_relative_database_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "what?").mkdir()
    monkeypatch.chdir(tmp_path / "what?")
    assert sqlite_file(absolute("sqlite:///x.db?timeout=3")) == tmp_path / "what?" / "x.db"
    assert absolute("sqlite:////a/x.db") == "sqlite:////a/x.db"
    assert absolute("http://host:5000") == "http://host:5000"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://ann:s3cret@host:5000/x is away", "http://ann:***@host:5000/x is away"),
        ("postgresql+psycopg://ann:s%40cret@db/mlflow", "postgresql+psycopg://ann:***@db/mlflow"),
        ("http://ann:p@ss@host:5000", "http://ann:***@host:5000"),
        ("postgresql://db/x?user=ann&password=s3cret&sslmode=require", "postgresql://db/x?user=ann&password=***&sslmode=require"),
        ("two: http://a:b@c, http://d:e@f", "two: http://a:***@c, http://d:***@f"),
        ("http://127.0.0.1:5000/#/experiments", "http://127.0.0.1:5000/#/experiments"),
        ("http://ann@host:5000", "http://ann@host:5000"),
        ("a line: like ann:x@host", "a line: like ann:x@host"),
        ("sqlite:////a:b@c/mlflow.db", "sqlite:////a:b@c/mlflow.db"),
    ],
)  # fmt: skip
def test_passwords_are_hidden_and_nothing_else(text: str, shown: str) -> None:
    assert redacted(text) == shown


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"])
@pytest.mark.parametrize("secret", ["hush-hush", "hush/hush?", "hüsh#1"])
def test_the_password_in_use_is_hidden_wherever_it_stands(
    monkeypatch: pytest.MonkeyPatch, name: str, secret: str
) -> None:
    monkeypatch.setenv(name, f"http://ann:{secret}@host:5000")
    for spelled in (secret, quote(secret, safe="")):
        said = redacted(f"Failed to parse 'ann:{spelled}@host:5000', no port in {spelled}")
        assert spelled not in said and "ann:***@host:5000" in said
    monkeypatch.setenv(name, "http://ann:ray@host")
    assert redacted("sage_ray is away") == "sage_ray is away"


def test_a_mark_tells_stores_apart_and_not_their_users() -> None:
    mark = store_mark("http://ann:s3cret@host:5000/")
    assert mark == store_mark("http://bob:other@host:5000") == store_mark("http://host:5000")
    assert mark != store_mark("http://host:5001") and "ann" not in mark and "s3cret" not in mark
    assert store_mark("mlflow.db") == "mlflow.db" and store_mark(mark) == mark
    assert store_mark("mlflow.db", "mine") != store_mark("mlflow.db")


def test_a_cursor_of_before_is_understood_and_loses_its_password(tmp_path: Path) -> None:
    file, uri = tmp_path / "mlflow.json", "http://ann:s3cret@host:5000"
    old = Cursor(uri, "key", "run", params=True, lines=3, status="FINISHED")
    old.save(file)
    assert "s3cret" in file.read_text()
    hide_password(file)
    assert "s3cret" not in file.read_text() and "ann" not in file.read_text()
    found = Cursor.load(file, store_mark("http://host:5000"), "key")
    assert (found.mlflow_run_id, found.lines) == ("run", 3)
    assert Cursor.load(file, store_mark("http://other:5000"), "key").mlflow_run_id is None
    old.save(file)
    assert Cursor.load(file, store_mark(uri), "key").uri == store_mark(uri)
