"""Validation scores by epoch: median over seeds with the range of the seeds, one panel per arm, phases marked.

Of a search, the untuned base (trial 0) and the five best trials.

    python analysis/learning_curves.py [--study NAME ...] [--score dice ...]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from matplotlib.ticker import MaxNLocator

from sage_ray.analysis.arms import finished_curves, missing_runs, scored_apart
from sage_ray.analysis.command import score_script
from sage_ray.analysis.curves import is_better, plateau
from sage_ray.analysis.figure_style import new_figure, save_script_figure, style, tidy_axes
from sage_ray.analysis.study_facts import StudyFacts, study_runs
from sage_ray.analysis.tables import NONE, Provenance, TextTable, number, percent, provenance_of, write_tables
from sage_ray.analysis.tidy import Tidy
from sage_ray.metrics.definitions import is_lower_better, label

DEFAULT_SCORES = ("dice", "f1_object_50")
NUM_TRIALS = 5
"""Best trials of a search that are drawn beside its base."""
NEAR = 0.95


def applies(tidy: Tidy, facts: StudyFacts) -> str | None:
    """None if the study has one way of scoring, else why not."""
    return scored_apart(tidy, facts)


def series(tidy: Tidy, facts: StudyFacts, score: str) -> pd.DataFrame:
    """Curves of the finished runs that are drawn, with `series`: the arm, or the trial of a search.

    Raises:
        UserError: no such curve, several definitions, mixed data, or a lost file.
    """
    _, rows = finished_curves(tidy, facts, score)
    if facts.kind == "ablation":
        rows = rows.assign(series=rows["arm"], place=rows["arm"].map(facts.place_of))
    else:
        levels = _plateaus(rows).groupby("trial")["plateau"].mean().sort_values(ascending=is_lower_better(score))
        shown = list(dict.fromkeys([0, *(int(trial) for trial in levels.index[:NUM_TRIALS])]))
        rows = rows[rows["trial"].isin(shown)]
        names = {trial: "trial 0 (base)" if trial == 0 else f"trial {trial}" for trial in shown}
        rows = rows.assign(
            series=rows["trial"].map(names), place=rows["trial"].map({t: k for k, t in enumerate(shown)})
        )
    return rows.sort_values(["place", "run_id", "epoch"], ignore_index=True)


def bands(rows: pd.DataFrame) -> pd.DataFrame:
    """Median, lowest and highest score over the runs of a series at each epoch that all of them have reached."""
    found = rows.groupby(["series", "phase", "epoch"], sort=False)["value"].agg(["median", "min", "max", "count"])
    found = found.reset_index().rename(columns={"min": "low", "max": "high", "count": "runs"})
    whole = found.groupby("series")["runs"].transform("max")
    return found[found["runs"] == whole]


def _plateaus(rows: pd.DataFrame) -> pd.DataFrame:
    """Plateau of each run and phase, with its series or trial."""
    keys = [name for name in ("series", "trial", "run_id", "phase") if name in rows]
    grouped = rows.sort_values("epoch").groupby(keys, sort=False, dropna=False)["value"]
    return grouped.agg(lambda values: plateau(values.to_numpy())).rename("plateau").reset_index()


def curve_table(facts: StudyFacts, rows: pd.DataFrame, score: str) -> TextTable:
    """One row per series: seeds, epochs, plateau of each phase, and when the median first nears the last plateau."""
    table = []
    levels = _plateaus(rows)
    middle = bands(rows)
    lower = is_lower_better(score)
    for name in dict.fromkeys(rows["series"]):
        own, curve = levels[levels["series"] == name], middle[middle["series"] == name].sort_values("epoch")
        phases = list(dict.fromkeys(rows.loc[rows["series"] == name, "phase"]))
        by_phase = {phase: own.loc[own["phase"] == phase, "plateau"].median() for phase in ("pretrain", "adversarial")}
        target = by_phase[phases[-1]] * (2 - NEAR if lower else NEAR)
        near = [
            int(epoch)
            for epoch, value in zip(curve["epoch"], curve["median"], strict=True)
            if value == target or is_better(value, target, lower=lower)
        ]
        counts = [str(len(curve[curve["phase"] == phase])) if phase in phases else NONE for phase in by_phase]
        table.append(
            [facts.called(str(name)), str(own["run_id"].nunique()), *counts,
             *(number(value) for value in by_phase.values()), str(near[0]) if near else NONE]
        )  # fmt: skip
    columns = ["arm", "runs", "epochs phase 1", "epochs phase 2", "plateau phase 1", "plateau phase 2"]
    meaning = rows["definition"].dropna()
    return TextTable(
        title=f"Learning curves of {facts.name}: {label(score)}",
        columns=[*columns, "near its plateau at epoch"],
        rows=table,
        notes=[
            f"Score: {meaning.iloc[0] if len(meaning) else 'not recorded'}, on validation images.",
            "Plateau: median of the last 20 % of a phase's epochs, median over runs. Near: the first epoch (over all "
            f"stages) at which the median over runs reaches {percent(NEAR)} of the last phase's plateau.",
        ],
    )


def draw(
    facts: StudyFacts, rows: pd.DataFrame, score: str, path: Path, source: Provenance, partial: Sequence[str]
) -> Path:
    """Draw one panel per series, the reference (or base) behind the others."""
    middle = bands(rows)
    names = list(dict.fromkeys(rows["series"]))
    behind = facts.reference if facts.kind == "ablation" else names[0]
    columns = min(len(names), 3)
    lines = math.ceil(len(names) / columns)
    figure = new_figure(1.0 + 2.9 * columns, 1.2 + 1.9 * lines)
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(names):
            axes.set_visible(False)
            continue
        curve = middle[middle["series"] == names[place]]
        if behind in names and names[place] != behind:
            other = middle[middle["series"] == behind]
            axes.plot(
                other["epoch"],
                other["median"],
                color="0.6",
                linewidth=1,
                linestyle="--",
                label=f"median of {facts.called(str(behind))}",
            )
        axes.fill_between(
            curve["epoch"], curve["low"], curve["high"], color="0.75", linewidth=0, label="range of seeds"
        )
        axes.plot(curve["epoch"], curve["median"], color=style(2)["color"], linewidth=1.5, label="median of seeds")
        starts = curve.groupby("phase", sort=False)["epoch"].min()
        for phase, start in starts.items():
            if start > 1:
                axes.axvline(start - 0.5, color="black", linewidth=0.9, linestyle=":")
                axes.text(start, 0.02, f" {phase}", fontsize=7, transform=axes.get_xaxis_transform())
        count = int(curve["runs"].max())
        axes.set_title(f"{facts.called(str(names[place]))} ({count} run{'s' if count > 1 else ''})", fontsize=9)
        tidy_axes(axes)
    grid[0][0].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    for axes in grid[:, 0]:
        axes.set_ylabel(label(score), fontsize=9)
    for place in range(columns):
        lowest = grid[(len(names) - 1 - place) // columns][place]
        lowest.set_xlabel("epoch", fontsize=9)
        lowest.tick_params(labelbottom=True)
    keys = {text: handle for axes in grid.flat for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(keys.values(), keys.keys(), loc="outside upper right", ncols=3, fontsize=8, frameon=False)
    note = "Validation images; behind each arm, dashed, the one that it is compared with."
    return save_script_figure(figure, path, source, [note], partial)


def make(tidy: Tidy, facts: StudyFacts, out: Path, scores: Sequence[str]) -> Sequence[Path]:
    """Write learning_curves.{md,tex,csv} and learning_curves_SCORE.png of a study."""
    found = {score: series(tidy, facts, score) for score in scores}
    runs = study_runs(tidy, facts.name)
    ids = set().union(*(rows["run_id"] for rows in found.values()))
    source = provenance_of(facts.name, runs[runs["run_id"].isin(ids)])
    partial = missing_runs(facts, runs)
    tables = [replace(curve_table(facts, rows, score), partial=partial) for score, rows in found.items()]
    frame = pd.concat([bands(rows).assign(score=score) for score, rows in found.items()], ignore_index=True)
    paths = write_tables(out, "learning_curves", tables, frame, source)
    pictures = [
        draw(facts, rows, score, out / f"learning_curves_{score}.png", source, partial) for score, rows in found.items()
    ]
    return [*paths, *pictures]


def main() -> int:
    """Write learning_curves of each study that it is for; the exit code."""
    return score_script("learning_curves", __doc__, DEFAULT_SCORES, applies, make)
