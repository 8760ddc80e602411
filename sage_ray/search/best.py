"""Which trial of a study is best: plateau score, mean over seeds, one standard error, ties to the cheaper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sage_ray.config import ExperimentConfig
from sage_ray.errors import UserError
from sage_ray.evaluation.score_tables import meaning
from sage_ray.notebook_view import NotebookView
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.search.network_flops import network_flops, networks_key
from sage_ray.search.objectives import on_front
from sage_ray.search.stopped_trials import StoppedTrial, stopped_higher
from sage_ray.statistics import by_group
from sage_ray.study.file_schema import ObjectivePart
from sage_ray.study.objective import reduce_reports

if TYPE_CHECKING:
    import pandas as pd

    from sage_ray.search.study_status import StudyStatus, TrialStatus
    from sage_ray.study.spec import StudySpec

RUN_PARAMS = ("seed", "fold", "subset")
"""What tells the runs of one arm apart."""


@dataclass(frozen=True)
class Candidate:
    """A complete trial with what the choice looks at."""

    trial: int
    params: dict[str, Any]
    value: float
    """The study's objective, mean over seeds."""
    seed_values: dict[int, float]
    epochs: int
    """Number of epochs of all stages of a run, the first measure of cost."""
    network_flops: int | None
    """Operations of one forward pass of each trained network, the second measure of cost; None where all trials have
    the same networks, so that nothing has to be counted."""
    per_image: dict[str, float] = field(default_factory=dict)
    """Validation score of each image (by sha) at the selected epoch, mean over seeds; empty if the metric has none."""
    groups: dict[str, str] = field(default_factory=dict)
    """Micrograph of each of these images that is a crop."""
    second: float | None = None
    """The study's second objective, mean over runs, turned so that less is better; None if it has one objective."""


@dataclass(frozen=True)
class FrontTrial:
    """A trial of the Pareto front: no other is better in one objective and at least as good in the other."""

    trial: int
    objectives: dict[str, float]
    """Value of each objective by its metric."""
    params: dict[str, Any]


@dataclass(frozen=True)
class Standing:
    """Where a trial stands behind the top one."""

    trial: int
    value: float
    behind: float
    """Distance to the top value, >= 0 whichever the direction."""
    standard_error: float
    within: bool
    """Whether `behind` is at most `standard_error`."""
    epochs: int
    network_flops: int | None
    """None where all trials have the same networks."""
    params: dict[str, Any]


@dataclass(frozen=True)
class BestChoice(NotebookView):
    """The chosen trial of a study and how it was chosen."""

    study: str
    trial: int
    params: dict[str, Any]
    config: ExperimentConfig
    value: float
    seed_values: dict[int, float]
    top_trial: int
    """The trial with the best value; another than `trial` when a cheaper one is within one standard error."""
    standard_error: float
    rule: str
    """How the choice was made, in words."""
    runner_ups: list[Standing]
    run_ids: list[str]
    lr_drops: dict[str, list[int]]
    """Epochs of each phase after which the learning rate dropped in the trial's first run."""
    weights_sha: str | None
    front: list[FrontTrial] = field(default_factory=list)
    """With two objectives the trials among which the choice is, best in the first objective first; else empty."""
    stopped_higher: list[StoppedTrial] = field(default_factory=list)
    """Trials that stood better than the chosen one's value when they were stopped early, the best first."""
    labels: dict[str, str] = field(default_factory=dict)
    """Of an ablation, what tables and figures call an arm, by its name, where the design gives a label."""

    def frame(self) -> pd.DataFrame:
        """One row per complete trial, the chosen one first, then by falling score.

        Columns: trial, chosen, value, behind (the top value), standard_error, within (whether behind is within it),
        epochs, and one per parameter.
        """
        import pandas as pd

        from sage_ray.search.study_status import with_labels

        rows = [{"trial": self.trial, "chosen": True, "value": self.value, **_behind(self), **self.params}]
        for row in self.runner_ups:
            near = {"behind": row.behind, "standard_error": row.standard_error, "within": row.within}
            rows.append({"trial": row.trial, "chosen": False, "value": row.value, **near, **row.params})
        return with_labels(pd.DataFrame(rows), self.labels)

    def headline(self) -> str:
        """Which trial of which study was chosen."""
        return f"Best of {self.study}: trial {self.trial}, {self.value:.4f}"

    def remarks(self) -> list[str]:
        """How the choice was made."""
        return [f"Rule: {self.rule}"]


