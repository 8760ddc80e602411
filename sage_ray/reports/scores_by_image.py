"""Which images each score is of, and validation and locked test image by image, from the scores that runs recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import mean, median_high
from typing import TYPE_CHECKING

import numpy as np

from sage_ray.evaluation.score_tables import PRIMARY, seed_table
from sage_ray.figures.tested_finals import ComparedFinals, Tested, compared_finals, names_apart
from sage_ray.files import read_json
from sage_ray.metrics.definitions import label
from sage_ray.reports.evidence import FinalEvidence, StudyEvidence
from sage_ray.reports.known_images import KnownImages
from sage_ray.reports.page_parts import Grid, Paragraph, Part
from sage_ray.statistics import by_group
from sage_ray.statistics.crossed import components
from sage_ray.statistics.power import design, images_needed, minimum_detectable, seeds_needed
from sage_ray.statistics.verdict_sentences import FEW_SEEDS, counted, score_digits, share, signed, upper_first

if TYPE_CHECKING:
    from sage_ray.search.best import BestChoice

MOST_ROWS, LONG = 40, 16
"""Images of a table, of more those with the lowest scores; and from how many on it is folded."""
WORTH_HAVING = 0.01
"""Dice difference of which it is said what it would take to find it."""
POWER = 0.8
MARKED, FOUND = "particles_true", "particles_pred"
APART = 0.1
"""Difference in mean Dice from which on two kinds of validation images are told apart."""


def validation_dice(evidence: StudyEvidence) -> dict[str, float]:
    """Dice of each validation image of the chosen trial, at the epoch whose weights it keeps, by sha256.

    Of several seeds it is their mean; of several folds each image has the score of the fold that it validates.
    """
    return {} if evidence.choice is None else _validated(evidence, evidence.choice.run_ids)


def _validated(evidence: StudyEvidence, run_ids: Sequence[str]) -> dict[str, float]:
    """Dice of each validation image of finished runs, mean over those that have it, by sha256."""
    held: dict[str, list[float]] = {}
    finished = {record.run_id for record in evidence.finished_records}
    for run_id in (run_id for run_id in run_ids if run_id in finished):
        rows = evidence.folder_of(run_id).per_image()
        # Of a picture that is there twice, one score stands for both.
        own = {row["image_sha"]: row["value"] for row in rows if row["part"] == "val" and row["score"] == PRIMARY}
        for sha, value in own.items():
            held.setdefault(sha, []).append(float(value))
    means = {sha: mean(values) for sha, values in held.items()}
    return {sha: value for sha, value in means.items() if np.isfinite(value)}


def validation_by_image(evidence: StudyEvidence) -> list[Part]:
    """A table of the Dice of each validation image: the chosen trial, and what it is held against, if that is another.

    A search's is held against its untuned base, where that was trained to the end, an ablation's against the reference.
    """
    scores, choice = validation_dice(evidence), evidence.choice
    if not scores or choice is None:
        return []
    called = f"Trial {choice.trial}" if evidence.is_search else _label(choice, str(choice.params.get("arm")))
    columns = {called: scores}
    for name, run_ids in _held_against(evidence, choice).items():
        beside = _validated(evidence, run_ids)
        if set(beside) >= set(scores):
            columns = {name: beside, called: scores}
    images, seeds = evidence.images, len(choice.seed_values)
    first = next(iter(columns.values()))
    shas = sorted(scores, key=lambda sha: (first[sha], images.name(sha)))
    kinds = {True: "darker", False: "brighter"} if len(set(images.dark.values())) == 2 else {}
    more = {"particles are": [kinds[images.dark[sha]] if sha in images.dark else "" for sha in shas]} if kinds else {}
    over = f", mean over {seeds} seeds" if seeds > 1 else ""
    caption = f"{label(PRIMARY)} of the validation images one by one{over}, at the epoch whose weights are kept"
    after = f"These images chose {'the trial' if evidence.is_search else 'the arm'}, so that they flatter it."
    if kinds:
        after += " Particles are darker or brighter than the ground around them."
    return [_image_grid("validation image", shas, columns, images, caption, after, more)]


def _held_against(evidence: StudyEvidence, choice: BestChoice) -> Mapping[str, Sequence[str]]:
    """By what it is called the finished runs of what the chosen trial is held against; {} if it is that itself."""
    if evidence.is_search:
        base = evidence.base_trial
        if base is None or base.state != "COMPLETE" or base.number == choice.trial:
            return {}
        return {"The untuned base": [run.run_id for run in base.runs]}
    reference = str(read_json(evidence.folder / "study.json").get("reference"))
    if reference == str(choice.params.get("arm")):
        return {}
    trials = [trial for trial in evidence.status.trials if str(trial.params.get("arm")) == reference]
    return {_label(choice, reference): [run.run_id for trial in trials for run in trial.runs]}


def _label(choice: BestChoice, arm: str) -> str:
    """What people call an arm of an ablation."""
    return choice.labels.get(arm, arm)


def _image_grid(
    what: str,
    shas: Sequence[str],
    scores: Mapping[str, Mapping[str, float]],
    images: KnownImages,
    caption: str,
    after: str,
    more: Mapping[str, Sequence[str]] | None = None,
) -> Grid:
    """A table with a row for each image.

    Args:
        what: the images are, for the head.
        shas: of the images, in the order of the rows; of too many the first ones are shown.
        scores: columns by what they are called, each the scores by sha256; of two the difference is shown too.
        images: that names are taken from.
        caption, after: sentences before and behind the one that says how many images there are.
        more: further columns of text by head, as long as `shas`.
    """
    listed, columns = shas[:MOST_ROWS], list(scores.values())
    digits = max((score_digits([column[sha] for column in columns]) for sha in listed), default=3)
    head = [what, *scores, *(["difference"] if len(columns) == 2 else []), *(more or {})]
    rows = []
    for place, sha in enumerate(listed):
        cells = [f"{column[sha]:.{digits}f}" for column in columns]
        cells += [signed(columns[1][sha] - columns[0][sha], digits)] if len(columns) == 2 else []
        rows.append([f"`{images.name(sha)}`", *cells, *(texts[place] for texts in (more or {}).values())])
    some = f"the {len(listed)} lowest of {len(shas)} images" if len(listed) < len(shas) else "lowest first"
    caption = f"{caption}; {some}. {after}"
    if not images.names:
        caption += " The images are not at hand: for names they have the first digits of their sha256."
    texts = frozenset({0, *range(len(head) - len(more or {}), len(head))})
    return Grid(head, rows, texts, caption, sortable=True, folded=len(rows) > LONG)


def whose_images(evidence: StudyEvidence, tested: Sequence[Tested]) -> list[Part]:
    """That the search's scores and those of the locked test are of different images, and which image stands out."""
    scores, parts = validation_dice(evidence), _parts_of(evidence)
    if not scores or not tested:
        return []
    one = compared_finals(tested).reference
    count = one.scores[PRIMARY].images
    text = (
        f"**Two scores of different images.** The {'search' if evidence.is_search else 'ablation'} scored its runs on "
        f"{counted(len(scores), 'validation image')}; the locked test has {count} other{'s' if count > 1 else ''}. Do "
        "not subtract one score from the other: the images of the two are not equally hard"
    )
    learned = _learned(evidence, [final for final in evidence.finals if final.plan.final_id == one.final_id])
    if learned and parts.get("train"):
        text += (
            f", and a final training learns from the validation images, too ({learned} images, a trial from "
            f"{parts['train']})"
        )
    told = [Paragraph(f"{text}.")]
    name = f"trial {evidence.choice.trial}" if evidence.is_search and evidence.choice else "the best arm"
    seeds = len(evidence.choice.seed_values) if evidence.choice else 1
    over = f" (mean over {seeds} seeds)" if seeds > 1 else ""
    kept = f"Of the validation images of {name}, at the epoch whose weights it keeps{over}"
    lines = [_lowest(kept, scores, evidence.images), _score_of_study(evidence, mean(scores.values()))]
    lines.append(_kinds(scores, evidence.images))
    lines.append(_lowest(f"On the locked test, for {one.name}", dice_by_image(one), evidence.images))
    return [*told, Paragraph(" ".join(line for line in lines if line))]


