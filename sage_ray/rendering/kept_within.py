"""What was made of scenes that come again, kept while it takes no more than so much memory together."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """What says how much memory it takes."""

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        ...


Made = TypeVar("Made", bound=Sized)


class KeptWithin(Generic[Made]):
    """Things by name, made when they are first asked for; those beyond `limit_bytes` are made each time."""

    def __init__(self, limit_bytes: int) -> None:
        self._left = limit_bytes
        self._kept: dict[Hashable, Made] = {}

    @property
    def names(self) -> list[Hashable]:
        """Of those that are kept, in the order in which they were made."""
        return list(self._kept)

    def get(self, name: Hashable, make: Callable[[], Made]) -> Made:
        """The thing of a name; `make` makes it, the same each time."""
        found = self._kept.get(name)
        if found is not None:
            return found
        made = make()
        if made.nbytes <= self._left:
            self._left -= made.nbytes
            self._kept[name] = made
        return made
