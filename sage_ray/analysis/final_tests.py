"""Final trainings on the locked test: one row per seed, and the mean over all with its interval over images and seeds.

For studies of which a final training has been scored, and for final trainings that were made from a config or a run.

    python analysis/final_scores.py [--study NAME ...] [--final ID ...]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from sage_ray.analysis.command import chosen_scores, script_parser, study_script
from sage_ray.analysis.curves import one_definition, pooled_f1
from sage_ray.analysis.study_facts import StudyFacts
from sage_ray.analysis.tables import TextTable, interval, number, percent, provenance_of, write_tables
from sage_ray.analysis.tidy import Tidy
from sage_ray.errors import UserError, did_you_mean
from sage_ray.metrics.definitions import COUNTS, IMAGE_SCORES, POOLED, counted_for, label
from sage_ray.record.run_folder import BASELINE
from sage_ray.statistics import by_group, mean_interval
from sage_ray.study.design_schema import FINAL_ARM

DEFAULT = ("dice", "f1_object_50", POOLED)
ALL = "all"
"""What stands for a seed in the row of all seeds."""
KIND = "final"
"""Kind of the facts of a final training that belongs to no study."""
COLUMNS = ["run_id", "seed", "image", "group", "checkpoint", "score", "definition", "value"]


def applies(tidy: Tidy, facts: StudyFacts) -> str | None:
    """None if a final training of the study was scored on the locked test, else why not."""
    return None if len(scored(tidy, facts.name)) else "no final training of it was scored on the locked test"


def scored(tidy: Tidy, study: str) -> pd.DataFrame:
    """Rows of `Tidy.runs` of the final trainings of a study that have been scored."""
    runs = tidy.runs([study])
    runs = runs[runs["arm"] == FINAL_ARM]
    if runs.empty:
        return runs
    rows = tidy.rows(kind="image", part="test", run_ids=set(runs["run_id"]), columns=["run_id"])
    return runs[runs["run_id"].isin(set(rows["run_id"]))].reset_index(drop=True)


def scored_alone(tidy: Tidy) -> pd.DataFrame:
    """Rows of `Tidy.runs` of the scored final trainings that belong to no study."""
    runs = tidy.runs()
    runs = runs[(runs["arm"] == FINAL_ARM) & runs["study"].isna()]
    if runs.empty:
        return runs
    rows = tidy.rows(kind="image", part="test", run_ids=set(runs["run_id"]), columns=["run_id"])
    return runs[runs["run_id"].isin(set(rows["run_id"]))].reset_index(drop=True)


def final_trainings(tidy: Tidy, options: argparse.Namespace) -> list[StudyFacts]:
    """The final trainings of no study that are tabulated: those named with --final, or all unless studies are named.

    Raises:
        UserError: no scored one of that name; the nearest is given.
    """
    known = [] if options.study and not options.final else sorted(set(scored_alone(tidy).get("parent", [])))
    for name in options.final:
        if name not in known:
            otherwise = f"there are: {', '.join(known) or 'none'}; those of a study are in its table (--study NAME)"
            where = f"{name} in {tidy.home.path}"
            raise UserError("no final training of a config was scored", where, did_you_mean(name, known, otherwise))
    return [StudyFacts(name, KIND) for name in dict.fromkeys(options.final or known)]


@dataclass(frozen=True)
class SeedMean:
    """The mean score of one seed, or of `ALL`; NaN bounds where there is no interval."""

    seed: str
    mean: float
    low: float = math.nan
    high: float = math.nan
    sd_seeds: float = math.nan
    """Of all seeds: standard deviation of their means."""


def seed_means(tidy: Tidy, runs: pd.DataFrame, score: str, level: float) -> tuple[list[SeedMean], str]:
    """Mean of each seed of one final training and of all, and what the score is.

    Intervals of a single seed are over images, those of all seeds over images crossed with seeds. A pooled score, which
    no single image has, has none.
    """
    wanted = list(COUNTS) if score == POOLED else [score]
    rows = tidy.rows(kind="image", part="test", scores=wanted, run_ids=set(runs["run_id"]), columns=COLUMNS)
    rows = rows[rows["checkpoint"] != BASELINE]
    where = f"final training {runs['parent'].iloc[0]}"
    meaning = one_definition(rows[rows["score"] == wanted[0]]["definition"], score, where)
    if score == POOLED:
        pooled = pooled_f1(rows, ["seed"]).sort_values("seed")
        means = [SeedMean(str(seed), float(value)) for seed, value in zip(pooled["seed"], pooled["value"], strict=True)]
        return [*means, *_over_all(means, None)], counted_for(meaning)
    # Copies of one picture may stand in one group; each is an image.
    rows = rows.assign(copy=rows.groupby(["seed", "image"]).cumcount(), group=rows["group"].fillna(rows["image"]))
    wide = rows.pivot(index=["image", "copy", "group"], columns="seed", values="value").sort_index()
    groups = list(wide.index.get_level_values("group"))
    values = wide.to_numpy(float)
    means = [_mean(str(seed), values[:, [k]], groups, level) for k, seed in enumerate(wide.columns)]
    return [*means, *_over_all(means, _mean(ALL, values, groups, level))], meaning


def _mean(seed: str, values: np.ndarray, groups: Sequence[str], level: float) -> SeedMean:
    """The mean of values (images, seeds) with its interval; without one where they are one image or micrograph."""
    if by_group(groups, len(groups)).num_groups < 2:
        return SeedMean(seed, float(values.mean()))
    found = mean_interval(values, level, groups)
    # Every score lies in [0, 1]; a t interval over few seeds knows nothing of it.
    return SeedMean(seed, found.mean, max(found.low, 0.0), min(found.high, 1.0))


def _over_all(means: Sequence[SeedMean], whole: SeedMean | None) -> list[SeedMean]:
    """The row of all seeds, if there are several."""
    values = [one.mean for one in means]
    if len(values) < 2:
        return []
    whole = whole or SeedMean(ALL, float(np.mean(values)))
    return [replace(whole, sd_seeds=float(np.std(values, ddof=1)))]


def table_of(final_id: str, found: dict[str, tuple[list[SeedMean], str]], level: float) -> TextTable:
    """The locked-test table of one final training."""
    names = [mean.seed for mean in next(iter(found.values()))[0]]
    by_name = {score: {mean.seed: mean for mean in means} for score, (means, _) in found.items()}
    rows = [
        [
            "all seeds" if name == ALL else f"seed {name}",
            *(interval(m[name].mean, m[name].low, m[name].high) for m in by_name.values()),
        ]
        for name in names
    ]
    notes = [
        f"In brackets: {percent(level)} intervals.",
        *(f"{label(score)}: {meaning}." for score, (_, meaning) in found.items()),
    ]
    spread = [f"{label(score)} {number(m[ALL].sd_seeds)}" for score, m in by_name.items() if ALL in m]
    if spread:
        notes.append(f"Standard deviation over seeds: {', '.join(spread)}.")
        notes.append("Intervals of a single seed are over images alone, those of all seeds over images and seeds.")
    return TextTable(
        title=f"Locked test of {final_id}",
        columns=["seed", *map(label, found)],
        rows=rows,
        notes=notes,
    )


def make(tidy: Tidy, facts: StudyFacts, out: Path, options: argparse.Namespace) -> Sequence[Path]:
    """Write final_scores.{md,tex,csv} of a study: a table for each of its final trainings, or for one of no study."""
    if facts.kind == KIND:
        runs, subject = scored_alone(tidy), "Final training"
        runs = runs[runs["parent"] == facts.name]
    else:
        runs, subject = scored(tidy, facts.name), "Study"
    tables, frames = [], []
    for final_id, own in runs.groupby("parent", sort=True):
        found = {score: seed_means(tidy, own, score, options.level) for score in chosen_scores(options)}
        tables.append(table_of(str(final_id), found, options.level))
        for score, (means, meaning) in found.items():
            rows = pd.DataFrame([vars(mean) for mean in means])
            rows = rows.assign(final=final_id, score=score, level=options.level, definition=meaning)
            frames.append(rows[["final", "score", "seed", "mean", "low", "high", "level", "sd_seeds", "definition"]])
    source = replace(provenance_of(facts.name, runs), subject=subject)
    return write_tables(out, "final_scores", tables, pd.concat(frames, ignore_index=True), source)


def main() -> int:
    """Write final_scores of each study and final training that it is for; the exit code."""
    parser = script_parser("final_scores", __doc__)
    parser.add_argument("--score", action="append", default=[], choices=(*IMAGE_SCORES, POOLED), help="may be repeated")
    parser.add_argument("--final", action="append", default=[], help="id of one made from a config; may be repeated")
    parser.set_defaults(scores=DEFAULT)
    parser.add_argument("--level", type=float, default=0.95, help="of the intervals [default: 0.95]")
    return study_script(parser, applies, make, final_trainings)
