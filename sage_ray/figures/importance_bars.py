"""Which settings of a search decide its score, as bars with intervals."""

from __future__ import annotations

import numpy as np

from sage_ray.analysis.figure_style import paper_axes, paper_figure
from sage_ray.analysis.setting_importance import LEVEL, Importance, importance, stored_trials
from sage_ray.analysis.tables import percent
from sage_ray.figures.figure_words import short_names, wrapped
from sage_ray.figures.study_figure import StudyFigure, finished
from sage_ray.figures.study_records import StudyRecords

RESAMPLES = 40
"""Sets of trials for the intervals: enough for a picture; the table of analysis/importance.py has more."""
FEW, FEW_PER_SETTING = 30, 10
"""Trials, and trials per setting, below which the caption warns."""


def setting_importance(records: StudyRecords, columns: int) -> StudyFigure:
    """Shares of importance of all settings that vary.

    Raises:
        UserError: it is no search, too few trials are complete, or no setting varies.
    """
    if not records.trials:
        raise records.without("no trial has begun")
    trials, maximize = stored_trials(records.home, records.name)
    found = importance(
        trials, maximize=maximize, method="ped_anova", resamples=RESAMPLES, where=f"study {records.name}"
    )
    table = found.table.iloc[::-1]
    figure = paper_figure(columns, 22 + 5.5 * max(len(table), 2))
    axes = figure.subplots()
    places = np.arange(len(table))
    axes.barh(places, table["importance"], color="0.8", edgecolor="black", linewidth=0.6, height=0.62)
    axes.hlines(places, table["low"], table["high"], color="black", linewidth=1.3)
    names = short_names(list(table["setting"]))
    axes.set_yticks(places, [wrapped(names[path], 26) for path in table["setting"]])
    axes.set(xlabel=f"share of importance, with {percent(LEVEL)} interval", xlim=(0, 1))
    paper_axes(axes)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    caption = [warning(found), found.note, "Chance alone gives every setting a share above 0."]
    first = found.table.iloc[0]
    alt = f"Bars of importance of {len(table)} settings; the longest is {first['setting']}, {first['importance']:.2f}."
    return finished(records, "importance", "What decides the score", caption, alt, figure)


def warning(found: Importance) -> str:
    """A sentence where trials are too few to rank settings; "" where they are not."""
    least = max(FEW, FEW_PER_SETTING * len(found.table))
    if found.used >= least:
        return ""
    return f"WARNING: {found.used} trials are few for {len(found.table)} settings (from {least} on the order can be "\
           "trusted more): read it as a hint."  # fmt: skip
