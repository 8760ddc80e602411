"""What of a home can go: snapshots, leftovers and caches that no study, run or registered version needs."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sage_ray.errors import UserError
from sage_ray.followed import push
from sage_ray.locks import is_locked
from sage_ray.object_store import store_place
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.search.study_folder import StudyFolder
from sage_ray.stages.inventory import StageFolder, inventory
from sage_ray.stages.lease import lease_if_free
from sage_ray.stages.store import NEWEST, StageStore
from sage_ray.upkeep.belongings import TRASH
from sage_ray.upkeep.stage_needs import Needs, StageNeed, needs_of

Kind = Literal["snapshots", "ends", "leftovers", "cache"]
WHY: dict[str, str] = {
    "nobody": "no study or run of this home names the stage",
    "between": "between the snapshots that runs start from",
    "ends": "end of a finished run's stage: only an extension would start from it",
    "outdated": "of an earlier version of the training code: no run of this release can start from it",
    "stopped": "of runs that were stopped early or diverged, in studies that are finished",
    "damaged": "set aside as damaged, or left half-written by a process that died",
    "forgotten": "of what was forgotten, by a call that was cut off",
    "tune": "Ray's own notes of starts that are over; no start reads them",
    "cache": "decoded data and downloaded models; made again when needed",
}


@dataclass(frozen=True)
class Garbage:
    """One thing that can go. `what` names it below the home (or the store), `why` says why nobody needs it."""

    what: str
    why: str
    kind: Kind
    gb: float
    key: str | None = None
    epochs: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    """Files and folders of the stage's folder; of the home if there is no stage."""


@dataclass
class GarbageReport:
    """What `gc` found and did.

    Attributes:
        items: what goes, largest first.
        gb: 10^9 bytes of all items.
        freed_gb: of these, what was removed; 0 on a dry run.
        more: what options would free beside it, in GB, by option.
        kept: why something stays that might have gone.
        dry_run: nothing was changed.
    """

    items: list[Garbage] = field(default_factory=list)
    gb: float = 0.0
    freed_gb: float = 0.0
    more: dict[str, float] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    dry_run: bool = True


def collect_garbage(
    home: Home, *, store: str | None = None, ends: bool = False, cache: bool = False, remove: bool = False
) -> GarbageReport:
    """Find what nobody needs, and remove it if `remove`.

    Args:
        home: whose studies and runs are asked.
        store: another stage store than the home's own; as other homes may use it, only what lies between the snapshots
            that runs start from, and what is damaged, goes there.
        ends: also ends of stages of finished runs.
        cache: also decoded data and downloads, while nothing runs in the home.
        remove: do it.

    Raises:
        UserError: there is no such home or store.
    """
    home.refuse_missing()
    place = StageStore(store or home.stage_store)
    if store is not None and place.local_root is not None and not place.local_root.is_dir():
        raise UserError("no such stage store", store, "give a folder or a URI that a run names as runtime.stage_store")
    needs = needs_of(home, place)
    own = store_place(place.root) == store_place(home.stage_store)
    result = GarbageReport(dry_run=not remove)
    found: list[Garbage] = []
    for stage in inventory(place):
        if stage.in_use:
            result.kept.append(f"stage {stage.key} is being computed")
            continue
        found += _of_stage(stage, needs, own=own)
    if own:
        found += [*_of_ray(home, needs), *_of_cache(home, result)]
        found += [_of_folder(path, home, "forgotten", "leftovers") for path in (home.path / TRASH).glob("*")]
    result.kept += list(dict.fromkeys(needs.unclear)) + _elsewhere(needs, own)
    wanted = {"snapshots", "leftovers"} | ({"ends"} if ends else set()) | ({"cache"} if cache else set())
    result.items = sorted((item for item in found if item.kind in wanted), key=lambda item: -item.gb)
    result.gb = round(sum(item.gb for item in result.items), 9)
    for kind in ("ends", "cache"):
        left = sum(item.gb for item in found if item.kind == kind and kind not in wanted)
        if left:
            result.more[kind] = round(left, 9)
    if remove:
        result.freed_gb = round(sum(_remove(item, home, place, result) for item in result.items), 9)
    return result


