"""Objects by name in a folder."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sage_ray.files import replacing


@dataclass(frozen=True)
class Entry:
    """An object: its name below the store's root, and its size in bytes."""

    name: str
    size: int


class ObjectStore(Protocol):
    """Objects by name."""

    uri: str
    local: Path | None

    def read(self, name: str) -> bytes:
        """Content of an object. Raises FileNotFoundError."""
        ...

    def write(self, name: str, content: bytes, *, durable: bool = True) -> None:
        """Put or replace an object, whole or not at all."""
        ...

    def create(self, name: str, content: bytes) -> bool:
        """Put an object unless it is there; of several processes exactly one succeeds."""
        ...

    def names(self, prefix: str = "") -> list[Entry]:
        """All objects below a folder."""
        ...

    def exists(self, name: str) -> bool:
        """Whether an object is there."""
        ...

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects; those that are not there are no error."""
        ...


class FolderStore:
    """Objects are files of a folder."""

    def __init__(self, root: Path) -> None:
        self.local: Path | None = root.absolute()
        self._root = root.absolute()
        self.uri = str(self._root)

    def read(self, name: str) -> bytes:
        """Content of an object. Raises FileNotFoundError."""
        return (self._root / name).read_bytes()

    def write(self, name: str, content: bytes, *, durable: bool = True) -> None:
        """Put or replace an object, whole or not at all."""
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, durable=durable) as temporary:
            temporary.write_bytes(content)

    def create(self, name: str, content: bytes) -> bool:
        """Put an object unless it is there; of several processes exactly one succeeds."""
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
        temporary.write_bytes(content)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        return True

    def names(self, prefix: str = "") -> list[Entry]:
        """All objects below a folder."""
        top = self._root / prefix
        found = []
        for folder, _, files in os.walk(top):
            for file in files:
                path = Path(folder) / file
                if not file.endswith(".tmp"):
                    found.append(Entry(str(path.relative_to(self._root)), 0))
        return found

    def exists(self, name: str) -> bool:
        """Whether an object is there."""
        return (self._root / name).is_file()

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects; those that are not there are no error."""
        for name in names:
            (self._root / name).unlink(missing_ok=True)


def open_object_store(root: str | Path) -> ObjectStore:
    """The objects of a folder."""
    return FolderStore(Path(root))
