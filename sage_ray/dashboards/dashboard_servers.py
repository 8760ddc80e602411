"""MLflow's server and Optuna's dashboard of a home: which of them are started, and that none outlives its starter."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from importlib.util import find_spec
from pathlib import Path

import psutil

from sage_ray.dashboards.tether import GRACE_S, tethered
from sage_ray.errors import UserError
from sage_ray.locks import locked
from sage_ray.record.home import Home
from sage_ray.record.mlflow_client import (
    LOCK_TIMEOUT_S,
    LOG_LEVEL,
    MirrorUnavailable,
    connect,
    experiment_name,
    prepare_import,
    probe,
)
from sage_ray.record.mlflow_places import follow_home, forget_unmade
from sage_ray.record.sqlite_reading import reading
from sage_ray.record.store_uris import is_http, is_server, redacted, without_user

LOOPBACK = "127.0.0.1"
MLFLOW_PORT, OPTUNA_PORT = 5000, 8080
"""Taken where no port is given and nobody listens there; else any free one."""
START_S, ANSWER_S, LOOK_S = 180.0, 5.0, 0.2
MLFLOW, OPTUNA = "MLflow", "Optuna"
LEFT_OUT = "/sage/left-out"
"""What Optuna's page is asked for the studies that it cannot show."""
_ERROR = re.compile(r"(\w+\.)*\w*(Error|Exception|Refused|Fault)\b: ")
"""How the last line of a trace begins."""
NO_OPTUNA = "optuna-dashboard is not installed: pip install 'sage-ray[ui]'"


class ServerEnded(Exception):
    """A server has ended, or never answered; the message is one line."""


