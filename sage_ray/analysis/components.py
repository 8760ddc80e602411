"""What each component of a method carries: every arm of an ablation against its reference, with intervals and verdicts.

For any ablation study; without --study for all but those that another script is for. A study that crosses factors also
gets their main effects.

    python analysis/component_ablation.py [--study NAME ...] [--score dice ...] [--part test|val]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from sage_ray.analysis import baselines, loss_arms, scarcity, scorings
from sage_ray.analysis.ablation import HEADLINE, add_options, difference_table, forest, judge_study, numbers
from sage_ray.analysis.command import chosen_scores, each_study, run_command, script_parser
from sage_ray.analysis.effects import effect_table, has_effects
from sage_ray.analysis.study_facts import StudyFacts
from sage_ray.analysis.tables import provenance_of, write_tables
from sage_ray.analysis.tidy import Tidy


def applies(facts: StudyFacts) -> str | None:
    """None if the study can be tabulated here, else why not."""
    return None if facts.kind == "ablation" else "not an ablation study"


def is_anothers(tidy: Tidy, facts: StudyFacts) -> bool:
    """Whether another script, made for such studies, tabulates the study."""
    reasons = (
        baselines.applies(facts), loss_arms.applies(tidy, facts), scorings.applies(tidy, facts),
        scarcity.applies(tidy, facts),
    )  # fmt: skip
    return None in reasons


def make(tidy: Tidy, facts: StudyFacts, out: Path, options: argparse.Namespace) -> Sequence[Path]:
    """Write component_ablation.{md,tex,csv,png} of a study."""
    judged = judge_study(tidy, facts, options, chosen_scores(options))
    source = provenance_of(facts.name, judged.runs.runs)
    tables = [difference_table(judged, score, f"Arms of {facts.name}") for score in judged.results]
    if has_effects(judged):
        tables = [effect_table(judged, score, options) for score in judged.results] + tables
    paths = write_tables(out, "component_ablation", tables, numbers(judged), source)
    return [*paths, forest(judged, out / "component_ablation.png", source, f"Arms of {facts.name}")]


def main() -> int:
    """Write component_ablation of each study that it is for; the exit code."""
    parser = script_parser("component_ablation", __doc__, part=True, scores=HEADLINE)
    add_options(parser)

    def work(options: argparse.Namespace) -> int:
        def fits(tidy: Tidy, facts: StudyFacts) -> str | None:
            reason = applies(facts)
            if reason is None and not options.study and is_anothers(tidy, facts):
                return "another script is for it"
            return reason

        return each_study(options, fits, lambda tidy, facts, out: make(tidy, facts, out, options))

    return run_command(parser, work)
