"""What a stage store holds, and how large each part of it is."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from sage_ray.leases import LEASES
from sage_ray.stages.lease import OLD_LEASE, held
from sage_ray.stages.store import DAMAGED, KEEP, META, TEMPORARY, StageStore


@dataclass
class StageFolder:
    """One stage of a store: sizes are bytes.

    Attributes:
        key: of the stage.
        snapshots: size of each stored epoch, without best weights.
        marked: epochs that runs start from.
        best: size of each file of best weights, by name.
        refers: the file of best weights of each epoch.
        leftovers: size of what was set aside as damaged or left half-written, by name.
        in_use: whether a live process computes the stage.
    """

    key: str
    snapshots: dict[int, int] = field(default_factory=dict)
    marked: set[int] = field(default_factory=set)
    best: dict[str, int] = field(default_factory=dict)
    refers: dict[int, str | None] = field(default_factory=dict)
    leftovers: dict[str, int] = field(default_factory=dict)
    in_use: bool = False

    def bytes_without(self, epochs: set[int]) -> int:
        """What removing these epochs frees, best weights that nothing else refers to included."""
        return sum(self.snapshots[epoch] for epoch in epochs) + sum(self.best[name] for name in self.orphans(epochs))

    def orphans(self, epochs: set[int]) -> set[str]:
        """Files of best weights that no snapshot would refer to without these epochs."""
        return set(self.best) - {self.refers.get(epoch) for epoch in self.snapshots if epoch not in epochs}


def inventory(store: StageStore, keys: Iterable[str] | None = None) -> list[StageFolder]:
    """The stages of a store by key, or those of `keys`; reads names and sizes, and of each snapshot its meta.json."""
    found: dict[str, StageFolder] = {}
    parts: dict[tuple[str, str], dict[str, int]] = {}
    leased: set[str] = set()
    for entry in [entry for prefix in ([""] if keys is None else keys) for entry in store.objects.names(prefix)]:
        names = entry.name.split("/")
        if LEASES in names:
            leased.add(names[0])
        if len(names) < 2 or names[0].startswith(".") or LEASES in names:  # no part of a stage
            continue
        stage = found.setdefault(names[0], StageFolder(names[0]))
        if len(names) == 2:
            _place_file(stage, names[1], entry.size)
        else:
            parts.setdefault((names[0], names[1]), {})["/".join(names[2:])] = entry.size
    for (key, name), files in parts.items():
        if name.isdigit() and META in files:
            found[key].snapshots[int(name)] = sum(files.values())
            found[key].marked |= {int(name)} if KEEP in files else set()
        elif name.isdigit() or name.startswith((DAMAGED, TEMPORARY)):
            found[key].leftovers[name] = sum(files.values())
    _refer(store, found)
    for stage in found.values():
        stage.in_use = stage.key in leased and held(store, stage.key)
    return sorted(found.values(), key=lambda stage: stage.key)


def _refer(store: StageStore, found: dict[str, StageFolder]) -> None:
    """Note the file of best weights of each snapshot; several are asked for at a time, as a bucket takes its time."""
    wanted = [(stage, epoch) for stage in found.values() for epoch in stage.snapshots]
    with ThreadPoolExecutor(max_workers=1 if store.objects.local else 16) as pool:
        files = pool.map(lambda item: store.best_file(item[0].key, item[1]), wanted)
        for (stage, epoch), file in zip(wanted, files, strict=True):
            stage.refers[epoch] = file


def _place_file(stage: StageFolder, name: str, size: int) -> None:
    if name.startswith("best-"):
        stage.best[name] = size
    elif name != OLD_LEASE:
        stage.leftovers[name] = size
