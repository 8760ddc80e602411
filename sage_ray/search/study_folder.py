"""A study on disk: its folder, its files and its lock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sage_ray.addresses import SQLITE, StoreAddress
from sage_ray.errors import UserError, did_you_mean
from sage_ray.files import read_json, write_json
from sage_ray.followed import pull, push
from sage_ray.leases import Lease, LifeSign
from sage_ray.locks import locked, sign_of
from sage_ray.record.home import LOOK_S, Home
from sage_ray.record.optuna_store import STORAGE_KEY, OptunaStore, store_of_study
from sage_ray.record.overview import DRIVER_LOCK
from sage_ray.record.run_folder import RunFolder
from sage_ray.study.design import Design, load_spec
from sage_ray.study.file_schema import check_study_name
from sage_ray.study.space import Space
from sage_ray.study.spec import StudySpec

FORMAT_VERSION = 1
STOP_FILE = "stop"
BUDGETS_FILE = "arm_budgets.json"


class StudyFolder:
    """studies/NAME: its file, base.yaml, study.json, trials unless a server has them, driver's lock, wish to stop."""

    def __init__(self, home: Home, name: str) -> None:
        self.home, self.name = home, name
        self.path = home.studies / name
        pull(self.path, every_s=LOOK_S)

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
        return self.path / STOP_FILE

    @property
    def awaiting_path(self) -> Path:
        """There while the study waits for a node: what it awaits, and which trials wait."""
        return self.path / "awaiting.json"

    def awaited(self) -> tuple[str | None, frozenset[int]]:
        """What a study that is being run waits for, in words, and the numbers of the trials that wait with it.

        (None, none) if it waits for nothing. A driver that was killed may have left the note of it.
        """
        if not self.awaiting_path.exists() or not self.driver_alive():
            return None, frozenset()
        try:
            found = read_json(self.awaiting_path)
            return str(found["what"]), frozenset(int(number) for number in found["trials"])
        except (OSError, ValueError, KeyError, TypeError):
            return None, frozenset()

    @property
    def exists(self) -> bool:
        """Whether a study was begun in this folder."""
        return (self.path / "study.json").is_file()

    @classmethod
    def open(cls, home: Home, name: str) -> StudyFolder:
        """The folder of a study that exists. Raises UserError with the nearest name if there is none."""
        folder = cls(home.look(), name)
        known = home.study_names()
        if name not in known:
            raise UserError("no such study", name, _instead(name, known, home))
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
        push(self.path)

    def store(self, wish: StoreAddress | None = None) -> OptunaStore:
        """Where the study's trials are, or shall be if its file has the `wish`.

        Raises:
            UserError: `SAGE_OPTUNA_URL` cannot be read.
        """
        return store_of_study(self.home, self.name, wish)

    def note_store(self, store: OptunaStore) -> None:
        """Write down in study.json where the trials are by now."""
        meta = {key: value for key, value in self.meta().items() if key != STORAGE_KEY}
        self.write_meta({**meta, **stored_place(store)})

    def note_driven(self, seconds: float) -> None:
        """Add the wall time of a start that has ended to study.json; a driver that is killed notes none."""
        meta = self.meta()
        driven = {"seconds": meta.get("driven", {}).get("seconds", 0.0) + seconds}
        driven["starts"] = meta.get("driven", {}).get("starts", 0) + 1
        self.write_meta({**meta, "driven": driven})

    def spec(self) -> StudySpec:
        """What the study runs, from its own files, which were checked when it began."""
        return self.settled(load_spec(self.spec_path, stored=True))

    def settled(self, spec: StudySpec) -> StudySpec:
        """The study with the budgets that its runs were given while it ran (`search.arm_seconds`)."""
        known = {run_id: int(budget["epochs"]) for run_id, budget in self.budgets_given().items()}
        return replace(spec, settled=known) if known and isinstance(spec, Design) else spec

    def budgets_given(self) -> dict[str, dict[str, Any]]:
        """By run: epochs, the arm that they follow, its seconds, and seconds of an epoch of the run's own arm."""
        path = self.path / BUDGETS_FILE
        try:
            return dict(read_json(path)) if path.is_file() else {}
        except (OSError, ValueError, TypeError):
            mend = "remove it: what its runs began with then follows from what their references recorded"
            raise UserError("damaged file of budgets", path, mend) from None

    def note_budget(self, run_id: str, **budget: Any) -> None:
        """Write down, once and for all starts, the budget that a run is given."""
        write_json(self.path / BUDGETS_FILE, {**self.budgets_given(), run_id: budget})
        push(self.path)

    def run_folders(self, spec: StudySpec, number: int) -> list[RunFolder]:
        """Folders of the trial's runs that have been started."""
        folders = [RunFolder(self.home.runs / place.run_id) for place in spec.run_grid(number)]
        return [folder for folder in folders if (folder.path / "record.json").is_file()]

    def driver_alive(self) -> bool:
        """Whether a live process runs this study."""
        return self.driver_sign().held

    def driver_sign(self) -> LifeSign:
        """What is seen of the process that runs this study, or ran it."""
        return sign_of(self.path / DRIVER_LOCK)

    @contextmanager
    def driver_lock(self, say: Callable[[str], None] | None = None) -> Iterator[Lease]:
        """Hold the study as its driver. Raises UserError if another one, alive, holds it.

        Whether a driver that was there is alive takes up to `leases.lease_s()` seconds to show, which `say` is told.
        """
        with locked(self.path / DRIVER_LOCK, timeout_s=1.0, say=say) as lease:
            if lease is None:
                raise UserError("study is being run", self.name, f"wait, or end it with `sage-ray stop {self.name}`")
            yield lease


def _instead(name: str, known: Sequence[str], home: Home) -> str:
    """How to mend the name of a study that there is not: it may be that of something else."""
    if not home.in_bucket and not home.path.is_dir():
        return f"there is no home at {home.path}: give another with --home DIR or SAGE_HOME"
    kinds = (("a run", home.run_ids()), ("a final training", home.final_ids()))
    if other := next((kind for kind, names in kinds if name in names), None):
        return f"it is {other}, which `sage-ray status {name}` shows"
    return did_you_mean(name, known, f"`sage-ray list` shows the studies under {home.studies}")


def stored_place(store: OptunaStore) -> dict[str, str]:
    """What study.json says of a storage: its address without secrets, and nothing of the sqlite file."""
    return {} if store.address == SQLITE else {STORAGE_KEY: str(store.address)}


def is_ablation(name: str, home: Home) -> bool:
    """Whether a study of that name exists and is an ablation."""
    folder = StudyFolder(home, name)
    return folder.exists and folder.meta().get("kind") == Design.kind


def new_study_name(name: str) -> str:
    """`name`, fit for a folder. Raises UserError if it is not."""
    try:
        return check_study_name(name)
    except ValueError as error:
        raise UserError("bad study name", name, f"choose another: {error}") from None
