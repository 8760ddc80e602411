"""What an ablation found: each arm against the reference, from the analysis, and the table of all scores."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from sage_ray.analysis.ablation import HEADLINE, Judged, Result, judge_study
from sage_ray.analysis.arm_differences import Row
from sage_ray.analysis.arms import scored_apart
from sage_ray.analysis.study_facts import StudyFacts
from sage_ray.analysis.tables import interval, percent
from sage_ray.analysis.tidy import Tidy
from sage_ray.errors import UserError
from sage_ray.metrics.definitions import label
from sage_ray.reports.page_parts import Bullets, Grid, Paragraph, Part
from sage_ray.reports.scores_by_seed import arms_by_seed
from sage_ray.statistics.claims import Word
from sage_ray.statistics.verdict_sentences import MINUS, Finding, Said, open_together, say, tone_of

LEVEL = 0.95
PRIMARY_SCORE = "dice"
OPEN_TOGETHER = 3
"""Arms from which on those that are open share one entry, so that the answer stays on the first screen."""
ONE_SEED = ": undecided; one seed: "
IMAGES_ARE = {"test": "locked-test images", "val": "validation images", "generated": "generated images"}


@dataclass(frozen=True)
class ArmsFound:
    """The verdicts of an ablation with its table.

    Attributes:
        said: one entry for each arm beside the reference, those with a verdict first; many open ones share one.
        parts: table and notes.
        reason: why there is no verdict; "" if there is.
    """

    said: tuple[Said, ...]
    parts: tuple[Part, ...]
    reason: str = ""


def arms_found(tidy: Tidy, facts: StudyFacts) -> ArmsFound:
    """Compare the arms of a study with its reference on every headline score."""
    options = Namespace(
        part=None, level=LEVEL, reference=None, without=[], claim="worse", margin=0.0, images="new", scores=HEADLINE
    )
    try:
        apart = scored_apart(tidy, facts)
        if apart is not None:
            return ArmsFound((), (), apart)
        judged = judge_study(tidy, facts, options, HEADLINE)
    except UserError as error:
        return ArmsFound((), (), f"{error.what} ({error.where}): {error.mend}")
    result = judged.results[PRIMARY_SCORE]
    rows = result.comparison.rows if result.comparison else ()
    findings = [finding_of(judged, result, row, len(rows)) for row in rows]
    still_open = [finding for finding in findings if tone_of(finding) == "open"]
    together = still_open if len(still_open) >= OPEN_TOGETHER else []
    said = [say(finding) for finding in findings if finding not in together]
    said.sort(key=lambda each: each.tone == "open")
    return ArmsFound((*said, *([open_together(together)] if together else [])), tuple(_parts(judged)))


def finding_of(judged: Judged, result: Result, row: Row, rows: int) -> Finding:
    """A row of the analysis as a finding."""
    called = judged.runs.facts.called
    return Finding(
        subject=called(row.arm),
        reference=called(row.reference),
        score=label(result.scores.score),
        difference=row.difference,
        low=row.low,
        high=row.high,
        level=row.level,
        images=row.num_images,
        micrographs=row.num_groups,
        seeds=row.num_seeds,
        word=cast(Word, row.verdict),
        claim="worse",
        lower_is_better=result.scores.lower_is_better,
        images_are=IMAGES_ARE[judged.part],
        why_no_interval="one seed" if row.num_seeds < 2 else "one image",
        corrected_over=rows,
        means=(row.mean, row.reference_mean),
    )


def _parts(judged: Judged) -> list[Part]:
    runs, results = judged.runs, judged.results
    called = runs.facts.called
    names = [label(score) for score in results]
    head = ["arm", "seeds", names[0], f"minus {called(runs.reference)}", "verdict", *names[1:]]
    primary = results[PRIMARY_SCORE]
    rows = []
    for arm in runs.arms:
        means = [result.mean(arm) for result in results.values()]
        row = primary.row(arm)
        scores = [interval(mean.mean, mean.low, mean.high) for mean in means]
        difference = (
            "reference" if row is None else interval(row.difference, row.low, row.high, signed=True).replace("-", MINUS)
        )
        verdict = "" if row is None else _word(judged, primary, row)
        rows.append([called(arm), str(means[0].num_seeds), scores[0], difference, verdict, *scores[1:]])
    caption = f"Means with {percent(LEVEL)} intervals. {judged.part_note}"
    marked = frozenset(place for place, arm in enumerate(runs.arms) if arm == runs.reference)
    parts: list[Part] = [Grid(head, rows, frozenset({0, 4}), caption, sortable=True, marked=marked)]
    if runs.partial:
        parts.append(Paragraph(f"Partial. {'; '.join(runs.partial)}.", "caution"))
    return [*parts, Bullets(_notes(judged, primary)), *arms_by_seed(judged)]


def _word(judged: Judged, result: Result, row: Row) -> str:
    said = say(finding_of(judged, result, row, len(result.comparison.rows) if result.comparison else 1))
    return {"same": "no difference"}.get(said.tone, said.tone)


def _notes(judged: Judged, result: Result) -> Sequence[str]:
    """What must be known to read the table."""
    from sage_ray.analysis.ablation import notes

    said = (
        "Of each arm it is asked whether it is worse than the reference: supported is called worse here, and refuted "
    )
    said += "better."
    # That one seed decides nothing is said once, and not of each arm again.
    return [said, *(line for line in notes(judged, result) if line != judged.part_note and ONE_SEED not in line)]
