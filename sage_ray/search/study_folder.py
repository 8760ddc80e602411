"""A study on disk: its folder, its status from storage and records, and the wish to stop it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_ray.config import ExperimentConfig
from sage_ray.errors import UserError, did_you_mean
from sage_ray.files import read_json, write_json
from sage_ray.locks import is_locked, locked
from sage_ray.record.home import Home
from sage_ray.record.overview import DRIVER_LOCK
from sage_ray.record.run_folder import RunFolder
from sage_ray.study.design import Design, load_spec
from sage_ray.study.file_schema import check_study_name
from sage_ray.study.space import Space
from sage_ray.study.spec import Kind, StudySpec

if TYPE_CHECKING:
    from sage_ray.search.storage import TrialRow

FORMAT_VERSION = 1


@dataclass(frozen=True)
class RunStatus:
    """One run (seed and fold, in an ablation of an arm) of a trial."""

    run_id: str
    seed: int
    fold: int | None
    state: str
    epoch: int
    weights_sha: str | None
    arm: str | None = None
    test_reads: int = 0


@dataclass(frozen=True)
class TrialStatus:
    """One trial: `state` RUNNING, COMPLETE, PRUNED or FAIL; `value` its objective, or the running one.

    `epoch` is the last epoch of its first run, `epochs` how many it can have (None: as the study says); `weights_sha`
    that run's selected weights; `values` the overrides that make its config.
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


@dataclass(frozen=True)
class StudyStatus:
    """A study as a whole. `state`: running (a driver lives), finished, or interrupted (resumable).

    `kind`: sweep, or ablation; `not_run`: its arms that are declared but not trained, with the reason;
    `runs_of_trial`: seeds times folds.
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


class StudyFolder:
    """studies/NAME: space.yaml or design.yaml, base.yaml, optuna.db, study.json, driver's lock, wish to stop."""

    def __init__(self, home: Home, name: str) -> None:
        self.home, self.name = home, name
        self.path = home.studies / name

    @property
    def spec_path(self) -> Path:
        """What is run: design.yaml of an ablation, space.yaml of a search."""
        design = self.path / Design.file_name
        return design if design.is_file() else self.path / Space.file_name

    @property
    def base_path(self) -> Path:
        """The base config of the study."""
        return self.path / "base.yaml"

    @property
    def stop_path(self) -> Path:
        """Its presence asks driver and trials to end cleanly; its text says why."""
        return self.path / "stop"

    @property
    def exists(self) -> bool:
        """Whether a study was begun in this folder."""
        return (self.path / "study.json").is_file()

    @classmethod
    def open(cls, home: Home, name: str) -> StudyFolder:
        """The folder of a study that exists. Raises UserError with the nearest name if there is none."""
        folder = cls(home, name)
        known = home.study_names()
        if name not in known:
            otherwise = f"`sage-ray list` shows the studies under {home.studies}"
            raise UserError("no such study", name, did_you_mean(name, known, otherwise))
        return folder

    def meta(self) -> dict[str, Any]:
        """study.json. Raises UserError if it is damaged or of a newer format."""
        path = self.path / "study.json"
        try:
            value: dict[str, Any] = dict(read_json(path))
        except (OSError, ValueError, TypeError):
            raise UserError("damaged study", path, "restore it, or remove the study's folder") from None
        if value.get("format_version", 0) > FORMAT_VERSION:
            raise UserError("study of a newer format", path, "read it with the sage_ray that wrote it, or upgrade")
        return value

    def write_meta(self, meta: dict[str, Any]) -> None:
        """Write study.json: what is said of the study as a whole."""
        write_json(self.path / "study.json", {"format_version": FORMAT_VERSION, **meta})

    def spec(self) -> StudySpec:
        """What the study runs, from its own files."""
        return load_spec(self.spec_path)

    def run_folders(self, spec: StudySpec, number: int) -> list[RunFolder]:
        """Folders of the trial's runs that have been started."""
        folders = [RunFolder(self.home.runs / place.run_id) for place in spec.run_grid(number)]
        return [folder for folder in folders if (folder.path / "record.json").is_file()]

    def driver_alive(self) -> bool:
        """Whether a live process runs this study."""
        return is_locked(self.path / DRIVER_LOCK)

    @contextmanager
    def driver_lock(self) -> Iterator[None]:
        """Hold the study as its driver; given up when the process dies. Raises UserError if another one holds it."""
        with locked(self.path / DRIVER_LOCK, timeout_s=1.0) as held:
            if not held:
                raise UserError("study is being run", self.name, f"wait, or end it with `sage-ray stop {self.name}`")
            yield


