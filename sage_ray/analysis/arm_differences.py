"""Arms of a study against their reference: paired differences with intervals, verdicts, and what the study could find.

It takes tidy frames of one score definition that are complete: every arm has every seed and every image once. The
analysis is `sage_ray.statistics.crossed` (images crossed with seeds, seed variance pooled over the arms), the verdicts
are `sage_ray.statistics.claims`, planning is `sage_ray.statistics.power`. benchmarks/results/verdicts.md holds the
rates that these functions reach in simulated studies.

    comparison = compare_arms(frame, "hybrid", claim="worse")
    print(comparison.to_frame(), comparison.rule, comparison.detectable)

How many seeds a further study needs follows from `comparison.components` (`sage_ray.statistics.power.seeds_needed`).
The "seed" of a frame is whatever is repeated: put fold and seed together only if the folds test the same images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Literal, get_args

import pandas as pd

from sage_ray.analysis.score_array import ScoreArray, check_choice, check_share, score_array
from sage_ray.errors import UserError
from sage_ray.statistics.claims import CLAIMS, WORDS, Claim, rule_of
from sage_ray.statistics.crossed import (
    IMAGES,
    Components,
    Images,
    components,
    in_pool,
    seed_spread,
)
from sage_ray.statistics.judged_arms import JudgedArms, judged_arms
from sage_ray.statistics.power import design, minimum_detectable

Correction = Literal["holm", "none"]
CORRECTIONS: tuple[Correction, ...] = get_args(Correction)
ONE_SEED = "one seed: nothing is known of the spread from one training to the next"


@dataclass(frozen=True)
class Row:
    """One arm against the reference. With one seed all that needs a spread is NaN and the verdict is undecided."""

    arm: str
    reference: str
    mean: float
    """Mean of the arm, over images and seeds."""
    reference_mean: float
    difference: float
    """mean - reference_mean, in the score's own direction."""
    low: float
    high: float
    level: float
    """Level of the interval [low, high], which Holm's correction does not widen."""
    df: float
    p_value: float
    """Two-sided, that the difference lies at the nearest boundary of the claim (0 without a margin)."""
    p_holm: float
    """Adjusted over the rows; the verdict uses it. p_value again without a correction."""
    effect_seed_sd: float
    """difference / sd over seeds of the paired difference of two runs."""
    effect_image_sd: float
    """difference / sd over images of the paired difference, averaged over seeds; NaN for scores once per run."""
    effect_relative: float
    """100 difference / |reference_mean|, in percent; NaN if that mean is 0."""
    num_images: int
    """0 for scores that exist once per run."""
    num_groups: int
    """Micrographs that the images are crops of; `num_images` where each is its own."""
    num_seeds: int
    pooled: bool
    """The seed variance is that of all arms that agree, not of this pair alone."""
    speaks_of: str
    verdict: str
    """supported, refuted or undecided."""
    why: str
    """One sentence: why this verdict."""


@dataclass(frozen=True)
class ArmComparison:
    """All arms of a study against one reference, on one score."""

    reference: str
    rows: tuple[Row, ...]
    """In the order in which the arms first appear."""
    rule: str
    """What the verdicts mean here; belongs below the table."""
    speaks_of: str
    components: Components
    """Variance components of the arms that share one seed variance, if the reference does; else of all arms."""
    detectable: float
    """Smallest distance of the truth from the claim's boundary (a difference, without a margin) that these seeds and
    images find with chance `power`, after the correction; NaN with one seed."""
    power: float
    notes: tuple[str, ...]
    """Further sentences for the foot of the table."""
    images: str
    """Such as "28 images" or "7 micrographs (28 images)"; "" for scores that exist once per run."""

    def to_frame(self) -> pd.DataFrame:
        """One line per row, columns named as the fields of `Row`."""
        return pd.DataFrame([asdict(row) for row in self.rows], columns=[field.name for field in fields(Row)])


@dataclass(frozen=True)
class _Question:
    """What is asked of a study."""

    higher_is_better: bool
    margin: float
    level: float
    images: Images
    correction: Correction
    claim: Claim
    power: float
    pool: bool | None
    names: Mapping[str, str] = field(default_factory=dict)

    def called(self, arm: str) -> str:
        """What sentences call an arm."""
        return self.names.get(arm, arm)


