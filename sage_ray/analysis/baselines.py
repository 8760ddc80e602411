"""The paper's Table 1 beside ours: best epoch, plateau and locked test, parameters, cost and verdicts.

The seven systems of the paper come first, then all other arms.

For ablation studies with at least two of the seven systems as arms.

    python analysis/baseline_table.py [--study NAME ...] [--part test|val]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from sage_ray.analysis.ablation import HEADLINE, Judged, add_options, judge_study, listed_arms, notes, numbers
from sage_ray.analysis.arm_means import ArmMean, arm_means
from sage_ray.analysis.arms import Scores, curve_scores
from sage_ray.analysis.command import chosen_scores, script_parser, study_script
from sage_ray.analysis.figure_style import new_figure, save_script_figure, style, tidy_axes
from sage_ray.analysis.run_cost import run_costs
from sage_ray.analysis.study_facts import StudyFacts
from sage_ray.analysis.tables import (
    NONE,
    Provenance,
    TextTable,
    interval,
    number,
    p_value,
    percent,
    provenance_of,
    write_tables,
)
from sage_ray.analysis.tidy import Tidy
from sage_ray.metrics.definitions import SCORES_TO_ONE, label

PUBLISHED: dict[str, tuple[str, dict[str, float]]] = {
    "half_unet": ("Half U-Net", {"dice": 0.595, "f1_object_50": 0.487}),
    "dc_unet": ("DC-UNet", {"dice": 0.584, "f1_object_50": 0.592}),
    "unet": ("U-Net", {"dice": 0.681, "f1_object_50": 0.688}),
    "unet_plus_plus": ("U-Net++", {"dice": 0.698, "f1_object_50": 0.682}),
    "cgan_seg": ("cGAN-Seg", {"dice": 0.865, "f1_object_50": 0.862}),
    "attention_unet": ("Attention U-Net", {"dice": 0.869, "f1_object_50": 0.875}),
    "sage_gan": ("SAGE-GAN", {"dice": 0.932, "f1_object_50": 0.956}),
}
"""Validation Dice and F1 of arXiv 2604.03637, Table 1, by our arm's name; its F1 is the public code's, of objects."""
BUDGETS = {
    "epochs": "epochs (of both phases)",
    "steps": "steps (batches that the segmenter learns from, generated ones too)",
    "gpu_seconds": "GPU-seconds (on a CPU, seconds)",
}
"""What an arm can have as much of as another one, in words."""
NOTES = (
    "Paper: arXiv 2604.03637, Table 1, validation scores of the best epoch. What it calls F1 is, in its public code, "
    "the F1 of objects at IoU > .5 (here f1_object_50), and not the pixel F1, which would equal Dice.",
    "Best epoch: the highest validation score of the last phase, each score at an epoch of its own, as published; it "
    "is a maximum over the images that chose it. Plateau: median of the last 20 % of that phase's epochs.",
    "Means over seeds; intervals of best epoch and plateau are over seeds.",
)


def applies(facts: StudyFacts) -> str | None:
    """None if the study is about the systems of Table 1, else why not."""
    if facts.kind != "ablation":
        return "not an ablation study"
    known = [arm for arm in facts.arms if arm in PUBLISHED]
    return None if len(known) >= 2 else "fewer than two arms are systems of the paper's Table 1"


def listed_systems(judged: Judged) -> list[str]:
    """The seven systems in the paper's order, then all other arms."""
    return list(dict.fromkeys([*PUBLISHED, *listed_arms(judged.runs)]))


def system_name(arm: str, facts: StudyFacts) -> str:
    """The system's name in the paper, or the arm's label, or its name."""
    return PUBLISHED[arm][0] if arm in PUBLISHED else facts.called(arm)


