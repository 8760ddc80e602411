"""How much a best epoch flatters: best epoch against plateau, on recorded runs or on any log of scores by epoch.

    python analysis/selection_audit.py [--study NAME ...] [--score dice ...]
    python analysis/selection_audit.py --csv LOG.csv [--phase-column phase] [--epoch-column epoch] [--column dice ...]

Of a CSV every numeric column is audited, phase by phase; files go to --out (default: ./selection_audit).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from sage_ray.analysis.arms import finished_curves, missing_runs, scored_apart, validation_curves
from sage_ray.analysis.command import chosen_scores, each_study, run_command, script_parser, tell
from sage_ray.analysis.curves import curve_facts, pooled_f1
from sage_ray.analysis.figure_style import new_figure, save_script_figure, style, tidy_axes, twins
from sage_ray.analysis.log_audit import AuditedPhase, audit_log, draw_log, log_table, read_log
from sage_ray.analysis.study_facts import StudyFacts, study_runs
from sage_ray.analysis.tables import NONE, Provenance, TextTable, interval, number, provenance_of, write_tables
from sage_ray.analysis.tidy import Tidy
from sage_ray.errors import UserError
from sage_ray.metrics.definitions import COUNTS, POOLED, is_lower_better, label
from sage_ray.record.run_folder import BASELINE
from sage_ray.statistics import mean_interval

DEFAULT_SCORES = ("dice", "f1_object_50")
PHASES = {"pretrain": 0, "adversarial": 1}
NOTES = (
    "Best epoch: the best validation score of a phase, a maximum over the images that choose it. Plateau: median of "
    "the last 20 % of its epochs. Flattery: their difference, mean over runs with a t interval over runs.",
    "A phase that several runs share, trained once, counts once, under one of their arms.",
    "Test: locked test score of the weights that the run kept; of the last phase, in runs that were scored on it.",
)


def applies(tidy: Tidy, facts: StudyFacts) -> str | None:
    """None if the study has one way of scoring, else why not."""
    return scored_apart(tidy, facts)


def run_facts(tidy: Tidy, facts: StudyFacts, score: str) -> pd.DataFrame:
    """One row per finished run and phase: best, best_epoch, plateau, last, flattery, epochs, test (of the last phase).

    `stage` is equal for phases of equal length that were trained once.

    Raises:
        UserError: the score is not in the curves, or has several definitions; mixed data; a lost file.
    """
    runs, rows = finished_curves(tidy, facts, score)
    lower = is_lower_better(score)
    tested = locked_test_means(tidy, facts.name, score)
    stages = {run_id: json.loads(keys or "{}") for run_id, keys in zip(runs["run_id"], runs["stage_keys"], strict=True)}
    found = []
    last = rows.groupby("run_id")["phase"].last().to_dict()
    for _, curve in rows.groupby(["run_id", "phase"], sort=False):
        first = curve.iloc[0]
        run_id, phase = str(first["run_id"]), str(first["phase"])
        found.append(
            {
                "run_id": run_id, "seed": int(first["seed"]), "phase": phase, "score": score,
                "arm": first["arm"] if facts.kind == "ablation" else f"trial {int(first['trial'])}",
                "stage": f"{stages[run_id].get(phase, run_id)}@{len(curve)}",
                **curve_facts(curve, lower=lower), "last_phase": last[run_id] == phase,
                "test": tested.get(run_id, math.nan) if last[run_id] == phase else math.nan,
            }
        )  # fmt: skip
    table = pd.DataFrame(found)
    phase_places = [PHASES.get(phase, len(PHASES)) for phase in table["phase"]]
    arm_places = [facts.place_of(arm) for arm in table["arm"]]
    table = table.iloc[np.lexsort((arm_places, phase_places))].reset_index(drop=True)
    sign = -1 if lower else 1
    return table.assign(flattery=sign * (table["best"] - table["plateau"]))


def locked_test_means(tidy: Tidy, study: str, score: str) -> dict[str, float]:
    """Locked test score of each run that was scored on it: mean over images, or pooled."""
    wanted = list(COUNTS) if score == POOLED else [score]
    columns = ["run_id", "score", "checkpoint", "value"]
    rows = tidy.rows(kind="image", studies=[study], part="test", scores=wanted, columns=columns)
    rows = rows[rows["checkpoint"] != BASELINE]
    if rows.empty:
        return {}
    means = pooled_f1(rows, ["run_id"]) if score == POOLED else rows.groupby("run_id", as_index=False)["value"].mean()
    return dict(zip(means["run_id"], means["value"], strict=True))


def audit_table(facts: StudyFacts, table: pd.DataFrame, score: str, definition: str) -> TextTable:
    """Best epoch, plateau and flattery of each phase over all runs, and of each arm in the last phase."""
    rows = []
    for phase, everything in table.groupby("phase", sort=False):
        # Of runs that share a phase, one that ended with it has the test score.
        ended_first = everything.sort_values("last_phase", ascending=False, kind="stable")
        found = ended_first.drop_duplicates("stage").sort_index()
        rows.append([f"{phase}: all runs", *_cells(found)])
        if facts.kind == "ablation" and found["arm"].nunique() > 1:
            rows += [
                [f"{phase}: {facts.called(str(arm))}", *_cells(one)] for arm, one in found.groupby("arm", sort=False)
            ]
    return TextTable(
        title=f"What a best epoch flatters in {facts.name}: {label(score)}",
        columns=["phase and runs", "runs", "best epoch", "plateau", "flattery [95 %]", "locked test"],
        rows=rows,
        notes=[f"Score: {definition}.", *NOTES],
    )


def _cells(found: pd.DataFrame) -> list[str]:
    spread = flattery_interval(found["flattery"].to_numpy(float))
    tested = found["test"].dropna()
    test = (
        number(tested.mean()) + ("" if len(tested) == len(found) else f" ({len(tested)} runs)") if len(tested) else NONE
    )
    return [
        str(len(found)), number(found["best"].mean()), number(found["plateau"].mean()),
        interval(*spread, signed=True), test,
    ]  # fmt: skip


def flattery_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean of the finite values and the bounds of its 95 % t interval; nan for bounds of fewer than two values."""
    finite = values[np.isfinite(values)]
    if len(finite) < 2:
        return (float(finite.mean()) if len(finite) else math.nan, math.nan, math.nan)
    found = mean_interval(finite)
    return found.mean, found.low, found.high


