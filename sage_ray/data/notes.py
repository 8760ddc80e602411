"""What had to be decided to read a file, or may not suit it: no problem, but something that the user should know."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sage_ray.grey_range import MINMAX, Bands, Rule, outliers


@dataclass(frozen=True)
class Note:
    """One sentence about one file; `detail` is what differs from file to file."""

    text: str
    path: Path
    detail: str = ""


def range_note(bands: Bands, path: Path, rule: Rule, mend: str) -> list[Note]:
    """A note if few pixels take most of the grey range of an image that is stretched from minimum to maximum."""
    found = outliers(bands) if rule == MINMAX else None
    return [Note(f"few pixels take most of the grey range; {mend}", path, str(found))] if found else []


def note_lines(notes: Iterable[Note]) -> list[str]:
    """One line for each sentence, with the number of files that it is about and the first of them."""
    files: dict[str, list[Note]] = defaultdict(list)
    for note in notes:
        files[note.text].append(note)
    lines = []
    for text, about in files.items():
        first = about[0]
        told = f"{first.path.name}{f': {first.detail}' if first.detail else ''}"
        lines.append(
            f"note: {text} ({told})" if len(about) == 1 else f"note: {text} ({len(about)} files, such as {told})"
        )
    return lines


def first_named(names: Sequence[str], shown: int = 3) -> str:
    """The first few of some names on one line: "a, b, c and 4 more"; a line break in a name is a space."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{', '.join(name.replace(chr(10), ' ') for name in names[:shown])}{more}"
