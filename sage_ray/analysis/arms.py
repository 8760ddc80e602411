"""The finished runs of an ablation as paired scores: the same seeds in every arm, one data set, one definition each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from sage_ray.analysis.curves import curve_facts, one_definition, pooled_f1
from sage_ray.analysis.labelled_subsets import SUBSET, by_subset, several_subsets
from sage_ray.analysis.left_out import arms_without_masks, left_out
from sage_ray.analysis.study_facts import StudyFacts, study_runs
from sage_ray.analysis.tidy import Tidy
from sage_ray.errors import UserError
from sage_ray.metrics.definitions import COUNTS, POOLED, counted_for, is_lower_better, label
from sage_ray.record.run_folder import BASELINE
from sage_ray.record.run_record import FINISHED

SCORED_BY = (
    "data.mask_erosion",
    "data.min_object_pixels",
    "evaluation.min_object_pixels",
    "evaluation.boundary_tolerance",
)
"""Settings that make a score's definition, beside the picture size."""


@dataclass(frozen=True)
class ArmRuns:
    """The runs of an ablation that can be compared.

    Attributes:
        facts: of the study.
        runs: finished ones of the common seeds: rows of `study_runs` with `unit` (seed, and fold and subset if there
            are several).
        arms: that have them, in the order of the design.
        units: that every arm has.
        reference: the arm that the others are compared with.
        partial: sentences on what is missing; () if every arm has every seed.
        not_run: arms that are declared but not trained, with the reason.
    """

    facts: StudyFacts
    runs: pd.DataFrame
    arms: tuple[str, ...]
    units: tuple[str, ...]
    reference: str
    partial: tuple[str, ...]
    not_run: Mapping[str, str]

    @property
    def has_folds(self) -> bool:
        """Whether the runs are of several folds, each with validation images of its own."""
        return bool(self.runs["fold"].nunique() > 1)


@dataclass(frozen=True)
class Scores:
    """One score of all arms.

    Attributes:
        score: its name.
        definition: what it is, the same for every row.
        frame: columns arm, seed, value, as `arm_differences` takes them. Scores of images also have a column image, and
            scores of crops a column group, the micrograph.
        lower_is_better: whether the lowest score is the best.
    """

    score: str
    definition: str
    frame: pd.DataFrame
    lower_is_better: bool = False

    @property
    def per_image(self) -> bool:
        """Whether every image has a score of its own."""
        return "image" in self.frame


def arm_runs(
    tidy: Tidy,
    facts: StudyFacts,
    reference: str | None = None,
    without: Collection[str] = (),
    away: Mapping[str, str] | None = None,
) -> ArmRuns:
    """The comparable runs of an ablation.

    Args:
        tidy: the table.
        facts: of the study.
        reference: instead of the design's.
        without: arms that are left out, so that the others may have more seeds in common.
        away: arms that are left out too, and why; None: those without a segmenter whose masks could be scored.

    Raises:
        UserError: an arm to be left out that does not exist, no finished run, an unknown reference or one without runs,
            arms without a common seed, mixed data or splits, a file of a finished run that is gone.
    """
    runs = study_runs(tidy, facts.name)
    runs = runs[runs["arm"].notna()]
    for arm in without:
        if arm not in {*facts.arms, *runs["arm"]}:
            known = ", ".join(dict.fromkeys([*facts.arms, *runs["arm"]]))
            raise UserError("no such arm", f"--without {arm}", f"study {facts.name} has {known}")
    away = arms_without_masks(tidy, facts, runs, without) if away is None else away
    gone = {*without, *away}
    runs = runs[~runs["arm"].isin(list(gone))]
    facts = replace(facts, arms=tuple(arm for arm in facts.arms if arm not in gone))
    finished = runs[runs["state"] == FINISHED]
    if finished.empty:
        states = ", ".join(f"{count} {state}" for state, count in runs["state"].value_counts().items()) or "no run"
        raise UserError("study has no finished run", f"{facts.name} ({states})", f"`sage-ray resume {facts.name}`")
    check_runs(finished, facts.name)
    finished = finished.assign(unit=_units(finished))
    have: dict[str, set[str]] = {str(arm): set(rows["unit"]) for arm, rows in finished.groupby("arm")}
    chosen = _reference(facts, reference, have)
    names = [arm for arm in facts.arms if arm in have] + sorted(set(have) - set(facts.arms))
    common = set.intersection(*have.values())
    if not common:
        listed = "; ".join(f"{arm}: {', '.join(sorted(have[arm]))}" for arm in names)
        raise UserError("arms share no seed", f"{facts.name} ({listed})", f"`sage-ray resume {facts.name}`")
    kept = finished[finished["unit"].isin(common)]
    if kept.duplicated(["arm", "unit"]).any():
        twice = kept[kept.duplicated(["arm", "unit"])].iloc[0]
        raise UserError("two runs of one arm and seed", f"{facts.name}, {twice['run_id']}", "remove one of the folders")
    partial = missing_runs(facts, runs)
    if partial:
        partial.append(f"all arms are compared over what they have in common: {', '.join(sorted(common))}")
    partial += left_out(facts, without, away)
    return ArmRuns(
        facts=facts,
        runs=kept.reset_index(drop=True),
        arms=tuple(names),
        units=tuple(sorted(common)),
        reference=chosen,
        partial=tuple(partial),
        not_run={arm: why for arm, why in facts.not_run.items() if arm not in have},
    )