@dataclass(frozen=True)
class ServedPage:
    """What can be looked at: an address, and the command of the server that answers there (none: it runs already)."""

    name: str
    address: str
    words: tuple[str, ...] = ()
    asked: str = "/"
    """What of it is asked, to know that it answers."""
    opens: str = ""
    """Where it is best entered, after the address."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def port(self) -> int:
        """The port of a server that is started here."""
        return int(self.address.rsplit(":", 1)[1])


def pages_of(
    home: Home, mlflow_port: int | None = None, optuna_port: int | None = None
) -> tuple[list[ServedPage], list[str]]:
    """What there is to look at of a home, and a line for each thing that cannot be.

    Args:
        home: that is shown.
        mlflow_port, optuna_port: on loopback; None: any that is free.

    Raises:
        UserError: the home is not there, a given port is in use, or nothing can be shown.
    """
    home.refuse_missing()
    if mlflow_port is not None and mlflow_port == optuna_port:
        raise UserError(f"port {mlflow_port} is given twice", "--optuna-port", "give another, or none")
    for port, option in ((mlflow_port, "--mlflow-port"), (optuna_port, "--optuna-port")):
        if port is not None:
            refuse_used(port, option)
    if os.environ.get("SAGE_OPTUNA_URL"):
        from sage_ray.record.optuna_store import environment_address

        environment_address()  # one that cannot be read is said here, and hides no study later
    pages, missing = [], []
    uri = home.mlflow_uri
    if is_http(uri):
        pages.append(ServedPage(MLFLOW, without_user(uri)))
    elif home.in_bucket and not is_server(uri):
        missing.append(f"{MLFLOW}: a home in a bucket holds no database of MLflow: set MLFLOW_TRACKING_URI")
    else:
        pages.append(_mlflow(home, mlflow_port or free_port(MLFLOW_PORT, unlike=optuna_port)))
    if find_spec("optuna_dashboard") is None:
        missing.append(f"{OPTUNA}: {NO_OPTUNA}")
    else:
        taken = next((page.port for page in pages if page.words), None)
        pages.append(_optuna(home, optuna_port or free_port(OPTUNA_PORT, unlike=taken)))
    if not pages:
        raise UserError("nothing to look at", home.address, f"provide one of the two: {'; '.join(missing)}")
    return pages, missing


def refuse_used(port: int, option: str) -> None:
    """Raise UserError unless a port of loopback can be listened at."""
    try:
        _listen(port)
    except OSError as error:
        what = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise UserError(f"port {port} {what}", option, "give another, or none: a free one is chosen") from None


def free_port(usual: int, unlike: int | None = None) -> int:
    """A port of loopback that nobody listens at: the usual one if it is free, and none that it shall be unlike."""
    if usual != unlike:
        with contextlib.suppress(OSError):
            return _listen(usual)
    while (port := _listen(0)) == unlike:
        pass
    return port


def _listen(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((LOOPBACK, port))
        probe.listen(1)
        return int(probe.getsockname()[1])


def _mlflow(home: Home, port: int) -> ServedPage:
    prepare_import()
    # Addresses may have a password, which no list of processes shall show.
    environment = {
        "MLFLOW_BACKEND_STORE_URI": home.mlflow_uri,
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": home.artifact_uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": os.environ["MLFLOW_DISABLE_TELEMETRY"],
        LOG_LEVEL: "INFO",  # into a file, where it is looked for why the server has ended
    }
    if home.registry_uri != home.mlflow_uri:
        environment["MLFLOW_REGISTRY_STORE_URI"] = home.registry_uri
    words: tuple[str, ...] = (sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(port))
    words += ("--workers", "1", "--no-serve-artifacts")
    return ServedPage(
        MLFLOW, f"http://{LOOPBACK}:{port}", words, "/health", environment=environment, opens=_runs_of(home)
    )


def refuse_silent(home: Home, pages: Sequence[ServedPage]) -> None:
    """Raise UserError if what MLflow's pages would show is on a server that does not answer.

    One that has pages of its own is refused only where there is nothing else to look at (`silent` tells it otherwise).
    """
    alone = not any(page.words for page in pages)
    for uri in dict.fromkeys((home.mlflow_uri, home.registry_uri)):
        if is_http(uri) and not alone:
            continue
        try:
            probe(uri)
        except MirrorUnavailable as error:
            mend = "start it, or mend MLFLOW_TRACKING_URI (MLFLOW_REGISTRY_URI)"
            raise UserError(f"{MLFLOW}'s server does not answer", str(error), mend) from None


def prepare_database(home: Home) -> None:
    """Make the tables of a home's own database for MLflow if there are none, and its places those of the home.

    All who do either hold a lock meanwhile, so that a study may begin at the same time.

    Raises:
        UserError: the home cannot be written, or the database cannot be used.
    """
    if home.database is None or home.in_bucket:
        return
    home.check_writable()
    try:
        with locked(home.path / ".mlflow.lock", LOCK_TIMEOUT_S):
            forget_unmade(home.database)
        if not home.database.is_file():
            connect(home)
            return
        with locked(home.path / ".mlflow.lock", LOCK_TIMEOUT_S):
            follow_home(home.database, experiment_name(), home.artifact_root)
    except (MirrorUnavailable, sqlite3.Error) as error:
        mend = "restore it, or move it away: `sage-ray sync` fills a new one"
        raise UserError(f"{MLFLOW}'s database cannot be used ({error})", home.database, mend) from None


def _runs_of(home: Home) -> str:
    """The page of the home's experiment, behind the address of MLflow; empty before there is one."""
    if home.database is None or not home.database.is_file():
        return ""
    query = "SELECT experiment_id FROM experiments WHERE name = ? AND lifecycle_stage = 'active'"
    with contextlib.suppress(sqlite3.Error), reading(home.database, ANSWER_S) as database:
        row = database.execute(query, (experiment_name(),)).fetchone()
        return f"/#/experiments/{row[0]}/runs" if row else ""
    return ""


def _optuna(home: Home, port: int) -> ServedPage:
    words = (sys.executable, "-m", "sage_ray.dashboards.optuna_page", home.address, str(port))
    return ServedPage(OPTUNA, f"http://{LOOPBACK}:{port}", words, "/api/studies")


