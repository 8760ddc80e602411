"""Parallel coordinates of a search: an axis for each setting and one for the score, a line for each trial."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sage_ray.analysis.figure_style import BLUE, SMALL, paper_figure
from sage_ray.figures.figure_words import counted_trials, log_ticks, shown_value, wrapped
from sage_ray.figures.search_history import by_state
from sage_ray.figures.setting_slices import SearchedSetting, settings_of
from sage_ray.figures.study_figure import StudyFigure, finished
from sage_ray.figures.study_records import StudyRecords
from sage_ray.search.study_status import TrialStatus

MOST_AXES = {1: 4, 2: 8}
"""Settings that a figure of one or two columns has room for, in the order of the space."""
MOST_BEST, SHARE_BEST = 5, 0.2
"""Of the complete trials this share, and no more than so many, are drawn bold."""
MARGIN = 0.05
"""Of an axis above its highest and below its lowest value."""
BOLD = {"color": BLUE, "linewidth": 1.3, "marker": "o", "markersize": 2.6, "zorder": 3}
CHOSEN = {"color": "black", "linewidth": 2.2, "marker": "D", "markersize": 4, "zorder": 4}
OTHER = {"color": "0.72", "linewidth": 0.6, "zorder": 2}
STOPPED = {"color": "0.72", "linewidth": 0.6, "linestyle": (0, (2, 2)), "zorder": 1.5}
READING = (
    "Follow a line from left to right: it is one trial, crosses each axis at the value that it had, and ends at its "
    "score. Where the bold lines lie close together on an axis, the best trials agree on that setting; where they lie "
    "apart, they do not."
)


@dataclass(frozen=True)
class _Axis:
    """An upright axis: where values lie on it, and its ticks.

    Attributes:
        name: below it.
        log: whether it is logarithmic.
        low, high: ends of its values, logarithms to base ten where it is logarithmic.
        ticks: values with their texts.
    """

    name: str
    log: bool
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def height(self, value: float) -> float:
        """Where a value lies, 0 to 1 from the lowest to the highest."""
        here = math.log10(value) if self.log else value
        return (here - self.low) / (self.high - self.low) if self.high > self.low else 0.5


def parallel(records: StudyRecords, columns: int) -> StudyFigure:
    """Parallel coordinates: an axis for each setting that was searched and one for the score, a line for each trial.

    Raises:
        UserError: it is no search, no trial has a score, or no setting varies.
    """
    complete, pruned, _ = by_state(records.trials)
    trials = [*pruned, *complete]
    settings = settings_of(records, trials)
    shown = settings[: MOST_AXES[columns]]
    values = [float(trial.value or 0) for trial in trials]
    axes_of = [*(_axis_of(setting, trials) for setting in shown), _score_axis(records.score, values)]
    figure = paper_figure(columns, 74)
    axes = figure.subplots()
    chosen = records.choice.trial if records.choice is not None else None
    best = _best(complete, records.sign)
    for trial, value in zip(trials, values, strict=True):
        heights = [_height(setting, axis, trial) for setting, axis in zip(shown, axes_of, strict=False)]
        look: dict[str, Any] = STOPPED if trial.state == "PRUNED" else BOLD if trial.number in best else OTHER
        look = CHOSEN if trial.number == chosen else look
        axes.plot(
            range(len(axes_of)), [*heights, axes_of[-1].height(value)], gid=f"trial-{trial.number}",
            solid_joinstyle="round", **look,
        )  # fmt: skip
    for place, axis in enumerate(axes_of):
        # Right of the last axis there is no line that its ticks could hide.
        _draw_axis(axes, place, axis, side=1 if axis is axes_of[-1] else -1)
    _name_axes(axes, [axis.name for axis in axes_of], columns)
    _legend(figure, len(best - {chosen}), chosen, others=len(complete) > len(best | {chosen}), stopped=len(pruned))
    few = f"The first {len(shown)} of {len(settings)} settings." if len(shown) < len(settings) else ""
    caption = [
        READING,
        f"Bold: the {len(best)} best of {counted_trials(len(complete), 'complete')}." if len(best) > 1 else "",
        f"Black with diamonds: trial {chosen}, which was chosen." if chosen is not None else "",
        "Axes with (log) are logarithmic." if any(axis.log for axis in axes_of) else "",
        "On axes of names lines are moved apart a little." if any(setting.names for setting in shown) else "",
        few,
    ]
    alt = f"Parallel coordinates of {len(values)} trials over {', '.join(s.name for s in shown)} and the score."
    return finished(records, "parallel", "What was searched", caption, alt, figure)


def _best(complete: Sequence[TrialStatus], sign: float) -> set[int]:
    """Numbers of the trials that are drawn bold."""
    count = min(max(round(SHARE_BEST * len(complete)), 2), MOST_BEST, len(complete))
    ordered = sorted(complete, key=lambda trial: (-sign * float(trial.value or 0), trial.number))
    return {trial.number for trial in ordered[:count]}


def _axis_of(setting: SearchedSetting, trials: Sequence[TrialStatus]) -> _Axis:
    """The axis of a setting, over the values that trials had."""
    places = [place for trial in trials if (place := setting.place(trial)) is not None]
    if setting.names:
        ticks = [(float(place), name) for place, name in enumerate(setting.names)]
        return _Axis(setting.name, False, -0.2, len(setting.names) - 0.8, tuple(ticks))
    low, high = min(places), max(places)
    if setting.log:
        marks = log_ticks(low, high, 5)
        # One mark says nothing of a scale.
        marks = marks if len(marks) > 1 else [low, high]
        ticks = [(mark, shown_value(float(mark))) for mark in marks]
        return _Axis(f"{setting.name} (log)", True, math.log10(low), math.log10(high), tuple(ticks))
    whole = all(float(place).is_integer() for place in places)
    held = sorted(set(places))
    marks = held if whole and len(held) <= 5 else _even(low, high, whole=whole)
    return _Axis(setting.name, False, low, high, tuple((mark, shown_value(float(mark))) for mark in marks))


def _score_axis(name: str, values: Sequence[float]) -> _Axis:
    low, high = min(values), max(values)
    ticks = _even(low, high) if high > low else [low]
    return _Axis(name, False, low, high, tuple((mark, f"{mark:.3g}") for mark in ticks))


def _even(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Round values at even distances between two ends, which may be no such values themselves."""
    marks: Any = MaxNLocator(nbins=5, integer=whole).tick_values(low, high)
    slack = 1e-9 * (high - low)
    return [float(mark) for mark in marks if low - slack <= mark <= high + slack]