def check_runs(finished: pd.DataFrame, study: str) -> None:
    """Raise UserError if finished runs of a study are of several data sets or splits, or lack a file."""
    for run_id, file in zip(finished["run_id"], finished["missing"], strict=True):
        if file is not None:
            mend = "restore it (MLflow keeps a copy), or remove the run's folder and resume the study"
            raise UserError(f"{file} of a finished run is gone or damaged", f"run {run_id}", mend)
    prints = sorted({str(value) for value in finished["data_fingerprint"]})
    if len(prints) > 1:
        raise UserError("mixed data sets", f"study {study}: {', '.join(prints)}", "tabulate runs on the same images")
    for fold, rows in finished.assign(fold=finished["fold"].map(str)).groupby("fold"):
        if rows["scored_split"].map(str).nunique() > 1:
            splits = sorted({str(value) for value in rows["split_id"]})
            where = f"study {study}" + ("" if fold == "None" else f", fold {fold}")
            raise UserError("mixed splits", f"{where}: {', '.join(splits)}", "tabulate runs of one split")


def image_scores(tidy: Tidy, runs: ArmRuns, part: str, score: str, *, each_run: bool = False) -> Scores:
    """A score of each image under each run's kept weights; one per run of pooled pixel F1, or where folds differ.

    With several subsets of labelled images their seeds are averaged (`labelled_subsets.by_subset`), unless `each_run`.

    Raises:
        UserError: the score is not stored, has several definitions, or runs were scored on different images.
    """
    ids = set(runs.runs["run_id"])
    wanted = list(COUNTS) if score == POOLED else [score]
    columns = ["run_id", "score", "checkpoint", "image", "group", "definition", "value"]
    rows = tidy.rows(kind="image", studies=[runs.facts.name], part=part, scores=wanted, run_ids=ids, columns=columns)
    rows = rows[rows["checkpoint"] != BASELINE].merge(runs.runs[["run_id", "arm", "unit"]], on="run_id")
    lacking = sorted(ids - set(rows["run_id"]))
    if lacking:
        mend = "choose a score that was recorded, such as dice"
        raise UserError(f"{label(score)} is not stored on {part} images", f"run {lacking[0]}", mend)
    where = f"study {runs.facts.name}, {part}"
    meaning = one_definition(_meaning(rows, score), score, where)
    lower = is_lower_better(score)
    rows = rows.rename(columns={"unit": "seed"})
    if score == POOLED:
        _same_images(rows[rows["score"] == COUNTS[0]], where, by_seed=part == "val" and runs.has_folds)
        return Scores(score, meaning, _ordered(runs, pooled_f1(rows, ["arm", "seed"])), lower)
    apart = part == "val" and runs.has_folds
    _same_images(rows, where, by_seed=apart)
    if apart:
        # Each fold has images of its own; what pairs then is the mean of a run.
        means = rows.groupby(["arm", "seed"])["value"].mean().reset_index()
        return Scores(score, meaning, _ordered(runs, means), lower)
    rows = _with_groups(rows)
    kept = [name for name in ("arm", "seed", "image", "group", "value") if name in rows]
    return Scores(score, meaning, _ordered(runs, rows[kept], each_run=each_run), lower)


