"""What belongs to a study, a final training or a run of a home: found by its records, whatever else is left of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sage_ray.config import ExperimentConfig
from sage_ray.errors import UserError, did_you_mean
from sage_ray.locks import is_locked
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunRecord
from sage_ray.search.study_folder import StudyFolder

TRASH = ".forgotten"
"""Folder of the home that holds, by the name of what is forgotten, what is being removed."""


@dataclass
class Belongings:
    """A study, a final training or a single run, and what is its own in the home.

    Attributes:
        name: of it.
        kind: study, final or run.
        runs: folders of its runs; a run is its own.
        records: of the runs whose record can be read, by run id.
        configs: of the runs whose config can be read, by run id.
        finals: final trainings of a study, which are no part of it.
    """

    name: str
    kind: Literal["study", "final", "run"]
    runs: list[RunFolder] = field(default_factory=list)
    records: dict[str, RunRecord] = field(default_factory=dict)
    configs: dict[str, ExperimentConfig] = field(default_factory=dict)
    finals: list[str] = field(default_factory=list)

    def folders(self, home: Home) -> list[Path]:
        """Folders and files of the home that go with it, besides those of its runs; those that exist."""
        ray = [home.path / "ray" / run.run_id for run in self.runs]
        own = {
            "study": [home.studies / self.name],
            "final": [home.finals / f"{self.name}.json", home.finals / self.name, home.finals / f".{self.name}.lock"],
            "run": [],
        }[self.kind]
        return [path for path in [*own, *ray] if path.exists()]

    def leave_out(self, run_ids: set[str]) -> None:
        """Take runs away from what belongs to it: they stay."""
        self.runs = [run for run in self.runs if run.run_id not in run_ids]
        self.records = {name: record for name, record in self.records.items() if name not in run_ids}
        self.configs = {name: config for name, config in self.configs.items() if name not in run_ids}

    def check_idle(self, home: Home) -> None:
        """Raise UserError if a live process works on it."""
        if self.kind == "study" and StudyFolder(home, self.name).driver_alive():
            raise UserError("study is being run", self.name, f"end it with `sage-ray stop {self.name}` first")
        if self.kind == "final" and is_locked(home.finals / f".{self.name}.lock"):
            raise UserError("final training is running", self.name, "stop it first")
        for run in self.runs:
            if run.alive():
                raise UserError("run is being computed", run.run_id, "wait for the other process, or stop it first")


def belongings_of(name: str, home: Home) -> Belongings | None:
    """What goes by `name` in the home: a study before a final training before a run; None if nothing does.

    A study whose folder is gone is one still, as long as runs name it.

    Raises:
        UserError: a run of a study or final training, which go as a whole.
    """
    if "/" in name or name in ("", ".", ".."):
        return None
    records = dict(_records(home))
    owned = {run_id: record for run_id, record in records.items() if _owner(record) == name}
    is_final = (home.finals / f"{name}.json").is_file() or (home.finals / name).is_dir()
    is_study = (home.studies / name).is_dir()
    if is_study or is_final or owned:
        is_final = is_final or any(record.study != name for record in owned.values())
        found = Belongings(name, "study" if is_study or not is_final else "final")
        found.runs = [RunFolder(home.runs / run_id) for run_id in owned]
        found.finals = sorted({_owner(r) or "" for r in records.values() if r.study == name and _owner(r) != name})
    elif name in home.run_ids():
        _refuse_part(name, records.get(name), home)
        found = Belongings(name, "run", [RunFolder(home.runs / name)])
    else:
        return Belongings(name, "run") if (home.path / TRASH / name).is_dir() else None
    found.records = {run.run_id: records[run.run_id] for run in found.runs if run.run_id in records}
    found.configs = dict(_configs(found.runs))
    return found


def runs_of_study(name: str, home: Home) -> list[RunRecord]:
    """Records of the runs of a study, without those of final trainings that came from it."""
    return [record for _, record in _records(home) if _owner(record) == name]


def unknown(name: str, home: Home) -> UserError:
    """The error that names the nearest study, final training or run."""
    known = [*home.study_names(), *home.final_ids(), *home.run_ids()]
    known += [owner for _, record in _records(home) if (owner := _owner(record)) is not None]
    mend = did_you_mean(name, dict.fromkeys(known), f"`sage-ray list` shows those under {home.path}")
    return UserError("no such study, run or final training", name, mend)


def _owner(record: RunRecord) -> str | None:
    return record.parent or record.study


def _refuse_part(run_id: str, record: RunRecord | None, home: Home) -> None:
    owner = None if record is None else _owner(record)
    if owner is not None and ((home.studies / owner).is_dir() or (home.finals / f"{owner}.json").is_file()):
        what = "run of a final training" if (home.finals / f"{owner}.json").is_file() else "run of a study"
        raise UserError(what, run_id, f"forget the whole of it: `sage-ray forget {owner}`")


def _records(home: Home) -> Iterator[tuple[str, RunRecord]]:
    for run_id in home.run_ids():
        try:
            yield run_id, RunFolder(home.runs / run_id).read()
        except UserError:  # damaged: it can be forgotten by its own name
            continue


def _configs(runs: list[RunFolder]) -> Iterator[tuple[str, ExperimentConfig]]:
    for run in runs:
        try:
            yield run.run_id, run.config()
        except (UserError, OSError):
            continue
