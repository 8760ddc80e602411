"""How a score answers to the epochs of each phase, in a study that varies them, beside what they cost.

python analysis/epoch_budget.py [--study NAME ...] [--score dice]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sage_ray.analysis.command import score_script
from sage_ray.analysis.figure_style import new_figure, save_script_figure, style, tidy_axes
from sage_ray.analysis.response import counts, points, respond, varied
from sage_ray.analysis.run_cost import cost_seconds
from sage_ray.analysis.study_facts import StudyFacts, study_runs
from sage_ray.analysis.tables import NONE, TextTable, interval, provenance_of, write_tables
from sage_ray.analysis.tidy import Tidy
from sage_ray.metrics.definitions import label
from sage_ray.record.run_record import FINISHED

EPOCHS, STEPS = ("pretrain.epochs", "adversarial.epochs"), ("pretrain.steps", "adversarial.steps")
LEAST = 3
MAX_LINES = 6


def applies(tidy: Tidy, facts: StudyFacts) -> str | None:
    """None if the study varies the budget of a phase, else why not."""
    values = tidy.settings([facts.name], [*EPOCHS, *STEPS])
    most = max((values[path].nunique() for path in values), default=0)
    return None if most >= LEAST else f"fewer than {LEAST} values of {EPOCHS[0]} and of {EPOCHS[1]} (or of their steps)"


def budget_paths(tidy: Tidy, facts: StudyFacts) -> tuple[str, str]:
    """The setting of each phase by which the study varies its budget: epochs, or steps where those have more values."""
    values = tidy.settings([facts.name], [*EPOCHS, *STEPS])

    def count(path: str) -> int:
        return int(values[path].nunique()) if path in values else 0

    first, second = (max(pair, key=count) for pair in zip(EPOCHS, STEPS, strict=True))
    return first, second


def grid_table(
    facts: StudyFacts, found: pd.DataFrame, score: str, notes: Sequence[str], paths: tuple[str, str]
) -> tuple[TextTable, pd.DataFrame]:
    """Plateau of every pair of budgets, phase 1 down, phase 2 across, as texts and as numbers."""
    first_path, second_path = paths
    used = found[(found["state"] == FINISHED) & found["value"].notna()]
    across = sorted(used[second_path].dropna().unique())
    rows, numbers = [], []
    meaning = ""
    for first, group in used.groupby(first_path):
        curve = respond(group, second_path)
        meaning = curve.meaning
        by_place = {row.x: row for row in curve.table.itertuples()}
        cells = [by_place.get(place) for place in across] if not curve.smooth else []
        rows.append([f"{first:g}", *(interval(c.value, c.low, c.high) if c else NONE for c in cells)])
        numbers.append(curve.table.rename(columns={"x": second_path}).assign(**{first_path: first, "score": score}))
    table = TextTable(
        title=f"{label(score)} by budget of phase 1 (down) and phase 2 (across) in {facts.name}",
        columns=[first_path, *(f"{second_path} {place:g}" for place in across)],
        rows=rows,
        notes=[f"Plateau of the validation score, last phase. {meaning}", counts(found), *notes],
    )
    return table, pd.concat(numbers, ignore_index=True)


def seconds_table(facts: StudyFacts, found: pd.DataFrame, paths: tuple[str, str]) -> TextTable:
    """Seconds that runs of each pair of budgets take by themselves."""
    used = found[found["state"] == FINISHED]
    first, second = paths
    wide = used.pivot_table(index=first, columns=second, values="seconds", aggfunc="mean")
    rows = [[f"{budget:g}", *(NONE if pd.isna(cell) else f"{cell:,.0f}" for cell in row)] for budget, row in
            zip(wide.index, wide.to_numpy(), strict=True)]  # fmt: skip
    return TextTable(
        title="Seconds a run, without reuse of stages",
        columns=[first, *(f"{second} {place:g}" for place in wide.columns)],
        rows=rows,
    )


def draw(found: pd.DataFrame, score: str, axes: Any, path: str, other: str) -> None:
    """Draw the response to one phase's epochs, a line for each budget of the other phase (one if there are many)."""
    levels = sorted(found[other].dropna().unique())
    grouped = [(f"{other} {value:g}", found[found[other] == value]) for value in levels]
    if len(levels) > MAX_LINES:
        grouped = [("all runs", found)]
    for place, (name, group) in enumerate(grouped):
        table = respond(group, path).table
        look = style(place)
        axes.plot(table["x"], table["value"], label=name, linewidth=1.4, markersize=5, **look)
        axes.vlines(table["x"], table["low"], table["high"], color=look["color"], linewidth=1)
    axes.set(xlabel=path, ylabel=f"{label(score)}, plateau")
    axes.legend(fontsize=7, frameon=False)
    tidy_axes(axes)


def make(tidy: Tidy, facts: StudyFacts, out: Path, scores: Sequence[str]) -> Sequence[Path]:
    """Write epoch_budget.{md,tex,csv,png} of a study."""
    budgets = budget_paths(tidy, facts)
    others = varied(tidy, facts, budgets)
    notes = [f"The study varies these too, so differences are not of the epochs alone: {', '.join(others)}."]
    notes = notes if others else []
    spent = cost_seconds(tidy, facts)
    tables, frames = [], []
    figure = new_figure(9.6, 0.9 + 3.4 * len(scores))
    grid = figure.subplots(len(scores), 2, squeeze=False, sharey="row")
    for row, score in zip(grid, scores, strict=True):
        found = points(tidy, facts, budgets, score)
        found["seconds"] = spent.reindex(found["run_id"]).to_numpy(float)
        table, numbers = grid_table(facts, found, score, notes, budgets)
        tables.append(table)
        frames.append(numbers)
        draw(found, score, row[0], *budgets)
        draw(found, score, row[1], *budgets[::-1])
    tables.append(seconds_table(facts, found, budgets))
    source = provenance_of(facts.name, study_runs(tidy, facts.name))
    paths = write_tables(out, "epoch_budget", tables, pd.concat(frames, ignore_index=True), source)
    return [
        *paths,
        save_script_figure(figure, out / "epoch_budget.png", source, [tables[0].notes[0], tables[0].notes[1], *notes]),
    ]


def main() -> int:
    """Write epoch_budget of each study that it is for; the exit code."""
    return score_script("epoch_budget", __doc__, ("dice",), applies, make)