def curve_scores(tidy: Tidy, runs: ArmRuns, score: str) -> dict[str, Scores]:
    """Best epoch and plateau of each run's last phase on validation images, one per run: {"best": ..., "plateau": ...}.

    Raises:
        UserError: the score is not in the curves, or has several definitions.
    """
    rows = last_phase(validation_curves(tidy, [runs.facts.name], score, set(runs.runs["run_id"])))
    lacking = sorted(set(runs.runs["run_id"]) - set(rows["run_id"]))
    if lacking:
        mend = "choose a score that was recorded, such as dice"
        raise UserError(f"no curve of {label(score)}", f"run {lacking[0]}", mend)
    meaning = one_definition(rows["definition"], score, f"study {runs.facts.name}, curves")
    lower = is_lower_better(score)
    facts = {run_id: curve_facts(curve, lower=lower) for run_id, curve in rows.groupby("run_id")}
    found = {}
    for name in ("best", "plateau"):
        values = [facts[run_id][name] for run_id in runs.runs["run_id"]]
        frame = pd.DataFrame({"arm": runs.runs["arm"], "seed": runs.runs["unit"], "value": values})
        found[name] = Scores(score, meaning, _ordered(runs, frame), lower)
    return found


def validation_curves(
    tidy: Tidy, studies: Sequence[str], score: str, run_ids: Collection[str] | None = None
) -> pd.DataFrame:
    """Validation curves: study, arm, trial, run_id, seed, phase, epoch, definition, value, in order of epochs."""
    columns = ["study", "arm", "trial", "run_id", "seed", "state", "phase", "epoch", "definition", "value"]
    rows = tidy.rows(kind="epoch", studies=studies, part="val", scores=[score], run_ids=run_ids, columns=columns)
    return rows.sort_values(["run_id", "epoch"], ignore_index=True)