def _behind(choice: BestChoice) -> dict[str, Any]:
    """Where the chosen trial stands behind the top one."""
    top = next((row.value for row in choice.runner_ups if row.trial == choice.top_trial), choice.value)
    return {"behind": abs(top - choice.value), "standard_error": choice.standard_error, "within": True}


def best(name: str, home: Home) -> BestChoice:
    """The best trial of study `name`; of an ablation the best arm, its value a mean over seeds and folds.

    Raises:
        UserError: no such study, no trial of it is complete, runs of complete trials are missing, or arms are scored
            by different definitions.
    """
    study = read_trials(name, home)
    _refuse_missing(name, study)
    if not study.candidates:
        raise UserError("no finished trial", f"study {name}", f"`sage-ray resume {name}` goes on with it")
    _refuse_mixed(name, study)
    chosen, top, standings, rule = choose(study.candidates, maximize=study.maximize, metric=study.metric)
    runs = study.runs[chosen.trial]
    error = next((s.standard_error for s in standings if s.trial == chosen.trial), 0.0)
    return BestChoice(
        study=name,
        trial=chosen.trial,
        params=chosen.params,
        config=runs[0].config(),
        value=chosen.value,
        seed_values=chosen.seed_values,
        top_trial=top.trial,
        standard_error=error,
        rule=rule,
        runner_ups=[s for s in standings if s.trial != chosen.trial],
        run_ids=[run.run_id for run in runs],
        lr_drops=runs[0].read().lr_drops,
        weights_sha=runs[0].read().weights_sha,
        front=study.front,
        stopped_higher=stopped_higher(study.stopped, chosen.value, maximize=study.maximize),
        labels=study.labels,
    )


def choose(
    candidates: Sequence[Candidate], *, maximize: bool, metric: str
) -> tuple[Candidate, Candidate, list[Standing], str]:
    """(chosen, top, standings best first, rule in words) of at least one candidate."""
    sign = 1.0 if maximize else -1.0
    order = sorted(candidates, key=lambda c: (-sign * c.value, cost(c)))
    top = order[0]
    errors, basis = standard_errors(top, order, metric)
    standings = []
    for candidate in order:
        behind = sign * (top.value - candidate.value)
        error = errors[candidate.trial]
        # Equal up to rounding counts as equal.
        within = behind <= error or math.isclose(top.value, candidate.value, rel_tol=1e-12, abs_tol=1e-15)
        standings.append(
            Standing(
                candidate.trial, candidate.value, behind, error, within,
                candidate.epochs, candidate.network_flops, candidate.params,
            )
        )  # fmt: skip
    within_trials = {s.trial for s in standings if s.within}
    chosen = min((c for c in candidates if c.trial in within_trials), key=cost)
    seeds = f"{len(top.seed_values)} seed{'s' if len(top.seed_values) != 1 else ''}"
    rule = (
        f"objective on {metric}, mean over {seeds}; complete trials within one standard error of the top ({basis}); "
        f"of these {_cheapest(top)}. "
        f"{len(within_trials)} of {len(order)} complete trials are within."
    )
    return chosen, top, standings, rule


def cost(candidate: Candidate) -> tuple[float, int, int, int]:
    """Sort key: cheaper first, a second objective before all."""
    return candidate.second or 0.0, candidate.epochs, candidate.network_flops or 0, candidate.trial


def _cheapest(candidate: Candidate) -> str:
    ties = "fewest epochs, then least network FLOPs, then lowest trial number"
    if candidate.second is None:
        return f"the cheapest: {ties}"
    return f"the best in the second objective, then {ties}"


