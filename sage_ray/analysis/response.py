"""Response of a score to one setting: one point per run, a curve with an interval, and what both mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.nonparametric.smoothers_lowess import lowess

from sage_ray.analysis.arms import check_runs, checked_curves, last_phase, varied_paths
from sage_ray.analysis.curves import plateau
from sage_ray.analysis.figure_style import style
from sage_ray.analysis.study_facts import StudyFacts, study_runs
from sage_ray.analysis.tables import percent
from sage_ray.analysis.tidy import Tidy
from sage_ray.errors import UserError
from sage_ray.record.run_record import FINISHED
from sage_ray.statistics import mean_interval

MAX_LEVELS = 8
"""Distinct values up to which each is a level with a mean of its own; more are smoothed."""
RESAMPLES = 500
SMOOTHING = 0.67
"""Share of the trials that the local line at a point sees."""
MIN_TRIALS = 5
FINE = 60


@dataclass(frozen=True)
class Curve:
    """The response of a score to a setting.

    Attributes:
        table: x, value, low, high, runs, trials; low and high nan where nothing tells the spread.
        smooth: whether it is a smoothed curve over many values, or one mean per level.
        meaning: a sentence on what value and interval are.
    """

    table: pd.DataFrame
    smooth: bool
    meaning: str


def points(tidy: Tidy, facts: StudyFacts, paths: Sequence[str], score: str) -> pd.DataFrame:
    """One row per run: trial, run_id, seed, state, `epochs` reported, the settings `paths`, and `value`.

    `value` is the plateau of the score in the last phase that the run has reached; nan for a failed run, whose curve
    says nothing of what it would have reached.

    Raises:
        UserError: no finished run, a setting that is not recorded, no curve, several definitions, mixed data.
    """
    runs = study_runs(tidy, facts.name)
    finished = runs[runs["state"] == FINISHED]
    if finished.empty:
        raise UserError("study has no finished run", facts.name, f"`sage-ray resume {facts.name}`")
    check_runs(finished, facts.name)
    settings = tidy.settings([facts.name], paths).reindex(index=runs["run_id"], columns=list(paths))
    rows = checked_curves(tidy, facts, score, set(runs["run_id"]))
    levels = last_phase(rows).groupby("run_id")["value"].agg(lambda values: plateau(values.to_numpy()))
    found = runs[["trial", "run_id", "seed", "state"]].reset_index(drop=True)
    found["epochs"] = rows.groupby("run_id")["epoch"].max().reindex(found["run_id"]).to_numpy()
    for path in paths:
        found[path] = pd.to_numeric(settings[path], errors="coerce").to_numpy()
    values = levels.reindex(found["run_id"]).to_numpy(float)
    return found.assign(value=np.where(found["state"] == "FAIL", math.nan, values))


def varied(tidy: Tidy, facts: StudyFacts, besides: Sequence[str] = ()) -> list[str]:
    """Settings that differ between the runs of a study, without seeds, `runtime` and those in `besides`."""
    settings = tidy.settings([facts.name]).reindex(study_runs(tidy, facts.name)["run_id"])
    return [path for path in varied_paths(settings) if path not in besides]


def respond(found: pd.DataFrame, path: str, *, log: bool = False, level: float = 0.95, seed: int = 0) -> Curve:
    """The response of finished runs to a setting.

    Up to 8 distinct values: their means, with t intervals over the runs of each. More: a local line (lowess), with a
    percentile band from resampling trials, the runs of a trial staying together.

    Args:
        found: rows of `points`; runs that did not finish are left out.
        path: column of the setting.
        log: smooth over its logarithm.
        level: of the interval.
        seed: of the resampling.

    Raises:
        UserError: fewer than five finished trials to smooth over.
    """
    used = found[(found["state"] == FINISHED) & found["value"].notna() & found[path].notna()]
    if used[path].nunique() <= MAX_LEVELS:
        return _levels(used, path, level)
    if used["trial"].nunique() < MIN_TRIALS:
        raise UserError("too few finished trials", f"{path}: {used['trial'].nunique()}", f"finish {MIN_TRIALS} or more")
    return _smooth(used, path, log=log, level=level, seed=seed)


def _levels(used: pd.DataFrame, path: str, level: float) -> Curve:
    rows = []
    for value, group in used.groupby(path):
        scores = group["value"].to_numpy(float)
        low, high = math.nan, math.nan
        if len(scores) > 1:
            spread = mean_interval(scores, level)
            low, high = spread.low, spread.high
        counts = {"runs": len(scores), "trials": group["trial"].nunique()}
        rows.append({"x": float(str(value)), "value": float(scores.mean()), "low": low, "high": high, **counts})
    meaning = (
        f"Mean of the finished runs at each value; {percent(level)} t interval of the mean over these runs, which "
        "differ in seed and in whatever else the study varies; none where there is one run."
    )
    columns = ["x", "value", "low", "high", "runs", "trials"]
    return Curve(pd.DataFrame(rows, columns=columns), smooth=False, meaning=meaning)


def _smooth(used: pd.DataFrame, path: str, *, log: bool, level: float, seed: int) -> Curve:
    at = np.log(used[path].to_numpy(float)) if log else used[path].to_numpy(float)
    grid = np.linspace(at.min(), at.max(), FINE)
    value = _lowess(at, used["value"].to_numpy(float), grid)
    draws = np.random.default_rng(seed)
    by_trial = [np.flatnonzero(used["trial"] == trial) for trial in used["trial"].unique()]
    resampled = np.empty((RESAMPLES, FINE))
    for place in range(RESAMPLES):
        rows = np.concatenate([by_trial[k] for k in draws.integers(len(by_trial), size=len(by_trial))])
        resampled[place] = _lowess(at[rows], used["value"].to_numpy(float)[rows], grid)
    low, high = np.nanquantile(resampled, [(1 - level) / 2, (1 + level) / 2], axis=0)
    table = pd.DataFrame({"x": np.exp(grid) if log else grid, "value": value, "low": low, "high": high})
    table = table.assign(runs=len(used), trials=used["trial"].nunique())
    meaning = (
        f"Local line over {percent(SMOOTHING)} of the trials (lowess); band: pointwise {percent(level)} of {RESAMPLES} "
        "curves from resampled trials. It is about the mean response, not about single runs, and it knows nothing of "
        "what a sampler left unvisited."
    )
    return Curve(table, smooth=True, meaning=meaning)


def _lowess(at: np.ndarray, values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Smoothed values at `grid`; nan where a resample has too few distinct places for a line."""
    fitted: np.ndarray = lowess(values, at, frac=SMOOTHING, it=0, xvals=grid)
    return fitted


