"""Append-only ledgers under the home: each read of a locked test set, and each promotion, with who and when.

A ledger is a file of JSON lines. In a bucket, which knows no appending, each line is an object of its own beside it, in
the folder of its name without ending; its name is made of the line's key, so that of several writers one adds it.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sage_ray.config import stable_hash
from sage_ray.errors import UserError
from sage_ray.followed import Followed, following
from sage_ray.locks import locked

TEST_READS = "test_reads.jsonl"
PROMOTIONS = "promotions.jsonl"
LOCK_TIMEOUT_S = 60.0


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a ledger, oldest first; a line cut short by a crash is left out."""
    rows = _rows_of_bucket(path)
    if rows is not None or not path.exists():
        return rows or []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def reads_of_test_set(home: Path, test_set: str) -> list[dict[str, Any]]:
    """Readings of one locked test set in the home of that folder, oldest first."""
    return [row for row in read(home / TEST_READS) if row["test_set"] == test_set]


def reads_of_run(home: Path, run_id: str, created: str) -> tuple[list[dict[str, Any]], int]:
    """Readings of a locked test by a run, and how many an earlier run of its name made, which has been forgotten.

    Args:
        home: folder of the home.
        run_id: of the run.
        created: when the run was, as its record says; lines of earlier releases do not name it, and tell by their time.
    """
    lines = [row for row in read(home / TEST_READS) if row.get("reader") == run_id]
    own = [
        row
        for row in lines
        if (row["run_created"] == created if "run_created" in row else row.get("when", created) >= created)
    ]
    return own, len(lines) - len(own)


def append_once(path: Path, row: dict[str, Any], key: tuple[str, ...] = ()) -> bool:
    """Append `row` with who and when, unless a row with equal values of all `key` fields is there. True if appended.

    Raises:
        UserError: another process has kept the ledger locked for `LOCK_TIMEOUT_S`; nothing was appended.
    """
    home = following(path)
    if home is not None:
        return _create_once(home, path, row, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(path.name + ".lock")
    with locked(lock, LOCK_TIMEOUT_S) as held:
        if not held:
            raise UserError("ledger is locked by another process", path, f"end it, or remove {lock.name}")
        if key and any(all(old.get(name) == row[name] for name in key) for old in read(path)):
            return False
        cut_short = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
        line = json.dumps(signed(row), sort_keys=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(("\n" if cut_short else "") + line + "\n")
            file.flush()
            os.fsync(file.fileno())
    return True


def signed(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with who and when, unless it says that already."""
    # It imports torch, which a command that only reads a ledger does without.
    from sage_ray.record.provenance import now, who

    return {"when": now(), "who": who(), **row}


def _rows_of_bucket(path: Path) -> list[dict[str, Any]] | None:
    """Lines of a ledger in a bucket, oldest first; None for one in a folder."""
    home = following(path)
    if home is None:
        return None
    folder = path.with_suffix("")
    home.pull(folder)
    rows: list[dict[str, Any]] = [json.loads(file.read_text(encoding="utf-8")) for file in folder.glob("*.json")]
    return sorted(rows, key=lambda row: str(row["when"]))


def _create_once(home: Followed, path: Path, row: Mapping[str, Any], key: tuple[str, ...]) -> bool:
    what = [[name, row[name]] for name in key] or uuid.uuid4().hex
    name = f"{path.stem}/{stable_hash(what)}.json"
    line = json.dumps(signed(row), sort_keys=True)
    return home.store.create(name, line.encode())
