"""Ablation: the runs of a design through the driver, then the locked test, read once for every finished run."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

import numpy as np

from sage_ray.errors import UserError
from sage_ray.evaluation import ledger
from sage_ray.evaluation.locked_test import score_locked_test, stored_test_rows
from sage_ray.evaluation.score_tables import PRIMARY, meaning
from sage_ray.evaluation.shared_reads import Readings, readings_by
from sage_ray.metrics.definitions import IMAGE_SCORES
from sage_ray.notebook_view import NotebookView
from sage_ray.record.home import Home
from sage_ray.record.mlflow_client import MirrorUnavailable
from sage_ray.record.mlflow_mirror import Mirror
from sage_ray.record.run_folder import RunFolder
from sage_ray.runtime.devices import crossing
from sage_ray.runtime.near_gpus import Near, near_gpus
from sage_ray.search.driver import Wishes, resume, sweep
from sage_ray.search.parent_run import tell_parent
from sage_ray.search.study_folder import StudyFolder, new_study_name
from sage_ray.search.study_status import RunStatus, StudyStatus, TrialStatus, status
from sage_ray.study.design import Arm, Design
from sage_ray.study.spec import RunPlace
from sage_ray.system_rules import has_segmenter
from sage_ray.termination import terminated_as_interrupted
from sage_ray.watch import SilentWatch, Watch

if TYPE_CHECKING:
    import pandas as pd

TOLD_READINGS = 20
"""Lines, about, that a study's readings of the locked test are told in."""


@dataclass(frozen=True)
class ArmRun:
    """One run of an ablation that was started: `value` is its objective, `test` its mean score on the locked test."""

    run_id: str
    arm: str
    seed: int
    fold: int | None
    trial: int
    state: str
    value: float | None
    test: float | None
    test_reads: int
    error: str | None
    subset: int | None = None
    """Which choice of labelled images it was trained on, where the study has several."""


@dataclass(frozen=True)
class ArmSummary:
    """One arm: how far it is, and means over its finished runs. Intervals are the analysis' part."""

    arm: str
    is_reference: bool
    levels: dict[str, str]
    not_run: str | None
    wanted: int
    done: int
    failed: int
    value: float | None
    """Mean of the study's objective over the finished runs."""
    test: float | None
    """Mean of `test_score` on the locked test at the selected epoch, over images and runs."""
    tested: int
    """Runs that have been scored on the locked test."""
    definitions: dict[str, str]
    """What the objective's score and the test score are; only arms with equal definitions may be compared."""
    label: str | None = None
    """Its name in tables and figures, if the design gives one."""

    @property
    def called(self) -> str:
        """What a person reads for its name: its label, or its name."""
        return self.label or self.arm


@dataclass(frozen=True)
class AblationResult(NotebookView):
    """An ablation as it stands."""

    status: StudyStatus
    design: str
    """Kind of the design."""
    reference: str
    reduce: str
    test_score: str
    test_wanted: bool
    arms: list[ArmSummary]
    runs: list[ArmRun]
    states: dict[str, int]
    """Runs by state; those not begun count as WAITING."""
    details: list[str]
    readings: list[Readings]
    """Reads of each test set that a run has read, over all homes of the stores that the home shares; one as a rule."""
    notes: list[str]
    """What to keep in mind: arms that were computed on different models of GPU or versions of torch, and homes whose
    readings are not counted."""

    def frame(self) -> pd.DataFrame:
        """One row per arm: arm, label, reference (is it?), done, failed, mean objective, mean test score, not_run."""
        import pandas as pd

        rows = [
            {
                "arm": arm.arm,
                "label": arm.called,
                "reference": arm.is_reference,
                "done": arm.done,
                "failed": arm.failed,
                self.status.metric: arm.value,
                f"test/{self.test_score}": arm.test,
                "not_run": arm.not_run or "",
            }
            for arm in self.arms
        ]
        return pd.DataFrame(rows)

    def headline(self) -> str:
        """Name, state and counts of the ablation."""
        return self.status.headline()

    def remarks(self) -> list[str]:
        """How often the locked tests were read, and what to keep in mind."""
        means = "Means over the finished runs of each arm; two such means do not make a difference: see the report."
        return [means, *(found.text for found in self.readings), *self.notes]


