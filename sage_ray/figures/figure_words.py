"""Short names, wrapped labels and amounts of time, as axes of figures have them."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import Any

_UNITS = (("s", 1.0), ("min", 60.0), ("h", 3600.0), ("days", 86400.0))


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """The last word of each dotted path, with the word before it where two end alike."""
    lasts = Counter(path.rsplit(".", 1)[-1] for path in paths)
    return {path: last if lasts[last := path.rsplit(".", 1)[-1]] == 1 else ".".join(path.split(".")[-2:])
            for path in paths}  # fmt: skip


def wrapped(text: str, wide: int, lines: int = 3) -> str:
    """The text in lines of about `wide` letters, also broken after "_" and "."; what is too long ends with "…"."""
    loose = text.replace("_", "_\u200b").replace(".", ".\u200b")
    parts: list[str] = []
    for word in loose.split(" "):
        pieces = [piece for piece in word.split("\u200b") if piece]
        parts += [*(f"{piece}\u200b" for piece in pieces[:-1]), *(f"{piece} " for piece in pieces[-1:])]
    found = [""]
    for part in parts:
        for piece in textwrap.wrap(part.strip("\u200b"), wide, drop_whitespace=False) or [""]:
            if found[-1] and len((found[-1] + piece).rstrip()) > wide:
                found.append(piece.lstrip())
            else:
                found[-1] += piece
    kept = [line.rstrip() for line in found if line.strip()] or [""]
    shown = kept if len(kept) <= lines else [*kept[: lines - 1], kept[lines - 1][: wide - 1] + "…"]
    # Two bare dollars would make a formula of what stands between them.
    return "\n".join(shown).replace("$", "\\$")


def shown_value(value: Any) -> str:
    """A value of a setting for a tick: numbers to three digits."""
    if isinstance(value, float):
        return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")
    return str(value)


def log_ticks(low: float, high: float, most: int = 4) -> list[float]:
    """Ticks of a logarithmic axis: powers of ten, between them 2 and 5 where there are few, or every second one."""
    tens = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [10.0**ten for ten in tens if low <= 10.0**ten <= high]
    if len(found) < 2:
        finer = [part * 10.0**ten for ten in tens for part in (1, 2, 5)]
        found = [tick for tick in finer if low <= tick <= high] or [low, high]
    return found[:: math.ceil(len(found) / most)]


def unit_of(seconds: float) -> tuple[str, float]:
    """The unit in which a time of this length reads well, and how many seconds it has."""
    return next(((name, size) for name, size in reversed(_UNITS) if seconds >= 2 * size), _UNITS[0])


def counted_trials(number: int, what: str) -> str:
    """Such as "1 pruned trial" or "3 pruned trials"."""
    return f"{number} {what} trial{'' if number == 1 else 's'}"
