"""`check`: every problem of a folder at once, and what is in it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sage_ray.data.images import Problem
from sage_ray.data.notes import Note, note_lines
from sage_ray.data.pairs import find_pairs, header_problems
from sage_ray.data.prepare import Facts, describe, duplicate_problem, duplicates, empty_problem, inspect, pixel_sha
from sage_ray.data.synth import DrawnSource
from sage_ray.files import sha256_of
from sage_ray.sections import DataConfig


@dataclass(frozen=True)
class CheckReport:
    """What `check` found; `ok` if the folder can be trained on."""

    path: str
    problems: tuple[Problem, ...]
    stems: tuple[str, ...] = ()
    """Stems of the usable pairs."""
    facts: tuple[Facts, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()
    """What had to be decided to read the files, one line for each kind."""

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON: counts, sizes "ROWSxCOLUMNS" with their number, coverage and objects per image."""
        return {
            "path": self.path,
            "pairs": len(self.facts),
            "problems": [str(problem) for problem in self.problems],
            "warnings": list(self.notes),
            "sizes": dict(Counter(f"{fact.rows}x{fact.columns}" for fact in self.facts).most_common()),
            "coverage": _spread([fact.coverage for fact in self.facts]),
            "objects": {
                "total": sum(fact.objects for fact in self.facts),
                **_spread([fact.objects for fact in self.facts]),
            },
            "empty_masks": sum(fact.coverage == 0 for fact in self.facts),
        }

    def lines(self) -> list[str]:
        """The report as text, problems first, one per line."""
        found = self.as_dict()
        lines = [*(str(problem) for problem in self.problems), *self.notes]
        lines.append(f"{found['pairs']} usable pairs, {len(self.problems)} problems in {self.path}")
        if not self.facts:
            return lines
        sizes = list(found["sizes"].items())
        shown = ", ".join(f"{size} ({count})" for size, count in sizes[:5])
        lines.append(f"sizes (rows x columns): {shown}" + (f" and {len(sizes) - 5} more" if len(sizes) > 5 else ""))
        coverage, objects = found["coverage"], found["objects"]
        low, middle, high = (coverage[key] for key in ("min", "median", "max"))
        lines.append(f"coverage: median {middle:.1%}, from {low:.1%} to {high:.1%}; {found['empty_masks']} empty masks")
        low, middle, high = (objects[key] for key in ("min", "median", "max"))
        lines.append(f"objects: {objects['total']} in all, median {middle:g} per image, from {low:g} to {high:g}")
        return lines


def check(path: str | Path, crop_bottom: int = 0) -> CheckReport:
    """Every problem of the folder `path` (or of a `synthetic://` source) at once; one image is in memory at a time.

    Raises:
        UserError: there is nothing to look at: no such folder, no images/ or mask folder in it, or both empty.
    """
    if str(path).startswith("synthetic://"):
        return _check_drawn(str(path))
    pairs, problems = find_pairs(path)
    usable: list[tuple[str, Facts]] = []
    notes: list[Note] = []
    foreground_seen = False
    for pair in pairs:
        found = header_problems([pair], crop_bottom)
        problems.extend(found)
        if found:
            continue
        shas = sha256_of(pair.image), sha256_of(pair.mask)
        decoded = inspect(pair, shas, problems, notes, DataConfig(crop_bottom=crop_bottom))
        if decoded is not None:
            _, foreground, facts = decoded
            usable.append((pair.stem, facts))
            foreground_seen |= bool(foreground[: foreground.shape[0] - crop_bottom].any())
    if usable and not foreground_seen:
        problems.append(empty_problem(str(path)))
    stems, facts_found = tuple(stem for stem, _ in usable), tuple(facts for _, facts in usable)
    for indices in duplicates(stems, facts_found):
        problems.append(duplicate_problem([stems[i] for i in indices]))
    return CheckReport(str(path), tuple(problems), stems, facts_found, tuple(note_lines(notes)))


def _check_drawn(path: str) -> CheckReport:
    source = DrawnSource.parse(path)
    facts = []
    for index in range(source.num):
        pair = source.draw(index)
        shas = pixel_sha(pair.image), pixel_sha(pair.mask)
        facts.append(describe(pair.image, pair.mask, int(pair.labels.max()), shas))
    return CheckReport(path, (), tuple(source.stem(i) for i in range(source.num)), tuple(facts))


def _spread(values: list[float] | list[int]) -> dict[str, float]:
    if not values:
        return {}
    return {"min": float(np.min(values)), "median": float(np.median(values)), "max": float(np.max(values))}