@dataclass
class _Running:
    page: ServedPage
    process: subprocess.Popen[bytes]
    log: Path

    def answers(self) -> bool:
        """Whether it answers, and nobody else who has taken its port before it could."""
        return _asked(self.page, self.page.asked) is not None and self._listens()

    def _listens(self) -> bool:
        """Whether a process that was started for it listens at its port."""
        with contextlib.suppress(psutil.Error):
            family = psutil.Process(self.process.pid).children(recursive=True)
            places = (place for one in family for place in one.net_connections("tcp"))
            return any(p.status == psutil.CONN_LISTEN and p.laddr.port == self.page.port for p in places)
        return False

    def refuse_ended(self) -> None:
        """Raise ServerEnded if it has ended."""
        if self.process.poll() is not None:
            why = why_ended(self.log.read_text(encoding="utf-8", errors="replace"))
            raise ServerEnded(f"{self.page.name} has ended ({why or f'exit code {self.process.returncode}'})")


def why_ended(log: str) -> str:
    """The line of a log that says best why its server has ended, without passwords; "" if it has none.

    That is the last one that names an error, else the last one: further lines may only explain an error at length.
    """
    lines = [" ".join(line.split()) for line in log.splitlines() if line.strip()]
    named = [line for line in lines if _ERROR.match(line)]
    return redacted((named or lines or [""])[-1])[:300]


class Servers:
    """The servers of pages that were started."""

    def __init__(self, running: Sequence[_Running]) -> None:
        self._running = running

    def await_answers(self) -> None:
        """Return when all answer. Raises ServerEnded: one has ended, or did not answer within `START_S`."""
        deadline = time.monotonic() + START_S
        waiting = list(self._running)
        while waiting:
            for server in self._running:
                server.refuse_ended()
            waiting = [server for server in waiting if not server.answers()]
            if waiting and time.monotonic() > deadline:
                raise ServerEnded(f"{waiting[0].page.name} has not answered for {START_S:.0f} s")
            time.sleep(LOOK_S if waiting else 0.0)

    def await_end(self) -> None:
        """Raise ServerEnded as soon as one has ended; returns at once if there is none."""
        while self._running:
            for server in self._running:
                server.refuse_ended()
            time.sleep(LOOK_S)


@contextmanager
def started(pages: Sequence[ServedPage]) -> Iterator[Servers]:
    """The servers of those pages that have one; when the body is left, however, all of them have ended."""
    with tempfile.TemporaryDirectory(prefix="sage-ui-") as folder:
        running: list[_Running] = []
        try:
            for page in pages:
                if page.words:
                    running.append(_start(page, Path(folder) / f"{page.name}.log"))
            yield Servers(running)
        finally:
            for server in running:
                assert server.process.stdin is not None
                server.process.stdin.close()  # this ends it, whatever happens to this process from here on
            for server in running:
                try:
                    server.process.wait(2 * GRACE_S)
                except subprocess.TimeoutExpired:
                    server.process.kill()


def _start(page: ServedPage, log: Path) -> _Running:
    with log.open("wb") as file:
        process = subprocess.Popen(
            tethered(page.words),
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **page.environment},
            start_new_session=True,  # Ctrl-C in the terminal is for the command alone, which then ends this
        )
    return _Running(page, process, log)


def silent(home: Home) -> list[str]:
    """A line if the server of MLflow that runs elsewhere does not answer this machine."""
    try:
        probe(home.mlflow_uri)
    except MirrorUnavailable as error:
        return [f"{MLFLOW}: no answer from {error}"]
    return []


def left_out(pages: Sequence[ServedPage]) -> dict[str, str]:
    """Studies that Optuna's dashboard, which answers by now, cannot show, each with the reason."""
    page = next((page for page in pages if page.name == OPTUNA), None)
    text = None if page is None else _asked(page, LEFT_OUT)
    return {} if text is None else {str(name): str(reason) for name, reason in json.loads(text).items()}


def _asked(page: ServedPage, path: str) -> bytes | None:
    """What a page answers; None if it does not, or not well."""
    connection = HTTPConnection(LOOPBACK, page.port, timeout=ANSWER_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        text = response.read()
        return text if response.status == 200 else None
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()