def pareto_front(trials: Sequence[TrialStatus], objectives: Sequence[ObjectivePart]) -> list[FrontTrial]:
    """The complete trials that no other one dominates, best in the first objective first."""
    complete = [t for t in trials if t.state == "COMPLETE" and len(t.objectives) == len(objectives)]
    among = on_front([list(t.objectives.values()) for t in complete], objectives)
    front = [FrontTrial(t.number, t.objectives, t.params) for t, best in zip(complete, among, strict=True) if best]
    signs = [-1.0 if part.maximize else 1.0 for part in objectives]
    return sorted(front, key=lambda t: [s * v for s, v in zip(signs, t.objectives.values(), strict=True)])


def standard_errors(top: Candidate, candidates: Sequence[Candidate], metric: str) -> tuple[dict[int, float], str]:
    """Standard error to judge each trial by, and what it is over.

    With two or more seeds: of the top trial's mean over seeds. With one: of the mean of paired per-image differences
    between the top trial and each other one, on the validation images at the selected epoch, crops of one micrograph
    being one cluster; it does not speak of other seeds.
    """
    values = list(top.seed_values.values())
    if len(values) >= 2:
        error = float(np.std(values, ddof=1) / math.sqrt(len(values)))
        return {c.trial: error for c in candidates}, f"{error:.4g}, over {len(values)} seeds of the top trial"
    errors: dict[int, float] = {}
    images, micrographs = 0, 0
    for candidate in candidates:
        common = sorted(set(top.per_image) & set(candidate.per_image))
        together = by_group([top.groups.get(sha, sha) for sha in common], len(common))
        if candidate.trial == top.trial or together.num_groups < 2:
            errors[candidate.trial] = 0.0
            continue
        difference = np.array([[top.per_image[sha] - candidate.per_image[sha]] for sha in common])
        spread = np.std(together.gather(difference), ddof=1)
        errors[candidate.trial] = float(spread / math.sqrt(together.num_groups))
        images, micrographs = max(images, len(common)), max(micrographs, together.num_groups)
    if images:
        units = f"{images} validation images"
        units = units if micrographs == images else f"{micrographs} micrographs ({units})"
        return errors, f"over the differences on {units} at the selected epoch: one seed only"
    return errors, f"0: one seed, and {metric} has no value per image, so only equal values tie"


@dataclass(frozen=True)
class StudyTrials:
    """Complete trials of a study with the run folders of each, in order of seeds.

    An arm of an ablation counts as one trial, under the lowest number of its runs, once all of them are complete.
    """

    metric: str
    maximize: bool
    candidates: list[Candidate]
    runs: dict[int, list[RunFolder]]
    front: list[FrontTrial]
    """The Pareto front of a study with two objectives."""
    meanings: dict[int, str]
    """What the metric of each trial is; a search has one meaning, the arms of an ablation may differ in it."""
    missing: list[str] = field(default_factory=list)
    """Runs of complete trials of which the home has no record."""
    stopped: list[StoppedTrial] = field(default_factory=list)
    """Trials of a search that the scheduler stopped early, if they had a value."""
    labels: dict[str, str] = field(default_factory=dict)
    """Labels of arms, by name."""


def read_trials(name: str, home: Home) -> StudyTrials:
    """Candidates of study `name`: trials (or arms) that the study calls COMPLETE and whose runs are all on disk.

    Raises:
        UserError: no such study.
    """
    from sage_ray.search.study_folder import StudyFolder
    from sage_ray.search.study_status import status

    spec = StudyFolder.open(home, name).spec()
    objective = spec.objective
    state = status(name, home)
    candidates, runs, meanings, missing = [], {}, {}, list[str]()
    configs: dict[int, ExperimentConfig] = {}
    for group in _groups(state, spec):
        number = group[0].number
        mine = [RunFolder.open(home.runs, run.run_id) for trial in group for run in trial.runs]
        values = [trial.value for trial in group if trial.state == "COMPLETE" and trial.value is not None]
        lacking = [run for trial in group if trial.state == "COMPLETE" for run in _lacking(trial, spec)]
        missing += lacking
        if len(values) < len(group) or lacking:
            continue
        runs[number] = mine
        config = mine[0].config()
        candidates.append(
            Candidate(
                trial=number,
                params={name: value for name, value in group[0].params.items() if name not in RUN_PARAMS},
                value=float(np.mean(values)),
                seed_values=seed_values(mine, objective),
                epochs=config.num_epochs,
                network_flops=None,
                per_image=image_values(mine, objective.metric),
                groups=image_groups(mine),
                second=_second(group[0], spec),
            )
        )
        meanings[number] = meaning(objective.metric, config)
        configs[number] = config
    # Counting takes seconds: the networks of most searches are the same in all trials.
    if len({networks_key(config) for config in configs.values()}) > 1:
        candidates = [replace(each, network_flops=network_flops(configs[each.trial])) for each in candidates]
    front = pareto_front(state.trials, spec.objectives) if len(spec.objectives) > 1 else []
    pruned = [trial for trial in state.trials if trial.state == "PRUNED" and trial.value is not None]
    stopped = [StoppedTrial(t.number, t.value, t.epoch, t.params) for t in pruned if t.value is not None]
    return StudyTrials(
        objective.metric, objective.maximize, candidates, runs, front, meanings, missing, stopped, spec.labels()
    )


