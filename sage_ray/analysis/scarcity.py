"""How a score falls with fewer labels, a curve per method, and how many labels each saves against supervised training.

For ablation studies whose arms differ in `data.split.labels`.

    python analysis/label_scarcity.py [--study NAME ...] [--part test|val] [--supervised METHOD]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sage_ray.analysis.arms import ArmRuns, arm_runs, image_scores
from sage_ray.analysis.command import chosen_scores, script_parser, study_script
from sage_ray.analysis.figure_style import new_figure, save_script_figure, style, tidy_axes
from sage_ray.analysis.label_curves import LabelCurve, LabelCurves, label_curves
from sage_ray.analysis.labelled_subsets import LABELS
from sage_ray.analysis.scored_part import choose_part
from sage_ray.analysis.study_facts import StudyFacts
from sage_ray.analysis.tables import NONE, Provenance, TextTable, interval, percent, provenance_of, write_tables
from sage_ray.analysis.tidy import Tidy
from sage_ray.metrics.definitions import SCORES_TO_ONE, label
from sage_ray.statistics.combined import t_quantile
from sage_ray.statistics.labels_saved import LabelsSaved, labels_saved
from sage_ray.statistics.three_way import mean_error

HEADLINE = ("dice", "f1_object_50")
HOW = (
    "Labels saved: how many fewer labels reach the score that {0} has at N, the curve of a method being straight "
    "in log2 of its labels between the measured ones. The interval holds all numbers of labels at which the paired "
    "difference to that score is not told from 0; < and > mark an end that lies beyond the measured range."
)
"""What a table of labels saved means."""


def applies(tidy: Tidy, facts: StudyFacts) -> str | None:
    """None if the arms of the study differ in the number of labels, else why not."""
    if facts.kind != "ablation":
        return "not an ablation study"
    found = tidy.settings([facts.name], [LABELS])
    return None if LABELS in found and found[LABELS].nunique() > 1 else f"its arms do not differ in {LABELS}"


def curve_points(curves: LabelCurves, level: float) -> pd.DataFrame:
    """One row per method and number of labels: method, labels, value, low, high, images, seeds, subsets."""
    rows: list[dict[str, Any]] = []
    for curve in curves.curves:
        means = curve.values.mean(axis=(-3, -2, -1))
        error, df = mean_error(curve.values, curves.together)
        half = error * t_quantile(df, level) if curves.repeats > 1 else np.full(len(means), np.nan)
        low, high = means - half, means + half
        if curves.score in SCORES_TO_ONE:
            low, high = np.maximum(low, 0.0), np.minimum(high, 1.0)
        size = dict(zip(("images", "seeds", "subsets"), curve.values.shape[1:], strict=True))
        for at, mean, bottom, top in zip(curve.labels, means, low, high, strict=True):
            rows.append({"method": curve.method, "labels": at, "value": mean, "low": bottom, "high": top, **size})
    return pd.DataFrame(rows)


def savings(curves: LabelCurves, supervised: LabelCurve, level: float) -> dict[tuple[str, float], LabelsSaved]:
    """Labels saved by every other method that has two numbers of labels, at each number that the supervised one has."""
    found = {}
    for curve in curves.curves:
        if curve is supervised or len(curve.labels) < 2:
            continue
        for at, scores in zip(supervised.labels, supervised.values, strict=True):
            found[curve.method, at] = labels_saved(
                curve.labels, curve.values, at, scores,
                level=level, together=curves.together, lower_is_better=curves.lower_is_better,
            )  # fmt: skip
    return found


def score_table(curves: LabelCurves, points: pd.DataFrame, part_note: str, partial: Sequence[str]) -> TextTable:
    """Mean score of every method at every number of labels."""
    rows = []
    for at in sorted(points["labels"].unique()):
        here = points[points["labels"] == at].set_index("method")
        cells = [here.loc[curve.method] if curve.method in here.index else None for curve in curves.curves]
        rows.append([f"{at:g}", *(NONE if c is None else interval(c["value"], c["low"], c["high"]) for c in cells)])
    return TextTable(
        title=f"{label(curves.score)} by number of labels",
        columns=["labels", *(curve.method for curve in curves.curves)],
        rows=rows,
        notes=[part_note, curves.definition, *curves.notes],
        partial=partial,
    )


def saved_table(
    curves: LabelCurves, supervised: LabelCurve, found: dict[tuple[str, float], LabelsSaved], partial: Sequence[str]
) -> TextTable:
    """Labels saved by every method against the supervised one, at each number of labels that it has."""
    methods = list(dict.fromkeys(method for method, _ in found))
    return TextTable(
        title=f"Labels saved against {supervised.method}: {label(curves.score)}",
        columns=[f"N of {supervised.method}", *methods],
        rows=[[f"{at:g}", *(found[method, at].text() for method in methods)] for at in supervised.labels],
        notes=[HOW.format(supervised.method)],
        partial=partial,
    )


def figure(
    all_curves: Sequence[LabelCurves], points: pd.DataFrame, path: Path, source: Provenance, runs: ArmRuns, note: str
) -> Path:
    """Draw the curves over log2 of the labels, one panel per score, intervals as bars."""
    drawing = new_figure(1.2 + 4.4 * len(all_curves), 4.6)
    panels = drawing.subplots(1, len(all_curves), squeeze=False)[0]
    for axes, curves in zip(panels, all_curves, strict=True):
        mine = points[points["score"] == curves.score]
        for place, curve in enumerate(curves.curves):
            rows = mine[mine["method"] == curve.method]
            # Bars side by side, so that one does not hide another.
            at = rows["labels"].to_numpy(float) * 2.0 ** (0.05 * (place - (len(curves.curves) - 1) / 2))
            look = style(place)
            axes.plot(at, rows["value"], label=curve.method, linewidth=1.4, markersize=5, **look)
            axes.vlines(at, rows["low"], rows["high"], color=look["color"], linewidth=1)
        ticks = sorted(mine["labels"].unique())
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set(xlabel="labelled images", ylabel=label(curves.score))
        tidy_axes(axes)
    drawing.legend(
        *panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=8, frameon=False
    )
    return save_script_figure(drawing, path, source, [note, *all_curves[0].notes], runs.partial)


def make(tidy: Tidy, facts: StudyFacts, out: Path, options: argparse.Namespace) -> Sequence[Path]:
    """Write label_scarcity.{md,tex,csv,png} of a study."""
    runs = arm_runs(tidy, facts)
    part, part_note = choose_part(tidy, runs, options.part)
    source = provenance_of(facts.name, runs.runs)
    tables, frames, drawn = [], [], []
    for score in chosen_scores(options):
        curves = label_curves(tidy, runs, image_scores(tidy, runs, part, score, each_run=True))
        supervised = curves.named(options.supervised) if options.supervised else curves.of_arm(runs.reference)
        points = curve_points(curves, options.level).assign(score=score)
        found = savings(curves, supervised, options.level)
        tables += [
            score_table(curves, points, f"{part_note} {percent(options.level)} intervals.", runs.partial),
            saved_table(curves, supervised, found, runs.partial),
        ]
        saved = [
            {"method": method, "labels": at, "saved": one.saved, "saved_low": one.low, "saved_high": one.high}
            for (method, at), one in found.items()
        ]
        columns = ["method", "labels", "saved", "saved_low", "saved_high"]
        frames.append(points.merge(pd.DataFrame(saved, columns=columns), on=["method", "labels"], how="left"))
        drawn.append(curves)
    numbers = pd.concat(frames, ignore_index=True)
    paths = write_tables(out, "label_scarcity", tables, numbers, source)
    return [*paths, figure(drawn, numbers, out / "label_scarcity.png", source, runs, tables[0].notes[0])]


def main() -> int:
    """Write label_scarcity of each study that it is for; the exit code."""
    parser = script_parser("label_scarcity", __doc__, part=True, scores=HEADLINE)
    parser.add_argument("--supervised", help="method that labels are saved against [default: the reference arm's]")
    return study_script(parser, applies, make)
