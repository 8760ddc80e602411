"""Which dotted paths a user may have meant by one that does not exist: pretrain.lr for pretrain.schedule.lr."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

LIKE, ALIKE = 0.6, 0.75
"""Similarity (`difflib`) from which one name is near another: among the few of a section, and among all."""
MOST = 3
"""No more paths are proposed."""
SHOWN = 6
"""No more names of a section are told."""


def instead_of(path: str, known: Iterable[str], otherwise: str) -> str:
    """How to mend a dotted path that does not exist: paths that do, or what its section has.

    Args:
        path: that was given.
        known: paths that exist.
        otherwise: said where nothing is near.
    """
    leaves = list(dict.fromkeys(known))
    near = near_paths(path, leaves)
    if near:
        return f"did you mean {' or '.join(near)}?"
    section = _sections_of(_tidy(path), leaves)
    if not section:
        return otherwise
    return "; ".join(f"{name} has {_listed(_below(name, leaves))}" for name in section[:2])


def leaf_instead_of(path: str, known: Iterable[str], otherwise: str) -> str:
    """As `instead_of`, where a section is no answer: what it has is told instead."""
    leaves = list(dict.fromkeys(known))
    near = near_paths(path, leaves)
    if not near or all(name in leaves for name in near):
        return instead_of(path, leaves, otherwise)
    return "; ".join(f"{name} has {_listed(_below(name, leaves))}" for name in near[:2])


def near_paths(path: str, leaves: Sequence[str]) -> list[str]:
    """Up to `MOST` of the leaves, or their sections, that a path may stand for, the likeliest first."""
    wanted = _tidy(path)
    folded = {leaf.lower(): leaf for leaf in [*_all_sections(leaves), *leaves]}
    if not wanted:
        return []
    if wanted in folded:
        return [folded[wanted]]
    within = [near for section in _sections_of(wanted, leaves) for near in _near_in(section, wanted, leaves)]
    return (within or _elsewhere(wanted, leaves, folded))[:MOST]


def _near_in(section: str, wanted: str, leaves: Sequence[str]) -> list[str]:
    """Paths of a section that end like the wanted one."""
    ending = _ending(section, wanted)
    own = _below(section, leaves)
    if not ending:
        return [section]
    parts = list(dict.fromkeys([*own, *_all_sections(own)]))
    near = difflib.get_close_matches(ending, parts, n=1, cutoff=LIKE)
    return [f"{section}.{name}" for name in near or [name for name in own if _has_word(name, ending)][:MOST]]


def _elsewhere(wanted: str, leaves: Sequence[str], folded: dict[str, str]) -> list[str]:
    first, last = wanted.split(".")[0], wanted.rsplit(".", 1)[-1]
    same = [leaf for leaf in leaves if leaf.rsplit(".", 1)[-1].lower() == last]
    akin = [leaf for leaf in same if leaf.split(".")[0].lower() == first]
    if akin or len(same) == 1:
        return akin or same
    if _sections_of(wanted, leaves):
        return []  # its section is there, and has nothing like it: what it has is told
    named = same or [path for path in folded.values() if "." not in wanted and _has_word(_last(path), wanted)]
    held = [leaf for leaf in leaves if wanted.startswith(f"{leaf.lower()}.")]
    return named or held or [folded[name] for name in difflib.get_close_matches(wanted, folded, n=1, cutoff=ALIKE)]


def _sections_of(wanted: str, leaves: Sequence[str]) -> list[str]:
    """The innermost sections that a path begins with, by whole name, by the end of it, or by one spelt like it."""
    parts = wanted.split(".")
    known = {section.lower(): section for section in _all_sections(leaves)}
    for length in range(len(parts), 0, -1):
        head = ".".join(parts[:length])
        if head in known:
            return [known[head]]
    for length in range(len(parts), 0, -1):
        head = ".".join(parts[:length])
        ends = [section for name, section in known.items() if name.endswith(f".{head}")]
        if ends:
            return ends
    if len(parts) < 2:
        return []
    return [known[name] for name in difflib.get_close_matches(".".join(parts[:-1]), known, n=1, cutoff=ALIKE)]


def _ending(section: str, wanted: str) -> str:
    """What a path has behind its section, which may be spelt in another way there."""
    parts, names = wanted.split("."), section.lower().split(".")
    for length in range(len(names), 0, -1):
        if parts[:length] == names[-length:]:
            return ".".join(parts[length:])
    return parts[-1]


def _below(section: str, leaves: Sequence[str]) -> list[str]:
    return [leaf.removeprefix(f"{section}.") for leaf in leaves if leaf.startswith(f"{section}.")]


def _all_sections(leaves: Sequence[str]) -> list[str]:
    heads = (leaf.split(".") for leaf in leaves)
    return list(dict.fromkeys(".".join(parts[:depth]) for parts in heads for depth in range(1, len(parts))))


def _has_word(name: str, word: str) -> bool:
    """Whether a name has the word at its beginning, or at that of a part of it."""
    return len(word) > 1 and any(part.startswith(word) for part in [name.lower(), *re.split(r"[._]", name.lower())])


def _last(path: str) -> str:
    return path.rsplit(".", 1)[-1]


def _tidy(path: str) -> str:
    """The path in small letters, its names divided by single points."""
    return ".".join(part for part in re.split(r"[./\s]+", path.lower()) if part)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:SHOWN])} and {more} more"