def status(name: str, home: Home) -> StudyStatus:
    """Trials of a study with states and scores, from the Optuna storage and the run records; changes nothing.

    Raises:
        UserError: no such study; the nearest name is given.
    """
    from sage_ray.search.storage import read_rows

    folder = StudyFolder.open(home, name)
    return status_of(folder, folder.spec(), read_rows(folder.path, name))


def status_of(folder: StudyFolder, spec: StudySpec, rows: Sequence[TrialRow]) -> StudyStatus:
    """The status of a study from rows of its storage."""
    trials = tuple(_trial(folder, spec, row) for row in rows)
    count = Counter(trial.state for trial in trials)
    ended = count["COMPLETE"] + count["PRUNED"] + count["FAIL"]
    unfinished = "running" if folder.driver_alive() else "interrupted"
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
    )


def stop(name: str, home: Home) -> StudyStatus:
    """Ask a running study to end cleanly: trials end at their next epoch, and `resume` goes on with them.

    Raises:
        UserError: no such study, or it is not running.
    """
    folder = StudyFolder.open(home, name)
    if not folder.driver_alive():
        raise UserError("study is not running", name, f"`sage-ray resume {name}` starts it again")
    folder.stop_path.write_text("sage-ray stop\n")
    return status(name, home)


def trial_config(name: str, home: Home, number: int) -> ExperimentConfig:
    """The config of a trial, with the study's first seed.

    Raises:
        UserError: no such study or trial.
    """
    from sage_ray.search.storage import read_rows

    folder = StudyFolder.open(home, name)
    spec = folder.spec()
    rows = {row.number: row for row in read_rows(folder.path, name)}
    row = rows.get(number)
    if row is None or row.values is None:
        mend = f"the study has trials 0 to {max(rows)}" if rows else "the study has no trial yet"
        raise UserError(f"no trial {number}", f"study {name}", mend)
    place = spec.run_grid(number)[0]
    return spec.config(row.values, place.seed, place.fold)


def new_study_name(name: str) -> str:
    """`name`, fit for a folder. Raises UserError if it is not."""
    try:
        return check_study_name(name)
    except ValueError as error:
        raise UserError("bad study name", name, str(error)) from None


def _trial(folder: StudyFolder, spec: StudySpec, row: TrialRow) -> TrialStatus:
    runs = []
    for place in spec.run_grid(row.number):
        record = _record(folder.home.runs / place.run_id / "record.json")
        if record is not None:
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
                )
            )
    last = max(row.reports, default=0)
    return TrialStatus(
        number=row.number,
        params=row.params,
        value=row.value if row.state == "COMPLETE" else row.reports.get(last),
        state=row.state,
        epoch=max(last, runs[0].epoch if runs else 0),
        weights_sha=runs[0].weights_sha if runs else None,
        values=row.values or {},
        error=row.error,
        attempts=row.attempts,
        seconds=row.seconds,
        runs=tuple(runs),
        epochs=spec.max_epochs(row.number) if spec.kind == "ablation" else None,
    )


def _record(path: Path) -> dict[str, Any] | None:
    # A record that is damaged or being replaced must not hide the study.
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
