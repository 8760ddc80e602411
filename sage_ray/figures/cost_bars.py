"""What a study cost: time of each arm or trial, trained or taken over from runs before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sage_ray.analysis.figure_style import SKY, paper_axes, paper_figure, tell
from sage_ray.durations import hours_text, number_text
from sage_ray.figures.figure_words import unit_of, wrapped
from sage_ray.figures.study_figure import StudyFigure, finished
from sage_ray.figures.study_records import StudyRecords
from sage_ray.record.run_folder import RunFolder

_LONG = 24
"""Trials from which on they are columns without a name each."""
_ROW_MM, _LINE_MM = 5.2, 1.6
"""Height of a bar with its distance to the next, and what a second line of a name needs beside that."""


def run_times(records: StudyRecords) -> pd.DataFrame:
    """One row per run: its arm, trial and seed, the seconds that it took, and those that it did not need to train.

    Saved are the epochs that a run took from the stage store, with the seconds that they took where they were trained;
    also those of a run that was stopped early, and none that the run had trained itself before an interruption.
    """
    runs = records.runs
    saved = [_replayed_seconds(records.home.runs / str(run_id)) for run_id in runs["run_id"]]
    spent = runs["seconds"].fillna(0).to_numpy(float)
    table = runs[["run_id", "arm", "trial", "seed", "state"]].assign(spent=spent, saved=saved)
    return table.assign(gpu=runs["gpu_seconds"].fillna(0).to_numpy(float) if "gpu_seconds" in runs else 0.0)


def _replayed_seconds(path: Path) -> float:
    lines = [line for line in RunFolder(path).metrics() if line.get("replayed")]
    return float(sum(line.get("seconds") or 0.0 for line in lines))


def cost(records: StudyRecords, columns: int) -> StudyFigure:
    """Time of each arm or trial, summed over its runs, with what the reuse of stages saved.

    Raises:
        UserError: no run has a time.
    """
    if records.runs.empty:
        raise records.without("it has no run")
    times = run_times(records)
    if not times["spent"].sum() > 0:
        raise records.without("no run has recorded its time")
    named = _named(records, times)
    table = named.groupby("name", sort=False)[["spent", "saved", "gpu"]].sum()
    unit, size = unit_of(float((table["spent"] + table["saved"]).max()))
    many = len(table) > _LONG
    names = [wrapped(str(name), 24 if columns == 1 else 34, 2) for name in table.index]
    deep = _ROW_MM + any("\n" in name for name in names) * _LINE_MM
    figure = paper_figure(columns, 56 if many else 22 + deep * max(len(table), 2))
    axes = figure.subplots()
    places = np.arange(len(table))[:: 1 if many else -1]
    draw: Any = axes.bar if many else axes.barh
    across: dict[str, Any] = {("width" if many else "height"): 0.72, "edgecolor": "black", "linewidth": 0.4}
    drawn = [draw(places, table["spent"] / size, color="0.45", label="computed", **across)]
    starts = {"bottom" if many else "left": table["spent"] / size}
    if table["saved"].sum() > 0:
        drawn.append(draw(places, table["saved"] / size, color=SKY, hatch="////", label="saved: taken from the store",
                          **starts, **across))  # fmt: skip
    for part, bars in zip(("computed", "saved"), drawn, strict=False):
        _tell_bars(bars, table, part)
    text = f"time ({unit})"
    if many:
        axes.set(xlabel="trial", ylabel=text, xlim=(-0.8, len(table) - 0.2))
        shown = range(0, len(table), max(len(table) // 10, 1))
        axes.set_xticks(list(shown), [str(table.index[k]).removeprefix("trial ") for k in shown])
    else:
        axes.set_yticks(places, names)
        axes.set_xlabel(text)
    top = 1.05 * float((table["spent"] + table["saved"]).max()) / size
    axes.set(**{"ylim" if many else "xlim": (0, top)})
    paper_axes(axes)
    axes.grid(False, axis="x" if many else "y")
    figure.legend(loc="outside upper right", ncols=2, frameon=False, handlelength=1.4)
    caption = [_sums(times), f"Bars: sum over the runs of each {'arm' if records.kind == 'ablation' else 'trial'}."
               if records.kind != "final" else "Bars: one run each."]  # fmt: skip
    alt = (
        f"Bars of the time of {len(table)} {'arms' if records.kind == 'ablation' else 'trials or runs'}. {_sums(times)}"
    )
    return finished(records, "cost", "What it cost", caption, alt, figure)


def _tell_bars(bars: Any, table: pd.DataFrame, part: str) -> None:
    """Have bars say their amounts under the pointer; a trial's is named for the page's script, which says more."""
    for bar, (name, row) in zip(bars, table.iterrows(), strict=True):
        trial = str(name).removeprefix("trial ")
        if str(name).startswith("trial ") and trial.isdigit():
            bar.set_gid(f"trial-{trial}-{part}")
        else:
            saved = f", saved {hours_text(row['saved'] / 3600)}" if row["saved"] > 0 else ""
            tell(bar, f"{name}: computed {hours_text(row['spent'] / 3600)}{saved}")


def _named(records: StudyRecords, times: pd.DataFrame) -> pd.DataFrame:
    """The rows in reading order with the name of their bar."""
    if records.kind == "ablation":
        places = times["arm"].map(records.facts.place_of)
        return times.assign(name=times["arm"].map(records.facts.called), place=places).sort_values("place")
    if records.kind == "final":
        return times.assign(name=[f"seed {int(seed)}" for seed in times["seed"]]).sort_values("seed")
    times = times.sort_values("trial")
    return times.assign(name=[f"trial {int(trial)}" for trial in times["trial"]])


def _sums(times: pd.DataFrame) -> str:
    """The whole in words."""
    spent, saved, gpu = (float(times[name].sum()) for name in ("spent", "saved", "gpu"))
    told = f"{len(times)} runs took {hours_text(spent / 3600)} of computing"
    told += f", {number_text(gpu / 3600)} GPU-hours" if gpu > 0 else " on CPUs"
    if saved > 0:
        told += (
            f"; hatched: reuse saved {hours_text(saved / 3600)}, the time of the reused epochs where they were trained"
        )
    return told + "."
