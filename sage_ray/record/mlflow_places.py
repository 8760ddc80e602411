"""Where artifacts lie according to a home's own MLflow database, made true again when the home lies at another path.

MLflow stores absolute places, and offers no relative ones for a database file without a server. What is under the home
is known relative to it all the same, so a database that still names the place where the home was before (it was moved,
copied, unpacked, or mounted elsewhere) is put right before it is opened: what is read is found, and what is written
goes into this home and no other.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns of MLflow's schema that hold places of artifacts (read in MLflow 3.17)."""
BUSY_S = 60.0


def follow_home(database: Path, experiment: str, root: Path) -> bool:
    """Make the places in an MLflow database begin with `root`; returns whether anything had to change.

    Args:
        database: the sqlite file; nothing happens if it does not exist or has no such experiment yet.
        experiment: whose artifact location tells where the artifacts were before.
        root: the folder where they are now.

    Raises:
        sqlite3.Error: the file is no database, or stayed locked for `BUSY_S`.
    """
    if not database.is_file():
        return False
    with closing(sqlite3.connect(database, timeout=BUSY_S, isolation_level=None)) as connection:
        before = _location(connection, experiment)
        if before is None or not before.startswith("file:") or _same_folder(before, root):
            return False
        connection.execute("BEGIN IMMEDIATE")
        before = _location(connection, experiment)  # another process may have been first
        now = root.as_uri()
        if before is not None and before != now:
            for table, column in PLACES:
                if column in _columns(connection, table):
                    _replace_start(connection, table, column, before, now)
        connection.execute("COMMIT")
    return True


def forget_unmade(database: Path) -> bool:
    """Remove an MLflow database whose making was cut off, which MLflow could never use; returns whether there was one.

    MLflow makes its tables in dozens of steps, of which a kill leaves any; its first experiment comes last. So a file
    without an experiment holds nothing yet. Only one process at a time may make or look (`mlflow_client.connect`).

    Raises:
        sqlite3.Error: the file is no database, or stayed locked for `BUSY_S`.
    """
    if not database.is_file():
        return False
    with closing(sqlite3.connect(database, timeout=BUSY_S, isolation_level=None)) as connection:
        for table in ("experiments", "registered_models"):
            if _columns(connection, table) and connection.execute(f'SELECT 1 FROM "{table}" LIMIT 1').fetchone():
                return False
    for suffix in ("", "-journal", "-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    return True


def _location(connection: sqlite3.Connection, experiment: str) -> str | None:
    if not _columns(connection, "experiments"):
        return None
    row = connection.execute("SELECT artifact_location FROM experiments WHERE name = ?", (experiment,)).fetchone()
    return None if row is None or row[0] is None else str(row[0]).rstrip("/")


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {str(row[1]) for row in connection.execute(f'PRAGMA table_info("{table}")')}


def _replace_start(connection: sqlite3.Connection, table: str, column: str, before: str, now: str) -> None:
    connection.execute(
        f'UPDATE "{table}" SET "{column}" = ? || substr("{column}", ?) '
        f'WHERE "{column}" = ? OR substr("{column}", 1, ?) = ?',
        (now, len(before) + 1, before, len(before) + 1, f"{before}/"),
    )


def _same_folder(uri: str, root: Path) -> bool:
    """Whether a file URI is the folder `root`, by its name or, through a link or a second mount, in fact."""
    if uri == root.as_uri():
        return True
    path = Path(unquote(urlsplit(uri).path))
    try:
        return path.samefile(root)
    except OSError:
        return False
