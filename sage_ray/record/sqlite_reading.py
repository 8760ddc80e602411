"""A sqlite file is read as it was after its last whole transaction, and never written."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path


@contextmanager
def reading(file: Path, timeout_s: float) -> Iterator[sqlite3.Connection]:
    """A connection that cannot write.

    A writer that was killed within a transaction leaves a journal beside the file. The next writer takes back what is
    half written; sqlite refuses to read before that. Here it is taken back in a copy, which is read then.

    Args:
        file: to read.
        timeout_s: how long a writer that holds the file is waited for.

    Raises:
        sqlite3.Error: it is no database, is damaged, or is being written.
    """
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=0.0)) as connection:
        if not _is_half_written(connection):
            connection.execute(f"PRAGMA busy_timeout = {round(1000 * timeout_s)}")
            yield connection
            return
    with tempfile.TemporaryDirectory(prefix="sage-sqlite-") as folder:
        copy = Path(folder) / file.name
        _copy(file, copy)
        with closing(sqlite3.connect(copy, timeout=timeout_s)) as connection:
            yield connection


def _is_half_written(connection: sqlite3.Connection) -> bool:
    """Whether sqlite would have to write before it can read; whatever else is wrong shows when it is read."""
    try:
        connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_READONLY
    return False


def _copy(file: Path, copy: Path) -> None:
    """Copy a file with its journal. Raises sqlite3.OperationalError if it cannot be, or a writer has come meanwhile."""
    try:
        before = _stamps(file)
        shutil.copyfile(file, copy)
        shutil.copyfile(_journal(file), _journal(copy))
        if _stamps(file) == before:
            return
    except FileNotFoundError:
        pass  # a writer has taken the journal away
    except OSError as error:
        raise sqlite3.OperationalError(
            f"half written by a writer that was killed, and no copy of it ({error})"
        ) from None
    raise sqlite3.OperationalError("the database is being written")


def _stamps(file: Path) -> list[tuple[int, int, int]]:
    facts = [place.stat() for place in (file, _journal(file))]
    return [(fact.st_ino, fact.st_mtime_ns, fact.st_size) for fact in facts]


def _journal(file: Path) -> Path:
    return file.with_name(f"{file.name}-journal")
