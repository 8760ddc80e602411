"""Which picture files a path given by a user stands for, and where results about them go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from sage_ray.data.images import MICROSCOPE_SUFFIXES, SUFFIXES
from sage_ray.errors import UserError


def find_pictures(path: str | Path, what: str, subfolders: Sequence[str] = ()) -> list[Path]:
    """Picture files in a folder, sorted, or the one file named.

    Args:
        path: a file, or a folder; one without pictures may hold one of `subfolders` instead, as a data set does.
        what: "images" or "masks", for the messages.
        subfolders: looked into, in order.

    Raises:
        UserError: no such file or folder, or no picture in it.
    """
    given = Path(path).expanduser()
    known = ", ".join(sorted(suffix.removeprefix(".") for suffix in SUFFIXES))
    if given.is_file():
        if given.suffix.lower() not in SUFFIXES | MICROSCOPE_SUFFIXES:
            raise UserError(f"not a picture file ({given.suffix or 'no suffix'})", given, f"give {known}")
        return [given]
    if not given.is_dir():
        raise UserError(f"no such folder of {what}", given, "give a folder or a picture file that exists")
    for folder in (given, *(given / name for name in subfolders)):
        found = _pictures(folder.iterdir()) if folder.is_dir() else []
        if found:
            return found
    raise UserError(f"no {what} in folder", given, f"it needs files of type {known}")


def _pictures(paths: Iterable[Path]) -> list[Path]:
    return sorted(p for p in paths if p.is_file() and p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def result_names(paths: Sequence[Path]) -> list[str]:
    """A name without suffix for each file: its stem, or with its suffix ("a_tif") where stems collide."""
    stems = Counter(path.stem for path in paths)
    return [p.stem if stems[p.stem] == 1 else f"{p.stem}_{p.suffix.lower().removeprefix('.')}" for p in paths]


def make_folder(path: Path) -> Path:
    """The folder, made if missing. Raises UserError if it cannot be made or written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".sage-probe"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UserError("folder cannot be written", path, f"choose another with -o ({error.strerror})") from None
    return path
