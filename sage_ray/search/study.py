"""A study on disk: its folder, its status from storage and records, and the wish to stop it."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_ray.config import ExperimentConfig
from sage_ray.errors import UserError
from sage_ray.runtime.files import is_locked, locked, read_json, write_json
from sage_ray.runtime.home import Home
from sage_ray.runtime.record import RunFolder
from sage_ray.search.schema import check_study_name
from sage_ray.search.space import Space, load_space

if TYPE_CHECKING:
    from sage_ray.search.tuner import TrialRow

FORMAT_VERSION = 1


@dataclass(frozen=True)
class RunStatus:
    """One run (seed and fold) of a trial."""

    run_id: str
    seed: int
    fold: int | None
    state: str
    epoch: int
    weights_sha: str | None


@dataclass(frozen=True)
class TrialStatus:
    """One trial: `state` RUNNING, COMPLETE, PRUNED or FAIL; `value` its objective, or the running one.

    `epoch` is the last epoch of its first run; `weights_sha` that run's selected weights; `values` the overrides that
    make its config.
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


@dataclass(frozen=True)
class StudyStatus:
    """A study as a whole. `state`: running (a driver lives), finished, or interrupted (resumable)."""

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


class StudyFolder:
    """studies/NAME: space.yaml, base.yaml, optuna.db, study.json, the driver's lock, the wish to stop."""

    def __init__(self, home: Home, name: str) -> None:
        self.home, self.name = home, name
        self.path = home.studies / name

    @property
    def space_path(self) -> Path:
        return self.path / "space.yaml"

    @property
    def base_path(self) -> Path:
        return self.path / "base.yaml"

    @property
    def stop_path(self) -> Path:
        """Its presence asks driver and trials to end cleanly; its text says why."""
        return self.path / "stop"

    @property
    def exists(self) -> bool:
        return (self.path / "study.json").is_file()

    @classmethod
    def open(cls, home: Home, name: str) -> StudyFolder:
        """The folder of a study that exists. Raises UserError with the nearest name if there is none."""
        folder = cls(home, name)
        known = study_names(home)
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            mend = f"did you mean {near[0]}?" if near else f"`sage-ray list` shows the studies under {home.studies}"
            raise UserError("no such study", name, mend)
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
        write_json(self.path / "study.json", {"format_version": FORMAT_VERSION, **meta})

    def space(self) -> Space:
        """The study's space, from its own files."""
        return load_space(self.space_path)

    def run_id(self, number: int, seed: int, fold: int | None = None) -> str:
        """Name of a trial's run; the fold only where a study has several."""
        return f"{self.name}-t{number:04d}-s{seed}" + ("" if fold is None else f"-f{fold}")

    def run_ids(self, space: Space, number: int) -> list[str]:
        """Names of all runs of a trial, the first being the one that a scheduler judges."""
        return [self.run_id(number, seed, fold) for seed, fold in run_grid(space)]

    def run_folders(self, space: Space, number: int) -> list[RunFolder]:
        """Folders of the trial's runs that have been started."""
        folders = [RunFolder(self.home.runs / run_id) for run_id in self.run_ids(space, number)]
        return [folder for folder in folders if (folder.path / "record.json").is_file()]

    def driver_alive(self) -> bool:
        """Whether a live process runs this study."""
        return is_locked(self.path / "driver.lock")

    @contextmanager
    def driver_lock(self) -> Iterator[None]:
        """Hold the study as its driver; given up when the process dies. Raises UserError if another one holds it."""
        with locked(self.path / "driver.lock", timeout_s=1.0) as held:
            if not held:
                raise UserError("study is being run", self.name, f"wait, or end it with `sage-ray stop {self.name}`")
            yield


def run_grid(space: Space) -> list[tuple[int, int | None]]:
    """(seed, fold) of each run of a trial; fold None where the study has one split."""
    folds: Sequence[int | None] = space.file.folds or (None,)
    return [(seed, fold) for seed in space.file.seeds for fold in folds]


def study_names(home: Home) -> list[str]:
    """Names of the studies of a home, sorted."""
    if not home.studies.is_dir():
        return []
    return sorted(folder.name for folder in home.studies.iterdir() if (folder / "study.json").is_file())


def status(name: str, home: Home) -> StudyStatus:
    """Trials of a study with states and scores, from the Optuna storage and the run records; changes nothing.

    Raises:
        UserError: no such study; the nearest name is given.
    """
    from sage_ray.search.tuner import read_rows

    folder = StudyFolder.open(home, name)
    return status_of(folder, folder.space(), read_rows(folder.path, name))


def status_of(folder: StudyFolder, space: Space, rows: Sequence[TrialRow]) -> StudyStatus:
    """The status of a study from rows of its storage."""
    trials = tuple(_trial(folder, space, row) for row in rows)
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
        target=space.trials,
        epochs=space.max_epochs(),
        state="finished" if ended >= space.trials else unfinished,
        metric=space.objective.metric,
        direction=str(space.objective.direction),
        path=str(folder.path),
    )


def list_all(home: Home) -> list[StudyStatus]:
    """Status of every study of a home, by name; one whose files are damaged is left out."""
    found = []
    for name in study_names(home):
        try:
            found.append(status(name, home))
        except UserError:
            continue
    return found


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
    from sage_ray.search.tuner import read_rows

    folder = StudyFolder.open(home, name)
    space = folder.space()
    rows = {row.number: row for row in read_rows(folder.path, name)}
    row = rows.get(number)
    if row is None or row.values is None:
        mend = f"the study has trials 0 to {max(rows)}" if rows else "the study has no trial yet"
        raise UserError(f"no trial {number}", f"study {name}", mend)
    seed, fold = run_grid(space)[0]
    return space.config(row.values, seed, fold)


def new_study_name(name: str) -> str:
    """`name`, fit for a folder. Raises UserError if it is not."""
    try:
        return check_study_name(name)
    except ValueError as error:
        raise UserError("bad study name", name, str(error)) from None


def _trial(folder: StudyFolder, space: Space, row: TrialRow) -> TrialStatus:
    runs = []
    for (seed, fold), run_id in zip(run_grid(space), folder.run_ids(space, row.number), strict=True):
        record = _record(folder.home.runs / run_id / "record.json")
        if record is not None:
            weights = record.get("weights_sha")
            runs.append(RunStatus(run_id, seed, fold, record.get("state", "?"), record.get("epoch", 0), weights))
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
    )


def _record(path: Path) -> dict[str, Any] | None:
    # A record that is damaged or being replaced must not hide the study.
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