def draw(
    tables: dict[str, pd.DataFrame], facts: StudyFacts, path: Path, source: Provenance, partial: Sequence[str]
) -> Path:
    """Draw best epoch against plateau, a mark for each run of the last phase, one panel per score."""
    figure = new_figure(1.2 + 3.6 * len(tables), 4.6)
    panels = figure.subplots(1, len(tables), squeeze=False)[0]
    for axes, (score, table) in zip(panels, tables.items(), strict=True):
        last = table[table["last_phase"]]
        names = list(dict.fromkeys(last["arm"])) if facts.kind == "ablation" else ["run"]
        for place, name in enumerate(names):
            rows = last[last["arm"] == name] if facts.kind == "ablation" else last
            look = {key: value for key, value in style(place).items() if key != "linestyle"}
            axes.plot(
                rows["plateau"], rows["best"], linestyle="", markersize=5, markerfacecolor="none",
                label=facts.called(name), **look,
            )  # fmt: skip
        ends = [float(np.nanmin(last[["best", "plateau"]])), float(np.nanmax(last[["best", "plateau"]]))]
        axes.plot(ends, ends, color="0.4", linewidth=1, linestyle="--")
        foot = [ends[0] + 0.12 * (ends[1] - ends[0])] * 2
        axes.annotate("no flattery", foot, xytext=(8, -8), textcoords="offset points", fontsize=7)
        axes.set(xlabel="plateau", ylabel="best epoch")
        axes.set_title(f"{label(score)}, last phase", fontsize=10)
        tidy_axes(axes)
    if facts.kind == "ablation":
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize=7, frameon=False)
    return save_script_figure(figure, path, source, partial=partial)


def make(tidy: Tidy, facts: StudyFacts, out: Path, scores: Sequence[str]) -> Sequence[Path]:
    """Write selection_audit.{md,tex,csv,png} of a study."""
    found = {score: run_facts(tidy, facts, score) for score in scores}
    runs = study_runs(tidy, facts.name)
    source = provenance_of(facts.name, runs[runs["run_id"].isin(set(found[scores[0]]["run_id"]))])
    tables, partial = [], missing_runs(facts, runs)
    for score, table in found.items():
        meaning = validation_curves(tidy, [facts.name], score)["definition"].dropna()
        told = audit_table(facts, table, score, str(meaning.iloc[0]) if len(meaning) else "not recorded")
        tables.append(replace(told, partial=partial))
    paths = write_tables(out, "selection_audit", tables, pd.concat(found.values(), ignore_index=True), source)
    return [*paths, draw(found, facts, out / "selection_audit.png", source, partial)]


def make_of_log(options: argparse.Namespace) -> int:
    """Write selection_audit.{md,tex,csv,png} of a CSV and print the facts."""
    log = read_log(options.csv, options.phase_column, options.epoch_column, options.column, lower=options.lower)
    audited = audit_log(log)
    digest = hashlib.sha256(options.csv.read_bytes()).hexdigest()[:16]
    source = Provenance(study=f"Log {options.csv.name}", fingerprints=(f"sha256 {digest}",))
    out = options.out or Path("selection_audit")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError("cannot be written", out, f"give another folder with --out ({error.strerror})") from None
    table = log_table(options.csv.name, audited)
    for row in [table.columns, *table.rows]:
        tell("  ".join(f"{cell:>{width}}" for cell, width in zip(row, _widths(table), strict=True)))
    for note in table.notes:
        tell(note)
    paths = write_tables(out, "selection_audit", [table], _numbers(audited), source)
    for path in [*paths, draw_log(log, audited, out / "selection_audit.png", source)]:
        for file in twins(path):
            tell(file)
    return 0


def _widths(table: TextTable) -> list[int]:
    return [max(len(row[place]) for row in [table.columns, *table.rows]) for place in range(len(table.columns))]


def _numbers(audited: Sequence[AuditedPhase]) -> pd.DataFrame:
    return pd.DataFrame([vars(phase) for phase in audited])


def main() -> int:
    """Write selection_audit of each study, or of one log; the exit code."""
    parser = script_parser("selection_audit", __doc__, scores=DEFAULT_SCORES)
    parser.add_argument("--csv", type=Path, help="audit this log instead of recorded runs")
    parser.add_argument("--phase-column", help="column that names the phase [default: phase, if there is one]")
    parser.add_argument("--epoch-column", help="column that counts the epochs [default: epoch, if there is one]")
    parser.add_argument("--column", action="append", default=[], help="score column; may be repeated [default: all]")
    parser.add_argument("--lower", action="store_true", help="lower scores are better")

    def work(options: argparse.Namespace) -> int:
        if options.csv is not None:
            return make_of_log(options)
        scores = chosen_scores(options)
        return each_study(options, applies, lambda tidy, facts, out: make(tidy, facts, out, scores))

    return run_command(parser, work)
