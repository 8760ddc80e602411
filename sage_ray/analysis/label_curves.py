"""The arms of a study over numbers of labels as curves: one per method, scores by labels, image, seed and subset."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sage_ray.analysis.arms import ArmRuns, Scores, arm_settings
from sage_ray.analysis.labelled_subsets import LABELS
from sage_ray.analysis.tidy import Tidy
from sage_ray.data.labelling import CHOOSING, validation_choices
from sage_ray.errors import UserError, did_you_mean
from sage_ray.metrics.definitions import label
from sage_ray.statistics.clusters import Clusters, by_group

LABELLING = "data.split."
BUDGETS = ("pretrain.steps", "adversarial.steps", "pretrain.epochs", "adversarial.epochs")


@dataclass(frozen=True)
class LabelCurve:
    """One method. Attributes: arms and labels ascend together; values (labels, images, seeds, subsets) float64."""

    method: str
    arms: tuple[str, ...]
    labels: tuple[float, ...]
    values: np.ndarray


@dataclass(frozen=True)
class LabelCurves:
    """All methods of a study on one score.

    Attributes:
        curves: in the order of the design.
        notes: sentences on labels, budgets and what intervals speak of.
        repeats: runs of each arm: seeds times subsets.
    """

    score: str
    definition: str
    lower_is_better: bool
    curves: tuple[LabelCurve, ...]
    together: Clusters
    notes: tuple[str, ...]
    repeats: int

    def named(self, method: str) -> LabelCurve:
        """The curve of a method. Raises UserError, with the nearest name, if there is none."""
        names = [curve.method for curve in self.curves]
        if method not in names:
            raise UserError("no such method", f"--supervised {method}", did_you_mean(method, names, ", ".join(names)))
        return self.curves[names.index(method)]

    def of_arm(self, arm: str) -> LabelCurve:
        """The curve that an arm belongs to."""
        return next(curve for curve in self.curves if arm in curve.arms)


def label_curves(tidy: Tidy, runs: ArmRuns, scores: Scores) -> LabelCurves:
    """The curves of a study.

    Args:
        tidy: the table.
        runs: of the study.
        scores: of each image under each run (`image_scores` with `each_run`).

    Raises:
        UserError: a score without one value per image, no seed that was run on every subset, two arms of one method
            with equally many labels, or runs that do not say how many images they were trained on.
    """
    if not scores.per_image:
        mend = "choose a score of images such as dice, and one split instead of folds"
        raise UserError(f"{label(scores.score)} is one number per run here", f"study {runs.facts.name}", mend)
    counts, choices = _label_counts(tidy, runs)
    methods = _methods(tidy, runs)
    frame, seeds, subsets = _crossed(runs, scores.frame)
    images = sorted(frame["image"].unique())
    curves = []
    for method, arms in methods.items():
        ordered = sorted(arms, key=counts.__getitem__)
        labels = tuple(counts[arm] for arm in ordered)
        if len(set(labels)) < len(labels):
            where = f"study {runs.facts.name}, {', '.join(ordered)}"
            raise UserError("two arms of one method with equally many labels", where, "drop one of them")
        levels = [ordered, images, seeds, subsets]
        cells = frame.set_index(["arm", "image", "seed", "subset"])["value"].reindex(pd.MultiIndex.from_product(levels))
        values = cells.to_numpy(np.float64).reshape([len(level) for level in levels])
        curves.append(LabelCurve(method, tuple(ordered), labels, values))
    groups = dict(zip(frame["image"], frame["group"], strict=True)) if "group" in frame else None
    together = by_group([groups[image] for image in images] if groups else None, len(images))
    spoken = _speaks_of(together, len(seeds), len(subsets))
    return LabelCurves(
        score=scores.score,
        definition=scores.definition,
        lower_is_better=scores.lower_is_better,
        curves=tuple(curves),
        together=together,
        notes=(*choices, *_budgets(tidy, runs, methods), spoken),
        repeats=len(seeds) * len(subsets),
    )


def _label_counts(tidy: Tidy, runs: ArmRuns) -> tuple[dict[str, float], list[str]]:
    """Labels of each arm, a mean over its runs, and sentences on how they were counted."""
    settings = {run_id: row.to_dict() for run_id, row in tidy.settings([runs.facts.name], CHOOSING).iterrows()}
    counts: dict[str, list[int]] = {}
    chosen: dict[str, None] = {}
    for row in runs.runs.itertuples():
        parts: dict[str, int] = json.loads(getattr(row, "parts", None) or "{}")
        if not parts:
            mend = "train it again with this release"
            raise UserError("run does not say how many images it was trained on", f"run {row.run_id}", mend)
        choices = validation_choices(settings[row.run_id].get)
        beside = parts["validation"] if choices else 0
        if beside:
            chosen[f"{beside} validation labels count in N, as they choose by {', '.join(choices)}."] = None
        counts.setdefault(str(row.arm), []).append(parts["train"] + beside)
    plain = "Labels are training images: no validation label chooses anything."
    return {arm: float(np.mean(each)) for arm, each in counts.items()}, list(chosen) or [plain]


def _methods(tidy: Tidy, runs: ArmRuns) -> dict[str, list[str]]:
    """Arms of each method: those that differ in nothing but their labels, named by their other levels."""
    settings = arm_settings(tidy, runs.facts)
    found: dict[str, list[str]] = {}
    for arm in runs.arms:
        own = {path: value for path, value in settings[arm].items() if path != LABELS}
        found.setdefault(json.dumps(own, sort_keys=True, default=str), []).append(arm)
    named: dict[str, list[str]] = {}
    for arms in found.values():
        name = _method_name(runs, arms)
        named[name if name not in named else arms[0]] = arms
    return named


def _method_name(runs: ArmRuns, arms: Sequence[str]) -> str:
    levels = [runs.facts.levels.get(arm) or {} for arm in arms]
    shared = [f for f in levels[0] if len({each.get(f) for each in levels}) == 1]
    if shared:
        return ", ".join(levels[0][factor] for factor in shared)
    names = [runs.facts.called(arm) for arm in arms]
    return os.path.commonprefix(names).rstrip("0123456789-_=+.,: ") or names[0]


def _crossed(runs: ArmRuns, frame: pd.DataFrame) -> tuple[pd.DataFrame, list[int], list[int]]:
    """Rows with the seed and the subset of their run, of the seeds that every subset has; those seeds and subsets."""
    units = runs.runs.drop_duplicates("unit").set_index("unit")
    subsets = sorted(int(subset) for subset in units["subset"].unique())
    have = units.groupby("seed")["subset"].nunique()
    seeds = sorted(int(seed) for seed in have[have == len(subsets)].index)
    if not seeds:
        mend = f"`sage-ray resume {runs.facts.name}`"
        raise UserError("no seed has every subset in every arm", f"study {runs.facts.name}", mend)
    rows = frame.assign(
        seed=frame["seed"].map(units["seed"]).astype(int), subset=frame["seed"].map(units["subset"]).astype(int)
    )
    return rows[rows["seed"].isin(seeds)], seeds, subsets


def _budgets(tidy: Tidy, runs: ArmRuns, methods: dict[str, list[str]]) -> list[str]:
    settings = tidy.settings([runs.facts.name], BUDGETS)
    first = runs.runs.drop_duplicates("arm").set_index("arm")["run_id"]
    told: list[str] = []
    in_epochs = False
    for method, arms in methods.items():
        steps, epochs = [], []
        for phase in ("pretrain", "adversarial"):
            values: dict[str, Any] = settings.loc[first[arms[0]]].to_dict()
            steps.append(int(values.get(f"{phase}.steps") or 0))
            epochs.append(0 if steps[-1] else int(values.get(f"{phase}.epochs") or 0))
        in_epochs |= any(epochs)
        told.append(f"{method} {sum(steps)} ({' + '.join(map(str, steps))})")
    if in_epochs:
        return ["Budgets are in epochs: fewer labels mean fewer steps, so curves mix the two."]
    return [f"Steps that train the segmenter, of phase 1 and 2, whatever the labels: {'; '.join(told)}."]


def _speaks_of(together: Clusters, seeds: int, subsets: int) -> str:
    if seeds * subsets < 2:
        return "One seed and one choice of labelled images: no interval."
    if subsets == 1:
        over = f"new images ({together.text()}) and seeds ({seeds}), and of this choice of labelled images alone"
        return f"Intervals speak of {over}: with another one, scores may differ by more."
    over = f"{together.text()} crossed with {seeds} seed{'s' * (seeds > 1)} and {subsets} subsets"
    return f"Intervals speak of new images, seeds and choices of labelled images: {over}."
