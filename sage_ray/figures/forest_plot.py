"""The forest plot: differences of arms to their reference with intervals, or what the trials of a search scored."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sage_ray.analysis.ablation import HEADLINE, Result, compare_on_score
from sage_ray.analysis.arms import ArmRuns, arm_runs, image_scores
from sage_ray.analysis.figure_style import BLUE, ORANGE, SMALL, paper_axes, paper_figure, tell
from sage_ray.analysis.scored_part import choose_part
from sage_ray.analysis.tables import interval, percent
from sage_ray.errors import UserError
from sage_ray.figures.figure_words import wrapped
from sage_ray.figures.study_figure import StudyFigure, finished
from sage_ray.figures.study_records import StudyRecords
from sage_ray.metrics.definitions import is_lower_better, label
from sage_ray.search.best import BestChoice
from sage_ray.search.study_status import TrialStatus

OPTIONS = argparse.Namespace(level=0.95, images="new", margin=0.0, claim="better")
MOST_TRIALS = 30
"""Trials that a forest of a search has a line for; the best ones and the base."""
FOUND, OPEN = "black", "white"
_ROW_MM, _LONG_ROW_MM = 4.6, 3.4
_LINE_MM = 3.2


def forest(records: StudyRecords, columns: int) -> StudyFigure:
    """Arms against their reference, or the trials of a search by their score.

    Raises:
        UserError: neither can be drawn.
    """
    if records.kind == "ablation":
        return _arms(records, columns)
    return _trials(records, columns)


def _arms(records: StudyRecords, columns: int) -> StudyFigure:
    runs = arm_runs(records.tidy, records.facts)
    part, part_note = choose_part(records.tidy, runs, None)
    results = _results(records, runs, part)
    if not results:
        raise records.without("no score is stored of all its arms")
    if columns == 1:
        results = dict([next(iter(results.items()))])
    arms = [arm for arm in runs.arms if arm != runs.reference]
    if not arms:
        raise records.without("only one arm has finished runs")
    called = runs.facts.called
    names = {arm: wrapped(called(arm), 20 if columns == 1 else 28, 2) for arm in arms}
    lines = sum(1 + 0.55 * text.count("\n") for text in names.values())
    wide = 34 if len(results) < 3 else 26
    below = {score: wrapped(f"{label(score)} minus that of {called(runs.reference)}", wide) for score in results}
    deep = max(text.count("\n") for text in below.values())
    figure = paper_figure(columns, 29 + _LINE_MM * deep + _ROW_MM * max(lines, 2))
    panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    places = {arm: len(arms) - 1 - place for place, arm in enumerate(arms)}
    for axes, (score, result) in zip(panels, results.items(), strict=True):
        _draw_panel(axes, result, score, places, called, numbers=len(results) == 1)
        axes.set_xlabel(below[score])
    panels[0].set_yticks(list(places.values()), [names[arm] for arm in places])
    figure.legend(handles=difference_key(), loc="outside upper right", ncols=2, frameon=False, handletextpad=0.2)
    seeds = len(runs.units)
    drawn = [row for result in results.values() for arm in arms if (row := result.row(arm)) is not None]
    caption = [
        f"Differences to {called(runs.reference)} with {percent(OPTIONS.level)} intervals, paired by image and seed; "
        "an arm lies right of the line where its score is higher."
        if any(math.isfinite(row.low) for row in drawn)
        else "One seed: there is no interval, and nothing is known of the spread from one training to the next.",
        "Filled: the difference is not zero (Holm-corrected over the arms, 5 %).",
        part_note,
        "Two seeds: read it as a hint." if seeds == 2 else "",
        f"Partial: {'; '.join(runs.partial[:2])}." if runs.partial else "",
    ]
    first = next(iter(results.values()))
    compared = [row for arm in arms if (row := first.row(arm)) is not None]
    best = max(compared, key=lambda row: row.difference)
    alt = (
        f"Forest plot of {len(arms)} arm{'' if len(arms) == 1 else 's'} against {called(runs.reference)}. "
        f"Highest {label(first.scores.score)}: {called(best.arm)}, "
        f"{interval(best.difference, best.low, best.high, signed=True)}."
    )
    return finished(records, "forest", "Differences of the arms", caption, alt, figure)


def _results(records: StudyRecords, runs: ArmRuns, part: str) -> dict[str, Result]:
    """The headline scores, and first what the study was judged by, as far as all arms have them."""
    own = records.facts.metric.rsplit("/", 1)[-1]
    results = {}
    for score in dict.fromkeys([own, *HEADLINE]):
        try:
            results[score] = compare_on_score(runs, image_scores(records.tidy, runs, part, score), OPTIONS)
        except UserError:  # not stored, or not the same in all arms
            continue
    return dict(list(results.items())[:3])


def _draw_panel(
    axes: Any, result: Result, score: str, places: Mapping[str, int], called: Callable[[str], str], *, numbers: bool
) -> None:
    axes.axvline(0, color="0.35", linewidth=0.8)
    for arm, place in places.items():
        row = result.row(arm)
        if row is None:
            continue
        clear = row.p_holm < 1 - OPTIONS.level
        said = f"{called(row.arm)}, {label(score)}: {interval(row.difference, row.low, row.high, signed=True)}"
        draw_difference(axes, row.difference, row.low, row.high, place, clear=clear, said=said)
        if numbers:
            text = interval(row.difference, row.low, row.high, signed=True)
            axes.text(1.02, place, text, transform=axes.get_yaxis_transform(), fontsize=SMALL - 0.5, va="center")
    better = "lower is better" if is_lower_better(score) else "higher is better"
    axes.set_title(f"{label(score)}\n({better})")
    axes.set_ylim(-0.6, len(places) - 0.4)
    axes.margins(x=0.12)
    low, high = axes.get_xlim()
    if high - low < 1e-6:
        axes.set_xlim(-0.05, 0.05)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.ticklabel_format(axis="x", style="plain")
    paper_axes(axes)
    axes.tick_params(axis="y", length=0)


def draw_difference(
    axes: Any, difference: float, low: float, high: float, place: float, *, clear: bool, said: str
) -> None:
    """Draw a difference with its interval, if it has one, on the line `place`; filled if it is `clear`.

    `said` is what its marks say under the pointer.
    """
    marks = []
    if math.isfinite(low) and math.isfinite(high):
        marks += axes.plot([low, high], [place, place], color="0.25", linewidth=1.2, solid_capstyle="butt")
    fill = FOUND if clear else OPEN
    marks += axes.plot(difference, place, "o", markersize=4.5, markerfacecolor=fill, markeredgecolor="black", zorder=3)
    for mark in marks:
        tell(mark, said)


def difference_key() -> list[Line2D]:
    """What filled and open marks mean, for a legend."""
    look: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 4.5, "markeredgecolor": "black"}
    return [
        Line2D([], [], markerfacecolor=FOUND, label="better or worse", **look),
        Line2D([], [], markerfacecolor=OPEN, label="open", **look),
    ]


def _trials(records: StudyRecords, columns: int) -> StudyFigure:
    complete = [t for t in records.trials if t.state == "COMPLETE" and t.value is not None and math.isfinite(t.value)]
    if not complete:
        raise records.without("no trial is complete")
    choice = records.choice
    order = sorted(complete, key=lambda t: (-records.sign * float(t.value or 0), t.number))
    shown = order[:MOST_TRIALS]
    shown += [t for t in order[MOST_TRIALS:] if not t.params or t.number == 0]
    row_mm = _ROW_MM if len(shown) <= 16 else _LONG_ROW_MM
    figure = paper_figure(columns, 24 + row_mm * max(len(shown), 2))
    axes = figure.subplots()
    places = {trial.number: len(shown) - 1 - k for k, trial in enumerate(shown)}
    errors = _errors(choice)
    for trial in shown:
        _draw_trial(axes, trial, places[trial.number], errors.get(trial.number, (0.0, True)))
    if choice is not None:
        top = next(float(t.value or 0) for t in complete if t.number == choice.top_trial)
        axes.axvline(top, color=BLUE, linewidth=0.9, linestyle="--", label="best score")
        if choice.trial in places:
            axes.plot(choice.value, places[choice.trial], "*", color=ORANGE, markersize=9, markeredgecolor="black",
                      markeredgewidth=0.5, zorder=4, linestyle="", gid=f"trial-{choice.trial}-chosen",
                      label=f"chosen: trial {choice.trial}")  # fmt: skip
        figure.legend(loc="outside upper right", ncols=2, frameon=False, handlelength=1.4)
    axes.set_yticks(list(places.values()), [_trial_name(records, t) for t in shown])
    if len(shown) > 16:
        axes.tick_params(axis="y", labelsize=5.5)
    axes.set_ylim(-0.7, len(shown) - 0.3)
    axes.margins(x=0.08)
    axes.set_xlabel(records.score)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    paper_axes(axes)
    axes.tick_params(axis="y", length=0)
    left_out = len(order) - len(shown)
    caption = [
        "Complete trials by their score.",
        "Bars: one standard error of the difference to the best score; filled: within it; hollow: further behind."
        if choice
        else "",
        f"{left_out} lower trials are not drawn." if left_out else "",
    ]
    alt = f"Scores of {len(shown)} complete trials; highest {order[0].value:.3f} of trial {order[0].number}."
    return finished(records, "forest", "Scores of the trials", caption, alt, figure)


def _errors(choice: BestChoice | None) -> dict[int, tuple[float, bool]]:
    """Standard error of each trial's distance to the top, and whether it is within that."""
    if choice is None:
        return {}
    found = {standing.trial: (standing.standard_error, standing.within) for standing in choice.runner_ups}
    return found | {choice.trial: (choice.standard_error, True)}


def _draw_trial(axes: Any, trial: TrialStatus, place: float, judged: tuple[float, bool]) -> None:
    value, (error, within) = float(trial.value or 0), judged
    if error > 0:
        axes.plot([value - error, value + error], [place] * 2, color="0.45", linewidth=1, solid_capstyle="butt",
                  gid=f"trial-{trial.number}-error")  # fmt: skip
    fill = FOUND if within else OPEN
    axes.plot(value, place, "o", markersize=3.4, markerfacecolor=fill, markeredgecolor="black", markeredgewidth=0.7,
              gid=f"trial-{trial.number}")  # fmt: skip


def _trial_name(records: StudyRecords, trial: TrialStatus) -> str:
    return f"trial {trial.number} (base)" if records.is_base(trial) else f"trial {trial.number}"
