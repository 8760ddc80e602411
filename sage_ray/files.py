"""Files: written whole, so that a crash leaves the old one or the new one and never half of one; read; and hashed."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path, *, durable: bool = True, only_if_absent: bool = False) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it takes the name `path` in one step when the block ends well.

    Args:
        path: the final name; its folder must exist.
        durable: wait until the disk has it (a power cut then cannot lose it).
        only_if_absent: keep a file that another process put there first.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        yield temporary
        if durable:
            _to_disk(temporary)
        if only_if_absent:
            _link_if_absent(temporary, path)
        else:
            os.replace(temporary, path)
        if durable:
            _to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _link_if_absent(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links: the narrow race is accepted there
        if not path.exists():
            os.replace(temporary, path)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str, *, durable: bool = True, only_if_absent: bool = False) -> None:
    """Write text so that a reader sees all of it or the file before it."""
    with replacing(path, durable=durable, only_if_absent=only_if_absent) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, *, durable: bool = True, only_if_absent: bool = False) -> None:
    """Write JSON (keys in the given order) as `write_text` does."""
    write_text(path, json.dumps(value, indent=1) + "\n", durable=durable, only_if_absent=only_if_absent)


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        FileNotFoundError: there is none. ValueError: it is damaged.
    """
    return json.loads(path.read_text(encoding="utf-8"))


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
