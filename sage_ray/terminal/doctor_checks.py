"""Checks of `sage-ray doctor` on what keeps the trials of studies: a file, a journal, or a database server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sage_ray.errors import UserError

if TYPE_CHECKING:
    from sage_ray.record.home import Home
    from sage_ray.record.optuna_store import OptunaStore


@dataclass(frozen=True)
class Check:
    """One line of the report; a check that is `needed` and not `ok` makes the verb end with 1."""

    name: str
    ok: bool
    text: str
    needed: bool = True


def trial_storages(home: Home) -> list[Check]:
    """Where a new study keeps its trials, whether that answers, and other servers that studies of the home are on."""
    from sage_ray.record.optuna_store import OptunaStore, environment_address, same_place, store_of_study

    try:
        given = environment_address()
        stores = [store_of_study(home, name) for name in home.study_names()] if home.studies.is_dir() else []
    except UserError as error:
        return [Check("trials", False, str(error))]
    if not given.is_server:
        word = "a journal" if given == "journal" else "sqlite"
        why = " (SAGE_OPTUNA_URL)" if given == "journal" else ""
        checks = [Check("trials", True, f"{word} in the folder of each study{why}")]
    else:
        checks = [_server(OptunaStore(home.path, "", given, given.secrets), "SAGE_OPTUNA_URL", needed=True)]
    others: list[OptunaStore] = []
    for store in stores:
        known = [given, *(other.address for other in others)]
        if store.is_server and not any(same_place(store.address, address) for address in known):
            others.append(store)
    return checks + [_server(store, f"of study {store.study}", needed=False) for store in others]


def _server(store: OptunaStore, why: str, *, needed: bool) -> Check:
    try:
        store.check()
    except UserError as error:
        return Check("trials", False, str(error), needed)
    return Check("trials", True, f"{store.where} ({why}) answers", needed)


def renderer() -> Check:
    """Whether scenes can be path-traced here (`render.engine: mitsuba`), or what to install."""
    import torch

    from sage_ray.rendering.path_tracer import missing_for_mitsuba, mitsuba_versions

    device = "cuda" if torch.cuda.is_available() else "cpu"
    missing = missing_for_mitsuba(device)
    if missing is None:
        return Check("renderer", True, mitsuba_versions(device), needed=False)
    what, mend = missing
    text = f"{what}: {mend}; `render.engine: mitsuba` needs it, engine shader does not"
    return Check("renderer", False, text, needed=False)
