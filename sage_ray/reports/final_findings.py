"""What final trainings found on the locked test: each against the untuned base (or the oldest), with a table of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sage_ray.evaluation.score_tables import PRIMARY, ScoreLine, line_in_words
from sage_ray.figures.tested_finals import ComparedFinals, FinalDifference, Tested, compared_finals
from sage_ray.metrics.definitions import label
from sage_ray.reports.page_parts import Bullets, Grid, Paragraph, Part
from sage_ray.reports.scores_by_seed import finals_by_seed
from sage_ray.statistics.verdict_sentences import (
    Finding,
    Said,
    cautions,
    counted,
    rule_in_words,
    say,
    score_digits,
    share,
    signed,
    upper_first,
)

SHOWN = ("dice", "f1_object_50", "f1_pixel", "precision", "recall")
"""Scores of the table."""
DIFFERENCE = "Dice difference"
ROUNDED = "Differences are rounded from exact scores, so one can be off by 0.001 from that of the rounded ones."


@dataclass(frozen=True)
class FinalsFound:
    """The verdicts of final trainings with their table; without any that was tested both are empty."""

    said: tuple[Said, ...]
    parts: tuple[Part, ...]
    tested: tuple[Tested, ...]


def finals_found(tested: Sequence[Tested]) -> FinalsFound:
    """Each tested final training against the untuned base, else the oldest; alone, what it scored."""
    if not tested:
        return FinalsFound((), (), ())
    found = compared_finals(tested)
    findings = {
        each.final_id: _finding(each, found.differences[each.final_id], found)
        for each in found.tested
        if each.final_id in found.differences
    }
    said = tuple(say(finding) for finding in findings.values()) or tuple(score_said(each) for each in tested)
    return FinalsFound(said, tuple(_parts(found, findings)), tuple(tested))


def _finding(each: Tested, difference: FinalDifference, found: ComparedFinals) -> Finding:
    interval = difference.interval
    return Finding(
        subject=each.name,
        reference=found.reference.name,
        score=label(PRIMARY),
        difference=difference.difference,
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
        level=found.level,
        images=difference.images,
        micrographs=difference.micrographs,
        seeds=difference.seeds,
        word=difference.word,
        why_no_interval=difference.why_no_interval,
        means=difference.means,
        corrected_over=max(found.comparisons, 1),
    )


def score_said(one: Tested) -> Said:
    """What a single final training scored, which is no verdict."""
    line = one.scores[PRIMARY]
    percent = f"{100 * line.mean:.0f} %"
    other = "a final training of the untuned base"
    if one.is_base:
        # Where the rule chose the base itself, another trial has to be named.
        other = f"a final training of {'another trial' if one.choice == 'best' else 'what the search proposes'}"
    return Said(
        "result",
        f"{upper_first(one.name)} was trained to the end, and nothing is there to compare it with.",
        line_in_words(line),
        f"On images that nobody had looked at, what the model marks and what a person marked agree to {percent} (Dice: "
        f"0 % nothing in common, 100 % the same). Whether tuning helps shows only beside {other}.",
        tuple(cautions(line.images, line.micrographs, line.seeds, decided=False)),
    )


def _parts(found: ComparedFinals, findings: Mapping[str, Finding]) -> list[Part]:
    tested = found.tested
    shown = [score for score in SHOWN if all(score in each.scores for each in tested)]
    several = len(tested) > 1
    names = [label(score) for score in shown]
    told = [DIFFERENCE, "verdict"] if several else []
    head = ["final training", "seeds", names[0], *told, *names[1:]]
    rows = []
    digits = column_digits([each.scores for each in tested], shown)
    for each in tested:
        cells = [score_cell(each.scores[score], digits[score]) for score in shown]
        is_reference = each is found.reference
        told = difference_cells(findings.get(each.final_id), is_reference=is_reference) if several else []
        rows.append([upper_first(each.name), str(each.scores[PRIMARY].seeds), cells[0], *told, *cells[1:]])
    line = tested[0].scores[PRIMARY]
    basis = f"{share(line.level)} intervals over {line.over}" if line.level else line.over
    caption = f"Locked test, {counted(line.images, 'image')} that no training has learned from; {basis}."
    texts = frozenset({0, head.index("verdict")}) if several else frozenset({0})
    marked = frozenset(place for place, each in enumerate(tested) if several and each is found.reference)
    parts: list[Part] = [Grid(head, rows, texts, caption, sortable=several, marked=marked)]
    for each in tested:
        if each.final_id in found.refused:
            why = found.refused[each.final_id]
            text = f"{upper_first(each.name)} cannot be compared with {found.reference.name}: {why}."
            parts.append(Paragraph(text, "note"))
    if found.comparisons:
        parts.append(Paragraph(f"{rule_in_words(found.level, found.comparisons)} {ROUNDED}", "note"))
    return [*parts, definitions_of(tested[0].scores, shown), *finals_by_seed(tested)]


def score_cell(line: ScoreLine, digits: int = 3) -> str:
    """A score with its interval in brackets."""
    if line.low is None or line.high is None:
        return f"{line.mean:.{digits}f}"
    return f"{line.mean:.{digits}f} [{line.low:.{digits}f}, {line.high:.{digits}f}]"


def column_digits(rows: Sequence[Mapping[str, ScoreLine]], shown: Sequence[str]) -> dict[str, int]:
    """Decimals of each score in a table: 4 where two rows would look equal with 3, and are not."""
    return {score: score_digits([row[score].mean for row in rows]) for score in shown}


def difference_cells(finding: Finding | None, *, is_reference: bool) -> list[str]:
    """Difference with its interval, and verdict, of a row of a table."""
    if finding is None:
        return ["reference" if is_reference else "not comparable", ""]
    digits = finding.digits
    text = signed(finding.difference, digits)
    if finding.has_interval:
        text += f" [{signed(finding.low, digits)}, {signed(finding.high, digits)}]"
    tone = say(finding).tone
    return [text, {"same": "no difference"}.get(tone, tone)]


def definitions_of(scores: Mapping[str, ScoreLine], shown: Sequence[str]) -> Bullets:
    """What each score is; what all of them share is said once."""
    parts = {score: scores[score].definition.split(", ") for score in shown}
    shared = [part for part in parts[shown[0]] if all(part in each for each in parts.values())]
    lines = [
        f"{label(score)}: {', '.join(part for part in own if part not in shared)}." for score, own in parts.items()
    ]
    return Bullets([*lines, *([f"All of them: {', '.join(shared)}."] if shared else [])])
