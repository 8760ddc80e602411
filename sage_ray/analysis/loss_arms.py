"""Segmentation losses compared: every arm against the hybrid loss, and the paper's gain over the Dice loss beside ours.

For ablation studies whose arms differ in `segmentation_loss` alone.

    python analysis/loss_ablation.py [--study NAME ...] [--score dice ...] [--part test|val]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sage_ray.analysis.ablation import (
    HEADLINE,
    Judged,
    Result,
    add_options,
    compare_on_score,
    difference_table,
    forest,
    judge_study,
    numbers,
)
from sage_ray.analysis.arms import arm_settings, curve_scores
from sage_ray.analysis.command import chosen_scores, script_parser, study_script
from sage_ray.analysis.study_facts import StudyFacts, study_runs
from sage_ray.analysis.tables import NONE, TextTable, interval, provenance_of, write_tables
from sage_ray.analysis.tidy import Tidy
from sage_ray.metrics.definitions import label

SECTION = "segmentation_loss."
CLAIMED = {"dice": 4.25, "f1_object_50": 11.68}
"""Gain of the hybrid loss over the Dice loss alone, in % of the latter (arXiv 2604.03637, loss ablation)."""
WEIGHTS = ("w_ce", "w_focal", "w_dice", "w_tversky", "w_focal_tversky")
PARAMETERS = {
    "w_focal": ("focal_alpha", "focal_gamma", "focal_form"),
    "w_tversky": ("alpha", "beta"),
    "w_focal_tversky": ("alpha", "beta", "gamma"),
}
"""Parameters of a loss that matter only where its weight is above 0."""


def applies(tidy: Tidy, facts: StudyFacts) -> str | None:
    """None if the arms differ in the segmentation loss alone, else why not."""
    if facts.kind != "ablation":
        return "not an ablation study"
    varied = {path for values in arm_settings(tidy, facts).values() for path in values}
    if varied and all(path.startswith(SECTION) for path in varied):
        return None
    return "the arms do not differ in the segmentation loss alone"


def dice_only(tidy: Tidy, facts: StudyFacts) -> str | None:
    """The arm whose only loss is Dice, if there is one."""
    runs = study_runs(tidy, facts.name).dropna(subset=["arm"]).drop_duplicates("arm")
    settings = tidy.settings([facts.name], [SECTION + weight for weight in WEIGHTS])
    for run_id, arm in zip(runs["run_id"], runs["arm"], strict=True):
        weights = settings.loc[run_id]
        if weights[SECTION + "w_dice"] > 0 and weights.drop(SECTION + "w_dice").eq(0).all():
            return str(arm)
    return None


def claim_table(tidy: Tidy, judged: Judged, dice_arm: str, options: argparse.Namespace) -> TextTable:
    """Gain of the reference over the Dice loss alone in %, as published and as measured here."""
    rows = []
    called = judged.runs.facts.called
    for score, claimed in CLAIMED.items():
        if score not in judged.results:
            continue
        found = curve_scores(tidy, judged.runs, score)
        by_measure = {name: compare_on_score(judged.runs, scores, options) for name, scores in found.items()}
        measured = [_gain(by_measure[name], dice_arm) for name in ("best", "plateau")]
        rows.append([label(score), f"+{claimed:.2f} %", *measured, _gain(judged.results[score], dice_arm)])
    return TextTable(
        title=f"Gain of {called(judged.runs.reference)} over {called(dice_arm)}, in % of the latter",
        columns=["score", "paper", "best epoch", "plateau", judged.part],
        rows=rows,
        notes=[
            "Paper: arXiv 2604.03637, best epoch on the images that chose it; its F1 is the public code's, of objects.",
            "Best epoch: the highest validation score of the last phase; plateau: median of its last 20 % of epochs.",
            "Intervals: those of the paired difference, over the mean of the Dice arm, whose own error they leave out.",
        ],
        partial=judged.runs.partial,
    )


def _gain(result: Result, arm: str) -> str:
    row = result.row(arm)
    if row is None or not row.mean:
        return NONE
    values = [-100 * value / row.mean for value in (row.difference, row.high, row.low)]
    return interval(*values, signed=True, digits=2) + (" %" if math.isfinite(values[0]) else "")


def make(tidy: Tidy, facts: StudyFacts, out: Path, options: argparse.Namespace) -> Sequence[Path]:
    """Write loss_ablation.{md,tex,csv,png} of a study."""
    judged = judge_study(tidy, facts, options, chosen_scores(options))
    source = provenance_of(facts.name, judged.runs.runs)
    losses = {"loss": _losses(arm_settings(tidy, facts))}
    tables = [difference_table(judged, score, f"Losses of {facts.name}", losses) for score in judged.results]
    dice_arm = dice_only(tidy, facts)
    if dice_arm in judged.runs.arms and dice_arm != judged.runs.reference:
        tables.insert(0, claim_table(tidy, judged, str(dice_arm), options))
    paths = write_tables(out, "loss_ablation", tables, numbers(judged), source)
    return [*paths, forest(judged, out / "loss_ablation.png", source, f"Losses of {facts.name}")]


def _losses(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The terms of each arm's loss with their weights and, of those that the arms set differently, their parameters."""
    return {
        arm: ", ".join(_terms({p.removeprefix(SECTION): v for p, v in own.items()})) for arm, own in settings.items()
    }


def _terms(own: Mapping[str, Any]) -> list[str]:
    weights = {name: own[name] for name in WEIGHTS if own.get(name)}
    used = {parameter for name in weights or WEIGHTS for parameter in PARAMETERS.get(name, ())}
    rest = [f"{name} {own[name]}" for name in own if name in used]
    return [f"{name.removeprefix('w_')} {weight:g}" for name, weight in weights.items()] + rest


def main() -> int:
    """Write loss_ablation of each study that it is for; the exit code."""
    parser = script_parser("loss_ablation", __doc__, part=True, scores=HEADLINE)
    add_options(parser)
    return study_script(parser, applies, make)
