"""What ablation tables share: arms against their reference, one table per score, a forest plot of the differences."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pandas as pd
from matplotlib.ticker import MaxNLocator

from sage_ray.analysis.arm_differences import ArmComparison, Row, compare_arms
from sage_ray.analysis.arm_means import ArmMean, arm_means
from sage_ray.analysis.arms import ArmRuns, Scores, arm_runs, image_scores
from sage_ray.analysis.figure_style import new_figure, save_script_figure, tidy_axes
from sage_ray.analysis.labelled_subsets import subsets_of
from sage_ray.analysis.scored_part import choose_part
from sage_ray.analysis.study_facts import StudyFacts
from sage_ray.analysis.tables import NONE, Provenance, TextTable, interval, number, p_value, percent
from sage_ray.analysis.tidy import Tidy
from sage_ray.metrics.definitions import POOLED, SCORES_TO_ONE, label
from sage_ray.statistics.claims import Claim
from sage_ray.statistics.crossed import Images

HEADLINE = ("dice", "f1_object_50", POOLED)
_FILLS = {"supported": "#000000", "undecided": "#ffffff", "refuted": "#9a9a9a"}


@dataclass(frozen=True)
class Result:
    """One score of all arms.

    Attributes:
        scores: that were compared.
        means: of each arm, the reference first.
        comparison: with the reference; None if only the reference has finished runs.
    """

    scores: Scores
    means: tuple[ArmMean, ...]
    comparison: ArmComparison | None

    def row(self, arm: str) -> Row | None:
        """The arm's comparison; None for the reference."""
        rows = self.comparison.rows if self.comparison else ()
        return next((row for row in rows if row.arm == arm), None)

    def mean(self, arm: str) -> ArmMean:
        """The arm's mean score."""
        return next(mean for mean in self.means if mean.arm == arm)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a comparison with a reference arm."""
    parser.add_argument("--reference", help="arm that the others are compared with [default: the design's]")
    parser.add_argument("--without", action="append", default=[], help="leave this arm out; may be repeated")
    parser.add_argument("--claim", choices=get_args(Claim), default="worse", help="about each arm [default: worse]")
    parser.add_argument("--margin", type=float, default=0.0, help="of the claim, in score units [default: 0]")
    parser.add_argument(
        "--images", choices=("new", "these"), default="new", help="what intervals speak of [default: new images]"
    )


@dataclass(frozen=True)
class Judged:
    """A study's arms, compared on one part of the data."""

    runs: ArmRuns
    part: str
    part_note: str
    results: Mapping[str, Result]
    options: argparse.Namespace


def judge_study(
    tidy: Tidy,
    facts: StudyFacts,
    options: argparse.Namespace,
    scores: Sequence[str],
    *,
    reference: str | None = None,
    away: Mapping[str, str] | None = None,
) -> Judged:
    """Compare the arms of a study on every score.

    Args:
        tidy: the table.
        facts: of the study.
        options: of the command line.
        scores: that arms are compared on.
        reference: instead of that of the options and the design.
        away: arms that are left out, and why; None: those without a segmenter, unless generated images are compared.

    Raises:
        UserError: what `arm_runs`, `choose_part` and `image_scores` refuse.
    """
    if away is None and options.part == "generated":
        away = {}
    runs = arm_runs(tidy, facts, reference or options.reference, options.without, away)
    part, note = choose_part(tidy, runs, options.part)
    results = {score: compare_on_score(runs, image_scores(tidy, runs, part, score), options) for score in scores}
    return Judged(runs, part, note, results, options)


def compare_on_score(runs: ArmRuns, scores: Scores, options: argparse.Namespace) -> Result:
    """Means of all arms and their paired differences to the reference."""
    bounds = (0.0, 1.0) if scores.score in SCORES_TO_ONE else None
    unit = "group" if "group" in scores.frame else "image"
    alone = scores.per_image and scores.frame[unit].nunique() < 2
    # Seeds can be told apart on one image too; only of further images nothing can be said.
    images: Images = "these" if alone else options.images
    means = arm_means(scores.frame, options.level, images=images, bounds=bounds)
    if len(runs.arms) < 2:
        return Result(scores, tuple(means), None)
    comparison = compare_arms(
        scores.frame,
        runs.reference,
        higher_is_better=not scores.lower_is_better,
        margin=options.margin,
        level=options.level,
        images=images,
        claim=options.claim,
        names=runs.facts.labels,
    )
    if alone and options.images == "new":
        what = "one image" if unit == "image" else "crops of one micrograph"
        note = f"{what} only: nothing can be said of new images, and intervals are over seeds alone"
        comparison = replace(comparison, notes=(*comparison.notes, note))
    return Result(scores, tuple(means), comparison)