def finished_curves(tidy: Tidy, facts: StudyFacts, score: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The finished runs of a study, and their `validation_curves` of one score.

    Raises:
        UserError: no such curve, several definitions, mixed data, or a lost file.
    """
    runs = study_runs(tidy, facts.name)
    runs = runs[runs["state"] == FINISHED]
    check_runs(runs, facts.name)
    return runs, checked_curves(tidy, facts, score, set(runs["run_id"]))


def checked_curves(tidy: Tidy, facts: StudyFacts, score: str, run_ids: Collection[str]) -> pd.DataFrame:
    """`validation_curves` of some runs of a study.

    Raises:
        UserError: no such curve, or several definitions.
    """
    rows = validation_curves(tidy, [facts.name], score, run_ids)
    if rows.empty:
        raise UserError(f"no curve of {label(score)}", f"study {facts.name}", "choose a score that was recorded")
    one_definition(rows["definition"], score, f"study {facts.name}, curves")
    return rows


def last_phase(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of each run's last phase, of a frame of curves."""
    last = rows.groupby("run_id")["phase"].transform("last")
    return rows[rows["phase"] == last]


def arm_settings(tidy: Tidy, facts: StudyFacts) -> dict[str, dict[str, Any]]:
    """Settings of each arm with runs that are not alike in all arms, by path; seeds and `runtime` left out."""
    runs = study_runs(tidy, facts.name).dropna(subset=["arm"]).drop_duplicates("arm")
    settings = tidy.settings([facts.name]).reindex(runs["run_id"])
    varied = varied_paths(settings)
    return {
        arm: {path: settings.at[run_id, path] for path in varied}
        for run_id, arm in zip(runs["run_id"], runs["arm"], strict=True)
    }


def varied_paths(settings: pd.DataFrame) -> list[str]:
    """Settings (rows of `Tidy.settings`) that are not alike in all runs; seeds, folds and `runtime` left out."""
    return [
        path
        for path in map(str, settings.columns)
        if path != "seed"
        and not path.startswith(("runtime.", "data.split.fold", SUBSET))
        and settings[path].map(repr).nunique() > 1
    ]


def scored_apart(tidy: Tidy, facts: StudyFacts) -> str | None:
    """Why the arms of a study cannot share a column of scores; None if they can."""
    if facts.kind != "ablation":
        return None
    varied = {path for values in arm_settings(tidy, facts).values() for path in values} & set(SCORED_BY)
    mend = "analysis/evaluation_ablation.py shows them side by side"
    return f"the arms have definitions of their own by {', '.join(sorted(varied))} ({mend})" if varied else None


def _units(runs: pd.DataFrame) -> list[str]:
    several, choices = runs["fold"].nunique() > 1, several_subsets(runs)
    return [
        f"seed {int(seed)}"
        + (f", fold {int(fold)}" if several and not pd.isna(fold) else "")
        + (f", subset {subset}" if choices else "")
        for seed, fold, subset in zip(runs["seed"], runs["fold"], runs["subset"], strict=True)
    ]


def _reference(facts: StudyFacts, wanted: str | None, have: Mapping[str, Any]) -> str:
    chosen = wanted or facts.reference
    listed = ", ".join(sorted(have))
    if chosen is None:
        raise UserError("study has no reference arm", facts.name, f"name one with --reference: {listed}")
    if chosen not in have:
        what = "reference arm has no finished run" if chosen in facts.arms else "unknown reference arm"
        raise UserError(what, f"{chosen} of study {facts.name}", f"name one of these with --reference: {listed}")
    return chosen


def missing_runs(facts: StudyFacts, runs: pd.DataFrame) -> list[str]:
    """A sentence for each arm that lacks a seed, and for each without a finished run that was not declared so.

    Args:
        facts: of the study.
        runs: of all its arms, in any state; () of a search, whose trials need not be alike.
    """
    runs = runs.assign(unit=_units(runs))
    finished = runs[runs["state"] == FINISHED]
    have: dict[str, set[str]] = {str(arm): set(rows["unit"]) for arm, rows in finished.groupby("arm")}
    expected = set(runs["unit"])
    if facts.seeds and len(facts.folds) < 2:
        tails = [f", subset {subset}" for subset in facts.subsets] if len(facts.subsets) > 1 else [""]
        expected |= {f"seed {seed}{tail}" for seed in facts.seeds for tail in tails}
    sentences = []
    for arm in dict.fromkeys([*facts.arms, *have]) if facts.kind == "ablation" else ():
        lacking = sorted(expected - have.get(arm, set()))
        if not lacking or (arm in facts.not_run and arm not in have):
            continue
        rows = runs[runs["arm"] == arm].set_index("unit")
        told = [f"{unit} {_state(rows, unit)}" for unit in lacking]
        left = "" if arm in have else " (arm is left out)"
        sentences.append(f"{facts.called(arm)}{left}: {'; '.join(told)}")
    return sentences


def _state(rows: pd.DataFrame, unit: str) -> str:
    if unit not in rows.index:
        return "not started"
    row = rows.loc[unit]
    error = row.get("error")
    return str(row["state"]) + (f" ({error})" if isinstance(error, str) else "")


def _meaning(rows: pd.DataFrame, score: str) -> list[str]:
    texts = rows["definition"].drop_duplicates()
    # A count's text ends with what it is counted for.
    return [counted_for(str(text)) for text in texts] if score == POOLED else list(texts)


def _same_images(rows: pd.DataFrame, where: str, *, by_seed: bool) -> None:
    """Raise UserError unless all runs (of one fold, where each has its own) were scored on the same images."""
    for _, group in rows.groupby("seed") if by_seed else [(None, rows)]:
        sets = {str(run_id): frozenset(images) for run_id, images in group.groupby("run_id")["image"]}
        if len(set(sets.values())) > 1:
            first, other = _two_that_differ(sets)
            raise UserError("runs were scored on different images", f"{where}: {first}, {other}", "evaluate them alike")


def _two_that_differ(sets: Mapping[str, frozenset[str]]) -> tuple[str, str]:
    first = next(iter(sets))
    return first, next(run_id for run_id, images in sets.items() if images != sets[first])


def _with_groups(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of one score with the micrograph of every image, or its own sha where the image is no crop.

    Copies of one picture, which a group may hold, get names of their own.
    """
    named = rows.dropna(subset="group").drop_duplicates("image").set_index("image")["group"]
    if named.empty:
        return rows.drop(columns="group")
    groups = rows["image"].map(named).fillna(rows["image"])
    copy = rows.groupby(["run_id", "image"]).cumcount()
    image = rows["image"].where(copy == 0, rows["image"] + "#" + copy.astype(str))
    return rows.assign(group=groups, image=image)


def _ordered(runs: ArmRuns, frame: pd.DataFrame, *, each_run: bool = False) -> pd.DataFrame:
    """The rows with the reference first, the other arms in the order of the design, and what repeats an arm as seed."""
    frame = frame if each_run else by_subset(frame, runs.runs)
    order = {arm: place for place, arm in enumerate([runs.reference, *runs.arms])}
    order[runs.reference] = -1
    return frame.sort_values(by="arm", key=lambda arms: arms.map(order), kind="stable", ignore_index=True)
