"""Final trainings on the locked test beside one another: scores, and differences to the untuned base or the oldest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from sage_ray.errors import UserError
from sage_ray.evaluation.locked_test import stored_test_rows
from sage_ray.evaluation.score_tables import PRIMARY, ScoreLine, seed_table, summary, why_no_interval
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.registry.final_plan import FinalPlan, is_base, read_plan
from sage_ray.statistics import Interval, paired_interval, verdicts
from sage_ray.statistics.claims import UNDECIDED, WORDS, Word


@dataclass(frozen=True)
class Tested:
    """A final training that was scored on the locked test: its rows, what it is called and how it was asked for."""

    name: str
    final_id: str
    frame: pd.DataFrame
    scores: Mapping[str, ScoreLine]
    is_base: bool = False
    fingerprint: str | None = None
    choice: str = ""
    by_seed: tuple[float, ...] = ()
    """Mean Dice of each seed."""


def names_apart(tested: Sequence[Tested]) -> list[str]:
    """What final trainings are called, each with its id where another one of the same trial is called the same."""
    count = Counter(each.name for each in tested)
    return [each.name if count[each.name] == 1 else f"{each.name} (`{each.final_id}`)" for each in tested]


@dataclass(frozen=True)
class FinalDifference:
    """The Dice of a final training minus that of the reference, over the seeds that both have.

    Attributes:
        difference: mean over images and seeds.
        interval: paired by image and seed; None where there is none, and `why_no_interval` says why.
        images, micrographs, seeds: that it is over.
        means: of the final training and of the reference.
        word: the verdict, corrected for all comparisons of the study; the claim is that it is better.
    """

    difference: float
    interval: Interval | None
    why_no_interval: str
    images: int
    micrographs: int
    seeds: int
    means: tuple[float, float]
    word: Word = WORDS[UNDECIDED]


@dataclass(frozen=True)
class ComparedFinals:
    """Tested final trainings with what each differs from the reference by.

    Attributes:
        tested: the reference first, the others in the order in which they were declared.
        reference: the untuned base, or the oldest.
        differences: by id; the reference and what cannot be compared with it are not among them.
        refused: why, by id, some cannot be compared.
        comparisons: how many intervals the verdicts are corrected for.
        level: of the intervals.
    """

    tested: tuple[Tested, ...]
    reference: Tested
    differences: Mapping[str, FinalDifference]
    refused: Mapping[str, str]
    comparisons: int
    level: float


def called(plan: FinalPlan, home: Home) -> str:
    """What sentences call a final training: "the untuned base", "trial 3 (the choice of the search)"."""
    chosen = " (the choice of the search)" if plan.choice == "best" else ""
    if is_base(home, plan.study, plan.trial, plan.choice):
        return f"the untuned base{chosen}"
    if plan.trial is None:
        return f"`{plan.final_id}`"
    return f"trial {plan.trial}{chosen}"


def plans_of(study: str, home: Home) -> list[FinalPlan]:
    """The final trainings of a study in the order in which they were declared.

    Raises:
        UserError: a damaged file.
    """
    plans = [plan for final_id in home.final_ids() if (plan := read_plan(home, final_id)).study == study]
    return sorted(plans, key=lambda plan: (plan.created, plan.final_id))


def tested_finals(plans: Sequence[FinalPlan], home: Home) -> list[Tested]:
    """The final trainings with rows on the locked test; one that lacks a seed is left out.

    Raises:
        UserError: a damaged record.
    """
    there = set(home.run_ids())
    found = []
    for plan in plans:
        records = [RunFolder(home.runs / run_id).read() for run_id in plan.run_ids if run_id in there]
        if len(records) < len(plan.seeds) or not all(record.finished for record in records):
            continue
        frames = [stored_test_rows(RunFolder(home.runs / record.run_id)) for record in records]
        if any(frame.empty for frame in frames):
            continue
        frame = pd.concat(frames, ignore_index=True)
        prints = min(str(record.data_fingerprint) for record in records)
        scores = summary(frame, plan.final_id)
        by_seed = tuple(map(float, seed_table(frame, PRIMARY, plan.final_id).values.mean(axis=0)))
        base = is_base(home, plan.study, plan.trial, plan.choice)
        found.append(Tested(called(plan, home), plan.final_id, frame, scores, base, prints, plan.choice, by_seed))
    return found


def compared_finals(tested: Sequence[Tested]) -> ComparedFinals:
    """Each tested final training against the untuned base, else the oldest; of at least one."""
    reference = next((each for each in tested if each.is_base), tested[0])
    found: dict[str, FinalDifference] = {}
    refused: dict[str, str] = {}
    for each in tested:
        if each is reference:
            continue
        try:
            found[each.final_id] = _difference(each, reference)
        except UserError as error:
            refused[each.final_id] = error.what
    intervals = {final_id: each.interval for final_id, each in found.items() if each.interval is not None}
    judged = verdicts(intervals)
    worded = {
        final_id: replace(each, word=judged[final_id].word) if final_id in judged else each
        for final_id, each in found.items()
    }
    level = next((interval.level for interval in intervals.values()), 0.95)
    ordered = (reference, *(each for each in tested if each is not reference))
    return ComparedFinals(ordered, reference, worded, refused, len(intervals), level)


def _difference(each: Tested, reference: Tested) -> FinalDifference:
    mine, theirs = (seed_table(one.frame, PRIMARY, one.final_id) for one in (each, reference))
    if mine.images != theirs.images:
        raise UserError("they were tested on different images", each.final_id, "")
    if mine.definition != theirs.definition:
        raise UserError("their Dice has two definitions", each.final_id, "")
    common = [seed for seed in mine.seeds if seed in theirs.seeds]
    if not common:
        raise UserError("they share no seed", each.final_id, "")
    tables = [one.values[:, [one.seeds.index(seed) for seed in common]] for one in (mine, theirs)]
    why = why_no_interval(mine.groups)
    return FinalDifference(
        difference=float((tables[0] - tables[1]).mean()),
        interval=None if why is not None else paired_interval(tables[0], tables[1], groups=mine.groups),
        why_no_interval=why or "",
        images=len(mine.images),
        micrographs=len(set(mine.groups)),
        seeds=len(common),
        means=(float(tables[0].mean()), float(tables[1].mean())),
    )
