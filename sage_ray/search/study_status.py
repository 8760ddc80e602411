"""The status of a study, from its storage and its runs' records, and the wish to stop it."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_ray.config import ExperimentConfig
from sage_ray.errors import StageBusy, UserError
from sage_ray.followed import push
from sage_ray.notebook_view import NotebookView
from sage_ray.record.home import Home
from sage_ray.record.run_record import pairs_being_made
from sage_ray.search.objectives import on_front
from sage_ray.search.rebuild import recover
from sage_ray.search.storage import TrialRow, read_rows, rows_of
from sage_ray.search.study_folder import StudyFolder
from sage_ray.study.spec import Kind, StudySpec

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunStatus:
    """One run (seed and fold, in an ablation of an arm) of a trial.

    `first` says what it does before its own first epoch, if it makes its extra pairs: "trains preset tiny_sage_gan
    first, epoch 3 of 24".
    """

    run_id: str
    seed: int
    fold: int | None
    state: str
    epoch: int
    weights_sha: str | None
    arm: str | None = None
    test_reads: int = 0
    first: str | None = None
    subset: int | None = None
    """Which choice of labelled images it is trained on, where the study has several."""


@dataclass(frozen=True)
class TrialStatus:
    """One trial: `state` RUNNING, PENDING, INTERRUPTED, COMPLETE, PRUNED or FAIL.

    PENDING: it waits for a node, or for a stage that another trial computes. INTERRUPTED: it was begun, and nobody runs
    its study, so that it stands at its epoch until that goes on. `value` is its objective, or the running
    one.

    `epoch` is the last epoch of its first run, `epochs` how many it can have (None: as the study says); `weights_sha`
    that run's selected weights; `values` the overrides that make its config. `objectives` has each objective of a
    complete trial by its metric; `silent_s` is how long ago a running trial reported its last epoch, in seconds (None:
    it has not reported).
    """

    number: int
    params: dict[str, Any]
    value: float | None
    state: str
    epoch: int
    weights_sha: str | None
    values: dict[str, Any]
    error: str | None
    attempts: int
    seconds: float | None
    runs: tuple[RunStatus, ...]
    epochs: int | None = None
    objectives: dict[str, float] = field(default_factory=dict)
    silent_s: float | None = None

    @property
    def first(self) -> str | None:
        """What a running trial does before an epoch of its own: that of the run which does so."""
        said = [run.first for run in self.runs if run.first is not None]
        return said[0] if said and self.state == "RUNNING" else None


@dataclass(frozen=True)
class StudyStatus(NotebookView):
    """A study as a whole. `state`: running (a driver lives), finished, or interrupted (resumable).

    `kind`: sweep, or ablation; `not_run`: its arms that are declared but not trained, with the reason;
    `runs_of_trial`: seeds times folds. `objectives`: the direction of each objective by its metric, that of `metric`
    first; `front`: with two objectives, the numbers of the trials on the Pareto front. `awaits` says what the study
    waits for while no node can hold a trial (None: it does not wait), `pending` how many drawn trials wait, for that or
    for a stage.

    `interrupted`: trials that were begun while nobody runs the study. `died`: whoever ran it gives no sign of life and
    did not end it. `silent_s` is how long ago the last sign of a running study came, in seconds, where the next one is
    overdue (None: it is not), and `dead_after_s` after how many it counts as dead.
    """

    study: str
    done: int
    pruned: int
    failed: int
    running: int
    trials: tuple[TrialStatus, ...]
    target: int
    epochs: int
    state: str
    metric: str
    direction: str
    path: str
    kind: Kind = "sweep"
    not_run: dict[str, str] = field(default_factory=dict)
    runs_of_trial: int = 1
    objectives: dict[str, str] = field(default_factory=dict)
    front: tuple[int, ...] = ()
    pending: int = 0
    awaits: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    """Of an ablation, what tables and figures call an arm, by its name, where the design gives a label."""
    interrupted: int = 0
    died: bool = False
    silent_s: float | None = None
    dead_after_s: float | None = None

    def frame(self) -> pd.DataFrame:
        """One row per trial that was begun, by number.

        Columns: number, state, value (of the objective; of a trial that has not ended, so far), where a study has two
        objectives each of them by its metric, one per parameter by its dotted path, epochs (the last one of its first
        run), seconds (wall time, None before its end), error, weights_sha. A parameter that a trial does not have is
        missing there. Where arms have labels, `label` stands behind `arm`.
        """
        return _trial_frame(self)

    def headline(self) -> str:
        """Name, state and counts of the study."""
        counts = f"{self.done} of {self.target} trials complete, {self.pruned} pruned, {self.failed} failed"
        judged = "; ".join(f"{metric}, {direction}" for metric, direction in self.objectives.items())
        return f"{self.study} {self.state}: {counts}. Judged by {judged}"


def _trial_frame(found: StudyStatus) -> pd.DataFrame:
    import pandas as pd

    scores = list(dict.fromkeys(name for trial in found.trials for name in trial.objectives))
    scores = scores if len(scores) > 1 else []
    names = list(dict.fromkeys(name for trial in found.trials for name in trial.params))
    rows = [
        {
            "number": trial.number,
            "state": trial.state,
            "value": trial.value,
            **{name: trial.objectives.get(name) for name in scores},
            **{name: trial.params.get(name) for name in names},
            "epochs": trial.epoch,
            "seconds": trial.seconds,
            "error": trial.error,
            "weights_sha": trial.weights_sha,
        }
        for trial in found.trials
    ]
    columns = ["number", "state", "value", *scores, *names, "epochs", "seconds", "error", "weights_sha"]
    return with_labels(pd.DataFrame(rows, columns=columns), found.labels)


def with_labels(table: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """A table with a column `label` behind its column `arm`, where any arm has one; the others keep their names."""
    if labels and "arm" in table:
        table.insert(list(table.columns).index("arm") + 1, "label", [labels.get(arm, arm) for arm in table["arm"]])
    return table


def status(name: str, home: Home) -> StudyStatus:
    """Trials of a study with states and scores, from the Optuna storage and the run records; changes nothing.

    Raises:
        UserError: no such study; the nearest name is given.
    """
    folder = StudyFolder.open(home, name)
    spec = folder.spec()
    return status_of(folder, spec, study_rows(folder, spec))


def study_rows(folder: StudyFolder, spec: StudySpec) -> list[TrialRow]:
    """Trials of a study from its storage, or from its runs where it is lost, damaged or away; changes nothing."""
    store = folder.store()
    try:
        if store.is_server:
            rows = read_rows(folder.path, folder.name, store)
            return rows or rows_of(recover(folder, spec))
        if folder.driver_alive() or store.is_sound():
            return read_rows(folder.path, folder.name, store)
    except UserError as error:  # a server of long ago must not keep anybody from what a study found
        logger.warning("%s; the trials of %s are told from their runs", error, folder.name)
    return rows_of(recover(folder, spec))


def status_of(
    folder: StudyFolder, spec: StudySpec, rows: Sequence[TrialRow], known: dict[int, TrialStatus] | None = None
) -> StudyStatus:
    """The status of a study from rows of its storage.

    Args:
        folder: the study.
        spec: what it runs.
        rows: its trials.
        known: trials that had ended at an earlier look, which are not read again; new ones are added.
    """
    known = {} if known is None else known
    awaits, waiting = folder.awaited()
    found = []
    for row in rows:
        trial = known.get(row.number)
        if trial is None:
            trial = _trial(folder, spec, row)
            if trial.state not in ("RUNNING", "PENDING"):
                known[row.number] = trial
            elif trial.number in waiting:
                trial = replace(trial, state="PENDING")
        found.append(trial)
    sign = folder.driver_sign()
    trials = tuple(found) if sign.held else _cut_off(found)
    count = Counter(trial.state for trial in trials)
    ended = count["COMPLETE"] + count["PRUNED"] + count["FAIL"]
    unfinished = "running" if sign.held else "interrupted"
    return StudyStatus(
        study=folder.name,
        done=count["COMPLETE"],
        pruned=count["PRUNED"],
        failed=count["FAIL"],
        running=count["RUNNING"],
        trials=trials,
        target=spec.trials,
        epochs=spec.max_epochs(),
        state="finished" if ended >= spec.trials else unfinished,
        metric=spec.objective.metric,
        direction=str(spec.objective.direction),
        path=str(folder.path),
        kind=spec.kind,
        not_run=spec.not_run(),
        runs_of_trial=len(spec.run_grid(0)) if spec.trials else 1,
        objectives={part.metric: str(part.direction) for part in spec.objectives},
        front=_front(spec, trials),
        pending=count["PENDING"],
        awaits=awaits,
        labels=spec.labels(),
        interrupted=count["INTERRUPTED"],
        died=sign.died and ended < spec.trials,
        silent_s=None if sign.silent_s is None or not sign.held else round(sign.silent_s, 1),
        dead_after_s=sign.limit_s if sign.held else None,
    )


def _cut_off(trials: Sequence[TrialStatus]) -> tuple[TrialStatus, ...]:
    """The trials of a study that nobody runs: none of them runs or waits."""
    return tuple(
        replace(trial, state="INTERRUPTED", silent_s=None) if trial.state in ("RUNNING", "PENDING") else trial
        for trial in trials
    )


def as_left(found: StudyStatus, state: str) -> StudyStatus:
    """The status of a study whose driver is about to leave it: finished, or interrupted."""
    trials = _cut_off(found.trials)
    cut_off = sum(trial.state == "INTERRUPTED" for trial in trials)
    left = replace(found, state=state, trials=trials, running=0, pending=0, interrupted=cut_off)
    return replace(left, silent_s=None, dead_after_s=None)


def _front(spec: StudySpec, trials: Sequence[TrialStatus]) -> tuple[int, ...]:
    """Numbers of the trials on the Pareto front of a study with two objectives."""
    if len(spec.objectives) < 2:
        return ()
    complete = [t for t in trials if t.state == "COMPLETE" and len(t.objectives) == len(spec.objectives)]
    among = on_front([list(t.objectives.values()) for t in complete], spec.objectives)
    return tuple(trial.number for trial, best in zip(complete, among, strict=True) if best)


def stop(name: str, home: Home) -> StudyStatus:
    """Ask a running study to end cleanly: trials end at their next epoch, and `resume` goes on with them.

    Raises:
        UserError: no such study, or it is not running.
    """
    folder = StudyFolder.open(home, name)
    if not folder.driver_alive():
        raise UserError("study is not running", name, f"`sage-ray resume {name}` starts it again")
    folder.stop_path.write_text("sage-ray stop\n")
    push(folder.stop_path)
    return status(name, home)


def trial_config(name: str, home: Home, number: int) -> ExperimentConfig:
    """The config of a trial, with the study's first seed.

    Raises:
        UserError: no such study or trial.
    """
    folder = StudyFolder.open(home, name)
    spec = folder.spec()
    rows = {row.number: row for row in study_rows(folder, spec)}
    row = rows.get(number)
    if row is None or row.values is None:
        mend = f"the study has trials 0 to {max(rows)}" if rows else "the study has no trial yet"
        raise UserError(f"no trial {number}", f"study {name}", mend)
    place = spec.run_grid(number)[0]
    return spec.config(row.values, place.seed, place.fold)


def _trial(folder: StudyFolder, spec: StudySpec, row: TrialRow) -> TrialStatus:
    runs, state = [], row.state
    if state == "RUNNING":
        folder.run_folders(spec, row.number)  # looks anew what a run in a bucket says
    for place in spec.run_grid(row.number):
        record = _record(folder.home.runs / place.run_id / "record.json")
        if record is not None:
            if state == "RUNNING" and StageBusy.is_told_by(record.get("error")):
                state = "PENDING"
            runs.append(
                RunStatus(
                    run_id=place.run_id,
                    seed=place.seed,
                    fold=place.fold,
                    state=record.get("state", "?"),
                    epoch=record.get("epoch", 0),
                    weights_sha=record.get("weights_sha"),
                    arm=place.arm,
                    test_reads=record.get("test_reads", 0),
                    first=pairs_being_made(record.get("state", "?"), record.get("extra_pairs")),
                    subset=place.subset,
                )
            )
    last = max(row.reports, default=0)
    return TrialStatus(
        number=row.number,
        params=row.params,
        value=row.value if row.state == "COMPLETE" else row.reports.get(last),
        state=state,
        epoch=max(last, runs[0].epoch if runs else 0),
        weights_sha=runs[0].weights_sha if runs else None,
        values=row.values or {},
        error=row.error,
        attempts=row.attempts,
        seconds=row.seconds,
        runs=tuple(runs),
        epochs=spec.max_epochs(row.number) if spec.kind == "ablation" else None,
        objectives={part.metric: value for part, value in zip(spec.objectives, row.objectives, strict=False)},
        silent_s=_silent_s(folder, runs) if state == "RUNNING" else None,
    )


def _silent_s(folder: StudyFolder, runs: Sequence[RunStatus]) -> float | None:
    """Seconds since the last epoch that one of the runs reported."""
    stamps = []
    for run in runs:
        with contextlib.suppress(OSError):
            stamps.append((folder.home.runs / run.run_id / "metrics.jsonl").stat().st_mtime)
    return round(max(time.time() - max(stamps), 0.0), 1) if stamps else None


def _record(path: Path) -> dict[str, Any] | None:
    # A record that is damaged or being replaced must not hide the study.
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
