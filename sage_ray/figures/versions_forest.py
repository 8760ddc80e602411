"""The versions of a registered model on their locked test: scores, and differences to the reference."""

from __future__ import annotations

import math
from typing import cast

import pandas as pd

from sage_ray.analysis.figure_style import paper_style, settle
from sage_ray.analysis.tables import Provenance
from sage_ray.evaluation.score_tables import PRIMARY
from sage_ray.figures.finals_forest import drawn_forest, forest_told
from sage_ray.figures.study_figure import StudyFigure, signed_figure
from sage_ray.figures.tested_finals import ComparedFinals, FinalDifference, Tested
from sage_ray.registry.comparison import Comparison, VersionScores
from sage_ray.statistics import Interval
from sage_ray.statistics.claims import UNDECIDED, WORDS, Word


def versions(comparison: Comparison, columns: int) -> StudyFigure:
    """Dice of each version on the locked test, and its difference to that of the reference."""
    rows = sorted(comparison.versions, key=lambda row: not row.is_reference)
    tested = {row.version: _tested(row) for row in rows}
    reference = rows[0]
    differences = {str(row.version): _difference(row, reference) for row in rows[1:] if row.differences}
    level = next((each.interval.level for each in differences.values() if each.interval), 0.95)
    found = ComparedFinals(
        tuple(tested.values()), tested[reference.version], differences, {}, max(len(differences), 1), level
    )
    with paper_style():
        figure = drawn_forest(found, columns)
        caption, alt = forest_told(found)
        seeds = tuple(map(str, sorted({seed for row in rows for seed in row.seeds})))
        source = Provenance(
            comparison.model_name,
            runs=sum(len(row.seeds) for row in rows),
            fingerprints=_named(comparison.fingerprint),
            splits=_named(comparison.split_id),
            seeds=seeds,
        )
        title = "Versions on the locked test"
        drawn = signed_figure(comparison.model_name, "versions", title, caption, alt, figure, source)
        settle(drawn.figure)
    return drawn


def _named(text: str | None) -> tuple[str, ...]:
    return (text,) if text else ()


def _tested(row: VersionScores) -> Tested:
    by_seed = tuple(lines[PRIMARY].mean for lines in row.by_seed.values())
    return Tested(f"version {row.version}", str(row.version), pd.DataFrame(), row.scores, by_seed=by_seed)


def _difference(row: VersionScores, reference: VersionScores) -> FinalDifference:
    assert row.differences is not None
    gain, line = row.differences[PRIMARY], row.scores[PRIMARY]
    seeds = len(set(row.seeds) & set(reference.seeds))
    interval = None
    if gain.low is not None and gain.high is not None and gain.level is not None:
        # A comparison does not keep the error and its degrees of freedom, and nothing is computed from them here.
        interval = Interval(
            gain.mean, gain.low, gain.high, gain.level, math.nan, gain.over, line.images, seeds,
            math.nan if gain.p_value is None else gain.p_value, math.nan, line.micrographs,
        )  # fmt: skip
    return FinalDifference(
        difference=gain.mean,
        interval=interval,
        why_no_interval="" if interval is not None else gain.over,
        images=line.images,
        micrographs=line.micrographs,
        seeds=seeds,
        means=(line.mean, reference.scores[PRIMARY].mean),
        word=cast(Word, row.verdict or WORDS[UNDECIDED]),
    )
