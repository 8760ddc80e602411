"""How a search went: the score of each trial in turn, the best one so far, and which trials ended early."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from sage_ray.analysis.figure_style import BLUE, ORANGE, paper_axes, paper_figure
from sage_ray.figures.figure_words import counted_trials
from sage_ray.figures.study_figure import StudyFigure, finished
from sage_ray.figures.study_records import StudyRecords
from sage_ray.search.study_status import TrialStatus


def by_state(trials: Sequence[TrialStatus]) -> tuple[list[TrialStatus], list[TrialStatus], list[TrialStatus]]:
    """Trials that are complete with a score, those that were stopped with a score, and all others that ended."""
    known = [t for t in trials if t.value is not None and math.isfinite(t.value)]
    complete = [t for t in known if t.state == "COMPLETE"]
    pruned = [t for t in known if t.state == "PRUNED"]
    numbers = {t.number for t in (*complete, *pruned)}
    lost = [t for t in trials if t.number not in numbers and t.state in ("COMPLETE", "PRUNED", "FAIL")]
    return complete, pruned, lost


def history(records: StudyRecords, columns: int) -> StudyFigure:
    """Score of each trial by its number, with the best complete one so far.

    Raises:
        UserError: it is no search, or no trial has ended.
    """
    complete, pruned, lost = by_state(records.trials)
    if not complete and not pruned:
        raise records.without("no trial has a score")
    figure = paper_figure(columns, 58)
    axes = figure.subplots()
    # A mark per trial, by whose name (gid) a page tells which trial it is.
    for place, t in enumerate(pruned):
        axes.plot(t.number, float(t.value or 0), "x", color="0.45", markersize=4, gid=f"trial-{t.number}",
                  label=None if place else f"stopped early ({len(pruned)})")  # fmt: skip
    for place, t in enumerate(complete):
        axes.plot(t.number, float(t.value or 0), "o", color=BLUE, markersize=4, gid=f"trial-{t.number}",
                  markeredgecolor="black", markeredgewidth=0.4,
                  label=None if place else f"complete ({len(complete)})")  # fmt: skip
    last = max(t.number for t in records.trials)
    if complete:
        best = np.maximum.accumulate([records.sign * float(t.value or 0) for t in complete]) * records.sign
        axes.step([*(t.number for t in complete), last], [*best, best[-1]], where="post", color="black",
                  linewidth=1, linestyle="-", label="best so far", zorder=1.5)  # fmt: skip
    choice = records.choice
    if choice is not None:
        axes.plot(choice.trial, choice.value, "*", color=ORANGE, markersize=10, markeredgecolor="black",
                  markeredgewidth=0.5, linestyle="", gid=f"trial-{choice.trial}-chosen",
                  label=f"chosen: trial {choice.trial}", zorder=4)  # fmt: skip
    if lost:
        axes.plot([t.number for t in lost], np.full(len(lost), 0.02), "|", color="black", markersize=7,
                  markeredgewidth=1.4, transform=axes.get_xaxis_transform(),
                  label=f"failed or without score ({len(lost)})")  # fmt: skip
    axes.set(xlabel="trial", ylabel=records.score, xlim=(-0.6, last + 0.6))
    axes.margins(y=0.1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    paper_axes(axes)
    figure.legend(loc="outside upper right", ncols=2 if columns == 1 else 5, frameon=False, handlelength=1.4)
    above = [t for t in pruned if choice is not None and records.sign * (float(t.value or 0) - choice.value) > 0]
    caption = [
        "Trials in the order in which they began; crosses lie at the score at which a trial was stopped.",
        f"{counted_trials(len(above), 'stopped')} stood higher than the chosen one's final score: a score on the way "
        "is no final score, so the rule looks at complete trials alone."
        if above
        else "",
    ]
    best_text = f"best {best[-1]:.3f}" if complete else "none complete"
    alt = f"Scores of {len(complete) + len(pruned)} trials in turn: {len(complete)} complete, {len(pruned)} stopped "
    return finished(records, "history", "How the search went", caption, f"{alt}early; {best_text}.", figure)
