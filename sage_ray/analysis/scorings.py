"""How much of a score is the way of scoring: arms with different definitions side by side, never in one column.

For ablation studies whose arms differ in the treatment of the truth or the settings of the scores alone. Rows are
scores (object or pixel, best epoch, plateau or kept weights), columns are arms, and no column is taken from another.

    python analysis/evaluation_ablation.py [--study NAME ...] [--part test|val]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from sage_ray.analysis.ablation import HEADLINE, listed_arms
from sage_ray.analysis.arm_means import ArmMean, arm_means
from sage_ray.analysis.arms import (
    SCORED_BY,
    ArmRuns,
    Scores,
    arm_runs,
    arm_settings,
    curve_scores,
    image_scores,
)
from sage_ray.analysis.command import chosen_scores, script_parser, study_script
from sage_ray.analysis.figure_style import new_figure, save_script_figure, style, tidy_axes
from sage_ray.analysis.scored_part import choose_part
from sage_ray.analysis.study_facts import StudyFacts
from sage_ray.analysis.tables import NONE, Provenance, TextTable, interval, percent, provenance_of, write_tables
from sage_ray.analysis.tidy import Tidy
from sage_ray.metrics.definitions import SCORES_TO_ONE, label

MEASURES = {"best": "best epoch", "plateau": "plateau", "kept": "kept weights"}


def applies(tidy: Tidy, facts: StudyFacts) -> str | None:
    """None if the arms differ in how they are scored alone, else why not."""
    if facts.kind != "ablation":
        return "not an ablation study"
    varied = {path for values in arm_settings(tidy, facts).values() for path in values}
    return None if varied and varied <= set(SCORED_BY) else "the arms do not differ in the way of scoring alone"


def arm_scores(tidy: Tidy, runs: ArmRuns, arm: str, part: str, score: str) -> dict[str, Scores]:
    """The scores of one arm by measure. They have one definition, which the other arms need not share."""
    own = replace(runs, runs=runs.runs[runs.runs["arm"] == arm].reset_index(drop=True), arms=(arm,), reference=arm)
    return {**curve_scores(tidy, own, score), "kept": image_scores(tidy, own, part, score)}


def make(tidy: Tidy, facts: StudyFacts, out: Path, options: argparse.Namespace) -> Sequence[Path]:
    """Write evaluation_ablation.{md,tex,csv,png} of a study."""
    runs = arm_runs(tidy, facts)
    part, note = choose_part(tidy, runs, options.part)
    scores = chosen_scores(options)
    found = {(arm, score): arm_scores(tidy, runs, arm, part, score) for arm in runs.arms for score in scores}
    means = {
        (arm, score, name): arm_means(own.frame, options.level, bounds=(0, 1) if score in SCORES_TO_ONE else None)[0]
        for (arm, score), measures in found.items()
        for name, own in measures.items()
    }
    rows = [
        [f"{label(score)}, {text}{f' ({part})' if name == 'kept' else ''}", *_cells(runs, means, score, name)]
        for score in scores
        for name, text in MEASURES.items()
    ]
    settings = arm_settings(tidy, facts)
    told = {arm: ", ".join(f"{path} {value}" for path, value in settings[arm].items()) for arm in runs.arms}
    table = TextTable(
        title=f"Ways of scoring in {facts.name}, each arm by its own",
        columns=[f"score [{percent(options.level)}]", *map(facts.called, listed_arms(runs))],
        rows=rows,
        notes=[
            "Columns have definitions of their own and must not be subtracted from each other.",
            *(
                f"{facts.called(arm)}: {told[arm]}. {label(scores[0])}: {found[arm, scores[0]]['kept'].definition}."
                for arm in runs.arms
            ),
            "Best epoch and plateau: validation images, last phase. " + note,
            *(f"{facts.called(arm)} was not run: {why}." for arm, why in runs.not_run.items()),
        ],
        partial=runs.partial,
    )
    frame = pd.DataFrame(
        [
            {**vars(mean), "score": score, "measure": name, "definition": found[arm, score][name].definition}
            for (arm, score, name), mean in means.items()
        ]
    )
    source = provenance_of(facts.name, runs.runs)
    paths = write_tables(out, "evaluation_ablation", [table], frame, source)
    return [*paths, draw(runs, means, scores, out / "evaluation_ablation.png", source, note)]


def _cells(runs: ArmRuns, means: dict[tuple[str, str, str], ArmMean], score: str, name: str) -> list[str]:
    cells = []
    for arm in listed_arms(runs):
        mean = means.get((arm, score, name))
        missing = "not run" if arm in runs.not_run else NONE
        cells.append(interval(mean.mean, mean.low, mean.high) if mean else missing)
    return cells


def draw(
    runs: ArmRuns,
    means: dict[tuple[str, str, str], ArmMean],
    scores: Sequence[str],
    path: Path,
    source: Provenance,
    note: str,
) -> Path:
    """Draw every score and measure with its interval, one mark per arm."""
    names = [(score, name) for score in scores for name in MEASURES]
    figure = new_figure(7.2, 1.8 + 0.42 * len(names))
    axes = figure.subplots()
    step = 0.7 / max(len(runs.arms), 2)
    for k, arm in enumerate(runs.arms):
        look = {key: value for key, value in style(k).items() if key != "linestyle"}
        name_of = runs.facts.called(arm)
        for place, (score, name) in enumerate(names):
            mean, y = means[arm, score, name], len(names) - 1 - place + 0.25 - k * step
            axes.plot([mean.low, mean.high], [y, y], color=look["color"], linewidth=1.2)
            axes.plot(mean.mean, y, linestyle="", markersize=5.5, label=name_of if place == 0 else None, **look)
    axes.set_yticks(range(len(names)), [f"{label(score)}, {MEASURES[name]}" for score, name in reversed(names)])
    axes.set_xlabel("score, each arm by its own definition", fontsize=9)
    axes.set_title(f"Ways of scoring in {runs.facts.name}", fontsize=10)
    figure.legend(loc="outside upper right", ncols=4, fontsize=8, frameon=False)
    tidy_axes(axes)
    return save_script_figure(figure, path, source, [note], runs.partial)


def main() -> int:
    """Write evaluation_ablation of each study that it is for; the exit code."""
    parser = script_parser("evaluation_ablation", __doc__, part=True, scores=HEADLINE)
    return study_script(parser, applies, make)
