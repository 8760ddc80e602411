"""Copies of the trials of a study, read from wherever its driver keeps them, without writing there or holding it up.

A sqlite file is opened read-only and copied whole into memory: the only time during which its driver would have to wait
is that of copying its pages. What a killed driver has left half written is not shown. Lines of a journal are read as
they come, and a Postgres server is asked in transactions that cannot write.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import BaseJournalBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from sage_ray.addresses import JOURNAL
from sage_ray.record.optuna_store import OptunaStore, close
from sage_ray.record.server_refusal import check_driver, connection_keywords, refused
from sage_ray.record.sqlite_reading import reading

BUSY_S = 2.0
"""How long a database that is being written is waited for, before an earlier copy does."""
PAUSE_S = 0.02
_NO_WRITES = "-c default_transaction_read_only=on"
_HEADER_BYTES, _COUNTER = 100, slice(24, 28)
"""Of a sqlite file: its header, and the place in it of a number that changes with every transaction."""
_UNREADABLE = (
    OSError,
    sqlite3.Error,
    SQLAlchemyError,
    optuna.exceptions.OptunaError,
    RuntimeError,
    KeyError,
    ValueError,
)


class NotReadable(Exception):
    """The trials of a study cannot be read now; the message says why."""


@dataclass(frozen=True)
class StudyCopy:
    """A study as it was when it was read. Whoever has it leaves the trials as they are."""

    directions: list[StudyDirection]
    user_attrs: dict[str, Any]
    system_attrs: dict[str, Any]
    trials: list[FrozenTrial] = field(repr=False)


class StudySource:
    """Where the trials of one study are read from.

    Args:
        store: where its driver keeps them.
    """

    def __init__(self, store: OptunaStore) -> None:
        self._store = store
        self._mark: tuple[object, ...] = ()
        self._copy: StudyCopy | None = None
        self._memory: sqlite3.Connection | None = None
        self._storage: BaseStorage | None = None
        self._inode = 0

    def is_of(self, store: OptunaStore) -> bool:
        """Whether this is where that store's trials are read from."""
        return self._store == store

    @property
    def server(self) -> str | None:
        """The address of the server that is asked; None: a file is read."""
        return self._store.where if self._store.is_server else None

    def read(self) -> StudyCopy:
        """The study as it is now, or as it was before if nothing has been written since.

        Raises:
            NotReadable: its trials are not there, or cannot be read.
        """
        try:
            mark = self._present_mark()
            if self._copy is None or mark is None or mark != self._mark:
                self._copy = self._read()
                self._mark = mark or ()
        except _UNREADABLE as error:
            if self._store.is_server and not isinstance(error, KeyError):
                raise NotReadable(str(refused(error, self._store.where))) from None
            raise NotReadable(" ".join(str(error).split()) or type(error).__name__) from None
        return self._copy

    def close(self) -> None:
        """Give connections and memory back."""
        if self._storage is not None:
            close(getattr(self._storage, "_backend", self._storage))
        if self._memory is not None:
            self._memory.close()
        self._storage = self._memory = None

    def _present_mark(self) -> tuple[object, ...] | None:
        """What changes when anything is written; None: it has to be looked."""
        if self._store.is_server:
            return None
        with self._store.file.open("rb") as file:
            header, facts = file.read(_HEADER_BYTES), os.fstat(file.fileno())
        if facts.st_ino != self._inode:  # the storage was made anew
            self.close()
            self._inode = facts.st_ino
        return facts.st_ino, facts.st_mtime_ns, facts.st_size, header[_COUNTER]

    def _read(self) -> StudyCopy:
        if self._store.is_server:
            storage = self._storage = self._storage or _server(self._store)
        elif self._store.address == JOURNAL:
            storage = self._storage = self._storage or JournalStorage(_JournalLines(self._store.file))
        else:
            storage = self._copied()
        try:
            study_id = storage.get_study_id_from_name(self._store.study_name)
            return StudyCopy(
                list(storage.get_study_directions(study_id)),
                dict(storage.get_study_user_attrs(study_id)),
                dict(storage.get_study_system_attrs(study_id)),
                sorted(storage.get_all_trials(study_id, deepcopy=False), key=lambda trial: trial.number),
            )
        finally:
            storage.remove_session()

    def _copied(self) -> BaseStorage:
        """The storage in memory, after the database file has been copied there."""
        if self._memory is None:
            self._memory = sqlite3.connect(":memory:", check_same_thread=False)
        copy_database(self._store.file, self._memory)
        if self._storage is None:
            memory = self._memory
            arguments = {"creator": lambda: memory, "poolclass": StaticPool}
            self._storage = get_storage(RDBStorage("sqlite://", engine_kwargs=arguments, skip_table_creation=True))
        return self._storage


def copy_database(file: Path, target: sqlite3.Connection) -> None:
    """Copy a sqlite file that may be written meanwhile, as it is between two transactions.

    Raises:
        sqlite3.Error: it is no database, or was being written for longer than `BUSY_S`.
    """
    deadline = time.monotonic() + BUSY_S

    def look(status: int, remaining: int, total: int) -> None:
        if time.monotonic() > deadline:
            raise sqlite3.OperationalError("the database was being written for too long")

    with reading(file, PAUSE_S) as source:
        source.backup(target, progress=look, sleep=PAUSE_S)


def _server(store: OptunaStore) -> BaseStorage:
    """The storage on a server, asked in transactions that cannot write."""
    check_driver(store.where)
    keywords = connection_keywords(store.address, store.secrets)
    url = str(store.address).replace("postgresql://", "postgresql+psycopg://", 1)
    arguments = {"connect_args": {**keywords, "options": _NO_WRITES}, "pool_pre_ping": True, "pool_size": 1}
    return get_storage(RDBStorage(url, engine_kwargs=arguments, skip_table_creation=True))


class _JournalLines(BaseJournalBackend):
    """The whole lines of a journal, in the order of their writing."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._place = (0, 0)
        """Number and first byte of the line that comes next."""

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Lines from a number on; what is left of a line that is just being written is no line yet."""
        number, start = self._place if self._place[0] <= log_number_from else (0, 0)
        with self._file.open("rb") as journal:
            journal.seek(start)
            for line in journal:
                if not line.endswith(b"\n"):
                    break
                number, start = number + 1, start + len(line)
                if number > log_number_from:
                    self._place = (number, start)
                    yield json.loads(line)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Raise PermissionError: here a journal is read."""
        raise PermissionError(f"{self._file} is read only")


def renumbered(attrs: Mapping[str, Any], ids: Mapping[int, int]) -> dict[str, Any]:
    """Attributes of a study whose keys name trials (`dashboard:ID:note_ver`), with other ids of these."""
    found = {}
    for key, value in attrs.items():
        head, _, tail = key.partition(":")
        number, colon, rest = tail.partition(":")
        if head == "dashboard" and colon and number.isdigit() and int(number) in ids:
            key = f"{head}:{ids[int(number)]}:{rest}"
        found[key] = value
    return found
