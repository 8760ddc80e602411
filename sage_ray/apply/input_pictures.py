"""Which picture files a path given by a user stands for, what beside them is not looked at, and names of results."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sage_ray.apply.result_folder import files_written
from sage_ray.config import stable_hash
from sage_ray.data.folder_files import FoundFile, files_below
from sage_ray.data.images import MICROSCOPE_SUFFIXES, SUFFIXES
from sage_ray.data.microscope_file import EXTRA, can_read_microscope_files
from sage_ray.data.notes import first_named
from sage_ray.errors import UserError

_MAX_NAME_BYTES = 200


@dataclass(frozen=True)
class InputImages:
    """The images that a path stands for, and one sentence on files beside and below them that are not looked at."""

    paths: tuple[Path, ...]
    passed_over: str = ""


def find_images(path: str | Path) -> InputImages:
    """Images in a folder (or in its folder images/), sorted, or the one file named.

    Files of microscopes are among them where the optional extra `microscopes` is installed, and what an earlier
    `predict` has written is not. Folders below are not looked into.

    Raises:
        UserError: no such file or folder, or no image in it.
    """
    wanted = SUFFIXES | MICROSCOPE_SUFFIXES if can_read_microscope_files() else SUFFIXES
    given = Path(path).expanduser()
    try:
        found = find_pictures(given, "images", ("images",), wanted)
    except UserError as error:
        passed = _passed_over(given, ()) if given.is_dir() else ""
        if not passed:
            raise
        raise UserError(error.what, error.where, f"{error.mend} ({passed})") from None
    return InputImages(tuple(found), _passed_over(given, set(found)) if given.is_dir() else "")


def find_pictures(
    path: str | Path, what: str, subfolders: Sequence[str] = (), suffixes: Collection[str] = SUFFIXES
) -> list[Path]:
    """Picture files in a folder, sorted, or the one file named; what an earlier `predict` wrote there is left out.

    Args:
        path: a file, or a folder; one without pictures may hold one of `subfolders` instead, as a data set does.
        what: "images" or "masks", for the messages.
        subfolders: looked into, in order.
        suffixes: of files that are taken from a folder, in lower case.

    Raises:
        UserError: no such file or folder, or no picture in it.
    """
    given = Path(path).expanduser()
    known = ", ".join(sorted(suffix.removeprefix(".") for suffix in suffixes))
    if given.is_file():
        if given.suffix.lower() not in SUFFIXES | MICROSCOPE_SUFFIXES:
            raise UserError(f"not a picture file ({given.suffix or 'no suffix'})", given, f"give {known}")
        return [given]
    if not given.is_dir():
        raise UserError(f"no such folder of {what}", given, "give a folder or a picture file that exists")
    for folder in (given, *(given / name for name in subfolders)):
        found = _pictures(folder, suffixes) if folder.is_dir() else []
        if found:
            return found
    raise UserError(f"no {what} in folder", given, f"it needs files of type {known}")


def _pictures(folder: Path, suffixes: Collection[str]) -> list[Path]:
    ours = files_written(folder)
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and path.suffix.lower() in suffixes and not path.name.startswith(".") and path not in ours
    )


def _passed_over(root: Path, used: Collection[Path]) -> str:
    """What below a folder is not looked at, such as "2 files not looked at: 1 .webp (b.webp), 1 in day2/ (...)"; ""."""
    try:
        files = files_below(root)
    except UserError as error:
        return f"{error.what}; those in folders below are not looked at"
    ours: set[Path] = set()
    for folder in {file.path.parent for file in files if file.path.name == "prediction.json"}:
        ours |= {*files_written(folder), folder / "prediction.json"}
    left = [file for file in files if file.path not in used and file.path not in ours]
    if not left:
        return ""
    kinds: dict[str, list[str]] = {}
    for file in left:
        kinds.setdefault(_kind(file), []).append(file.name)
    parts = []
    for kind, names in sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0])):
        parts.append(f"{len(names)} {kind} ({first_named(names)})")
    mends = _mends(left)
    return f"{len(left)} file{'s' if len(left) > 1 else ''} not looked at: {', '.join(parts)}{mends}"


def _kind(file: FoundFile) -> str:
    suffix = file.path.suffix.lower()
    if file.is_picture:
        return f"in {'/'.join(file.folders)}/" if file.folders else "pictures"
    return suffix or "without an ending"


def _mends(left: Iterable[FoundFile]) -> str:
    mends = []
    suffixes = {file.path.suffix.lower() for file in left}
    if suffixes & MICROSCOPE_SUFFIXES and not can_read_microscope_files():
        named = ", ".join(sorted(suffixes & MICROSCOPE_SUFFIXES))
        mends.append(f"{EXTRA} lets {named} be read")
    if any(file.is_picture and file.folders and not file.in_masks for file in left):
        mends.append("a folder below is segmented when it is given itself")
    return f"; {'; '.join(mends)}" if mends else ""


def result_names(paths: Sequence[Path]) -> list[str]:
    """A name without suffix for each file, which no other has in any case of letters or form of Unicode.

    It is the stem; where stems collide, with the suffix ("a_tif"), and with a number where these collide too.
    """
    stems = [unicodedata.normalize("NFC", path.stem) for path in paths]
    often = Counter(map(_folded, stems))
    names = [_shortened(stem) if often[_folded(stem)] == 1 else "" for stem in stems]
    taken = {_folded(name) for name in names if name}
    for place, (path, stem) in enumerate(zip(paths, stems, strict=True)):
        if names[place]:
            continue
        wanted = _shortened(f"{stem}_{path.suffix.lower().removeprefix('.')}")
        number, name = 1, wanted
        while _folded(name) in taken:
            number += 1
            name = f"{wanted}-{number}"
        names[place] = name
        taken.add(_folded(name))
    return names


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name.casefold())


def _shortened(name: str) -> str:
    """The name, or its beginning and a mark of the whole where suffixes would not fit behind it in a file's name."""
    if len(name.encode()) <= _MAX_NAME_BYTES:
        return name
    mark = stable_hash(name)
    return f"{name.encode()[: _MAX_NAME_BYTES - len(mark) - 1].decode(errors='ignore')}-{mark}"