def _score_of_study(evidence: StudyEvidence, at_epoch: float) -> str:
    """Why the score that the study chose by is another one than the mean at the epoch that is kept; "" if it is not."""
    choice = evidence.choice
    if choice is None or evidence.status.metric != f"val/{PRIMARY}" or abs(choice.value - at_epoch) < 0.0005:
        return ""
    return (
        f"The score that it was chosen by, {choice.value:.3f}, is taken over several epochs, not from this one: see "
        "the curves of the training."
    )


def _parts_of(evidence: StudyEvidence) -> Mapping[str, int]:
    return next((record.parts for record in evidence.finished_records if record.parts), {})


def _learned(evidence: StudyEvidence, finals: Sequence[FinalEvidence]) -> int:
    """Images that a final training learned from; 0 where it was not recorded."""
    records = (record for final in finals for record in final.records if record.parts)
    return next((record.parts.get("train", 0) for record in records), 0)


def dice_by_image(one: Tested) -> dict[str, float]:
    """Dice of each image of the locked test by sha256, mean over seeds."""
    table = seed_table(one.frame, PRIMARY, one.final_id)
    return dict(zip(table.images, map(float, table.values.mean(axis=1)), strict=True))


def _lowest(where: str, scores: Mapping[str, float], images: KnownImages) -> str:
    """Which image has the lowest score, and what the others have without it."""
    worst = min(scores, key=lambda sha: (scores[sha], sha))
    others = [value for sha, value in scores.items() if sha != worst]
    text = f"{where}, the lowest is `{images.name(worst)}` with {label(PRIMARY)} {scores[worst]:.3f}"
    if not others:
        return f"{text}, the only one."
    return (
        f"{text}; half of them have {median_high(scores.values()):.3f} or more, and the mean is "
        f"{mean(scores.values()):.3f} ({mean(others):.3f} without the lowest)."
    )