@dataclass(frozen=True)
class _Answer:
    """What was found of all arms but the reference."""

    judged: JudgedArms
    shared: list[int]
    """Arms, of all, that share one seed variance."""


def compare_arms(
    scores: pd.DataFrame,
    reference: str,
    *,
    higher_is_better: bool = True,
    margin: float = 0.0,
    level: float = 0.95,
    images: Images = "new",
    correction: Correction = "holm",
    claim: Claim = "better",
    power: float = 0.8,
    pool: bool | None = None,
    names: Mapping[str, str] = MappingProxyType({}),
) -> ArmComparison:
    """Every arm against the reference, paired by image and seed, or by seed for scores that exist once per run.

    Args:
        scores: columns arm, seed, value and, for scores of images, image; one row per cell. Scores that exist once per
            run (pooled pixel F1, a curve's plateau) have no image column. A column group names the micrograph that an
            image is a crop of: intervals about new images are then over micrographs, means over images all the same.
        reference: the arm that all others are compared with.
        higher_is_better: False for scores where less is good, such as a distance.
        margin: difference that does not matter, in units of the score, at least 0; more for no_worse and equivalent.
        level: of the intervals; 1 - level is the chance of any wrong verdict in the table.
        images: whether the intervals speak of "new" images of the same source or of "these"; without an image column it
            is always these.
        correction: of the verdicts for the number of rows.
        claim: about each arm, see `sage_ray.statistics.claims`; "worse" asks whether the reference is better.
        power: chance for `detectable`.
        pool: seed variance pooled over the arms that agree (None), over all (True), or over none (False).
        names: of arms in sentences, where they have others there.

    Raises:
        UserError: unknown reference or option, one arm, one image or micrograph where new ones are spoken of, or a
            frame that is not complete, naming the arm and what it lacks.
    """
    by_image = "image" in scores.columns
    images_meant: Images = images if by_image else "these"
    question = _Question(higher_is_better, margin, level, images_meant, correction, claim, power, pool, names)
    _check(question)
    table = score_array(scores, by_image)
    if images_meant == "new" and table.together.num_groups < 2:
        what = "one image says" if table.together.plain else "crops of one micrograph say"
        raise UserError(f"{what} nothing of new ones", table.images[0], 'use images="these" or score more images')
    return _compare(table, reference, question)


def _compare(table: ScoreArray, reference: str, question: _Question) -> ArmComparison:
    base = table.index_of(reference)
    if len(table.arms) < 2:
        raise UserError("one arm only", reference, "a comparison needs at least one more")
    found = judged_arms(
        table.values,
        base,
        claim=question.claim,
        margin=question.margin,
        level=question.level,
        higher_is_better=question.higher_is_better,
        images=question.images,
        together=table.together,
        pool=question.pool,
        holm=question.correction == "holm",
    )
    shared, notes = _pool_notes(table, base, question)
    answer = _Answer(found, shared)
    others = [arm for k, arm in enumerate(table.arms) if k != base]
    rows = tuple(_row(table, base, question, answer, k, arm) for k, arm in enumerate(others))
    corrected = len(rows) if question.correction == "holm" else 1
    usable = shared if base in shared else list(range(len(table.arms)))
    together = table.together if question.images == "new" else None
    estimated = components(table.values[usable], once_a_run=not table.images, together=together)
    # Without the reference in the pool every comparison has the degrees of freedom of a pair.
    plan = design(
        estimated,
        num_arms=None if base in shared else 2,
        comparisons=corrected,
        images=question.images,
        level=question.level,
    )
    return ArmComparison(
        reference=reference,
        rows=rows,
        rule=rule_of(question.claim, question.margin, question.level, question.higher_is_better, corrected),
        speaks_of=table.speaks_of(question.images),
        components=estimated,
        detectable=minimum_detectable(estimated, plan, question.power),
        power=question.power,
        notes=notes,
        images=table.together.text() if table.images else "",
    )


