"""Where Optuna keeps the trials of one study: a sqlite file or a journal in its folder, or a Postgres server.

Which of them it is stands in the study's `study.json`, without a password. A server is shared by homes: there a study
has its name, the identity of its home and the time it was made, so that no two are ever one.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from sage_ray.addresses import AUTO, JOURNAL, SQLITE, StoreAddress, store_address
from sage_ray.errors import UserError
from sage_ray.files import read_json
from sage_ray.record.home import Home
from sage_ray.record.overview import JOURNAL_FILE, STORAGE_FILE
from sage_ray.record.patient_storage import Patience, PatientStorage
from sage_ray.record.server_refusal import check_driver, connection_keywords, refuse_tables_of_others, refused
from sage_ray.record.sqlite_reading import reading
from sage_ray.record.store_uris import sqlite_uri

URL_VARIABLE = "SAGE_OPTUNA_URL"
STORAGE_KEY = "storage"
"""Key of study.json under which the storage stands, unless it is the sqlite file."""
LOCK_TIMEOUT_S = 60
_OPENING_TRIES = 3
_FILES = {SQLITE: STORAGE_FILE, JOURNAL: JOURNAL_FILE}


@dataclass(frozen=True)
class OptunaStore:
    """The storage of one study.

    Attributes:
        folder: of the study.
        study: its name.
        address: sqlite, journal, or that of a server.
        secrets: of the connection to a server; None of them is ever written or shown.
        marks: what tells the study from others of its name on a server: the home's identity, and when it was made.
    """

    folder: Path
    study: str
    address: StoreAddress = StoreAddress(SQLITE)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    marks: tuple[str, str] = ("", "")

    @property
    def is_server(self) -> bool:
        """Whether trials are kept by a server, and not in the study's folder."""
        return self.address.is_server

    @property
    def file(self) -> Path:
        """The file of a storage that is one."""
        return self.folder / _FILES[self.address]

    @property
    def file_to_count(self) -> Path | None:
        """The file whose tables `record.overview` counts; of another storage its driver writes down the counts."""
        return self.file if self.address == SQLITE else None

    @property
    def where(self) -> str:
        """How messages call the storage."""
        return str(self.address) if self.is_server else self.file.name

    @property
    def study_name(self) -> str:
        """The study's name in the storage."""
        identity, made = self.marks
        return f"{self.study}@{identity} {made}" if self.is_server else self.study

    @contextmanager
    def opened(self, patience: Patience | None = None, file: Path | None = None) -> Iterator[BaseStorage]:
        """The storage, made if it is not there, and closed again. Arguments and errors as `open`."""
        storage = self.open(patience, file)
        try:
            yield storage
        finally:
            close(storage)

    def open(self, patience: Patience | None = None, file: Path | None = None) -> BaseStorage:
        """The storage, made if it is not there.

        Args:
            patience: how long calls of a server are repeated; default: not at all.
            file: in place of the study's own.

        Raises:
            UserError: the server cannot be used; one line, without a password.
        """
        if self.is_server:
            return self._open_server(patience or Patience(self.where))
        file = file or self.file
        if self.address == JOURNAL:
            return JournalStorage(JournalFileBackend(str(file), lock_obj=JournalFileOpenLock(str(file))))
        return RDBStorage(sqlite_uri(file), engine_kwargs={"connect_args": {"timeout": LOCK_TIMEOUT_S}})

    def _open_server(self, patience: Patience) -> RDBStorage:
        check_driver(self.where)
        silent = _silent.get(self.address.place)
        if silent is not None and time.monotonic() < silent[0]:
            raise silent[1]
        began = time.monotonic()
        arguments = connection_keywords(self.address, self.secrets)
        url = str(self.address).replace("postgresql://", "postgresql+psycopg://", 1)
        for attempt in range(1, _OPENING_TRIES + 1):
            try:
                return PatientStorage(url, patience, {"connect_args": arguments, "pool_pre_ping": True})
            except (SQLAlchemyError, optuna.exceptions.StorageInternalError, RuntimeError, AssertionError) as error:
                # Two studies that begin on an empty database make its tables at the same time: one of them fails.
                if attempt < _OPENING_TRIES and _is_race(error):
                    time.sleep(0.2 * attempt)
                    continue
                refusal = refused(error, self.where)
                if time.monotonic() - began > SILENCE_S:
                    _silent[self.address.place] = (time.monotonic() + SILENT_FOR_S, refusal)
                raise refusal from None
        raise AssertionError("unreachable")

    def is_sound(self, *, thorough: bool = False) -> bool:
        """Whether the study is in the storage, which can be read; `thorough` reads all of a file.

        Raises:
            UserError: a server cannot be used, which says nothing of the study.
        """
        if not self.is_server and not self.file.is_file():
            return False
        if self.address == SQLITE:
            return self._sqlite_is_sound(thorough)
        with contextlib.suppress(KeyError, ValueError, OSError), self.opened() as storage:
            storage.get_study_id_from_name(self.study_name)
            return True
        return False

    def _sqlite_is_sound(self, thorough: bool) -> bool:
        with contextlib.suppress(sqlite3.Error), reading(self.file, 60) as database:
            names = [str(name) for (name,) in database.execute("SELECT study_name FROM studies").fetchall()]
            database.execute("SELECT COUNT(*) FROM trials").fetchone()
            whole = not thorough or database.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
            return whole and self.study in names
        return False

    @contextmanager
    def replaced(self) -> Iterator[tuple[BaseStorage, str]]:
        """A new, empty storage and the study's name in it, which takes the place of the present one after the body.

        What was there before stays beside it, under a name with the time. A kill at any moment leaves the old or the
        new one whole.
        """
        if self.is_server:
            with self._server_replaced() as fresh:
                yield fresh
            return
        new = self.file.with_name(f".optuna.new{self.file.suffix}")
        for leftover in (new, Path(f"{new}.lock")):
            leftover.unlink(missing_ok=True)
        with self.opened(file=new) as storage:
            yield storage, self.study_name
        if self.file.exists():
            before = f"optuna.before-{time.strftime('%Y%m%d-%H%M%S')}{self.file.suffix}"
            os.replace(self.file, self.folder / before)
        for tail in ("-journal", "-wal", "-shm"):
            Path(f"{self.file}{tail}").unlink(missing_ok=True)
        os.replace(new, self.file)

    @contextmanager
    def _server_replaced(self) -> Iterator[tuple[BaseStorage, str]]:
        new, old = f"{self.study_name} new", f"{self.study_name} before {time.strftime('%Y%m%d-%H%M%S')}"
        with self.opened(Patience(self.where, REMAKE_S)) as storage:
            assert isinstance(storage, RDBStorage)
            with contextlib.suppress(KeyError):  # left by a driver that was killed here
                storage.delete_study(storage.get_study_id_from_name(new))
            yield storage, new
            rename = text("UPDATE studies SET study_name = :after WHERE study_name = :before")
            try:
                with storage.engine.begin() as connection:  # both or none
                    connection.execute(rename, {"before": self.study_name, "after": old})
                    connection.execute(rename, {"before": new, "after": self.study_name})
            except SQLAlchemyError as error:
                raise refused(error, self.where) from None

    def mend_tail(self) -> None:
        """Take off what a driver that was killed left of its last line in a journal; the caller drives the study."""
        if self.address != JOURNAL or not self.file.is_file():
            return
        with self.file.open("r+b") as journal:
            whole = journal.read().rfind(b"\n") + 1
            journal.truncate(whole)

    def names_on_server(self) -> list[str]:
        """All that the server has of studies of this name and home: earlier ones, and what was set aside.

        Raises:
            UserError: the server cannot be used.
        """
        prefix = f"{self.study}@{self.marks[0]} "
        query = text("SELECT study_name FROM studies WHERE left(study_name, :length) = :prefix ORDER BY study_name")
        with self.opened() as storage:
            assert isinstance(storage, RDBStorage)
            try:
                with storage.engine.connect() as connection:
                    found = connection.execute(query, {"length": len(prefix), "prefix": prefix})
                    return [str(name) for (name,) in found]
            except SQLAlchemyError as error:
                raise refused(error, self.where) from None

    def remove_from_server(self) -> None:
        """Remove what `names_on_server` lists. Raises UserError: the server cannot be used."""
        names = self.names_on_server()
        with self.opened() as storage:
            try:
                for name in names:
                    with contextlib.suppress(KeyError):
                        storage.delete_study(storage.get_study_id_from_name(name))
            except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
                raise refused(error, self.where) from None

    def check(self) -> None:
        """Raise UserError unless the storage can be used; a file always can. Makes the tables of an empty database."""
        if not self.is_server:
            return
        check_driver(self.where)
        refuse_tables_of_others(self.address, self.secrets, self.where)
        with self.opened():
            pass


