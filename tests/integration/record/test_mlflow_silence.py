"""An MLflow that accepts connections and never answers costs one time-out, and is said once."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from mlflow_cases import finish, make, runs, silent_server
from study_cases import Study, tiny_space
from watch_cases import Heard

from sage_ray.errors import UserError
from sage_ray.record import mlflow_client, mlflow_follower
from sage_ray.record.home import Home
from sage_ray.record.mlflow_breaker import FILE
from sage_ray.record.mlflow_client import MirrorAway
from sage_ray.record.mlflow_follower import Follower
from sage_ray.record.mlflow_mirror import Mirror
from sage_ray.search.parent_run import ParentRun
from sage_ray.search.study_status import status
from sage_ray.terminal.cli import call
from sage_ray.upkeep.mlflow_sync import sync

TIME_OUT_S = 1.0


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_client, "PROBE_TIMEOUT_S", TIME_OUT_S)
    monkeypatch.setattr(mlflow_follower, "POLL_S", 0.05)


def test_runs_that_follow_do_not_wait(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [make(home, f"run-{number}") for number in range(5)]
    with silent_server() as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        spent: list[float] = []
        said: list[str] = []
        for folder in folders:
            follower = Follower(home, folder, said.append)
            finish(folder)
            began = time.monotonic()
            assert not follower.close()
            spent.append(time.monotonic() - began)
        assert spent[0] < 3 * TIME_OUT_S and sum(spent[1:]) < TIME_OUT_S, spent
        assert len(set(said)) == 1 and uri in said[0] and "sage-ray sync" in said[0]
        with pytest.raises(MirrorAway, match="no answer since"):
            Mirror(home).push(folders[0])
        began = time.monotonic()
        with pytest.raises(UserError, match="MLflow did not take the runs"):
            sync(home)  # it asks once more, whatever is known
        assert TIME_OUT_S * 0.9 < time.monotonic() - began < 5 * TIME_OUT_S
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert Mirror(home).push(folders[0]), "another store is asked at once"


class _HealthAlone(BaseHTTPRequestHandler):
    """Says that it is well, and answers nothing else."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/health":
            self.send_response(200)
            self.end_headers()
            return
        time.sleep(3 * TIME_OUT_S)

    do_POST = do_GET

    def log_message(self, *words: Any) -> None:
        """Nothing is shown."""


def test_a_server_whose_database_hangs_is_asked_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    folder = make(home)
    with ThreadingHTTPServer(("127.0.0.1", 0), _HealthAlone) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        for _ in range(3):
            with pytest.raises(MirrorAway):
                Mirror(home).push(folder)
        server.shutdown()
    assert [path for path in _HealthAlone.asked if path == "/health"] == ["/health"]
    assert len(_HealthAlone.asked) == 2


class _NotMLflow(BaseHTTPRequestHandler):
    """Any other web server: a page for each address, with the status that the test wants."""

    status: ClassVar[int] = 404

    def do_GET(self) -> None:
        page = b"<html><title>nothing here</title></html>"
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    do_POST = do_GET

    def log_message(self, *words: Any) -> None:
        """Nothing is shown."""


@pytest.mark.parametrize("code", [200, 401, 403, 404])
@pytest.mark.parametrize("verb", ["compare", "promote", "report"])
def test_a_server_that_is_none_of_mlflow_is_told_in_one_line(
    code: int, verb: str, home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(_NotMLflow, "status", code)
    home.check_writable()
    with ThreadingHTTPServer(("127.0.0.1", 0), _NotMLflow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        given = ["sage-gan"] if verb == "report" else []
        assert call([verb, *given, "--home", str(home.path)]) == 2
        server.shutdown()
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "MLflow registry cannot be used" in said[0] and "MLFLOW_TRACKING_URI" in said[0]
    assert "<html>" not in said[0] and str(server.server_port) in said[0]


def test_a_study_does_not_wait_and_says_it_once(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study(home, tiny_space(tmp_path), running=1)
    watch = Heard()
    with silent_server() as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        parent = ParentRun(study.folder, watch)
        began = time.monotonic()
        parent.say("RUNNING", status("tiny", home))
        parent.say("INTERRUPTED", status("tiny", home), ())
        assert time.monotonic() - began < 4 * TIME_OUT_S
        assert len(watch.lines) == 1 and uri in watch.lines[0]


def test_a_server_that_answers_is_followed_again(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make(home)
    finish(folder)
    breaker = Mirror(home).breaker
    breaker.trip("timed out", time.time())
    with pytest.raises(MirrorAway):
        Mirror(home).push(folder)
    assert call(["sync", "--home", str(home.path)]) == 0
    assert not (home.path / FILE).exists() and "1 runs sent" in capsys.readouterr().out
    assert [run.info.status for run in runs(home)] == ["FINISHED"]
    folder.append_metrics({"epoch": 4, "val/dice": 0.4})
    assert Mirror(home).push(folder)


def test_doctor_says_that_nobody_answers(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from sage_ray.terminal.doctor import _mlflow

    assert _mlflow(home).ok
    with silent_server() as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.replace("://", "://ann:s3cret@"))
        found = _mlflow(home)
    assert not found.ok and not found.needed and "no answer" in found.text
    assert "s3cret" not in found.text and "ann:***@" in found.text
