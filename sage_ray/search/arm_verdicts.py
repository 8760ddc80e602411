"""What an ablation found on the locked test: a sentence for each arm beside the reference, as its report has it.

The analysis is that of the tables (`statistics.judged_arms`), the sentences are those of the report
(`statistics.verdict_sentences`); of each arm it is asked whether it is worse than the reference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from sage_ray.markdown_texts import markdown_text
from sage_ray.metrics.definitions import label
from sage_ray.record.home import Home
from sage_ray.record.mlflow_scores import locked_rows
from sage_ray.record.run_folder import RunFolder
from sage_ray.search.study_status import StudyStatus
from sage_ray.statistics.claims import MIN_SEEDS, WORDS
from sage_ray.statistics.clusters import Clusters, by_group
from sage_ray.statistics.crossed import Images
from sage_ray.statistics.judged_arms import judged_arms
from sage_ray.statistics.verdict_sentences import Finding, cautions, rule_in_words, say

LEVEL = 0.95
SCORE = "dice"
_Image = tuple[str, int]
"""sha of an image, and which of its copies."""
_Repeat = tuple[int, int | None]
"""Seed and fold."""


def arm_verdicts(found: StudyStatus, facts: Mapping[str, Any], home: Home) -> list[str]:
    """Lines in markdown; one that says why there is no verdict, if there is none.

    Args:
        found: the status of the ablation.
        facts: its study.json.
        home: of its runs.
    """
    reference, names = facts.get("reference"), {a["name"]: a.get("label") for a in facts.get("arms") or ()}
    runs: dict[str, dict[_Repeat, str]] = {}
    for run in (run for trial in found.trials for run in trial.runs):
        if run.subset is not None:
            return [f"Several choices of labelled images: `sage-ray report {found.study}` compares the arms."]
        if run.state == "COMPLETE" and run.test_reads:
            runs.setdefault(str(run.arm), {})[run.seed, run.fold] = run.run_id
    if found.state != "finished" or reference not in runs or len(runs) < 2:
        return ["No verdict yet: the locked test has not been read by the reference and one more arm."]
    common = sorted(set.intersection(*(set(each) for each in runs.values())), key=str)
    if not common:
        return ["No verdict: the arms have no seed in common."]
    arms = [str(reference), *(arm for arm in names if arm in runs and arm != reference)]
    table = _table([[runs[arm][repeat] for repeat in common] for arm in arms], home)
    if isinstance(table, str):
        return [table]
    lines = _lines(*table, [names.get(arm) or arm for arm in arms])
    if any(len(each) > len(common) for each in runs.values()):
        seeds = ", ".join(str(seed) if fold is None else f"{seed} (fold {fold})" for seed, fold in common)
        lines.append(f"The arms are compared over the seeds that all of them have: {seeds}.")
    trained = [arm["name"] for arm in facts.get("arms") or () if not arm.get("not_run")]
    unread = [names.get(arm) or arm for arm in trained if arm not in runs]
    missing = markdown_text(", ".join(unread))
    return lines + ([f"Not compared, as no run of it has read the locked test: {missing}."] if unread else [])


def _lines(values: np.ndarray, together: Clusters, told: Sequence[str]) -> list[str]:
    """A sentence for each arm of (arms, images, seeds) but the first, the reference; then how to read them."""
    images: Images = "new" if together.num_groups > 1 else "these"
    judged = judged_arms(
        values, claim="worse", level=LEVEL, images=images, together=together if images == "new" else None
    )
    difference, half = judged.contrasts.difference, judged.contrasts.half_width(LEVEL)
    seeds, others = values.shape[-1], told[1:]
    reference, *means = values.mean(axis=(1, 2)).tolist()
    lines = []
    each = zip(others, means, difference.tolist(), half.tolist(), judged.words, strict=True)
    for name, mean, gain, error, word in each:
        finding = Finding(
            subject=name,
            reference=told[0],
            score=label(SCORE),
            difference=gain,
            low=gain - error,
            high=gain + error,
            level=LEVEL,
            images=together.num_images,
            micrographs=together.num_groups,
            seeds=seeds,
            word=WORDS[int(word)],
            claim="worse",
            why_no_interval="one seed" if seeds < MIN_SEEDS else "one image",
            corrected_over=len(others),
            means=(mean, reference),
        )
        said = say(finding)
        lines.append(f"- {markdown_text(said.headline.rstrip('.'))}: {markdown_text(said.numbers)}.")
    decided = any(WORDS[int(word)] != "undecided" for word in judged.words)
    beware = cautions(together.num_images, together.num_groups, seeds, decided=decided)
    return [*lines, "", " ".join([rule_in_words(LEVEL, len(others)), *beware])]


def _table(runs: Sequence[Sequence[str]], home: Home) -> tuple[np.ndarray, Clusters] | str:
    """Scores (arms, images, seeds) of runs by arm and seed, and which images belong together; or why there are none."""
    first: dict[_Image, str] = {}
    definitions: set[str] = set()
    rows: list[list[list[float]]] = []
    for arm in runs:
        columns = []
        for run_id in arm:
            scores, groups, meanings = _scores(RunFolder(home.runs / run_id))
            first = first or groups
            definitions |= meanings
            if not scores or set(scores) != set(first):
                return "No verdict: the runs were not scored on the same images."
            columns.append([scores[image] for image in first])
        rows.append(columns)
    if len(definitions) > 1:
        return "No verdict: the arms are scored by different definitions."
    values = np.array(rows).swapaxes(1, 2)
    if not np.isfinite(values).all():
        return "No verdict: an image has no score."
    return values, by_group(list(first.values()), len(first))


def _scores(run: RunFolder) -> tuple[dict[_Image, float], dict[_Image, str], set[str]]:
    """Score and micrograph of each image of a run's locked test, and the definitions of the score."""
    table = locked_rows(run)
    rows = table.filter(pc.equal(table["score"], SCORE)).to_pylist()
    scores: dict[_Image, float] = {}
    groups: dict[_Image, str] = {}
    copies: Counter[str] = Counter()
    for row in sorted(rows, key=lambda row: str(row["image_sha"])):
        sha = str(row["image_sha"])
        image = (sha, copies[sha])
        copies[sha] += 1
        scores[image], groups[image] = float(row["value"]), str(row["group"] or image)
    return scores, groups, {str(row["definition"]) for row in rows}