_given: dict[tuple[str, int, str], Mapping[str, str]] = {}
"""Secrets that a study's file had, by server: the file that is kept has none, and is read again in this process."""
SILENCE_S, SILENT_FOR_S = 5.0, 60.0
_silent: dict[tuple[str, int, str], tuple[float, UserError]] = {}
"""Servers that took longer than `SILENCE_S` to fail, and until when they are not asked again: a command that reads many
studies waits for one of them once."""
REMAKE_S = 30.0
"""How long a storage that is made anew waits for its server."""


def store_of_study(home: Home, name: str, wish: StoreAddress | None = None) -> OptunaStore:
    """The storage of a study of a home.

    Args:
        home: that holds it.
        name: of the study.
        wish: what its file says; None or `auto`: where it is; of a new study what `SAGE_OPTUNA_URL` says, else sqlite.

    Raises:
        UserError: `SAGE_OPTUNA_URL` cannot be read; what is wrong is said without a password.
    """
    folder = home.studies / name
    meta = _meta(folder)
    given = environment_address()
    address = wish or StoreAddress(AUTO)
    if address == AUTO:
        kept = meta.get(STORAGE_KEY, SQLITE) if meta else None
        address = store_address(str(kept)) if kept else given
    if not address.is_server and home.in_bucket:
        mend = f"set {URL_VARIABLE}=postgresql://..., or storage: in the study's file; or give a folder as the home"
        raise UserError("a home in a bucket holds no database of trials", home.address, mend)
    if not address.is_server:
        return OptunaStore(folder, name, StoreAddress(SQLITE if address == AUTO else address))
    secrets = address.secrets
    if secrets:
        _given[address.place] = secrets
    elif given.is_server and given.place == address.place:
        address, secrets = (given if given.user else address), given.secrets
    else:
        secrets = _given.get(address.place, {})
    return OptunaStore(folder, name, address, secrets, (home.identity, str(meta.get("created", ""))))


def same_place(one: StoreAddress, other: StoreAddress) -> bool:
    """Whether two addresses name one storage, whoever asks it and how."""
    if one.is_server and other.is_server:
        return one.place == other.place
    return one == other


def environment_address() -> StoreAddress:
    """What `SAGE_OPTUNA_URL` says; `auto` if it is not set. Raises UserError if it cannot be read."""
    try:
        return store_address(os.environ.get(URL_VARIABLE) or AUTO)
    except ValueError as error:
        what, _, mend = str(error).rpartition("; ")
        raise UserError(what or "bad address", URL_VARIABLE, mend) from None


def close(storage: BaseStorage) -> None:
    """Give the connections of a storage back."""
    if isinstance(storage, RDBStorage):
        storage.remove_session()
        storage.engine.dispose()


def _meta(folder: Path) -> dict[str, Any]:
    try:
        return dict(read_json(folder / "study.json"))
    except (OSError, ValueError, TypeError):
        return {}


def _is_race(error: BaseException) -> bool:
    """Whether tables were being made by somebody else: they, or the first row of one, are there already."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DBAPIError) and getattr(cause.orig, "sqlstate", None) in ("42P07", "23505", "42710"):
            return True
        cause = cause.__cause__
    return False
