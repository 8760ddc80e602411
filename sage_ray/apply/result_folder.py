"""The folder that `predict` writes into: what an earlier run left there is replaced, and nothing else is touched.

prediction.json lists every file that `predict` wrote, as paths from the folder (`written`). Before anything is written
it lists what the run may write beside what the run before wrote, so that the next run knows its own files even after a
kill.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from sage_ray.errors import CannotWrite, UserError
from sage_ray.files import read_json, write_json

FACTS_FILE = "prediction.json"
FORMAT_VERSION = 1
# Files of each image before `written` was kept: a later release must still know them.
_EARLIER_RELEASES = ("masks/{}.png", "masks/{}.tif", "labels/{}.tif", "overlays/{}.png")
_EARLIER_TABLES = ("particles.csv", "particles.json", "images.csv", "overview.png")
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{12}\.tmp")


class ResultFolder:
    """Where the results of one call of `predict` go.

    Args:
        path: made with the first result.
        planned: every file that the call may write, as paths from the folder with slashes.
        inputs: files that are read, and must not be written to.

    Raises:
        UserError: a planned file exists and is none of an earlier `predict`, or a result would replace an input.
    """

    def __init__(self, path: Path, planned: Iterable[str], inputs: Sequence[Path]) -> None:
        self.path = path
        self._planned = frozenset(planned)
        self._earlier = _written_before(path)
        self._written: set[str] = set()
        self._begun = False
        read = {file.resolve() for file in inputs}
        for name in sorted(self._planned | self._earlier):
            target = path / name
            if target.resolve() in read:
                raise UserError("image would be replaced by a result", target, "choose another folder with -o")
        for name in (FACTS_FILE, *sorted(self._planned)):
            target = path / name
            if target.exists() and name not in self._earlier and not (name == FACTS_FILE and _is_ours(path)):
                mend = "choose another folder with -o, or move that file"
                raise UserError("result would replace a file that predict did not write", target, mend)

    @property
    def begun(self) -> bool:
        """Whether anything was written, and what an earlier call had written was removed."""
        return self._begun

    def begin(self) -> None:
        """Make the folder ready and remove what an earlier call wrote there; the second time it does nothing.

        Raises:
            CannotWrite: the folder cannot be made or written to.
        """
        if self._begun:
            return
        folders = {str(PurePosixPath(name).parent) for name in self._planned}
        for folder in sorted(folders | {"."}):
            make_folder(self.path / folder)
        known = self._earlier | self._planned
        old = files_written(self.path)
        with writing(self.path / FACTS_FILE) as path:
            write_json(path, {"format_version": FORMAT_VERSION, "finished": False, "written": sorted(known)})
        with writing(self.path):
            for file in old:
                file.unlink(missing_ok=True)
            for folder in folders:
                _remove_temporary(self.path, folder, known)
        self._begun = True

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """The path to write a planned file to. Raises CannotWrite where the writing ends in an error of the disk."""
        assert name in self._planned, f"{name} is not planned"
        self.begin()
        self._written.add(name)
        with writing(self.path / name) as path:
            yield path

    def drop(self, names: Iterable[str]) -> None:
        """Remove files that were written for an image that turned out bad."""
        for name in self._written.intersection(names):
            (self.path / name).unlink(missing_ok=True)
            self._written.remove(name)

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Write prediction.json with these facts and the list of what was written."""
        with writing(self.path / FACTS_FILE) as path:
            known = {"format_version": FORMAT_VERSION, "finished": True, **facts, "written": sorted(self._written)}
            write_json(path, known)


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """The path, for a block that writes to it. Raises CannotWrite where the block ends in an error of the disk."""
    try:
        yield path
    except OSError as error:
        mend = f"free space or choose another folder ({error.strerror or type(error).__name__})"
        raise CannotWrite("cannot write", path, mend) from None


def make_folder(path: Path) -> Path:
    """The folder, made if missing. Raises CannotWrite if it cannot be made or written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".sage-probe"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise CannotWrite("folder cannot be written", path, f"choose another with -o ({error.strerror})") from None
    return path


def files_written(folder: Path) -> set[Path]:
    """Files in and below a folder that an earlier `predict` wrote there."""
    return {folder / name for name in _written_before(folder) if (folder / name).is_file()}


def _facts(folder: Path) -> dict[str, Any]:
    try:
        facts = read_json(folder / FACTS_FILE)
    except (OSError, ValueError):
        return {}
    is_ours = isinstance(facts, dict) and "format_version" in facts and ("written" in facts or "model" in facts)
    return facts if is_ours else {}


def _is_ours(folder: Path) -> bool:
    return bool(_facts(folder))


def _written_before(folder: Path) -> set[str]:
    """Paths from the folder of what an earlier `predict` wrote, or may have written before it was killed."""
    facts = _facts(folder)
    if not facts:
        return set()
    told = facts.get("written")
    names = [str(name) for name in told] if isinstance(told, list) else _of_earlier_release(folder)
    return set(filter(_is_inside, names))


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and name != FACTS_FILE


def _of_earlier_release(folder: Path) -> list[str]:
    try:
        with (folder / "images.csv").open(encoding="utf-8", newline="") as file:
            stems = [PurePosixPath(row.get("mask") or "").stem for row in csv.DictReader(file)]
    except (OSError, ValueError, csv.Error):
        return []
    return [*_EARLIER_TABLES, *(form.format(stem) for stem in stems if stem for form in _EARLIER_RELEASES)]


def _remove_temporary(root: Path, folder: str, known: Iterable[str]) -> None:
    """Remove what a killed run had begun to write."""
    names = {PurePosixPath(name).name for name in known if str(PurePosixPath(name).parent) == folder}
    for path in (root / folder).iterdir():
        match = _TEMPORARY.fullmatch(path.name)
        if match and match[1] in names:
            path.unlink(missing_ok=True)