def _of_stage(stage: StageFolder, needs: Needs, *, own: bool) -> Iterator[Garbage]:
    groups = _to_free(stage, needs, own)
    gone: set[int] = set()
    for why, epochs in groups.items():
        fresh = epochs - gone
        if fresh:
            # A file of best weights goes with the last group that refers to it.
            size = stage.bytes_without(gone | fresh) - stage.bytes_without(gone)
            gone |= fresh
            listed = ", ".join(map(str, sorted(fresh)[:6])) + (", ..." if len(fresh) > 6 else "")
            what = f"stage {stage.key}, epoch{'s' if len(fresh) > 1 else ''} {listed}"
            yield Garbage(what, WHY[why], _kind(why), size / 1e9, stage.key, tuple(sorted(fresh)))
    left = stage.leftovers | {name: stage.best[name] for name in stage.orphans(set())}
    if left:
        size = sum(left.values())
        yield Garbage(
            f"stage {stage.key}, {len(left)} leftovers", WHY["damaged"], "leftovers", size / 1e9, stage.key,
            names=tuple(sorted(left)),
        )  # fmt: skip


def _kind(why: str) -> Kind:
    return "ends" if why == "ends" else "snapshots"


def _to_free(stage: StageFolder, needs: Needs, own: bool) -> dict[str, set[int]]:
    """Epochs of a stage that can go, by reason; ends last, as they go only when asked for."""
    epochs = set(stage.snapshots)
    need = needs.stages.get(stage.key)
    if not own:
        return {"between": epochs - stage.marked - _newest(epochs) - _wanted(stage, need)}
    if need is None:
        return {} if needs.unclear else {"nobody": epochs}
    if need.going_on:
        return {"between": epochs - stage.marked - _newest(epochs) - _wanted(stage, need)}
    if not need.finished:
        return {"stopped": epochs}
    if need.outdated:
        return {"outdated": epochs}
    ends = epochs & set(need.finished)
    return {"between": epochs - ends, "ends": ends}


def _wanted(stage: StageFolder, need: StageNeed | None) -> set[int]:
    """The snapshots that work with a given budget would start from: the newest ones at or below it."""
    found: set[int] = set()
    for budget in need.going_on if need else ():
        found |= _newest({epoch for epoch in stage.snapshots if epoch <= budget})
    return found | (set(need.finished) & set(stage.snapshots) if need else set())


def _newest(epochs: set[int]) -> set[int]:
    return set(sorted(epochs)[-NEWEST:])


def _of_ray(home: Home, needs: Needs) -> Iterator[Garbage]:
    for folder in sorted((home.path / "ray").glob("*")):
        if folder.is_dir() and folder.name not in needs.unfinished and not RunFolder(home.runs / folder.name).alive():
            yield _of_folder(folder, home, "tune", "leftovers")
    for name in home.study_names():
        study = StudyFolder(home, name)
        if (study.path / "ray").is_dir() and not study.driver_alive():
            yield _of_folder(study.path / "ray", home, "tune", "leftovers")


def _of_cache(home: Home, result: GarbageReport) -> Iterator[Garbage]:
    """Decoded data and downloaded packages; the VGG19 weights stay, which a machine without network cannot get back."""
    busy = any(RunFolder(home.runs / run_id).alive() for run_id in home.run_ids())
    busy = busy or any(StudyFolder(home, name).driver_alive() for name in home.study_names())
    if busy:
        result.kept.append("something runs in the home: its cache is left alone")
        return
    for folder in sorted(home.cache.glob("*")):
        decoded = (folder / "images.npy").is_file() and not is_locked(folder.with_name(f"{folder.name}.lock"))
        if decoded or folder.name == "models":
            yield _of_folder(folder, home, "cache", "cache")


def _of_folder(folder: Path, home: Home, why: str, kind: Kind) -> Garbage:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    name = f"cache/{folder.name}" if folder.parent == home.cache else str(folder.relative_to(home.path))
    return Garbage(name, WHY[why], kind, size / 1e9, names=(name,))


def _elsewhere(needs: Needs, own: bool) -> list[str]:
    return [f"stages in {other} are not looked at: --store {other}" for other in sorted(needs.elsewhere)] if own else []


def _remove(item: Garbage, home: Home, store: StageStore, result: GarbageReport) -> float:
    """GB that were freed; 0 if the stage is in use by now."""
    if item.key is None:
        for name in item.names:
            place = home.cache / name.removeprefix("cache/") if name.startswith("cache/") else home.path / name
            shutil.rmtree(place, ignore_errors=True)
            push(place)
        return item.gb
    with lease_if_free(store, item.key) as free:
        if not free:
            result.kept.append(f"stage {item.key} is being computed")
            return 0.0
        store.drop(item.key, item.epochs)
        with contextlib.suppress(OSError):
            for name in item.names:
                inside = [entry.name for entry in store.objects.names(f"{item.key}/{name}")]
                store.objects.delete(inside or [f"{item.key}/{name}"])
    if store.local_root is not None:
        for name in item.names:  # what has no object in it
            shutil.rmtree(store.local_root / item.key / name, ignore_errors=True)
        with contextlib.suppress(OSError):
            (store.local_root / item.key).rmdir()  # if nothing is left in it
    return item.gb