def fairness(facts: StudyFacts) -> list[str]:
    """Which arms have the budget of another one, and that the others have the epochs of their own phases."""
    lines = []
    for arm, budget in facts.budgets.items():
        of = system_name(str(budget.get("of")), facts)
        lines.append(f"{system_name(arm, facts)} has the {BUDGETS.get(str(budget.get('in')), 'budget')} of {of}.")
    others = "All other systems" if lines else "Systems"
    return [*lines, f"{others} have the epochs of their own phases, which differ: compare them with this in mind."]


def system_table(judged: Judged, score: str, curves: dict[str, dict[str, ArmMean]]) -> TextTable:
    """One score of all systems: published, best epoch, plateau, images of the part, difference, verdict."""
    runs, result = judged.runs, judged.results[score]
    part = "locked test" if judged.part == "test" else "validation"
    level = percent(judged.options.level)
    columns = [
        "system", "paper", "seeds", f"best epoch [{level}]", f"plateau [{level}]", f"{part} [{level}]",
        f"{part} minus {system_name(runs.reference, runs.facts)}", "p (Holm)", "verdict",
    ]  # fmt: skip
    rows = []
    for arm in listed_systems(judged):
        paper = number(PUBLISHED[arm][1].get(score)) if arm in PUBLISHED else NONE
        if arm not in runs.arms:
            why = "not run" if arm in runs.not_run else "no run" if arm in runs.facts.arms else "not in this study"
            rows.append([system_name(arm, runs.facts), paper, NONE, why, *[NONE] * 5])
            continue
        mean, row = result.mean(arm), result.row(arm)
        means = (curves["best"][arm], curves["plateau"][arm], mean)
        cells = [str(mean.num_seeds), *(interval(m.mean, m.low, m.high) for m in means)]
        if row is None:
            rows.append([f"{system_name(arm, runs.facts)} (reference)", paper, *cells, NONE, NONE, NONE])
            continue
        difference = interval(row.difference, row.low, row.high, signed=True)
        rows.append([system_name(arm, runs.facts), paper, *cells, difference, p_value(row.p_holm), row.verdict])
    return TextTable(
        title=f"Systems of {runs.facts.name}: {label(score)}",
        columns=columns,
        rows=rows,
        notes=notes(judged, result),
        partial=runs.partial,
    )


def system_cost_table(tidy: Tidy, judged: Judged) -> tuple[TextTable, pd.DataFrame]:
    """Parameters, seconds and seeds of each system, as texts and as numbers."""
    runs = judged.runs
    spent = run_costs(tidy, runs).groupby("arm")[["parameters", "epochs", "seconds", "gpu_seconds"]].mean()
    seeds = runs.runs.groupby("arm")["unit"].nunique()
    on_gpu = bool((spent["gpu_seconds"] > 0).any())
    measured = "gpu_seconds" if on_gpu else "seconds"
    rows = []
    for arm in listed_systems(judged):
        if arm in runs.arms:
            known = spent.loc[[arm]].iloc[0]
            parameters = f"{known['parameters']:,.0f}" if known["parameters"] > 0 else NONE
            spent_here = [f"{known['epochs']:,.4g}", f"{known[measured]:,.0f}"]
            rows.append([system_name(arm, runs.facts), parameters, *spent_here, str(seeds[arm])])
    where = "GPU seconds" if on_gpu else "CPU seconds (no GPU was used)"
    table = TextTable(
        title=f"Systems of {runs.facts.name}: cost",
        columns=["system", "parameters of the segmenter", "epochs a run", f"{where} a run", "seeds"],
        rows=rows,
        notes=[
            "Epochs of both phases. Seconds of all epochs of a run, evaluation included, and of what was trained to "
            "make its extra pairs; a stage shared with another run counts in full. What trained a MODEL, or made a "
            "folder of pairs, is not known and not counted.",
            *fairness(runs.facts),
        ],
        partial=runs.partial,
    )
    return table, spent.assign(seeds=seeds).reset_index()