def ablate(design: Design, home: Home, name: str | None = None, watch: Watch | None = None) -> AblationResult:
    """Train every arm of `design` with every seed and fold, then score each finished run once on the locked test.

    A repeated call goes on where the one before ended, and doubles nothing.

    Args:
        design: arms, seeds and folds.
        home: where study, runs and stages are kept.
        name: of the study; default: the design's.
        watch: shown the status as it changes and lines for the user.

    Raises:
        UserError: bad input; nothing was trained. Or a finished run that cannot be scored; the others are.
        RunFailed: a fault that would end every run stopped the study; it can be resumed.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the study can be resumed.
    """
    study = new_study_name(name or design.name)
    return _conclude(sweep(design, home, study, watch), home, watch)


def resume_ablation(name: str, home: Home, watch: Watch | None = None, **wishes: Unpack[Wishes]) -> AblationResult:
    """Go on with an ablation after any kind of end, or with more of it: as `driver.resume`, raising as `ablate`.

    New runs are scored on the locked test, too; those that have been read are not read again.
    """
    return _conclude(resume(name, home, watch, **wishes), home, watch)


def read_ablation(name: str, home: Home) -> AblationResult:
    """An ablation as it stands; changes nothing.

    Raises:
        UserError: no such study, or it is a search.
    """
    return _result(status(name, home), home)


def _conclude(found: StudyStatus, home: Home, watch: Watch | None) -> AblationResult:
    design = _design(found.study, home)
    tested = found.state == "finished" and design.file.test
    if tested:
        _read_tests(found, home, watch)
        found = status(found.study, home)
    return _result(found, home, write=tested)


