"""What goes by itself when a study has finished: snapshots between the ends of its stages."""

from __future__ import annotations

import contextlib

from sage_ray.errors import UserError
from sage_ray.object_store import store_place
from sage_ray.record.home import Home
from sage_ray.search.study_folder import StudyFolder
from sage_ray.search.study_status import status
from sage_ray.stages.inventory import StageFolder, inventory
from sage_ray.stages.lease import lease_if_free
from sage_ray.stages.store import NEWEST, StageStore
from sage_ray.upkeep.belongings import runs_of_study
from sage_ray.upkeep.stage_needs import StageNeed, needs_of


def tidy_finished(home: Home, study: str) -> float:
    """Remove what lies between the ends of a finished study's stages; returns 10^9 bytes that were freed.

    Each stage keeps the snapshots that runs start from (its ends, and budgets that a study names) and its newest one,
    so that more trials or epochs later begin where they would have begun. Where unfinished work of the home may start
    from a stage, the newest two below its budget stay as well. Nothing happens unless the study is finished, while
    something else computes the stage, or where it cannot be told who needs it: `sage-ray gc` looks closer, and says so.
    """
    freed = 0.0
    with contextlib.suppress(UserError, OSError):  # a study that has finished stays so, whatever can be removed
        if status(study, home).state != "finished" or StudyFolder(home, study).driver_alive():
            return 0.0
        store = StageStore(home.stage_store)
        named = StudyFolder(home, study).spec().base.runtime.stage_store
        if named is not None and store_place(named) != store_place(store.root):
            return 0.0  # other homes may use it, which only its owner can know
        keys = {key for record in runs_of_study(study, home) for key in record.stage_keys.values()}
        stages = [stage for stage in inventory(store, sorted(keys)) if not stage.in_use]
        if not any(_between(stage, None) for stage in stages):
            return 0.0
        needs = needs_of(home, store, keys=keys)
        if needs.unclear:
            return 0.0
        for stage in stages:
            freed += _drop(stage, store, _between(stage, needs.stages.get(stage.key)))
    return round(freed, 9)


def _between(stage: StageFolder, need: StageNeed | None) -> set[int]:
    """Epochs of a stage that nobody starts from."""
    epochs = set(stage.snapshots)
    kept = stage.marked | {max(epochs)} if epochs else set()
    if need is not None:
        kept |= set(need.finished)
        for budget in need.going_on:
            kept |= set(sorted(epoch for epoch in epochs if epoch <= budget)[-NEWEST:])
            kept |= set(sorted(epochs)[-NEWEST:])
    return epochs - kept


def _drop(stage: StageFolder, store: StageStore, epochs: set[int]) -> float:
    if not epochs:
        return 0.0
    with lease_if_free(store, stage.key) as free:
        if not free:
            return 0.0
        store.drop(stage.key, epochs)
    return stage.bytes_without(epochs) / 1e9
