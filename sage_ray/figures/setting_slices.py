"""What was searched, setting by setting: slices of the score over each setting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullFormatter

from sage_ray.analysis.figure_style import BLUE, ORANGE, paper_axes, paper_figure
from sage_ray.figures.figure_words import log_ticks, short_names, shown_value, wrapped
from sage_ray.figures.search_history import by_state
from sage_ray.figures.study_figure import StudyFigure, finished
from sage_ray.figures.study_records import StudyRecords
from sage_ray.search.study_status import TrialStatus
from sage_ray.study.file_schema import is_finite_number

MOST_SETTINGS = 12
"""Settings that a figure has room for, in the order of the space."""

MOST_MARKS = 700
"""Points of slices up to which each is a mark of its own: more would make a page slow."""


@dataclass(frozen=True)
class SearchedSetting:
    """A setting with the values that trials had.

    Attributes:
        path: dotted.
        name: the shortest that no other setting has.
        names: texts of its values, where it is categorical; () of numbers.
        log: whether it was searched on a logarithmic scale.
    """

    path: str
    name: str
    names: tuple[str, ...]
    log: bool

    def place(self, trial: TrialStatus) -> float | None:
        """Where a trial lies on the setting's axis; None if it does not have it."""
        value = trial.params.get(self.path)
        if value is None and not (self.names and self.path in trial.params):
            return None
        if self.names:
            return float(self.names.index(shown_value(value)))
        return float(value) if value is not None and is_finite_number(value) else None

    def moved(self, place: float, number: int, by: float = 0.25) -> float:
        """A place on the axis; of trials that share a name or choice each is moved aside a little, by its number."""
        return place + (by * math.sin(2.4 * number) if self.names else 0.0)


def settings_of(records: StudyRecords, trials: Sequence[TrialStatus]) -> list[SearchedSetting]:
    """The settings that differ between trials.

    Raises:
        UserError: none does.
    """
    found = []
    names = short_names([dimension.path for dimension in records.searched])
    for dimension in records.searched:
        held = [trial.params[dimension.path] for trial in trials if dimension.path in trial.params]
        if len({shown_value(value) for value in held}) < 2:
            continue
        numbers = dimension.kind != "categorical" or all(is_finite_number(value) for value in held)
        known = [shown_value(choice) for choice in dimension.choices]
        texts = () if numbers else tuple(dict.fromkeys([*known, *map(shown_value, held)]))
        low = min((float(value) for value in held if is_finite_number(value)), default=0.0)
        log = numbers and dimension.log and low > 0
        found.append(SearchedSetting(dimension.path, names[dimension.path], texts, log))
    if not found:
        raise records.without("no setting has two values among its trials")
    return found


def slices(records: StudyRecords, columns: int) -> StudyFigure:
    """The score over each setting, a panel per setting.

    Raises:
        UserError: it is no search, no trial has a score, or no setting varies.
    """
    complete, pruned, _ = by_state(records.trials)
    settings = settings_of(records, [*complete, *pruned])
    shown = settings[:MOST_SETTINGS]
    across = min(len(shown), 2 if columns == 1 else 4)
    down = math.ceil(len(shown) / across)
    figure = paper_figure(columns, 14 + 40 * down)
    grid = figure.subplots(down, across, sharey=True, squeeze=False)
    chosen = records.choice.trial if records.choice is not None else None
    apart = len(shown) * (len(complete) + len(pruned)) <= MOST_MARKS
    for place, axes in enumerate(grid.flat):
        if place >= len(shown):
            axes.set_visible(False)
            continue
        _draw_slice(axes, shown[place], complete, pruned, chosen, apart=apart)
        paper_axes(axes)
    for axes in grid[:, 0]:
        axes.set_ylabel(records.score)
    handles, texts = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside upper right", ncols=3, frameon=False, handletextpad=0.2)
    constant = [d.path for d in records.searched if d.path not in {s.path for s in settings}]
    caption = [
        "Each point is a trial: a slice shows one setting and hides that the others differ too.",
        "Points over a name or a choice are moved sideways a little, so that none hides another."
        if any(s.names for s in shown)
        else "",
        f"Settings that no two trials differ in are left out: {', '.join(constant)}." if constant else "",
        f"The first {MOST_SETTINGS} of {len(settings)} settings." if len(settings) > MOST_SETTINGS else "",
    ]
    alt = f"{len(shown)} panels with the score of each trial over {', '.join(s.name for s in shown)}."
    return finished(records, "slices", "The score over each setting", caption, alt, figure)


def _draw_slice(
    axes: Any,
    setting: SearchedSetting,
    complete: Sequence[TrialStatus],
    pruned: Sequence[TrialStatus],
    chosen: int | None,
    *,
    apart: bool,
) -> None:
    """Draw a panel; with `apart` every trial is a mark of its own, by whose name (gid) a page tells which it is."""
    groups = (
        ("stopped early", pruned, {"marker": "x", "color": "0.5", "s": 11, "linewidths": 0.8}),
        ("complete", complete, {"marker": "o", "color": BLUE, "s": 13, "edgecolors": "black", "linewidths": 0.4}),
        ("chosen", [t for t in complete if t.number == chosen],
         {"marker": "*", "color": ORANGE, "s": 70, "edgecolors": "black", "linewidths": 0.5, "zorder": 4}),
    )  # fmt: skip
    for text, trials, look in groups:
        points = [(place, float(t.value or 0), t.number) for t in trials if (place := setting.place(t)) is not None]
        # Points of one category are moved a little apart, by their numbers, so that none hides another.
        moved = [setting.moved(x, number) for x, _, number in points]
        heights = [y for _, y, _ in points]
        if not apart or not points:
            axes.scatter(moved, heights, label=text if trials else None, **look)
        for place, (x, y, (_, _, number)) in enumerate(zip(moved, heights, points, strict=True) if apart else ()):
            axes.scatter(
                [x], [y], label=None if place else text, gid=f"trial-{number}-{setting.path}-{text.split()[0]}", **look
            )
    axes.set_xlabel(wrapped(setting.name, 24))
    if setting.names:
        axes.set_xticks(range(len(setting.names)), [wrapped(text, 11) for text in setting.names])
        axes.set_xlim(-0.6, len(setting.names) - 0.4)
        if len(setting.names) > 3:
            axes.tick_params(axis="x", rotation=40)
    elif setting.log:
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        ticks = log_ticks(low, high)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_major_formatter(FixedFormatter([shown_value(tick) for tick in ticks]))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(low, high)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.margins(y=0.08)
