"""Does a generated image show its mask, and do the images look real? Every arm that `sage-ray fidelity` has scored.

Generators, and arms that were trained on rendered, drawn or other made pairs, stand in one table; differences and
verdicts are of the generators, whose images have the real images of the same masks as partners.

For ablation studies whose finished runs have all been scored; scores with different judges are refused, as different
definitions are: `sage-ray fidelity --judge MODEL` judges all runs alike.

    python analysis/cycle_fidelity.py [--study NAME ...] [--score fidelity ...] [--without ARM ...]
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from sage_ray.analysis.ablation import Judged, add_options, difference_table, forest, judge_study, numbers
from sage_ray.analysis.command import chosen_scores, script_parser, study_script
from sage_ray.analysis.generation_table import (
    ScoredRun,
    ScoredStudy,
    distance_numbers,
    generation_table,
    mask_table,
    scored_runs,
    unpaired_numbers,
)
from sage_ray.analysis.study_facts import StudyFacts, study_runs
from sage_ray.analysis.tables import provenance_of, write_tables
from sage_ray.analysis.tidy import Tidy
from sage_ray.errors import UserError
from sage_ray.metrics.definitions import CYCLE_SCORES, GENERATED_SCORES
from sage_ray.record.run_record import FINISHED

PART = "generated"
DEFAULT = (*CYCLE_SCORES, "ssim", "lpips")
BESIDE = ("ceiling", "null")
"""Scores that fidelity is read beside: no arm is better or worse by them."""
NO_IMAGES = "neither a generator nor made pairs"
NO_PARTNERS = "no real images of the same masks"


def applies(tidy: Tidy, facts: StudyFacts) -> str | None:
    """None if generated images of the study's runs have been scored, else why there is nothing to tabulate."""
    if facts.kind != "ablation":
        return "not an ablation study"
    rows = tidy.rows(kind="image", studies=[facts.name], part=PART, columns=["run_id"])
    runs = study_runs(tidy, facts.name)
    finished = runs[runs["state"] == FINISHED]
    if finished["run_id"].isin(set(rows["run_id"])).any() or scored_runs(tidy, facts):
        return None
    return "no generated images were scored (`sage-ray fidelity RUN` does)"


def arms_without_images(tidy: Tidy, facts: StudyFacts) -> set[str]:
    """Arms whose runs have made no image: phase 1 alone, on real pairs."""
    runs = study_runs(tidy, facts.name).dropna(subset=["arm"])
    paths = ["adversarial.epochs", "adversarial.steps", "pretrain.synthetic_share", "render.train_on_pairs"]
    settings = tidy.settings([facts.name], paths).reindex(index=runs["run_id"], columns=paths)
    made = [
        any(value is True or (value == value and float(value or 0) > 0) for value in row) for row in settings.to_numpy()
    ]
    return set(runs["arm"]) - set(runs["arm"][made])


def judged_on(
    tidy: Tidy, facts: StudyFacts, options: argparse.Namespace, scores: Sequence[str], runs: Sequence[ScoredRun]
) -> dict[str, Judged]:
    """The arms compared on each score, over those that have it: systems without a segmenter have no collusion.

    Raises:
        UserError: a run that has made images was not scored, or scores have several definitions.
    """
    arms = list(dict.fromkeys([*facts.arms, *(run.arm for run in runs)]))
    bare = dict.fromkeys(sorted(arms_without_images(tidy, facts) & set(arms)), NO_IMAGES)
    apart = dict.fromkeys(sorted({run.arm for run in runs if not run.paired}), NO_PARTNERS)
    away = {arm: why for arm, why in {**bare, **apart}.items() if arm not in options.without}
    left = [arm for arm in arms if arm not in {*options.without, *away}]
    have, scored = _scores_of_arms(tidy, facts)
    found = {}
    for score in scores:
        if not have.get(score) and score not in ("fidelity", *options.score):
            continue
        lacking = {arm: f"no {score}" for arm in left if arm in scored and arm not in have.get(score, set())}
        # What lacks fidelity, or a score that no arm has, is named by what compares.
        own = {**away, **lacking} if have.get(score) and score != "fidelity" else away
        here = [arm for arm in left if arm not in own]
        if here:
            wanted = options.reference or facts.reference
            reference = wanted if wanted in here or options.reference else here[0]
            found[score] = judge_study(tidy, facts, options, [score], reference=reference, away=own)
    return found


