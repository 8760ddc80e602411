"""Main effects of a crossed design: mean of all arms with one level of a factor against that of all with another."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from sage_ray.analysis.ablation import Judged, Result, compare_on_score
from sage_ray.analysis.arm_differences import Row
from sage_ray.analysis.tables import TextTable, interval, number, p_value, percent
from sage_ray.metrics.definitions import label
from sage_ray.statistics.claims import holm_adjusted, withdrawn

CROSSED = ("factorial", "fractional")


@dataclass(frozen=True)
class Effect:
    """One level of a factor against the reference's level, over all arms."""

    factor: str
    level: str
    base: str
    row: Row
    p_holm: float
    verdict: str


def has_effects(judged: Judged) -> bool:
    """Whether the study crosses factors and has runs of every arm, so that levels can be averaged over the others."""
    facts = judged.runs.facts
    return facts.design in CROSSED and set(judged.runs.arms) == set(facts.arms)


def main_effects(judged: Judged, score: str, options: argparse.Namespace) -> list[Effect]:
    """The effect of every level that is not the reference's, Holm-adjusted over all of them."""
    result = judged.results[score]
    found = [(factor, level, base, _row(judged, result, part, options)) for factor, level, base, part in _parts(judged)]
    if not found:
        return []
    adjusted = holm_adjusted(np.array([row.p_value for *_, row in found]))
    effects = []
    for (factor, level, base, row), p_holm in zip(found, adjusted, strict=True):
        verdict = withdrawn(row.verdict, float(p_holm), options.level)
        effects.append(Effect(factor, level, base, row, float(p_holm), verdict))
    return effects


def effect_table(judged: Judged, score: str, options: argparse.Namespace) -> TextTable:
    """The effects of one score as a table."""
    rows = []
    for found in main_effects(judged, score, options):
        row = found.row
        rows.append(
            [
                f"{found.factor}: {found.level} instead of {found.base}",
                number(row.reference_mean),
                interval(row.difference, row.low, row.high, signed=True),
                number(row.effect_relative, signed=True, digits=1),
                p_value(found.p_holm),
                found.verdict,
            ]
        )
    runs = judged.runs
    return TextTable(
        title=f"Main effects in {runs.facts.name}: {label(score)}",
        columns=["factor", "mean before", f"effect [{percent(options.level)}]", "relative %", "p (Holm)", "verdict"],
        rows=rows,
        notes=[
            "Effect: mean over all arms with the one level minus mean over all arms with the other, paired by seed and "
            "image; it averages over the levels of all other factors. Verdicts as in the table of arms.",
            *runs.facts.notes,
        ],
        partial=runs.partial,
    )


def _parts(judged: Judged) -> Iterator[tuple[str, str, str, pd.DataFrame]]:
    """(factor, level, reference level, arms with their level under the name `level`) of each effect."""
    levels = judged.runs.facts.levels
    reference = levels[judged.runs.reference]
    for factor, base in reference.items():
        others = dict.fromkeys(arm[factor] for arm in levels.values() if arm[factor] != base)
        for level in others:
            named = [(arm, own[factor]) for arm, own in levels.items() if own[factor] in (base, level)]
            yield factor, level, base, pd.DataFrame(named, columns=["arm", "level"])


def _row(judged: Judged, result: Result, part: pd.DataFrame, options: argparse.Namespace) -> Row:
    scores = result.scores
    cells = ["level", "seed", *(name for name in ("image", "group") if name in scores.frame)]
    frame = scores.frame.merge(part, on="arm").groupby(cells, sort=False)["value"].mean().reset_index()
    base = part.loc[part["arm"] == judged.runs.reference, "level"].iloc[0]
    frame = frame.rename(columns={"level": "arm"}).sort_values("arm", key=lambda names: names != base, kind="stable")
    pair = replace(judged.runs, arms=tuple(frame["arm"].unique()), reference=base)
    comparison = compare_on_score(pair, replace(scores, frame=frame), options).comparison
    assert comparison is not None, "two levels make a comparison"
    return comparison.rows[0]
