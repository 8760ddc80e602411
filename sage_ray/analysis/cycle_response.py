"""How a score answers to the weight of the cycle, `adversarial.lambda_cycle`, in a study that varies it.

python analysis/lambda_cycle.py [--study NAME ...] [--score dice]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from sage_ray.analysis.command import score_script
from sage_ray.analysis.figure_style import new_figure, save_script_figure, tidy_axes
from sage_ray.analysis.response import Curve, counts, draw_response, points, respond, varied
from sage_ray.analysis.study_facts import StudyFacts, study_runs
from sage_ray.analysis.tables import TextTable, interval, number, provenance_of, write_tables
from sage_ray.analysis.tidy import Tidy
from sage_ray.metrics.definitions import is_lower_better, label

PATH = "adversarial.lambda_cycle"
LEAST = 3
"""Distinct values that make a response."""


def applies(tidy: Tidy, facts: StudyFacts) -> str | None:
    """None if the study varies the setting, else why not."""
    values = tidy.settings([facts.name], [PATH])
    known = values[PATH].nunique() if PATH in values else 0
    return None if known >= LEAST else f"fewer than {LEAST} values of {PATH}"


def response_table(facts: StudyFacts, found: pd.DataFrame, curve: Curve, score: str, notes: Sequence[str]) -> TextTable:
    """The curve at a few places, the published weight of 1 among them if it was visited."""
    table = curve.table
    if curve.smooth:
        places = sorted({0, len(table) // 4, len(table) // 2, 3 * len(table) // 4, len(table) - 1})
        table = table.iloc[places]
    rows = [[f"{row.x:.3g}", interval(row.value, row.low, row.high)] for row in table.itertuples()]
    whole = curve.table
    top = whole.sort_values("value", ascending=is_lower_better(score)).iloc[0]
    best = f"The curve is best at {top['x']:.3g} ({number(top['value'])}); read its interval before believing it."
    return TextTable(
        title=f"{label(score)} by {PATH} in {facts.name}",
        columns=[PATH, f"{label(score)}, plateau [95 %]"],
        rows=rows,
        notes=[f"Plateau of the validation score, last phase. {curve.meaning}", counts(found), best, *notes],
    )


def make(tidy: Tidy, facts: StudyFacts, out: Path, scores: Sequence[str]) -> Sequence[Path]:
    """Write lambda_cycle.{md,tex,csv,png} of a study."""
    others = varied(tidy, facts, [PATH])
    notes = [f"The study varies these too, so the curve is not of {PATH} alone: {', '.join(others)}."] if others else []
    tables, frames = [], []
    figure = new_figure(0.9 + 4.2 * len(scores), 4.2)
    panels = figure.subplots(1, len(scores), squeeze=False)[0]
    runs = study_runs(tidy, facts.name)
    for axes, score in zip(panels, scores, strict=True):
        found = points(tidy, facts, [PATH], score)
        log = bool((found[PATH].dropna() > 0).all())
        curve = respond(found, PATH, log=log)
        tables.append(response_table(facts, found, curve, score, notes))
        frames.append(curve.table.assign(score=score))
        draw_response(axes, found, curve, PATH, log=log)
        axes.set_ylabel(f"{label(score)}, plateau", fontsize=9)
        tidy_axes(axes)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8, frameon=False
    )
    source = provenance_of(facts.name, runs)
    paths = write_tables(out, "lambda_cycle", tables, pd.concat(frames, ignore_index=True), source)
    return [
        *paths,
        save_script_figure(figure, out / "lambda_cycle.png", source, [tables[0].notes[0], tables[0].notes[1], *notes]),
    ]


def main() -> int:
    """Write lambda_cycle of each study that it is for; the exit code."""
    return score_script("lambda_cycle", __doc__, ("dice",), applies, make)