def _scores_of_arms(tidy: Tidy, facts: StudyFacts) -> tuple[dict[str, set[str]], set[str]]:
    """The arms whose scored runs all have a score, by score; and all arms with a scored run."""
    rows = tidy.rows(kind="image", studies=[facts.name], part=PART, columns=["run_id", "score", "arm"])
    of_arm = rows.groupby("arm")["run_id"].nunique().to_dict()
    have: dict[str, set[str]] = {}
    for (score, arm), own in rows.groupby(["score", "arm"]):
        if own["run_id"].nunique() == of_arm[arm]:
            have.setdefault(str(score), set()).add(str(arm))
    return have, {str(arm) for arm in of_arm}


def make(tidy: Tidy, facts: StudyFacts, out: Path, options: argparse.Namespace) -> Sequence[Path]:
    """Write cycle_fidelity.{md,tex,csv,png} of a study."""
    options.part = PART
    runs = scored_runs(tidy, facts, options.without)
    judged = judged_on(tidy, facts, options, chosen_scores(options), runs)
    if not judged and not runs:
        raise UserError("nothing was scored", f"study {facts.name}", "score a run with `sage-ray fidelity RUN`")
    means = {(score, mean.arm): mean for score, one in judged.items() for mean in one.results[score].means}
    every = study_runs(tidy, facts.name)
    finished = every[(every["state"] == FINISHED) & ~every["arm"].isin(list(options.without))]
    partial = _partial(facts, judged, finished, runs)
    scored = ScoredStudy(facts, runs, means, options.level, partial)
    title = f"Generated images of {facts.name}"
    compared = {score: one for score, one in judged.items() if score not in BESIDE or score in options.score}
    tables = [mask_table(scored), generation_table(scored)] if runs else []
    tables += [difference_table(one, score, title) for score, one in compared.items()]
    source = provenance_of(facts.name, finished)
    frames = [*(numbers(one) for one in judged.values()), unpaired_numbers(runs, options.level)]
    frame = pd.concat([each for each in frames if not each.empty], ignore_index=True)
    if runs:
        frame = frame.merge(distance_numbers(runs, options.level), on="arm", how="left")
    paths = write_tables(out, "cycle_fidelity", tables, frame, source)
    if not compared:
        return paths
    first = next(iter(compared.values()))
    alike = {score: one.results[score] for score, one in compared.items() if one.runs.reference == first.runs.reference}
    return [*paths, forest(replace(first, results=alike), out / "cycle_fidelity.png", source, title)]


def _partial(
    facts: StudyFacts, judged: Mapping[str, Judged], finished: pd.DataFrame, runs: Sequence[ScoredRun]
) -> list[str]:
    """What is missing of the lines of all arms; what is left out of a comparison alone is told there."""
    texts = dict.fromkeys(text for one in judged.values() for text in one.runs.partial)
    lines = [text for text in texts if not text.startswith("left out, as it has")]
    for arm in dict.fromkeys(run.arm for run in runs):
        there, all_of_it = sum(run.arm == arm for run in runs), int((finished["arm"] == arm).sum())
        lines += [f"{facts.called(arm)}: {there} of {all_of_it} finished runs were scored"] * (there < all_of_it)
    return lines


def main() -> int:
    """Write cycle_fidelity of each study that it is for; the exit code."""
    parser = script_parser("cycle_fidelity", __doc__, scores=DEFAULT)
    parser.add_argument("--level", type=float, default=0.95, help="of the intervals [default: 0.95]")
    parser.epilog = f"scores of generated images: {', '.join(GENERATED_SCORES)}"
    add_options(parser)
    return study_script(parser, applies, make)