def _apart(scores: Mapping[str, float], images: KnownImages) -> tuple[list[float], list[float]] | None:
    """Scores of images with dark particles and of those with bright ones; None where that makes no difference."""
    dark = [value for sha, value in scores.items() if images.dark.get(sha) is True]
    bright = [value for sha, value in scores.items() if images.dark.get(sha) is False]
    if not dark or not bright or abs(mean(dark) - mean(bright)) < APART:
        return None
    return dark, bright


def weak_kind(evidence: StudyEvidence) -> str:
    """Which kind of image the chosen trial does badly on; "" if none stands out."""
    kinds = _apart(validation_dice(evidence), evidence.images)
    if kinds is None:
        return ""
    words = ("darker", "brighter") if mean(kinds[0]) < mean(kinds[1]) else ("brighter", "darker")
    low, high = sorted(kinds, key=mean)
    return (
        f"It does worse where particles are {words[0]} than the ground around them: {label(PRIMARY)} {mean(low):.3f} "
        f"({counted(len(low), 'validation image')}), beside {mean(high):.3f} where they are {words[1]} ({len(high)})."
    )


def _kinds(scores: Mapping[str, float], images: KnownImages) -> str:
    """How images with dark particles differ from those with bright ones; "" where there is one kind, or no matter."""
    kinds = _apart(scores, images)
    if kinds is None:
        return ""
    dark, bright = kinds
    return (
        "The kind of image makes the difference: where particles are darker than the ground around them "
        f"({counted(len(dark), 'validation image')}) the mean is {mean(dark):.3f}, where they are brighter "
        f"({len(bright)}) it is {mean(bright):.3f}. How many images of the locked test are of which kind is not known "
        "here: nobody looks at them."
    )