def make(tidy: Tidy, facts: StudyFacts, out: Path, options: argparse.Namespace) -> Sequence[Path]:
    """Write baseline_table.{md,tex,csv,png} of a study."""
    judged = judge_study(tidy, facts, options, chosen_scores(options))
    source = provenance_of(facts.name, judged.runs.runs)
    curves = {score: _curve_means(tidy, judged, score) for score in judged.results}
    costs, spent = system_cost_table(tidy, judged)
    tables = [system_table(judged, score, curves[score]) for score in judged.results]
    tables[0] = replace(tables[0], notes=[*NOTES, *tables[0].notes])
    frame = numbers(judged).merge(spent, on="arm", how="left")
    for measure in ("best", "plateau"):
        values = {(score, arm): mean.mean for score, means in curves.items() for arm, mean in means[measure].items()}
        frame[measure] = [values[key] for key in zip(frame["score"], frame["arm"], strict=True)]
    paths = write_tables(out, "baseline_table", [*tables, costs], frame, source)
    return [*paths, figure(judged, curves, out / "baseline_table.png", source)]


def _curve_means(tidy: Tidy, judged: Judged, score: str) -> dict[str, dict[str, ArmMean]]:
    found: dict[str, Scores] = curve_scores(tidy, judged.runs, score)
    bounds = (0.0, 1.0) if score in SCORES_TO_ONE else None
    return {
        name: {mean.arm: mean for mean in arm_means(scores.frame, judged.options.level, bounds=bounds)}
        for name, scores in found.items()
    }


def figure(judged: Judged, curves: dict[str, dict[str, dict[str, ArmMean]]], path: Path, source: Provenance) -> Path:
    """Draw published scores beside best epoch, plateau and locked test of every system, one panel per score."""
    arms = [arm for arm in listed_systems(judged) if arm in judged.runs.arms or arm in PUBLISHED]
    drawing = new_figure(1.9 + 3.1 * len(curves), 2.4 + 0.42 * len(arms))
    panels = drawing.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    part = "locked test" if judged.part == "test" else "validation, kept weights"
    series = ("paper, best epoch", "best epoch", "plateau", part)
    for axes, score in zip(panels, curves, strict=True):
        for place, arm in enumerate(arms):
            y = len(arms) - 1 - place
            if arm in PUBLISHED and score in PUBLISHED[arm][1]:
                axes.plot(PUBLISHED[arm][1][score], y + 0.24, **_mark(0))
            if arm in judged.runs.arms:
                means = [curves[score]["best"][arm], curves[score]["plateau"][arm], judged.results[score].mean(arm)]
                for k, mean in enumerate(means, start=1):
                    axes.plot([mean.low, mean.high], [y + 0.24 - 0.16 * k] * 2, color=style(k)["color"], linewidth=1.2)
                    axes.plot(mean.mean, y + 0.24 - 0.16 * k, **_mark(k))
        axes.set_title(label(score), fontsize=10)
        tidy_axes(axes)
    panels[0].set_yticks(range(len(arms)), [system_name(arm, judged.runs.facts) for arm in reversed(arms)])
    for k, name in enumerate(series):
        panels[0].plot([], [], label=name, **_mark(k))
    drawing.legend(loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    note = f"{percent(judged.options.level)} intervals. {judged.part_note}"
    return save_script_figure(drawing, path, source, [note], judged.runs.partial)


def _mark(place: int) -> dict[str, object]:
    chosen = style(place)
    face = "white" if place == 0 else chosen["color"]
    return {
        "linestyle": "", "marker": chosen["marker"], "markersize": 5.5, "markerfacecolor": face,
        "markeredgecolor": chosen["color"],
    }  # fmt: skip


def main() -> int:
    """Write baseline_table of each study that it is for; the exit code."""
    parser = script_parser("baseline_table", __doc__, part=True, scores=HEADLINE)
    add_options(parser)
    return study_script(parser, lambda _, facts: applies(facts), make)
