"""A study as a driver makes it, without Ray: its folder, its storage, and runs in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sweep_cases import write_space

from sage_ray.config import dump
from sage_ray.record.home import Home
from sage_ray.record.patient_storage import Patience
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunLabels
from sage_ray.runtime.launch import run
from sage_ray.search.storage import StudyStorage
from sage_ray.search.study_folder import StudyFolder, stored_place
from sage_ray.study.space import Space, load_space


class Study:
    """A study's folder and storage as a driver makes them, with trials that were asked for but never told."""

    def __init__(self, home: Home, space: Space, running: int, patience: Patience | None = None) -> None:
        home.check_writable()
        self.home, self.space, self.folder = home, space, StudyFolder(home, space.name)
        self.folder.path.mkdir(parents=True)
        self.folder.base_path.write_text(dump(space.base))
        self.folder.spec_path.write_text(space.to_yaml("base.yaml"))
        store = self.folder.store(space.file.store)
        meta = {"name": space.name, "space_hash": space.hash, "created": "2026-11-28T12:00:00Z"}
        self.folder.write_meta({**meta, **space.facts(), **stored_place(store)})
        store = self.folder.store(space.file.store)
        self.storage = StudyStorage(self.folder.path, space.name, space, store=store, patience=patience)
        self.storage.enqueue(space.fixed, space)
        self.samples = [self.storage.draw(None, space).sample for _ in range(running)]

    def train(self, number: int, seed: int = 0, **kwargs: Any) -> RunFolder:
        """Run one seed of a trial in this process."""
        run_id = next(place.run_id for place in self.space.run_grid(number) if place.seed == seed)
        config = self.space.config(self.samples[number].values, seed)
        labels = RunLabels(study=self.space.name, trial=number)
        run(config, self.home, run_id, labels=labels, mirror=False, **kwargs)
        return RunFolder.open(self.home.runs, run_id)

    def states(self) -> list[str]:
        return [row.state for row in self.storage.rows()]


def tiny_space(folder: Path, base: dict[str, Any] | None = None, **changes: Any) -> Space:
    epochs = {"adversarial.epochs": 1, "pretrain.epochs": 1}
    return load_space(write_space(folder, base=epochs | (base or {}), **changes))
