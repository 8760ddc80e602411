"""The files below a data folder, and those of them that no pair took, counted by kind."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sage_ray.data import mask_names
from sage_ray.data.images import SUFFIXES
from sage_ray.errors import UserError

MAX_FILES = 200_000
"""Largest number of files that are looked at below a folder."""
_NAMED = 3
_NO_MASK, _NOT_USED = "image without a mask", "mask not used"
_PLURAL = {_NO_MASK: "images without a mask", _NOT_USED: "masks not used"}


@dataclass(frozen=True)
class FoundFile:
    """A file below the data folder: where it lies, and what its folders and its name say of it."""

    path: Path
    folders: tuple[str, ...]
    """Names of the folders between the data folder and the file."""

    @property
    def name(self) -> str:
        """Path from the data folder, with slashes."""
        return "/".join((*self.folders, self.path.name))

    @cached_property
    def stem(self) -> str:
        """Folded name without endings."""
        return mask_names.bare(self.path.name)

    @cached_property
    def place(self) -> str:
        """What the folders say beside images or masks."""
        return mask_names.place(self.folders)

    @cached_property
    def is_picture(self) -> bool:
        """Whether training reads files of this ending."""
        return self.path.suffix.lower() in SUFFIXES

    @cached_property
    def in_masks(self) -> bool:
        """Whether one of its folders is named after masks."""
        return any(map(mask_names.holds_masks, self.folders))

    @cached_property
    def in_images(self) -> bool:
        """Whether one of its folders is named after images, and none after masks."""
        return not self.in_masks and any(map(mask_names.holds_images, self.folders))


def files_below(root: Path) -> list[FoundFile]:
    """All files below a folder, sorted by path; hidden ones, and folders of results (sage_runs), are left out.

    Raises:
        UserError: there are more than MAX_FILES.
    """
    found: list[FoundFile] = []
    for path in _walk(root):
        if len(found) == MAX_FILES:
            mend = "give the folder that holds the images and masks alone"
            raise UserError(f"more than {MAX_FILES:,} files in the folder", root, mend)
        found.append(FoundFile(path, path.relative_to(root).parts[:-1]))
    return sorted(found, key=lambda file: file.name)


def passed_over(files: Sequence[FoundFile], used: Collection[Path]) -> str:
    """What of the files is not used, such as "3 files passed over: 2 .txt, 1 image without a mask (a.png)"; or ""."""
    kinds: Counter[str] = Counter()
    named: dict[str, list[str]] = {}
    left = [file for file in files if file.path not in used]
    for file in left:
        if file.is_picture:
            kind = _NOT_USED if file.in_masks else _NO_MASK
        else:
            kind = file.path.suffix.lower() or "without an ending"
        kinds[kind] += 1
        named.setdefault(kind, []).append(file.name)
    if not left:
        return ""
    parts = []
    for kind, count in sorted(kinds.items(), key=lambda item: (not item[0].startswith("."), -item[1], item[0])):
        text = f"{count} {kind if count == 1 else _PLURAL.get(kind, kind)}"
        if count == 1 or not kind.startswith("."):
            more = f" and {count - _NAMED} more" if count > _NAMED else ""
            text += f" ({', '.join(named[kind][:_NAMED])}{more})"
        parts.append(text)
    return f"{len(left)} file{'s' if len(left) > 1 else ''} passed over: {', '.join(parts)}"


def _walk(root: Path) -> Iterator[Path]:
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen or (folder != str(root) and "mlflow.db" in names):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__MACOSX")) and f != "sage_runs")
        yield from (Path(folder) / name for name in names if not name.startswith("."))
