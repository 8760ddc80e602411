"""`sage-ray ui`: its two servers answer on loopback and end with it, however it ends; bad input is one line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any

import psutil
import pytest
from mlflow_cases import free_port
from terminals import Terminal

from sage_ray.dashboards import dashboard_servers
from sage_ray.dashboards.dashboard_servers import ServedPage, pages_of, started, why_ended
from sage_ray.errors import UserError
from sage_ray.record.home import Home

ELSEWHERE = "http://user:secret@mlflow.lab:5000"
END_S = 30.0


def begin(*words: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sage_ray", "ui", *words]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
        start_new_session=True,
        preexec_fn=as_in_a_terminal,
    )


def as_in_a_terminal() -> None:
    """Take the signals that whoever runs the tests may have set aside, as `nohup` does."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def told(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The object that it prints as soon as its servers answer."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            return found
    raise AssertionError(process.communicate())


@contextmanager
def up(*words: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any], list[psutil.Process]]]:
    """The command with what it has said and all processes that it has started; none is left by the test."""
    ports = ("--mlflow-port", str(free_port()), "--optuna-port", str(free_port()))
    process = begin(*words, *ports, "--json", **environment)
    family: list[psutil.Process] = []
    try:
        said = told(process)
        family = psutil.Process(process.pid).children(recursive=True)
        yield process, said, family
    finally:
        for one in (process, *family):
            if (one.poll() is None) if isinstance(one, subprocess.Popen) else one.is_running():
                one.kill()
        process.communicate(timeout=30)


def answer(address: str, path: str) -> tuple[int, bytes]:
    host, port = address.removeprefix("http://").split(":")
    connection = HTTPConnection(host, int(port), timeout=30)
    connection.request("GET", path)
    response = connection.getresponse()
    return response.status, response.read()


@pytest.mark.parametrize("ended_by", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_no_process_is_left_however_it_ends(home: Home, ended_by: signal.Signals) -> None:
    home.check_writable()
    with up("--home", str(home.path), MLFLOW_TRACKING_URI=ELSEWHERE) as (process, said, family):
        # A server that runs already is named, without user and password, and not started again.
        assert said["mlflow"] == "http://mlflow.lab:5000" and len(family) == 2
        (silent,) = said["missing"]
        assert silent.startswith("MLflow: no answer from http") and "secret" not in silent
        assert answer(said["optuna"], "/api/studies") == (200, b'{"study_summaries": []}')
        process.send_signal(ended_by)
        _, left = psutil.wait_procs(family, timeout=END_S)
        assert not left
        output, errors = process.communicate(timeout=END_S)
        assert process.returncode == (-signal.SIGKILL if ended_by == signal.SIGKILL else 0)
        assert (output, errors) == ("", "")


def test_both_answer_ctrl_c_ends_both_and_a_given_port_is_kept(home: Home) -> None:
    home.check_writable()
    mlflow_port, optuna_port = free_port(), free_port()
    words = ["ui", "--home", home.path, "--mlflow-port", str(mlflow_port), "--optuna-port", str(optuna_port)]
    with Terminal(words, columns=80) as terminal:
        screen = terminal.until("^Ctrl-C ends both$")
        assert any(line.startswith(f"MLflow: http://127.0.0.1:{mlflow_port} ") for line in screen), screen
        assert any(line.startswith(f"Optuna: http://127.0.0.1:{optuna_port} ") for line in screen), screen
        assert any("no study yet" in line for line in screen)
        family = psutil.Process(terminal.process.pid).children(recursive=True)
        for port, path in ((mlflow_port, "/health"), (optuna_port, "/dashboard")):
            assert answer(f"http://127.0.0.1:{port}", path)[0] == 200
            open_to = {c.laddr.ip for p in family for c in p.net_connections() if c.status == "LISTEN"}
            assert open_to == {"127.0.0.1"}
        terminal.press_ctrl_c()
        assert terminal.end() == 0
        _, left = psutil.wait_procs(family, timeout=END_S)
        assert not left


def test_a_port_in_use_and_a_home_that_is_not_there_are_one_line_before_anything_starts(home: Home) -> None:
    home.check_writable()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "sage_ray", "ui", "--home", str(home.path), "--optuna-port", str(port)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 2 and done.stdout == ""
        line = f"port {port} is in use: --optuna-port: give another, or none: a free one is chosen"
        assert done.stderr.splitlines() == [line]
        with pytest.raises(UserError, match="is given twice"):
            pages_of(home, port + 1, port + 1)
    with pytest.raises(UserError, match="no such home"):
        pages_of(Home(home.path / "other"))
    assert not (home.path / "mlflow.db").exists() and not (home.path / "other").exists()


def test_a_database_that_is_away_is_one_line_before_anything_starts(home: Home) -> None:
    home.check_writable()
    with socket.socket() as deaf:
        # It takes connections and never answers; nobody listens at the other port.
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        for port in (free_port(), deaf.getsockname()[1]):
            uri = f"postgresql://ann:hush-hush@127.0.0.1:{port}/runs"
            begun = time.monotonic()
            done = subprocess.run(
                [sys.executable, "-m", "sage_ray", "ui", "--home", str(home.path)],
                capture_output=True,
                text=True,
                timeout=90,
                env=os.environ | {"MLFLOW_TRACKING_URI": uri},
            )
            assert time.monotonic() - begun < 40, "10 s on an idle machine"
            assert done.returncode == 2 and done.stdout == ""
            (line,) = done.stderr.splitlines()
            assert line.startswith(f"MLflow's server does not answer: postgresql://ann:***@127.0.0.1:{port}/runs: ")
            assert line.endswith("start it, or mend MLFLOW_TRACKING_URI (MLFLOW_REGISTRY_URI)") and "hush" not in line


def test_without_optunas_dashboard_mlflow_is_shown_alone(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.check_writable()
    monkeypatch.setattr(dashboard_servers, "find_spec", lambda name: None)
    pages, missing = pages_of(home)
    assert [page.name for page in pages] == ["MLflow"]
    assert missing == ["Optuna: optuna-dashboard is not installed: pip install 'sage-ray[ui]'"]
    # A password in an address stands in no list of processes.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:hidden-word@db.lab/mlflow")
    (page,) = pages_of(home)[0]
    assert "hidden-word" not in f"{page}" and "hidden-word" in page.environment["MLFLOW_BACKEND_STORE_URI"]


def test_the_line_that_names_the_error_is_told_and_not_what_follows_it() -> None:
    log = """Traceback (most recent call last):
  File "pool.py", line 3, in connect
sqlalchemy.exc.OperationalError: (psycopg2.OperationalError) connection to postgresql://me:hidden-word@db.lab refused
\tIs the server running on that host and accepting TCP/IP connections?
(Background on this error at: https://sqlalche.me/e/21/e3q8)
"""
    why = why_ended(log)
    assert why.startswith("sqlalchemy.exc.OperationalError: (psycopg2") and "refused" in why and "hidden" not in why
    assert why_ended("\nport taken\n") == "port taken" and why_ended("\n") == ""


def test_somebody_else_at_the_port_is_not_taken_for_the_server() -> None:
    port = free_port()
    slow = (sys.executable, "-c", "import time; time.sleep(60)")
    with socket.socket() as other, started([ServedPage("Slow", f"http://127.0.0.1:{port}", slow)]) as servers:
        other.bind(("127.0.0.1", port))
        other.listen()

        def answer_well() -> None:
            taken, _ = other.accept()
            with taken:
                taken.recv(1000)
                taken.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=answer_well, daemon=True).start()
        (server,) = servers._running
        assert not server.answers()