def _row(table: ScoreArray, base: int, question: _Question, answer: _Answer, k: int, arm: str) -> Row:
    judged, found = answer.judged, answer.judged.contrasts
    mean, reference_mean = float(table.values[table.index_of(arm)].mean()), float(table.values[base].mean())
    difference, half = float(found.difference[k]), float(found.half_width(question.level)[k])
    return Row(
        arm=arm,
        reference=table.arms[base],
        mean=mean,
        reference_mean=reference_mean,
        difference=difference,
        low=difference - half,
        high=difference + half,
        level=question.level,
        df=float(found.df[k]),
        p_value=float(judged.p_values[k]),
        p_holm=float(judged.p_holm[k]),
        effect_seed_sd=_ratio(difference, float(found.seed_sd[k])),
        effect_image_sd=_ratio(difference, float(found.image_sd[k])),
        effect_relative=100 * _ratio(difference, abs(reference_mean)),
        num_images=len(table.images),
        num_groups=table.num_groups,
        num_seeds=len(table.seeds),
        pooled=bool(found.pooled[k]) and len(table.arms) > 2,
        speaks_of=table.speaks_of(question.images),
        verdict=WORDS[int(judged.words[k])],
        why=_why(question, answer, k) + _alone(table, base, question, answer, arm),
    )


def _why(question: _Question, answer: _Answer, k: int) -> str:
    judged = answer.judged
    single, adjusted, comparisons = float(judged.p_values[k]), float(judged.p_holm[k]), len(judged.words)
    if math.isnan(single):
        return ONE_SEED
    holm = f" (Holm over {comparisons})" if question.correction == "holm" and comparisons > 1 else ""
    word = WORDS[int(judged.words[k])]
    if word != "undecided":
        says = "agrees with" if word == "supported" else "contradicts"
        return f"the whole interval {says} the claim, p {adjusted:.2g}{holm}"
    if single < 1 - question.level:
        return f"the interval alone would decide, but not among {comparisons} comparisons: p {adjusted:.2g}{holm}"
    return f"the interval agrees with the claim only in part, p {adjusted:.2g}{holm}"


def _alone(table: ScoreArray, base: int, question: _Question, answer: _Answer, arm: str) -> str:
    """What is to be added where the seed variance is not that of the pool."""
    odd = [question.called(name) for name in (arm, table.arms[base]) if table.index_of(name) not in answer.shared]
    if not odd or len(table.seeds) < 2:
        return ""
    because = f", as {' and '.join(odd)} varies more over seeds than the others" if question.pool is None else ""
    return f"; seed variance of this pair alone{because}"


def _pool_notes(table: ScoreArray, base: int, question: _Question) -> tuple[list[int], tuple[str, ...]]:
    """Arms that share one seed variance, and sentences about those that do not."""
    everyone = list(range(len(table.arms)))
    if len(table.seeds) < 2:
        return everyone, (f"{ONE_SEED}; point estimates only, no verdict",)
    inside = in_pool(table.values, question.pool)
    shared = [arm for arm in everyone if inside[arm]]
    if question.pool is not None or len(shared) == len(everyone):
        return shared, ()
    ratios = seed_spread(table.values, inside)
    times = ["the others do not vary" if math.isinf(ratio) else f"{ratio:.1f} times" for ratio in ratios]
    odd = [f"{question.called(table.arms[arm])} ({times[arm]})" for arm in everyone if arm not in shared]
    which = "no comparison pools" if base not in shared else "their comparisons do not pool"
    return shared, (f"out of line in the spread over seeds: {', '.join(odd)}; {which} the seed variance of the arms",)


def _ratio(difference: float, by: float) -> float:
    return difference / by if by > 0 else math.nan


def _check(question: _Question) -> None:
    check_choice("images", question.images, IMAGES)
    check_choice("claim", question.claim, CLAIMS)
    check_choice("correction", question.correction, CORRECTIONS)
    check_share("level", question.level)
    check_share("power", question.power)
    if not (math.isfinite(question.margin) and question.margin >= 0):
        raise UserError("margin is negative or not finite", question.margin, "give a size in units of the score")
    if question.claim in ("no_worse", "equivalent") and question.margin == 0:
        raise UserError("claim needs a margin", question.claim, "give the difference that does not matter, above 0")
