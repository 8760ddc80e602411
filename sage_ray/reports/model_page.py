"""The pages of a final training and of a registered model: versions beside each other on their locked test."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from sage_ray.evaluation.score_tables import PRIMARY
from sage_ray.figures.tested_finals import tested_finals
from sage_ray.metrics.definitions import label
from sage_ray.record.home import Home
from sage_ray.reports.cost_and_origin import SAME_CODE, distinct, hours_fact
from sage_ray.reports.evidence import FinalEvidence, check_records, finals_of, read_final
from sage_ray.reports.final_findings import (
    DIFFERENCE,
    ROUNDED,
    SHOWN,
    column_digits,
    definitions_of,
    difference_cells,
    finals_found,
    score_cell,
)
from sage_ray.reports.known_images import KnownImages
from sage_ray.reports.page_parts import Bullets, Chapter, Code, Grid, Page, Paragraph, Part, Verdicts
from sage_ray.reports.scores_by_image import image_by_image
from sage_ray.reports.scores_by_seed import versions_by_seed
from sage_ray.reports.study_page import FOOT, HOW_TO_READ, seeds_fact
from sage_ray.reports.trial_tables import ENDINGS
from sage_ray.statistics.claims import UNDECIDED, WORDS, Word
from sage_ray.statistics.verdict_sentences import Finding, Said, counted, rule_in_words, say, share, upper_first

if TYPE_CHECKING:
    from sage_ray.registry.comparison import Comparison, VersionScores


def final_page(final_id: str, home: Home, images: KnownImages) -> Page:
    """The page of one final training: its scores, beside the other final trainings of the same study.

    Args:
        final_id: of it.
        home: that holds it.
        images: that it was tested on, as far as they are there.

    Raises:
        UserError: no such final training, or no seed of it is finished.
    """
    from sage_ray.registry.final_plan import read_plan

    plan = read_plan(home, final_id)
    mine = read_final(plan, home)
    check_records(final_id, mine.records)
    beside = [each for each in (finals_of(plan.study, home) if plan.study else []) if each.plan.final_id != final_id]
    same = [each for each in beside if _same_data(each, mine)]
    found = finals_found(tested_finals([each.plan for each in (*same, mine)], home))
    waits = "Its seeds are not all trained and scored yet: `sage-ray resume {0}` goes on."
    first: list[Part] = [Verdicts(found.said)] if found.said else [Paragraph(waits.format(final_id), "caution")]
    states = [
        f"Seed {record.seed}: {ENDINGS.get(record.state, record.state)}, {record.epoch} epochs (`{record.run_id}`)."
        for record in mine.records
    ]
    lines = [
        f"Commit {distinct(mine.records, 'commit')}.",
        f"Data {distinct(mine.records, 'data_fingerprint')}, split {distinct(mine.records, 'split_id')}.",
        f"Numerics {distinct(mine.records, 'numerics')}.",
    ]
    seeds = ",".join(map(str, plan.seeds))
    commits = {record.commit for record in mine.records if record.commit}
    code = f"{SAME_CODE.format(commit=next(iter(commits)))}\n" if len(commits) == 1 else ""
    command = f"{code}sage-ray final {plan.source} --trial {plan.choice} --seeds {seeds}"
    chapters = [
        Chapter("found", "What was found", [*first, Paragraph(HOW_TO_READ, "note")]),
        Chapter("tested", "On the locked test", [*found.parts, *image_by_image(found.tested, images)], ("finals",)),
        Chapter("trained", "What was trained", [Paragraph(f"{upper_first(plan.rule)}."), Bullets(states)], ("curves",)),
        Chapter("examples", "What the model does with images", [], ("examples", "generated", "particles")),
        Chapter("cost", "What it cost", [], ("cost",)),
        Chapter("origin", "Where the numbers come from", [Bullets(lines)]),
        Chapter("repeat", "How to repeat it", [Code(command, language="bash")]),
    ]
    facts = {"seeds": seeds_fact(plan.seeds), "computing": hours_fact(mine.records)}
    lead = f"The final training of {mine.called} of `{plan.source}`, on train and validation images together."
    return Page(f"Final training {final_id}", lead, chapters, facts, {}, FOOT)


def _same_data(one: FinalEvidence, other: FinalEvidence) -> bool:
    prints = {record.data_fingerprint for each in (one, other) for record in each.records}
    return len(prints) == 1


def model_page(comparison: Comparison) -> Page:
    """The page of a registered model: every version against the reference."""
    findings = {row.version: finding_of_version(comparison, row) for row in comparison.versions if row.differences}
    said = [say(finding) for finding in findings.values()]
    alone = comparison.versions[0]
    if not said:
        only = f"Version {alone.version} is the only one: nothing to compare it with."
        said = [Said("result", only, f"{label(PRIMARY)} {score_cell(alone.scores[PRIMARY])}", "", ())]
    shown = [score for score in SHOWN if all(score in row.scores for row in comparison.versions)]
    names = [label(score) for score in shown]
    head = ["version", "alias", "from", "seeds", names[0], DIFFERENCE, "verdict", *names[1:]]
    rows = []
    digits = column_digits([row.scores for row in comparison.versions], shown)
    for row in comparison.versions:
        scores = [score_cell(row.scores[score], digits[score]) for score in shown]
        told = difference_cells(findings.get(row.version), is_reference=row.is_reference)
        named = [str(row.version), ", ".join(row.aliases), row.origin, ", ".join(map(str, row.seeds))]
        rows.append([*named, scores[0], *told, *scores[1:]])
    line = alone.scores[PRIMARY]
    basis = f"{share(line.level)} intervals over {line.over}" if line.level else line.over
    caption = f"Locked test, {counted(comparison.images, 'image')}; {basis}."
    marked = frozenset(place for place, row in enumerate(comparison.versions) if row.is_reference)
    grid = Grid(head, rows, frozenset({1, 2, head.index("verdict")}), caption, sortable=True, marked=marked)
    level = next((finding.level for finding in findings.values() if finding.has_interval), 0.95)
    rule = f" {rule_in_words(level, max(len(findings), 1))} {ROUNDED}" if findings else ""
    notes = [f"Reference: version {comparison.reference} ({comparison.reference_is}).{rule}"]
    notes += [comparison.readings.sentence, *(f"{upper_first(note)}." for note in comparison.notes)]
    origin = [
        f"Test set {comparison.test_set}, data {comparison.fingerprint}, split {comparison.split_id}.",
        *(
            f"Version {row.version}: `{row.run_id}`, weights {(row.weights_sha or '-')[:12]}."
            for row in comparison.versions
        ),
    ]
    chapters = [
        Chapter("found", "What was found", [Verdicts(said), Paragraph(HOW_TO_READ, "note")]),
        Chapter(
            "tested",
            "On the locked test",
            [
                grid,
                definitions_of(alone.scores, shown),
                Bullets(notes),
                *versions_by_seed(comparison.versions, comparison.images),
            ],
            ("versions",),
        ),
        Chapter("origin", "Where the numbers come from", [Bullets(origin)]),
        Chapter("repeat", "How to repeat it", [Code(repeating(comparison), language="bash")]),
    ]
    facts = {"versions": str(len(comparison.versions)), "images": counted(comparison.images, "locked-test image")}
    lead = "Registered versions beside each other on one locked test set."
    return Page(f"Model {comparison.model_name}", lead, chapters, facts, {}, FOOT)


def finding_of_version(comparison: Comparison, row: VersionScores) -> Finding:
    """The difference of a version to the reference as a finding."""
    reference = next(each for each in comparison.versions if each.is_reference)
    assert row.differences is not None
    gain, line = row.differences[PRIMARY], row.scores[PRIMARY]
    return Finding(
        subject=f"version {row.version}",
        reference=f"version {reference.version}",
        score=label(PRIMARY),
        difference=gain.mean,
        low=gain.low,
        high=gain.high,
        level=gain.level or 0.95,
        images=line.images,
        micrographs=line.micrographs,
        seeds=len(set(row.seeds) & set(reference.seeds)),
        word=cast(Word, row.verdict or WORDS[UNDECIDED]),
        why_no_interval="" if gain.low is not None else gain.over,
        means=(line.mean, reference.scores[PRIMARY].mean),
        corrected_over=max(len(comparison.versions) - 1, 1),
    )


def repeating(comparison: Comparison) -> str:
    """The commands that make this page again; versions are compared once there are two."""
    name = comparison.model_name
    again = f"sage-ray report {name}"
    if len(comparison.versions) < 2:
        return again
    numbers = ",".join(str(row.version) for row in comparison.versions)
    more = "" if name == "sage-gan" else f" --model-name {name}"
    return f"sage-ray compare --versions {numbers}{more}\n{again}"
