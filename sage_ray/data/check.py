"""`check`: every problem of a folder at once, and what is in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sage_ray.data.bars_and_scales import BarsAndScales
from sage_ray.data.foreground import SeenTerms
from sage_ray.data.images import BadFile, Problem, read_image
from sage_ray.data.notes import Note, first_named, note_lines
from sage_ray.data.other_data import checked_rule
from sage_ray.data.pair_masks import is_annotated, mask_shas
from sage_ray.data.pairing import Pair
from sage_ray.data.pairs import gathered, header_problems, lacks_bar, look_through
from sage_ray.data.prepare import Facts, describe, duplicate_problem, duplicates, empty_problem, inspect, pixel_sha
from sage_ray.data.suspects import Doubt, PairLook, is_copy, look_at, same_pictures
from sage_ray.data.synth import DrawnSource
from sage_ray.files import sha256_of
from sage_ray.notebook_view import NotebookView
from sage_ray.sections import DataConfig

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("unusable", "constant", "equal", "inverted", "turned", "shifted", "outline", "bar", "duplicate")
"""Kinds of doubt, the gravest first."""
_NAMED, _SHOWN = 5, 20


@dataclass(frozen=True)
class SuspectPair:
    """A pair and the reasons to look at it; none for most."""

    pair: Pair
    doubts: tuple[Doubt, ...]


@dataclass(frozen=True)
class CheckReport(NotebookView):
    """What `check` found; `ok` if the folder can be trained on."""

    path: str
    problems: tuple[Problem, ...]
    stems: tuple[str, ...] = ()
    """Stems of the usable pairs."""
    facts: tuple[Facts, ...] = field(default=(), repr=False)
    warnings: tuple[str, ...] = ()
    """What had to be decided to read files, pairs that look wrong, files passed over: worth a look, no hindrance."""
    rule: str = ""
    """How masks were found, as one sentence; empty for drawn data."""
    passed_over: str = ""
    """Files of the folder that are no part of a pair, counted by kind."""
    suspects: tuple[SuspectPair, ...] = field(default=(), repr=False)
    """All pairs with the doubts about them, the most suspect ones first."""
    taken: BarsAndScales = field(default_factory=BarsAndScales, repr=False)
    """Information bars and sizes of pixels of the images."""

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
            "sizes": dict(Counter(f"{fact.rows}x{fact.columns}" for fact in self.facts).most_common()),
            "coverage": _spread([fact.coverage for fact in self.facts]),
            "objects": {
                "total": sum(fact.objects for fact in self.facts),
                **_spread([fact.objects for fact in self.facts]),
            },
            "empty_masks": sum(fact.coverage == 0 for fact in self.facts),
            "warnings": list(self.warnings),
            "pairing": self.rule,
            "passed_over": self.passed_over,
            **self.taken.as_dict(),
        }

    def frame(self) -> pd.DataFrame:
        """One row per usable pair: name, rows, columns, coverage (share of the mask that is particle), objects."""
        import pandas as pd

        rows = [
            (stem, fact.rows, fact.columns, fact.coverage, fact.objects)
            for stem, fact in zip(self.stems, self.facts, strict=True)
        ]
        return pd.DataFrame(rows, columns=["name", "rows", "columns", "coverage", "objects"])

    def headline(self) -> str:
        """How many pairs can be used, and how many problems there are."""
        return f"{len(self.facts)} usable pairs, {len(self.problems)} problems in {self.path}"

    def remarks(self) -> list[str]:
        """The report as text."""
        return self.lines()

    def lines(self) -> list[str]:
        """The report as text, problems first, one per line."""
        found = self.as_dict()
        lines = [str(problem) for problem in self.problems]
        lines += self.warnings[:_SHOWN]
        if len(self.warnings) > _SHOWN:
            lines.append(f"and {len(self.warnings) - _SHOWN} more warnings: --sheet draws the pairs, --json lists all")
        lines += [f"pairing: {self.rule}"] if self.rule else []
        lines += self.taken.lines()
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


def check(path: str | Path, crop_bottom: int = 0, masks: str = "", foreground: str = "") -> CheckReport:
    """Every problem of the folder `path` (or of a `synthetic://` source) at once; one image is in memory at a time.

    Args:
        path: the folder, or a drawn source.
        crop_bottom: rows of an information bar.
        masks: `data.masks`, where masks lie in the folder; "" to look for them.
        foreground: `data.foreground`, which values of masks are particles; "" for all but 0.

    Raises:
        UserError: there is nothing to look at: no such folder, no pairs in it, or patterns that fit no file; or
            `foreground` is no rule.
    """
    rule = checked_rule(foreground)
    if str(path).startswith("synthetic://"):
        return _check_drawn(str(path))
    found = look_through(path, masks)
    problems = list(found.problems)
    usable: list[tuple[Pair, Facts, PairLook]] = []
    unusable: list[SuspectPair] = []
    notes: list[Note] = []
    bare = DataConfig(crop_bottom=crop_bottom, foreground=rule)
    foreground_seen, seen = False, SeenTerms(rule)
    taken = BarsAndScales(crop_bottom)
    for pair in found.pairs:
        wrong = header_problems([pair], crop_bottom)
        decoded = None if wrong else inspect(pair, _shas(pair, wrong), wrong, notes, bare, seen)
        if wrong or decoded is None:
            problems.extend(wrong)
            unusable.append(SuspectPair(pair, _doubts_of_unusable(pair, wrong)))
            if lacking := lacks_bar(pair):
                with suppress(BadFile):
                    taken.add(pair.stem, pair.image, read_image(pair.image), lacking)
            continue
        image, mask, facts = decoded
        taken.add(pair.stem, pair.image, image, lacks_bar(pair))
        rows = len(image) - crop_bottom
        usable.append((pair, facts, look_at(image[:rows], mask[:rows])))
        foreground_seen |= bool(mask[:rows].any())
    if usable and not foreground_seen:
        problems.append(empty_problem(str(path), seen))
    pairs, facts_found = tuple(pair for pair, _, _ in usable), tuple(facts for _, facts, _ in usable)
    stems = tuple(pair.stem for pair in pairs)
    for indices in duplicates(stems, facts_found):
        problems.append(duplicate_problem([stems[i] for i in indices]))
    suspects = _ranked(pairs, facts_found, [look for _, _, look in usable])
    passed = found.passed_over()
    looks = _warnings([*unusable, *suspects])
    warnings = (*taken.warnings(), *note_lines(notes), *seen.missing(), *looks, *([passed] if passed else []))
    return CheckReport(
        str(path),
        tuple(gathered(problems)),
        stems,
        facts_found,
        warnings,
        found.rule,
        passed,
        (*unusable, *suspects),
        taken,
    )


def _shas(pair: Pair, problems: list[Problem]) -> tuple[str, str]:
    """sha256 of image and mask; what an annotation file lacks is added to the problems."""
    try:
        return sha256_of(pair.image), mask_shas([pair], [sha256_of(pair.mask)])[0]
    except BadFile as bad:
        problems.append(bad.problem)
        return "", ""


def _doubts_of_unusable(pair: Pair, problems: Sequence[Problem]) -> tuple[Doubt, ...]:
    doubts = [Doubt("unusable", problem.what) for problem in problems]
    try:
        if not is_annotated(pair) and is_copy(read_image(pair.image), read_image(pair.mask)):
            doubts.insert(0, Doubt("equal", "mask and image are the same picture"))
    except BadFile:
        pass
    return tuple(doubts)


def _ranked(pairs: Sequence[Pair], facts: Sequence[Facts], looks: Sequence[PairLook]) -> list[SuspectPair]:
    """The pairs with their doubts, the most suspect ones first, then those whose edges agree least."""
    doubts = [list(look.doubts) for look in looks]
    for index, (first, how) in same_pictures([look.thumb for look in looks]).items():
        if facts[index].pixel_sha != facts[first].pixel_sha:  # else it is a problem already
            tail = f", {how}" if how else ""
            doubts[index].append(Doubt("duplicate", f"shows the same as {pairs[first].stem}{tail}"))
    order = sorted(
        range(len(pairs)),
        key=lambda i: (min((KINDS.index(d.kind) for d in doubts[i]), default=len(KINDS)), looks[i].agreement),
    )
    return [SuspectPair(pairs[i], tuple(doubts[i])) for i in order]


def _warnings(suspects: Sequence[SuspectPair]) -> list[str]:
    """One line for each kind of doubt with equal words, naming its pairs; problems are said elsewhere."""
    named: dict[str, list[str]] = {}
    for suspect in suspects:
        for doubt in suspect.doubts:
            if doubt.kind != "unusable":
                named.setdefault(doubt.text, []).append(suspect.pair.stem)
    lines = []
    for text, stems in named.items():
        lines.append(f"suspect: {first_named(stems, _NAMED)}: {text}")
    return lines


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