def image_by_image(tested: Sequence[Tested], images: KnownImages) -> list[Part]:
    """A table of the Dice of each image of the locked test, and what a difference worth having would need."""
    if not tested:
        return []
    found = compared_finals(tested)
    shown = [each for each in found.tested if each is found.reference or each.final_id in found.differences]
    columns = [dice_by_image(each) for each in shown]
    shas = sorted(columns[0], key=lambda sha: (columns[0][sha], images.name(sha)))
    seeds = max(each.scores[PRIMARY].seeds for each in shown)
    over = f", mean over {seeds} seeds" if seeds > 1 else ""
    caption, after = f"{label(PRIMARY)} image by image{over}", "Recorded when the test was read."
    named = dict(zip(map(upper_first, names_apart(shown)), columns, strict=True))
    grid = _image_grid("image of the locked test", shas, named, images, caption, after)
    counts = [Paragraph(text) for text in [_particles(shown)] if text]
    return [grid, *counts, *_needed(found)]


def _particles(tested: Sequence[Tested]) -> str:
    """How many particles each found where how many are marked; "" where that was not recorded."""
    told = []
    for each in tested:
        sums = {name: each.frame.loc[each.frame["score"] == name, "value"].sum() for name in (MARKED, FOUND)}
        seeds = each.scores[PRIMARY].seeds
        if sums[MARKED] > 0:
            told.append(f"{each.name} found {sums[FOUND] / seeds:.0f} where {sums[MARKED] / seeds:.0f} are marked")
    over = ", mean over seeds" if any(each.scores[PRIMARY].seeds > 1 for each in tested) else ""
    if not told:
        return ""
    return (
        f"Particles on the locked test{over}: {'; '.join(told)}. These are counts: one that was invented makes up for "
        "one that was missed."
    )


def _needed(found: ComparedFinals) -> list[Part]:
    """What a difference this test can find, and what a smaller one would need."""
    pair = [each for each in found.tested if each.final_id in found.differences][:1]
    if not pair:
        return []
    tables = [seed_table(each.frame, PRIMARY, each.final_id) for each in (found.reference, *pair)]
    common = [seed for seed in tables[0].seeds if seed in tables[1].seeds]
    if len(common) < 2:
        text = "One seed tells nothing of the spread from one training to the next, so nobody can say which "
        return [Paragraph(f"{text}difference this test could find: train at least one more seed of each.", "note")]
    values = np.stack([table.values[:, [table.seeds.index(seed) for seed in common]] for table in tables])
    together = by_group(tables[0].groups, len(tables[0].images))
    if together.num_groups < 2:
        return []
    spread = components(values, together=together)
    plan = design(spread, num_arms=2, comparisons=max(found.comparisons, 1), level=found.level)
    least = minimum_detectable(spread, plan, POWER)
    what = "micrographs" if together.num_groups < together.num_images else "images"
    here = f"{plan.num_images} {what} and {plan.num_seeds} seeds"
    if least == 0:
        return []
    more = minimum_detectable(spread, replace(plan, num_seeds=plan.num_seeds + 1), POWER)
    find = f"a true difference of {{:.3f}} {label(PRIMARY)} is found in {share(POWER)} of such tests"
    text = f"**What such a test can find.** With {here}, {find.format(least)}, and a smaller one less often. "
    text += f"With one more seed of each, one of {more:.3f}. "
    if plan.num_seeds < FEW_SEEDS:
        # Of two seeds the spread is known so badly that the allowance for it would be most of the number.
        more_seeds = f"{counted(plan.num_seeds + 1, 'seed')} of each"
        text = f"**What such a test can find.** Two seeds are too few to tell. With {more_seeds}, {find.format(more)}. "
    if least <= WORTH_HAVING:
        text += f"That is enough for a difference of {WORTH_HAVING:g}. "
    else:
        seeds = seeds_needed(WORTH_HAVING, spread, plan, POWER).seeds
        images = images_needed(WORTH_HAVING, spread, plan, POWER)
        ways = [f"{seeds} seeds of each on as many {what}"] if seeds else []
        ways += [f"{images} {what} with {plan.num_seeds} seeds"] if images else []
        need = " or ".join(ways) or f"both more {what} and more seeds"
        text += f"A difference of {WORTH_HAVING:g} would need {need}. "
    text += f"Estimated from the scores of {found.reference.name} and {pair[0].name}"
    text += ", of too few seeds to be exact: it can be off by a factor of two." if plan.num_seeds < 5 else "."
    return [Paragraph(text)]
