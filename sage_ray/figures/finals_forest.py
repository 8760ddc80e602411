"""The locked test of a study: what each final training scored, and its difference to the untuned base."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.ticker import MaxNLocator

from sage_ray.analysis.figure_style import BLUE, SMALL, PaperFigure, paper_axes, paper_figure, tell
from sage_ray.analysis.tables import interval, percent, provenance_of
from sage_ray.evaluation.score_tables import PRIMARY
from sage_ray.figures.figure_words import wrapped
from sage_ray.figures.forest_plot import difference_key, draw_difference
from sage_ray.figures.study_figure import StudyFigure, finished
from sage_ray.figures.study_records import StudyRecords
from sage_ray.figures.tested_finals import ComparedFinals, Tested, compared_finals, tested_finals
from sage_ray.metrics.definitions import label
from sage_ray.statistics.claims import UNDECIDED, WORDS
from sage_ray.statistics.verdict_sentences import score_digits

_ROW_MM = 6.0


def finals(records: StudyRecords, columns: int) -> StudyFigure:
    """Dice of the final trainings on the locked test, and differences to the reference where there are several.

    Raises:
        UserError: none has been scored there.
    """
    tested = tested_finals(records.final_plans, records.home)
    if records.kind == "final":
        # Other final trainings of the study may have been made on other data.
        own = next((each.fingerprint for each in tested if each.final_id == records.name), None)
        tested = [each for each in tested if own is not None and each.fingerprint == own]
    if not tested:
        raise records.without("no final training has been scored on the locked test")
    found = compared_finals(tested)
    return _told(records, found, drawn_forest(found, columns))


def drawn_forest(found: ComparedFinals, columns: int) -> PaperFigure:
    """Scores of what was tested, and beside them the differences to the reference where there are several."""
    tested = list(found.tested)
    several = bool(found.differences)
    names = [wrapped(_name(each, found), 20 if columns == 1 else 26, 2) for each in tested]
    lines = sum(1 + 0.5 * text.count("\n") for text in names)
    height = _ROW_MM * max(lines, 2)
    stacked = several and columns == 1
    figure = paper_figure(columns, 22 + height + (height + 10 if stacked else 0))
    shape = (2, 1) if stacked else (1, 2 if several else 1)
    panels = figure.subplots(*shape, sharey=True, squeeze=False).ravel()
    places = {each.final_id: len(tested) - 1 - place for place, each in enumerate(tested)}
    _draw_scores(panels[0], tested, places)
    if several:
        _draw_differences(panels[1], found, places)
        figure.legend(handles=difference_key(), loc="outside upper right", ncols=2, frameon=False, handletextpad=0.2)
    for axes in panels if stacked else panels[:1]:
        axes.set_yticks(list(places.values()), names)
    return figure


def _told(records: StudyRecords, found: ComparedFinals, figure: PaperFigure) -> StudyFigure:
    caption, alt = forest_told(found)
    ids = {each.final_id for each in found.tested}
    runs = records.tidy.runs()
    source = provenance_of(records.name, runs[runs["parent"].isin(ids)])
    return finished(records, "finals", "Final trainings on the locked test", caption, alt, figure, source=source)


def forest_told(found: ComparedFinals) -> tuple[list[str], str]:
    """The sentences below the figure, and what is seen on it."""
    line = found.reference.scores[PRIMARY]
    bars = f"bars: {percent(line.level)} intervals over {line.over}" if line.level else line.over
    caption = [
        f"Mean {label(PRIMARY)} on the {line.images} images of the locked test (dots); "
        f"ticks below: single seeds; {bars}.",
        f"Differences to {_plain(found.reference)} are paired by image and seed, so that one can be decided although "
        "the bars of the scores overlap. Filled: better or worse; hollow: open."
        if found.differences
        else "",
        *(f"{_plain(each)} has no difference: {found.refused[each.final_id]}." for each in found.tested
          if each.final_id in found.refused),
    ]  # fmt: skip
    digits = score_digits([each.scores[PRIMARY].mean for each in found.tested])
    told = [f"{_plain(each)} {each.scores[PRIMARY].mean:.{digits}f}" for each in found.tested]
    return caption, f"{label(PRIMARY)} on the locked test: {', '.join(told)}."


def _plain(one: Tested) -> str:
    return one.name.replace("`", "")


def _name(one: Tested, found: ComparedFinals) -> str:
    return _plain(one).removeprefix("the ") + (" (reference)" if one is found.reference and found.differences else "")


def _draw_scores(axes: Any, tested: list[Tested], places: dict[str, int]) -> None:
    for each in tested:
        line, place = each.scores[PRIMARY], places[each.final_id]
        marks = []
        if line.low is not None and line.high is not None:
            marks += axes.plot([line.low, line.high], [place] * 2, color="0.25", linewidth=1.2, solid_capstyle="butt")
        seeds = each.by_seed
        if len(seeds) > 1:
            (ticks,) = axes.plot(seeds, [place - 0.2] * len(seeds), "|", color=BLUE, markersize=4, markeredgewidth=1.1)
            tell(ticks, f"{_plain(each)}, single seeds: {', '.join(f'{seed:.3f}' for seed in seeds)}")
        marks += axes.plot(line.mean, place, "o", markersize=4.5, markerfacecolor="0.6", markeredgecolor="black",
                           zorder=3)  # fmt: skip
        low, high = (math.nan if end is None else end for end in (line.low, line.high))
        for mark in marks:
            tell(mark, f"{_plain(each)}, {label(PRIMARY)}: {interval(line.mean, low, high)}")
    _dress(axes, len(tested))
    axes.set_xlabel(f"{label(PRIMARY)} on the locked test")


def _draw_differences(axes: Any, found: ComparedFinals, places: dict[str, int]) -> None:
    axes.axvline(0, color="0.35", linewidth=0.8)
    for final_id, each in found.differences.items():
        low, high = (each.interval.low, each.interval.high) if each.interval else (math.nan, math.nan)
        clear = each.word != WORDS[UNDECIDED]
        text = interval(each.difference, low, high, signed=True)
        name = next(_plain(one) for one in found.tested if one.final_id == final_id)
        said = f"{name} minus {_plain(found.reference)}, {label(PRIMARY)}: {text}"
        draw_difference(axes, each.difference, low, high, places[final_id], clear=clear, said=said)
        axes.text(1.02, places[final_id], text, transform=axes.get_yaxis_transform(), fontsize=SMALL - 0.5, va="center")
    _dress(axes, len(places))
    axes.set_xlabel(wrapped(f"{label(PRIMARY)} minus that of {_plain(found.reference)}", 38))


def _dress(axes: Any, rows: int) -> None:
    axes.set_ylim(-0.6, rows - 0.4)
    axes.margins(x=0.12)
    low, high = axes.get_xlim()
    if high - low < 1e-6:
        axes.set_xlim(low - 0.05, high + 0.05)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.ticklabel_format(axis="x", style="plain")
    paper_axes(axes)
    axes.tick_params(axis="y", length=0)