def _lacking(trial: TrialStatus, spec: StudySpec) -> list[str]:
    there = {run.run_id for run in trial.runs}
    return [place.run_id for place in spec.run_grid(trial.number) if place.run_id not in there]


def _refuse_missing(name: str, study: StudyTrials) -> None:
    """The best of those that are here might be another one than the best of all."""
    if study.missing:
        count = f"{len(study.missing)} run{'s' if len(study.missing) > 1 else ''} of complete trials"
        mend = (
            "bring their folders into runs/ of the home from the machine that computed them, or name a trial yourself"
        )
        raise UserError(f"{count} not in the home", f"study {name}: {', '.join(study.missing[:3])}", mend)


def _second(trial: TrialStatus, spec: StudySpec) -> float | None:
    if len(spec.objectives) < 2:
        return None
    part = spec.objectives[1]
    value = trial.objectives[part.metric]
    return -value if part.maximize else value


def _groups(state: StudyStatus, spec: StudySpec) -> list[list[TrialStatus]]:
    """Trials that are one candidate together: each one of a search; of an ablation all runs of an arm, if all began."""
    if spec.kind == "sweep":
        return [[trial] for trial in state.trials]
    arms: dict[str, list[TrialStatus]] = {}
    for trial in state.trials:
        arms.setdefault(trial.params["arm"], []).append(trial)
    return [trials for trials in arms.values() if len(trials) == spec.runs_of_arm]


def _refuse_mixed(name: str, study: StudyTrials) -> None:
    by_meaning = {text: number for number, text in study.meanings.items()}
    if len(by_meaning) > 1:
        first, second = list(by_meaning.values())[:2]
        what = f"trials {first} and {second} are scored by different definitions of {study.metric}"
        raise UserError(what, f"study {name}", "there is no best one among them; name one: `sage-ray final --trial N`")


def image_values(runs: Sequence[RunFolder], metric: str) -> dict[str, float]:
    """Validation score of each image at the selected epoch, mean over runs."""
    score = metric.rsplit("/", 1)[-1]
    values: dict[str, list[float]] = {}
    for run in runs:
        for row in run.per_image():
            if row["part"] == "val" and row["score"] == score:
                values.setdefault(row["image_sha"], []).append(row["value"])
    return {sha: float(np.mean(each)) for sha, each in values.items()}


def image_groups(runs: Sequence[RunFolder]) -> dict[str, str]:
    """Micrograph of each validation image that is a crop."""
    rows = (row for run in runs for row in run.per_image() if row["part"] == "val" and row["group"] is not None)
    return {row["image_sha"]: row["group"] for row in rows}


def seed_values(runs: Sequence[RunFolder], objective: ObjectivePart) -> dict[int, float]:
    """Objective of each seed, mean over its folds and subsets; seeds without a finite value are left out."""
    values: dict[int, list[float]] = {}
    for run in runs:
        value = reduce_reports(run.metrics(), objective)
        if math.isfinite(value):
            values.setdefault(run.read().seed, []).append(value)
    return {seed: float(np.mean(each)) for seed, each in sorted(values.items())}