def _height(setting: SearchedSetting, axis: _Axis, trial: TrialStatus) -> float:
    """Where the line of a trial crosses the axis of a setting; NaN, a gap, where it has none."""
    place = setting.place(trial)
    return math.nan if place is None else axis.height(setting.moved(place, trial.number, 0.1))


def _draw_axis(axes: Any, place: int, axis: _Axis, *, side: int) -> None:
    """An axis with its ticks on its left (`side` -1) or its right (1)."""
    axes.plot([place, place], [-MARGIN, 1 + MARGIN], color="0.2", linewidth=0.9, zorder=4.5)
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.9}
    for mark, text in axis.ticks:
        height = axis.height(mark)
        axes.plot([place, place + side * 0.03], [height, height], color="0.2", linewidth=0.9, zorder=4.5)
        axes.text(
            place + side * 0.045, height, wrapped(text, 12), fontsize=SMALL, bbox=ground, zorder=5,
            ha="left" if side > 0 else "right", va="center",
        )  # fmt: skip


def _name_axes(axes: Any, names: Sequence[str], columns: int) -> None:
    letters = int(columns * 62 / (len(names) + 0.5))
    pieces = [piece for name in names for piece in re.split(r"[._ ]", name)]
    if max(map(len, pieces)) >= letters:
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
    else:
        axes.set_xticks(range(len(names)), [wrapped(name, letters) for name in names])
    axes.set(yticks=[], ylim=(-MARGIN, 1 + MARGIN), xlim=(-0.45, len(names) - 0.6))
    axes.tick_params(axis="x", length=0)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)


def _legend(figure: Any, best: int, chosen: int | None, *, others: bool, stopped: int) -> None:
    """What the lines are, above the axes."""
    looks: list[tuple[str, dict[str, Any]]] = []
    looks += [("chosen", CHOSEN)] if chosen is not None else []
    looks += [("best", BOLD)] if best else []
    looks += [("other", OTHER)] if others else []
    looks += [("stopped early", STOPPED)] if stopped else []
    handles = [Line2D([], [], label=text, **{k: v for k, v in look.items() if k != "zorder"}) for text, look in looks]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles), frameon=False, handlelength=2.4)