def _read_tests(found: StudyStatus, home: Home, watch: Watch | None) -> None:
    """Score the finished runs that have not been; a run that cannot be scored does not keep the others from it."""
    complete = [run for trial in found.trials for run in trial.runs if run.state == "COMPLETE"]
    # A run without a segmenter makes no masks that could be scored.
    finished = [run for run in complete if has_segmenter(RunFolder(home.runs / run.run_id).config().adversarial)]
    # A kill between the record and the ledger is mended by reading back what is stored; it is no second read.
    waiting = [run for run in finished if not run.test_reads or not _counted(run, home)]
    problems: list[UserError] = []
    every = max(1, len(waiting) // TOLD_READINGS)
    watch = watch or SilentWatch()
    with terminated_as_interrupted(), _near(waiting, home, watch) as near:
        for number, run in enumerate(waiting, start=1):
            try:
                near.call(score_locked_test, run.run_id, home, purpose=f"ablation {found.study}")
            except UserError as error:
                problems.append(error)
                continue
            if number % every == 0 or number == len(waiting):
                watch.line(f"locked test read by {run.run_id} ({number} of {len(waiting)} runs)")
        _mirror(found.study, waiting, home)
    if problems:
        raise problems[0]


def _near(runs: Sequence[RunStatus], home: Home, watch: Watch) -> contextlib.AbstractContextManager[Near]:
    """Who scores them where they were trained; with nothing to score nobody is asked for a GPU."""
    return near_gpus(RunFolder(home.runs / runs[0].run_id).config() if runs else None, home, watch.line)


def _counted(run: RunStatus, home: Home) -> bool:
    created = RunFolder(home.runs / run.run_id).read().created
    return bool(ledger.reads_of_run(home.path, run.run_id, created)[0])


def _mirror(study: str, runs: Sequence[RunStatus], home: Home) -> None:
    """Tell MLflow of the scores, run by run, and of the study what they say."""
    mirror = Mirror(home)
    # The driver has said that MLflow is away, if it is; `sync` sends what is missing.
    with contextlib.suppress(MirrorUnavailable):
        for run in runs:
            mirror.push(RunFolder(home.runs / run.run_id))
        if runs:
            tell_parent(mirror, StudyFolder(home, study), status(study, home))


def _design(name: str, home: Home) -> Design:
    spec = StudyFolder.open(home, name).spec()
    if not isinstance(spec, Design):
        raise UserError("study is a search, no ablation", name, f"`sage-ray status {name}` shows it")
    return spec


def _result(found: StudyStatus, home: Home, *, write: bool = False) -> AblationResult:
    design = _design(found.study, home)
    metric = design.objective.metric
    named = metric.rsplit("/", 1)[-1]
    score = named if named in IMAGE_SCORES else PRIMARY
    runs = [_run(trial, design.run_grid(trial.number)[0], home, score) for trial in found.trials]
    states = Counter(trial.state for trial in found.trials)
    states["WAITING"] = found.target - len(found.trials)
    readings = readings_by(home, [run.run_id for run in runs if run.test_reads], write=write)
    return AblationResult(
        status=found,
        design=design.file.kind,
        reference=design.reference.name,
        reduce=design.objective.reduce,
        test_score=score,
        test_wanted=design.file.test,
        arms=[_summary(arm, design, runs, score) for arm in design.arms],
        runs=runs,
        states={state: count for state, count in states.items() if count},
        details=design.details(),
        readings=readings,
        notes=[*crossing(_places(runs, home)), *(note for each in readings for note in each.notes)],
    )


def _places(runs: Sequence[ArmRun], home: Home) -> dict[str, tuple[str, ...]]:
    """Where the finished runs of each arm were computed, each place once."""
    places: dict[str, tuple[str, ...]] = {}
    for run in runs:
        if run.state == "COMPLETE":
            computed = RunFolder(home.runs / run.run_id).read().computed_on
            places[run.arm] = tuple(dict.fromkeys((*places.get(run.arm, ()), *computed)))
    return places


def _run(trial: TrialStatus, place: RunPlace, home: Home, score: str) -> ArmRun:
    reads = sum(run.test_reads for run in trial.runs)
    return ArmRun(
        run_id=place.run_id,
        arm=str(place.arm),
        seed=place.seed,
        fold=place.fold,
        trial=trial.number,
        state=trial.state,
        value=trial.value if trial.state == "COMPLETE" else None,
        test=_test_mean(RunFolder(home.runs / place.run_id), score) if reads else None,
        test_reads=reads,
        error=trial.error,
        subset=place.subset,
    )


def _summary(arm: Arm, design: Design, runs: Sequence[ArmRun], score: str) -> ArmSummary:
    mine = [run for run in runs if run.arm == arm.name]
    tests = [run.test for run in mine if run.test is not None]
    return ArmSummary(
        arm=arm.name,
        is_reference=arm.name == design.reference.name,
        levels=dict(arm.levels),
        not_run=arm.not_run,
        wanted=0 if arm.not_run else design.runs_of_arm,
        done=sum(run.state == "COMPLETE" for run in mine),
        failed=sum(run.state == "FAIL" for run in mine),
        value=_mean([run.value for run in mine if run.value is not None]),
        test=_mean(tests),
        tested=len(tests),
        definitions={name: meaning(name, arm.config) for name in (design.objective.metric, f"test/{score}")},
        label=arm.label,
    )


def _test_mean(run: RunFolder, score: str) -> float | None:
    rows = stored_test_rows(run)
    return None if rows.empty else _mean(rows.loc[rows["score"] == score, "value"].tolist())


def _mean(values: Sequence[float]) -> float | None:
    mean = float(np.mean(values)) if values else math.nan
    return mean if math.isfinite(mean) else None
