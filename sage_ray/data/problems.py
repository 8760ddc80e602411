"""One thing wrong with the data, said so that it can be listed, counted or raised."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sage_ray.errors import UserError


@dataclass(frozen=True)
class Problem:
    """One thing wrong with the data, as the parts of a `UserError`."""

    what: str
    where: str
    mend: str

    def __str__(self) -> str:
        return f"{self.what}: {self.where}: {self.mend}"

    def error(self, others: int = 0) -> UserError:
        """The problem as an error; `others` is how many more problems there are."""
        more = f" ({others} more: `sage-ray data check` lists all)" if others else ""
        return UserError(self.what, self.where, self.mend + more)


class BadFile(Exception):
    """A file that cannot be used; carries its `Problem`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def bad_file(what: str, path: Path | str, mend: str) -> BadFile:
    """A `BadFile` from the three parts of its problem."""
    return BadFile(Problem(what, str(path), mend))


def unreadable(path: Path, error: Exception) -> BadFile:
    """What a decoder's error says of a file: missing, truncated, or no image that any of our decoders knows."""
    if isinstance(error, FileNotFoundError):
        return bad_file("no such file", path, "restore it, or remove its partner")
    if isinstance(error, PermissionError):
        return bad_file("file may not be read", path, "change its permissions")
    detail = " ".join(str(error).replace(str(path), "").split())[:120]
    cut = isinstance(error, EOFError) or "truncated" in detail.lower()
    reason = detail or type(error).__name__
    kind = "truncated image file" if cut else "unreadable image file"
    return bad_file(kind, path, f"replace it, or remove it with its partner ({reason})")