def draw_response(axes: Any, found: pd.DataFrame, curve: Curve, path: str, *, log: bool) -> None:
    """Draw points and curve: filled for finished runs, open for stopped ones, ticks at the foot for failed ones."""
    finished = found[found["state"] == FINISHED]
    failed = found[found["state"] == "FAIL"]
    stopped = found[found["value"].notna() & ~found["state"].isin([FINISHED, "FAIL"])]
    table = curve.table
    if curve.smooth:
        axes.fill_between(table["x"], table["low"], table["high"], color="0.82", linewidth=0, label="interval")
        axes.plot(table["x"], table["value"], color="black", linewidth=1.6, label="smoothed mean")
    else:
        spread = np.abs(table[["low", "high"]].to_numpy(float).T - table["value"].to_numpy(float))
        axes.errorbar(
            table["x"], table["value"], yerr=np.nan_to_num(spread), color="black", capsize=3, marker="_",
            markersize=10, linewidth=1.2, label="mean, interval",
        )  # fmt: skip
    point = {"linestyle": "", "markersize": 4.5, "zorder": 3}
    axes.plot(finished[path], finished["value"], marker="o", color=style(1)["color"], label="finished run", **point)
    if len(stopped):
        axes.plot(
            stopped[path], stopped["value"], marker="o", markerfacecolor="white", color="0.35",
            label="stopped early (not in the curve)", **point,
        )  # fmt: skip
    if len(failed):
        foot = axes.get_xaxis_transform()
        axes.plot(
            failed[path], np.full(len(failed), 0.02), marker="x", color="black", transform=foot, label="failed", **point
        )
    if log:
        axes.set_xscale("log")
    axes.set_xlabel(path, fontsize=9)


def counts(found: pd.DataFrame) -> str:
    """A sentence on how many runs are in a curve and how many are not."""
    tally = found["state"].value_counts()
    rest = [f"{count} {state}" for state, count in tally.items() if state != FINISHED]
    used = (
        f"{tally.get(FINISHED, 0)} finished runs of {found.loc[found['state'] == FINISHED, 'trial'].nunique()} trials"
    )
    return used + (f"; not in the curve: {', '.join(rest)}." if rest else ".")
