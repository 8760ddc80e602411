"""Curves of score and losses by epoch, each phase of training on axes of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from sage_ray.analysis.figure_style import BLUE, ORANGE, paper_axes, paper_figure, style, tell
from sage_ray.errors import UserError
from sage_ray.figures.figure_words import wrapped
from sage_ray.figures.study_figure import StudyFigure, finished
from sage_ray.figures.study_records import StudyRecords, Winner
from sage_ray.metrics.definitions import LOSS, label, name_of
from sage_ray.metrics.reduction import PLATEAU_SHARE

PHASES = {"render": "rendering", "pretrain": "phase 1 (pretraining)", "adversarial": "phase 2 (adversarial)"}
TRAINED = {
    "loss": "segmenter, generator",
    "loss_disc_image": "image discriminator",
    "loss_disc_mask": "mask discriminator",
}
"""Training losses that are drawn, with what they belong to."""
MOST_ARMS = 8
"""Arms that have a line of their own; of more, those in the order of the design."""
SHADED = 3
"""Arms up to which the range of their runs is drawn."""
_WIDE_RANGE = 30.0


@dataclass(frozen=True)
class Line:
    """One line of the validation curves: the median over some runs."""

    name: str | None
    """None: it stands behind the others, without an entry in the key."""
    run_ids: Sequence[str]
    look: dict[str, Any] = field(default_factory=dict)
    shaded: bool = False
    trial: int | None = None
    """The trial of a search whose line it is."""


def curves(records: StudyRecords, columns: int) -> StudyFigure:
    """Validation score, validation loss and training losses; a column of axes for each phase.

    Raises:
        UserError: no run has reported an epoch.
    """
    winner = _winner(records)
    lines = _lines(records, winner)
    score = name_of(records.facts.metric)
    rows = _epochs(records, [run_id for line in lines for run_id in line.run_ids], "val", [score, LOSS])
    trained = _epochs(records, [winner.run_id] if winner else lines[-1].run_ids[:1], "train", list(TRAINED))
    phases = [phase for phase in PHASES if phase in {*rows["phase"], *trained["phase"]}]
    if not phases:
        raise records.without("no run has reported an epoch")
    wanted = [(score, f"validation\n{label(score)}")] if score != LOSS and score in set(rows["score"]) else []
    wanted += [(LOSS, "validation loss")] if LOSS in set(rows["score"]) else []
    count = len(wanted) + bool(len(trained))
    figure = paper_figure(columns, 20 + 32 * count)
    grid = figure.subplots(count, len(phases), sharex="col", squeeze=False)
    for column, phase in enumerate(phases):
        for row, (name, _) in enumerate(wanted):
            part = rows[(rows["phase"] == phase) & (rows["score"] == name)]
            _draw_lines(grid[row][column], part, lines, 12 + 8 * columns, named_range=name == LOSS)
        if len(trained):
            _draw_losses(grid[-1][column], trained[trained["phase"] == phase])
        grid[0][column].set_title(PHASES[phase])
        grid[-1][column].set_xlabel("epoch of the phase")
        grid[-1][column].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    for row, name in enumerate([text for _, text in wanted] + ["training loss"] * bool(len(trained))):
        grid[row][0].set_ylabel(name)
    paper_axes(*grid.flat)
    _mark_kept(records, winner, rows, grid, phases)
    plateau = _mark_score(records, winner, rows, grid, phases) if score in {name for name, _ in wanted} else ""
    keys = {text: handle for axes in grid[: len(wanted)].flat
            for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)}  # fmt: skip
    figure.legend(keys.values(), keys.keys(), loc="outside upper center", ncols=2 if columns == 1 else 3,
                  frameon=False, handlelength=2.6)  # fmt: skip
    shown = f"{winner.called} (run {winner.run_id})" if winner else "its first run"
    caption = [
        _told(records, lines) if wanted else "Without validation images there is no score of an epoch.",
        plateau,
        f"Training losses of {shown}, on a scale of their own in each phase." if len(trained) else "",
    ]
    what = f"{label(score)} and losses" if wanted else "training losses"
    alt = f"Curves of {what} by epoch in {len(phases)} phase{'' if len(phases) == 1 else 's'}."
    title = "Curves of score and losses" if wanted else "Curves of the training losses"
    return finished(records, "curves", title, caption, alt, figure)


def _winner(records: StudyRecords) -> Winner | None:
    try:
        return records.winner
    except UserError:
        return None


def _epochs(records: StudyRecords, run_ids: Sequence[str], part: str, scores: Sequence[str]) -> pd.DataFrame:
    """Finite scores by epoch of the phase."""
    columns = ["run_id", "phase", "epoch", "score", "value"]
    rows = records.tidy.rows(kind="epoch", run_ids=list(run_ids), part=part, scores=scores, columns=columns)
    if rows.empty:
        return rows
    first = rows.groupby(["run_id", "phase"])["epoch"].transform("min")
    finite = rows["value"].where(np.isfinite(rows["value"]))
    counted: pd.DataFrame = rows.assign(epoch=rows["epoch"] - first + 1, value=finite).dropna(subset="value")
    return counted


def _lines(records: StudyRecords, winner: Winner | None) -> list[Line]:
    """What is drawn: arms; the trials of a search behind its base and its chosen one; seeds of a final training.

    Raises:
        UserError: there is no run.
    """
    runs = records.runs
    if runs.empty:
        raise records.without("it has no run")
    if records.kind == "ablation":
        done = records.finished
        arms = [arm for arm in records.facts.arms if arm in set(done["arm"])][:MOST_ARMS]
        return [
            Line(records.facts.called(arm), list(done.loc[done["arm"] == arm, "run_id"]), _look(place),
                 shaded=len(arms) <= SHADED)
            for place, arm in enumerate(arms)
        ] or [Line("all runs", list(runs["run_id"]), _look(0))]  # fmt: skip
    if records.kind == "final":
        return [Line(f"seed {int(seed)}", [run_id], _look(place))
                for place, (run_id, seed) in enumerate(zip(runs["run_id"], runs["seed"], strict=True))]  # fmt: skip
    behind = {"color": "0.78", "linewidth": 0.7, "linestyle": "-"}
    by_trial = {int(str(trial)): list(own["run_id"]) for trial, own in runs.groupby("trial")}
    lines = [Line(None, ids[:1], behind, trial=trial) for trial, ids in by_trial.items()]
    base = records.base
    chosen = int(runs.set_index("run_id")["trial"][winner.run_id]) if winner else None
    if base is not None and base != chosen and base in by_trial:
        lines.append(Line(f"trial {base} (base)", by_trial[base], {**_look(0), "linestyle": "--", "marker": ""},
                          trial=base))  # fmt: skip
    if chosen is not None:
        also = " (base)" if base == chosen else ""
        lines.append(Line(f"chosen: trial {chosen}{also}", by_trial[chosen],
                          {"color": BLUE, "linewidth": 1.6, "linestyle": "-"}, trial=chosen))  # fmt: skip
    return lines


def _look(place: int) -> dict[str, Any]:
    return {**style(place), "markersize": 2.6, "markevery": 0.12}


def _draw_lines(axes: Any, rows: pd.DataFrame, lines: Sequence[Line], letters: int, *, named_range: bool) -> None:
    """Draw the lines; with `named_range` the axis has the range of those with a name, and others may leave it."""
    named = [run_id for line in lines if line.name is not None for run_id in line.run_ids]
    values = rows.loc[rows["run_id"].isin(named), "value"]
    if named_range and len(values) and values.max() > values.min():
        margin = 0.1 * (values.max() - values.min())
        axes.set_ylim(values.min() - margin, values.max() + margin)
    by_run = {str(run_id): own.set_index("epoch")["value"] for run_id, own in rows.groupby("run_id")}
    for line in lines:
        kept = {run_id: by_run[run_id] for run_id in line.run_ids if run_id in by_run}
        if not kept:
            continue
        # Epochs that all runs of a line have reached.
        together = pd.DataFrame(kept).dropna()
        found = pd.DataFrame({"median": together.median(axis=1), "min": together.min(axis=1),
                              "max": together.max(axis=1)})  # fmt: skip
        look = dict(line.look)
        if len(found) == 1:
            # A line of one epoch is a point.
            look |= {"marker": look.get("marker") or "o", "markersize": 3, "markevery": 1}
        if line.shaded:
            axes.fill_between(found.index, found["min"], found["max"], color=look["color"], alpha=0.14, linewidth=0)
        name = None if line.name is None else wrapped(line.name, letters)
        # A name that begins with "_" would be left out of the key.
        (mark,) = axes.plot(found.index, found["median"], label=f" {name}" if (name or "")[:1] == "_" else name, **look)
        last = f"{found['median'].iloc[-1]:.4g} at epoch {found.index[-1]}"
        if line.trial is not None:
            mark.set_gid(f"trial-{line.trial}-{'line' if line.name else 'behind'}-{axes.get_subplotspec().num1}")
        else:
            tell(mark, f"{line.name}: {last}{f', median of {len(kept)} runs' if len(kept) > 1 else ''}")


def _draw_losses(axes: Any, rows: pd.DataFrame) -> None:
    values = rows["value"].to_numpy(float)
    for place, (name, called) in enumerate(TRAINED.items()):
        own = rows[rows["score"] == name].sort_values("epoch")
        if len(own):
            (mark,) = axes.plot(own["epoch"], own["value"], label=called, **_look(place))
            tell(mark, f"{called}: {own['value'].iloc[-1]:.4g} at epoch {own['epoch'].iloc[-1]}")
    if len(values) and values.min() > 0 and values.max() > _WIDE_RANGE * values.min():
        axes.set_yscale("log")
    if len(axes.get_legend_handles_labels()[1]) > 1:
        # Room above the lines for the key.
        low, high = axes.get_ylim()
        axes.set_ylim(low, high * (high / low) ** 0.75 if axes.get_yscale() == "log" else high + 0.7 * (high - low))
        axes.legend(loc="upper right", frameon=False, fontsize=5.5, handlelength=2.0, borderaxespad=0.1)


def _mark_kept(
    records: StudyRecords, winner: Winner | None, rows: pd.DataFrame, grid: Any, phases: Sequence[str]
) -> None:
    """Mark the epoch whose weights the winner keeps."""
    runs = records.runs.set_index("run_id")
    kept = runs["selected_epoch"].get(winner.run_id) if winner and "selected_epoch" in runs else None
    if winner is None or kept is None or np.isnan(float(kept)):
        return
    columns = ["phase", "epoch", "run_id"]
    own = records.tidy.rows(kind="epoch", run_ids=[winner.run_id], scores=["seconds"], columns=columns)
    own = own.drop_duplicates("epoch").set_index("epoch")
    if int(kept) not in own.index or own.loc[int(kept), "phase"] not in phases:
        return
    phase = str(own.loc[int(kept), "phase"])
    place = int(kept) - int(own.index[own["phase"] == phase].min()) + 1
    for axes in grid[:, list(phases).index(phase)]:
        axes.axvline(place, color="0.35", linewidth=0.8, linestyle=":", label="kept weights" if axes is grid[0][
            list(phases).index(phase)] else None)  # fmt: skip


def _mark_score(
    records: StudyRecords, winner: Winner | None, rows: pd.DataFrame, grid: Any, phases: Sequence[str]
) -> str:
    """Mark the score of a search's chosen trial over the epochs that it is made of; what a score is, as a sentence."""
    choice = records.choice
    objective = records.objective if winner is not None and choice is not None else None
    if objective is None or winner is None or choice is None:
        return ""
    name = name_of(records.facts.metric)
    own = rows[(rows["run_id"] == winner.run_id) & (rows["score"] == name)].sort_values("epoch")
    own = own[own["phase"] == [phase for phase in phases if phase in set(own["phase"])][-1]] if len(own) else own
    if own.empty or objective.reduce == "last":
        return ""
    of = "trial" if records.kind == "sweep" else "run"
    if objective.reduce == "best":
        return f"The score of a {of} is the best epoch of its last phase, not the end of its curve."
    window = math.ceil(PLATEAU_SHARE * len(own))
    ended = own["epoch"].to_numpy(int)[-window:]
    if records.kind == "sweep":
        axes = grid[0][list(phases).index(str(own["phase"].iloc[0]))]
        axes.plot([ended[0] - 0.5, ended[-1] + 0.5], [choice.value] * 2, color=ORANGE, linewidth=2.2, zorder=4,
                  marker="|", markersize=7, markeredgewidth=1.6, solid_capstyle="butt",
                  label=f"score of trial {choice.trial}: {choice.value:.3f}")  # fmt: skip
    last = f"the last {window} epochs" if window > 1 else "the last epoch"
    return (
        f"The score of a {of} is its plateau, not the end of its curve: the median over the last fifth of its last "
        f"phase, of {winner.called} over {last} ({ended[0]} to {ended[-1]} of {len(own)})."
    )


def _told(records: StudyRecords, lines: Sequence[Line]) -> str:
    if records.kind == "ablation":
        most = max(len(line.run_ids) for line in lines)
        shaded = "; shaded: range of the seeds" if lines[0].shaded and most > 1 else ""
        text = f"Median over the finished runs of each arm{shaded}. Arms that train alike share a line."
        left = len(records.facts.arms) - len(lines) - len(records.facts.not_run)
        return text + (f" {left} more arms are not drawn." if left > 0 else "")
    if records.kind == "final":
        return "One line per seed."
    grey = "Grey: all trials; a line that ends early is a trial that was stopped."
    return f"{grey} Losses of other trials may leave the axes."