def difference_table(
    judged: Judged, score: str, title: str, extra: Mapping[str, Mapping[str, str]] | None = None
) -> TextTable:
    """One score of all arms: mean, difference to the reference, relative difference, p-value, verdict.

    Args:
        judged: the study.
        score: one of its results.
        title: of the table.
        extra: further columns by head: texts by arm, set between the arm's name and its mean.
    """
    runs, result = judged.runs, judged.results[score]
    between = dict(extra or {})
    head = [
        "arm",
        *between,
        "seeds",
        f"{judged.part} [{percent(judged.options.level)}]",
        f"minus {runs.facts.called(runs.reference)}",
        "relative %",
        "p (Holm)",
    ]
    rows = []
    for arm in listed_arms(runs):
        given, name = [texts.get(arm, NONE) for texts in between.values()], runs.facts.called(arm)
        if arm not in runs.arms:
            rows.append([name, *given, NONE, "not run" if arm in runs.not_run else "no run", *[NONE] * 4])
            continue
        mean, row = result.mean(arm), result.row(arm)
        cells = [str(mean.num_seeds), interval(mean.mean, mean.low, mean.high)]
        if row is None:
            cells += ["reference" if arm == runs.reference else NONE, *[NONE] * 3]
        else:
            difference = interval(row.difference, row.low, row.high, signed=True)
            cells += [difference, number(row.effect_relative, signed=True, digits=1), p_value(row.p_holm), row.verdict]
        rows.append([name if row is not None else f"{name} (reference)", *given, *cells])
    return TextTable(
        title=f"{title}: {label(score)}",
        columns=[*head, "verdict"],
        rows=rows,
        notes=notes(judged, result),
        partial=runs.partial,
    )


def listed_arms(runs: ArmRuns) -> list[str]:
    """All arms of the design and of the runs, the reference first."""
    return list(dict.fromkeys([runs.reference, *runs.facts.arms, *runs.arms]))


def notes(judged: Judged, result: Result) -> list[str]:
    """What must be known to read a table of differences."""
    runs, comparison, called = judged.runs, result.comparison, judged.runs.facts.called
    lines = [f"Score: {result.scores.definition}.", judged.part_note]
    if comparison is None:
        return [*lines, f"Only {called(runs.reference)} has finished runs: there is nothing to compare it with."]
    lines += [f"Reference: {called(runs.reference)}. {comparison.rule}", f"Intervals speak of {comparison.speaks_of}."]
    lines += [f"{note[:1].upper()}{note[1:]}." for note in comparison.notes]
    if subsets_of(runs.runs):
        lines.append(
            f"What is called a seed here is one of {subsets_of(runs.runs)} of labelled images, a mean over its runs. "
            "Arms with all labels are the same on each of them: analysis/label_scarcity.py has their seeds apart."
        )
    if math.isfinite(comparison.detectable):
        images = f" and {comparison.images}" if comparison.images else ""
        repeats = subsets_of(runs.runs) or f"{len(runs.units)} seeds"
        lines.append(
            f"Smallest true difference that {repeats}{images} find with probability "
            f"{100 * comparison.power:g} %: {comparison.detectable:.3f}."
        )
    lines += [f"{called(row.arm)}: {row.verdict}; {row.why}." for row in comparison.rows]
    lines += [f"{called(arm)} was not run: {why}." for arm, why in runs.not_run.items()]
    return [*lines, *runs.facts.notes]


def numbers(judged: Judged) -> pd.DataFrame:
    """All results as one frame for the CSV: one row per arm and score."""
    frames = []
    for score, result in judged.results.items():
        means = pd.DataFrame([vars(mean) for mean in result.means]).assign(score=score, part=judged.part)
        means = means.rename(columns={"low": "mean_low", "high": "mean_high"})
        if result.comparison is not None and result.comparison.rows:
            table = result.comparison.to_frame().drop(
                columns=["mean", "level", "num_images", "num_groups", "num_seeds", "speaks_of"]
            )
            means = means.merge(table, on="arm", how="left")
        frames.append(means.assign(definition=result.scores.definition))
    whole = pd.concat(frames, ignore_index=True)
    facts = judged.runs.facts
    if facts.labels:
        whole.insert(list(whole.columns).index("arm") + 1, "label", whole["arm"].map(facts.called))
    return whole[["score", "part", *whole.columns.difference(["score", "part"], sort=False)]]


def forest(judged: Judged, path: Path, source: Provenance, title: str) -> Path:
    """Draw the differences of all arms to the reference with their intervals, one panel per score."""
    runs, results = judged.runs, judged.results
    arms = [arm for arm in runs.arms if arm != runs.reference]
    figure = new_figure(2.4 + 2.9 * len(results), 2.3 + 0.34 * max(len(arms), 2))
    panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    places = {arm: len(arms) - 1 - place for place, arm in enumerate(arms)}
    for axes, (score, result) in zip(panels, results.items(), strict=True):
        axes.axvline(0, color="0.35", linewidth=1)
        for arm in arms:
            row = result.row(arm)
            if row is not None:
                _draw_difference(axes, row, places[arm])
        axes.set_title(label(score), fontsize=10)
        axes.set_xlabel(f"difference to {runs.facts.called(runs.reference)}", fontsize=9)
        axes.set_ylim(-0.7, len(arms) - 0.3)
        axes.margins(x=0.12)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        tidy_axes(axes)
    panels[0].set_yticks(list(places.values()), list(map(runs.facts.called, places)))
    figure.suptitle(title, fontsize=11)
    _key(figure)
    intervals = f"{percent(judged.options.level)} intervals, not widened for the number of arms"
    note = f"{intervals}; verdicts are Holm-corrected. {judged.part_note}"
    return save_script_figure(figure, path, source, [note], runs.partial)


def _draw_difference(axes: Any, row: Row, place: float) -> None:
    if math.isfinite(row.low) and math.isfinite(row.high):
        axes.plot([row.low, row.high], [place, place], color="0.25", linewidth=1.6, solid_capstyle="butt")
    axes.plot(
        row.difference, place, marker="o", markersize=7, markerfacecolor=_FILLS[row.verdict], markeredgecolor="black"
    )


def _key(figure: Any) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [], [], linestyle="", marker="o", markersize=7, markerfacecolor=fill, markeredgecolor="black", label=word
        )
        for word, fill in _FILLS.items()
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=3, fontsize=8, frameon=False)
