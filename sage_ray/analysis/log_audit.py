"""A log of scores by epoch, from any CSV: best epoch, plateau, noise, and the best epoch against its surroundings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from sage_ray.analysis.curves import best_score, plateau, window
from sage_ray.analysis.figure_style import new_figure, save_script_figure, style, tidy_axes
from sage_ray.analysis.tables import Provenance, TextTable, number
from sage_ray.errors import UserError

NEIGHBOURS = 25
"""Epochs to either side of an epoch that are its surroundings."""
RECENT = 50
WIDE = 11
"""Epochs of the running median that noise is told from."""
CLOCKS = ("second", "time", "step", "lr")
"""Parts of column names that count or time, and are no scores unless they are asked for."""


@dataclass(frozen=True)
class Log:
    """Scores by epoch.

    Attributes:
        phases: phase to its rows in order of epochs: column `epoch`, and one for each score.
        columns: of the scores.
        lower: whether lower scores are better.
        name: of the file.
    """

    phases: Mapping[str, pd.DataFrame]
    columns: tuple[str, ...]
    lower: bool
    name: str


@dataclass(frozen=True)
class AuditedPhase:
    """One score in one phase; epochs as the log numbers them.

    Attributes:
        flattery: best minus plateau, turned so that above 0 the best epoch looks better.
        above_surroundings: best minus the median of the 25 epochs to either side of it, turned likewise.
        noise_sd: standard deviation of the last 50 epochs around the running median of 11.
        noise_correlation: lag-1 autocorrelation of that noise.
        others: scores of the other columns at this score's best epoch.
    """

    phase: str
    score: str
    epochs: int
    best: float
    best_epoch: int
    plateau: float
    plateau_epochs: int
    median_of_last_50: float
    flattery: float
    above_surroundings: float
    noise_sd: float
    noise_correlation: float
    others: str


def read_log(
    path: Path, phase_column: str | None, epoch_column: str | None, columns: Sequence[str], *, lower: bool = False
) -> Log:
    """The log in a CSV; lines that begin with # are comments.

    Args:
        path: of the file.
        phase_column: names the phase of a row; None: the column `phase`, or one phase if there is none.
        epoch_column: counts the epochs; None: the column `epoch`, or the place of the row if there is none.
        columns: the scores; (): every other numeric column that is no clock.
        lower: whether lower scores are better.

    Raises:
        UserError: no such file or column, a column that is not numeric, or an epoch that occurs twice.
    """
    try:
        table = pd.read_csv(path, comment="#")
    except FileNotFoundError:
        raise UserError("no such file", path, "give the path of a CSV with one row per epoch") from None
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        reason = " ".join(str(error).split())[:200]
        mend = f"save it anew as text with commas, one row per epoch, the names of the columns first ({reason})"
        raise UserError("unreadable CSV", path, mend) from None
    phase = _column(table, phase_column, "phase", path)
    epoch = _column(table, epoch_column, "epoch", path)
    chosen = tuple(columns) or tuple(
        name
        for name in map(str, table.select_dtypes("number").columns)
        if name not in (phase, epoch) and not any(part in name.lower() for part in CLOCKS)
    )
    for name in chosen:
        _column(table, name, name, path)
        if not pd.api.types.is_numeric_dtype(table[name]):
            raise UserError("column is not numeric", f"{path}, {name}", "choose score columns with --column")
    if table.empty or not chosen:
        listed = ", ".join(map(str, table.columns))
        raise UserError("no scores in the log", path, f"it needs rows and numeric columns; it has {listed or 'none'}")
    table = table.assign(epoch=table[epoch] if epoch else range(len(table)))
    groups = table.groupby(phase, sort=False) if phase else [("all", table)]
    phases = {str(name): rows.sort_values("epoch", ignore_index=True)[["epoch", *chosen]] for name, rows in groups}
    for name, rows in phases.items():
        if rows["epoch"].duplicated().any():
            mend = "name the column that tells its phases apart with --phase-column"
            raise UserError("epoch occurs twice", f"{path}, phase {name}", mend)
    return Log(phases, chosen, lower, path.name)


def audit_log(log: Log) -> list[AuditedPhase]:
    """The facts of every score in every phase."""
    return [_audit(log, phase, rows, score) for phase, rows in log.phases.items() for score in log.columns]


def noise(values: np.ndarray) -> tuple[float, float]:
    """Standard deviation and lag-1 autocorrelation of the last 50 values around a running median of 11, or nan."""
    running = pd.Series(values).rolling(WIDE, center=True).median().to_numpy()
    rest = (values - running)[WIDE // 2 : len(values) - WIDE // 2][-RECENT:]
    if len(rest) < 10 or not np.isfinite(rest).all() or rest.std() == 0:
        return math.nan, math.nan
    centred = rest - rest.mean()
    return float(rest.std(ddof=1)), float((centred[1:] * centred[:-1]).sum() / (centred**2).sum())


def log_table(name: str, audited: Sequence[AuditedPhase]) -> TextTable:
    """The facts of a log as a table."""
    rows = [
        [
            f"phase {found.phase}, {found.score}", str(found.epochs), number(found.best), str(found.best_epoch),
            number(found.plateau), number(found.flattery, signed=True), number(found.above_surroundings, signed=True),
            number(found.median_of_last_50), number(found.noise_sd),
            number(found.noise_correlation, signed=True, digits=2),
        ]
        for found in audited
    ]  # fmt: skip
    columns = [
        "score", "epochs", "best epoch", "at", "plateau", "flattery", "above its surroundings", "median of last 50",
        "noise sd", "noise autocorrelation",
    ]  # fmt: skip
    notes = [
        "Plateau: median of the last 20 % of a phase's epochs. Flattery: best epoch minus plateau. Surroundings: "
        f"median of the {NEIGHBOURS} epochs to either side.",
        f"Noise: the last {RECENT} epochs around the running median of {WIDE}; sd, and autocorrelation from one epoch "
        "to the next (the running median itself pulls it below 0: about -.08 for independent noise).",
        *_apart(audited),
    ]
    return TextTable(f"What a best epoch flatters in {name}", columns, rows, notes)


def draw_log(log: Log, audited: Sequence[AuditedPhase], path: Path, source: Provenance) -> Path:
    """Draw every score by epoch with its best epoch and its plateau, one row per score and one column per phase."""
    figure = new_figure(1.0 + 3.6 * len(log.phases), 1.0 + 2.3 * len(log.columns))
    grid = figure.subplots(len(log.columns), len(log.phases), squeeze=False, sharey="row")
    for found in audited:
        row, column = log.columns.index(found.score), list(log.phases).index(found.phase)
        axes, rows = grid[row][column], log.phases[found.phase]
        axes.plot(rows["epoch"], rows[found.score], color="0.55", linewidth=0.8)
        last = rows["epoch"].iloc[-found.plateau_epochs :]
        label = f"plateau {found.plateau:.3f}"
        axes.plot(
            [last.iloc[0], last.iloc[-1]], [found.plateau] * 2, color=style(1)["color"], linewidth=2.6, label=label
        )
        mark = {"linestyle": "", "marker": "v", "color": "black", "markersize": 7}
        axes.plot(found.best_epoch, found.best, label=f"best epoch {found.best:.3f}", **mark)
        axes.set_title(f"phase {found.phase}", fontsize=10)
        axes.set(xlabel="epoch", ylabel=found.score if column == 0 else None)
        axes.legend(fontsize=8, loc="lower right", frameon=True, framealpha=0.9)
        tidy_axes(axes)
    figure.suptitle(f"What a best epoch flatters in {log.name}", fontsize=11)
    return save_script_figure(figure, path, source)


def _audit(log: Log, phase: str, rows: pd.DataFrame, score: str) -> AuditedPhase:
    values = rows[score].to_numpy(float)
    sign = -1.0 if log.lower else 1.0
    top, place = best_score(values, lower=log.lower)
    level = plateau(values)
    around = np.delete(np.arange(len(values)), place)
    around = around[abs(around - place) <= NEIGHBOURS]
    sd, correlation = noise(values)
    others = {name: float(rows[name].iloc[place]) for name in log.columns if name != score}
    return AuditedPhase(
        phase=phase,
        score=score,
        epochs=len(values),
        best=top,
        best_epoch=int(rows["epoch"].iloc[place]),
        plateau=level,
        plateau_epochs=window(len(values)),
        median_of_last_50=float(np.median(values[-RECENT:])),
        flattery=sign * (top - level),
        above_surroundings=sign * (top - float(np.median(values[around]))) if len(around) else math.nan,
        noise_sd=sd,
        noise_correlation=correlation,
        others=", ".join(f"{name} {value:.4f}" for name, value in others.items()),
    )


def _apart(audited: Sequence[AuditedPhase]) -> list[str]:
    """A sentence for each phase whose scores have their best epochs apart: the best pair occurs at no epoch."""
    notes = []
    for phase in dict.fromkeys(found.phase for found in audited):
        rows = [found for found in audited if found.phase == phase]
        if len({found.best_epoch for found in rows}) > 1:
            told = "; ".join(f"best {f.score} at epoch {f.best_epoch} (there {f.others})" for f in rows)
            notes.append(f"Phase {phase}: the best scores fall on different epochs: {told}.")
    return notes


def _column(table: pd.DataFrame, wanted: str | None, default: str, path: Path) -> str | None:
    name = wanted or default
    if name in table.columns:
        return name
    if wanted is None:
        return None
    raise UserError("no such column", f"{path}, {wanted}", "it has " + ", ".join(map(str, table.columns)))
