"""Addresses of stores: built for any path, shown and noted without passwords."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from sqlalchemy import create_engine, make_url

from sage_ray.record.mlflow_rows import Cursor, hide_password
from sage_ray.record.store_uris import absolute, redacted, sqlite_file, sqlite_uri, store_mark, without_user

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
        # What stands alone before the @ of a web address is a token as a rule; of a database it is a user.
        ("http://ann@host:5000", "http://***@host:5000"),
        ("https://dapi0123:@host and https://dapi0123:x-oauth-basic@host", "https://***:***@host and https://***:***@host"),
        ("postgresql://ann@db/mlflow", "postgresql://ann@db/mlflow"),
        ("http://host/?token=abc&x=1 is away", "http://host/?token=***&x=1 is away"),
        ("GET http://host/a?x=1&api-key=abc'", "GET http://host/a?x=1&api-key=***'"),
        ("http://host/?access_token=abc", "http://host/?access_token=***"),
        ("http://host/?X-Amz-Signature=abc&key=def", "http://host/?X-Amz-Signature=***&key=***"),
        ("host=db user=ann password=s3cret dbname=x", "host=db user=ann password=*** dbname=x"),
        ("http://h/?monkey=a&author=b&keys=3#passenger=4", "http://h/?monkey=a&author=b&keys=3#passenger=4"),
        ("pretrain.token=3, password authentication failed", "pretrain.token=3, password authentication failed"),
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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MLFLOW_TRACKING_URI", "http://host:5000/?token=hush-hush"),
        ("MLFLOW_TRACKING_URI", "https://hush-hush@host"),
        ("MLFLOW_TRACKING_URI", "postgresql://ann@db/x?password=hush-hush"),
        ("SAGE_OPTUNA_URL", "postgresql://ann@db/x?sslpassword=hush-hush"),
        ("MLFLOW_TRACKING_TOKEN", "hush-hush"),
        ("MLFLOW_TRACKING_PASSWORD", "hush-hush"),
        ("PGPASSWORD", "hush-hush"),
    ],
)
def test_secrets_of_the_environment_are_hidden_in_any_sentence(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert redacted("the server refuses hush-hush, sent by ann") == "the server refuses ***, sent by ann"


def test_an_address_for_a_browser_has_no_secrets() -> None:
    assert without_user("http://ann:s3cret@host:5000/x?token=abc&b=2") == "http://host:5000/x?b=2"
    assert without_user("http://host/x?api_key=abc") == "http://host/x"
    assert without_user("http://host/#/experiments/1?searchFilter=x") == "http://host/#/experiments/1?searchFilter=x"


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
