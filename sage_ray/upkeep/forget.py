"""Forgetting a study, a final training or a run: all that it alone owns goes, and its name is free again.

What never goes: what is behind a registered version, the ledger's lines of test readings, stages that other work needs.
A call that is killed leaves something that the same call finishes: what is moved into the trash folder is gone for
everybody, and what is not is found again by the records of the runs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sage_ray.errors import UserError
from sage_ray.evaluation import ledger
from sage_ray.evaluation.shared_reads import common_place
from sage_ray.followed import following
from sage_ray.notebook_view import NotebookView
from sage_ray.object_store import store_place
from sage_ray.record.home import Home
from sage_ray.record.mlflow_client import MirrorUnavailable
from sage_ray.record.mlflow_removal import MirroredRun, delete_from_mlflow, find_in_mlflow
from sage_ray.record.run_folder import RunFolder
from sage_ray.registry.register import registered_runs
from sage_ray.search.study_folder import StudyFolder
from sage_ray.stages.inventory import StageFolder, inventory
from sage_ray.stages.lease import lease_if_free
from sage_ray.stages.pair_keys import RENDER
from sage_ray.stages.render_keys import rendered_pairs_key
from sage_ray.stages.store import StageStore
from sage_ray.upkeep.belongings import TRASH, Belongings, belongings_of, unknown
from sage_ray.upkeep.server_trials import ServerTrials, server_trials_of
from sage_ray.upkeep.stage_needs import Needs, needs_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ForgottenPart:
    """A part of what goes: what it is, and its size in 10^9 bytes."""

    what: str
    gb: float


@dataclass
class ForgetReport(NotebookView):
    """What `forget` found and did.

    Attributes:
        name: what is forgotten.
        kind: study, final or run.
        items: what goes.
        runs: ids of the runs that go.
        gb: 10^9 bytes of all items.
        freed_gb: of these, what was removed; 0 on a dry run.
        kept: what stays, and why.
        dry_run: nothing was changed.
    """

    name: str
    kind: str
    items: list[ForgottenPart] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    gb: float = 0.0
    freed_gb: float = 0.0
    kept: list[str] = field(default_factory=list)
    dry_run: bool = True

    def frame(self) -> pd.DataFrame:
        """One row per part of what goes: what, gb."""
        import pandas as pd

        return pd.DataFrame([(item.what, item.gb) for item in self.items], columns=["what", "gb"])

    def headline(self) -> str:
        """What is forgotten, and whether it was done."""
        done = "nothing was removed; remove=True does it" if self.dry_run else f"{self.freed_gb:.3g} GB freed"
        return f"{self.kind} {self.name}, {self.gb:.3g} GB: {done}"

    def remarks(self) -> list[str]:
        """What stays, and why."""
        return [f"kept: {reason}" for reason in self.kept]


def forget(name: str, home: Home, *, remove: bool = False) -> ForgetReport:
    """Find what a study, a final training or a run alone owns, and remove it if `remove`.

    Args:
        name: of a study, also of one whose folder is gone and whose runs are left; a final training; or a single run.
        home: that holds it.
        remove: do it.

    Raises:
        UserError: nothing of that name (the nearest is given); it is being computed; a registered version is made of
            it; unfinished work starts from its weights; it is a run of a study or final training.
    """
    own = belongings_of(name, home)
    if own is None:
        own = Belongings(name, "study")  # MLflow may have it still, from a call that did not reach it
        if not _in_mlflow(own, home, set(), []):
            raise unknown(name, home)
    report = ForgetReport(name, own.kind, dry_run=not remove)
    own.check_idle(home)
    kept = _registered(own, home, report)
    needs = needs_of(home, StageStore(home.stage_store), but={name, *(run.run_id for run in own.runs)})
    _refuse_needed(own, needs, home)
    stages = _own_stages(own, home, needs, report)
    mirrored = _in_mlflow(own, home, kept, report.kept)
    on_server = server_trials_of(own.name, home) if own.kind == "study" else None
    report.runs = [run.run_id for run in own.runs]
    report.items = list(_items(own, home, stages, mirrored))
    if on_server is not None:
        report.items += [ForgottenPart(what, 0.0) for what in on_server.listed()]
        report.kept += on_server.not_reached
    report.gb = round(sum(item.gb for item in report.items), 9)
    _note_reads(own, home, report)
    if remove:
        report.freed_gb = round(report.gb - _remove(own, home, stages, mirrored, on_server, report), 9)
    return report


def _registered(own: Belongings, home: Home, report: ForgetReport) -> set[str]:
    """Ids of runs of a study that stay, as they are behind a version; a final training or run is refused."""
    try:
        behind = registered_runs(home)
    except UserError as error:
        if own.kind != "study":
            raise UserError(
                error.what, error.where, f"{error.mend}: it tells whether a version is made of it"
            ) from None
        behind = {}  # versions are made of final trainings
    named = {run.run_id: behind[run.run_id] for run in own.runs if run.run_id in behind}
    try:
        for run_id, record in own.records.items():
            for mirrored in find_in_mlflow(home, records=[record]) if len(behind) > len(named) else ():
                if mirrored.mlflow_id in behind:
                    named[run_id] = behind[mirrored.mlflow_id]
    except MirrorUnavailable:
        pass  # said where the runs in MLflow are counted
    if named and own.kind != "study":
        uris = ", ".join(sorted(set(named.values())))
        mend = "it is kept for as long as the version is there: delete the version in MLflow first if it shall go"
        raise UserError("a registered version is made of it", f"{own.name} ({uris})", mend)
    report.kept += [f"run {run_id}: registered as {uri}" for run_id, uri in sorted(named.items())]
    for final in own.finals:
        uri = next((uri for run, uri in behind.items() if run.startswith(f"{final}-s")), None)
        why = f"registered as {uri}" if uri else f"stands by itself, `sage-ray forget {final}` removes it"
        report.kept.append(f"final training {final}: {why}")
    own.leave_out(set(named))
    return set(named)


def _refuse_needed(own: Belongings, needs: Needs, home: Home) -> None:
    for named, who in needs.checkpoints.items():
        place = (home.runs / named if "/" not in named else Path(named).expanduser()).resolve()
        for run in own.runs:
            if place.is_relative_to(run.path.resolve()):
                mend = f"let {who} finish, or forget it first: it starts from those weights"
                raise UserError("run is needed", run.run_id, mend)


def _own_stages(own: Belongings, home: Home, needs: Needs, report: ForgetReport) -> list[StageFolder]:
    """Stages of the home's store that nothing but the runs that go needs."""
    here = store_place(home.stage_store)
    keys: set[str] = set()
    for run_id, record in own.records.items():
        config = own.configs.get(run_id)
        store = config.runtime.stage_store if config is not None else None
        if store is None or store_place(store) == here:
            keys |= {*record.stage_keys.values(), *record.pair_stages.values()}
            if config is not None and RENDER in record.stage_keys:
                keys.add(rendered_pairs_key(config, record.stage_keys[RENDER]))
        elif record.stage_keys or record.pair_stages:
            report.kept.append(f"stages in {store}: other homes may use them")
    report.kept = list(dict.fromkeys(report.kept))
    if keys and needs.unclear:
        report.kept.append(f"all stages: it cannot be told who needs them ({needs.unclear[0]})")
        return []
    found = []
    for stage in inventory(StageStore(home.stage_store), sorted(keys)):
        who = _who_needs(stage, needs)
        if who is None:
            found.append(stage)
        else:
            report.kept.append(f"stage {stage.key}: {who}")
    return found


def _who_needs(stage: StageFolder, needs: Needs) -> str | None:
    if stage.in_use:
        return "is being computed"
    need = needs.stages.get(stage.key)
    if need is None:
        return None
    names = [*need.going_on.values(), *need.finished.values()]
    return f"{names[0]} has it too" if names else "another run has it too"


def _in_mlflow(own: Belongings, home: Home, kept: set[str], said: list[str]) -> list[MirroredRun]:
    records = list(own.records.values()) if own.kind == "run" else []
    try:
        return find_in_mlflow(home, parent=None if own.kind == "run" else own.name, records=records, kept=kept)
    except MirrorUnavailable as error:
        said.append(f"what MLflow has of it: not reached ({error}); repeat the call when it is")
        return []


def _items(
    own: Belongings, home: Home, stages: list[StageFolder], mirrored: list[MirroredRun]
) -> Iterator[ForgottenPart]:
    for path in own.folders(home):
        yield ForgottenPart(str(path.relative_to(home.path)), _size(path))
    if own.runs:
        what = own.runs[0].run_id if len(own.runs) == 1 else f"{len(own.runs)} runs, {own.runs[0].run_id} and on"
        yield ForgottenPart(f"runs/: {what}", sum(_size(run.path) for run in own.runs))
    if stages:
        size = sum(_stage_size(stage) for stage in stages)
        yield ForgottenPart(f"stages/: {len(stages)} that nothing else needs", size)
    if mirrored:
        size_of = sum(_size(run.artifacts) for run in mirrored if run.artifacts is not None)
        runs = "1 run" if len(mirrored) == 1 else f"{len(mirrored)} runs"
        yield ForgottenPart(f"{runs} in MLflow (deleted there)", size_of)
    trash = home.path / TRASH / own.name
    if trash.is_dir():
        yield ForgottenPart(f"{TRASH}/{own.name}: left by a call that was cut off", _size(trash))


def _note_reads(own: Belongings, home: Home, report: ForgetReport) -> None:
    going = set(report.runs)
    lines = sum(row.get("reader") in going for row in ledger.read(home.path / ledger.TEST_READS))
    if lines:
        many = "1 reading" if lines == 1 else f"{lines} readings"
        place = common_place(home)
        where = ledger.TEST_READS if place is None else f"{ledger.TEST_READS} and {place}"
        report.kept.append(f"{many} of a locked test: counted in {where} for ever")


def _remove(
    own: Belongings,
    home: Home,
    stages: list[StageFolder],
    mirrored: list[MirroredRun],
    on_server: ServerTrials | None,
    report: ForgetReport,
) -> float:
    """Remove what was found; returns the 10^9 bytes that could not be, which are said."""
    left = 0.0
    trash = home.path / TRASH / own.name
    with ExitStack() as held:
        if own.kind == "study" and (home.studies / own.name).is_dir():
            held.enter_context(StudyFolder(home, own.name).driver_lock())
        try:
            delete_from_mlflow(home, mirrored)
        except MirrorUnavailable as error:
            report.kept.append(f"what MLflow has of it: not reached ({error}); repeat the call when it is")
            left += sum(_size(run.artifacts) for run in mirrored if run.artifacts is not None)
        if on_server is not None:
            report.kept += on_server.remove()
        for stage in stages:
            left += 0.0 if _dropped(stage, home, report) else _stage_size(stage)
        for path in own.folders(home):
            _set_aside(path, trash)
        for run in own.runs:
            _set_aside_run(run, trash)
    shutil.rmtree(trash, ignore_errors=True)
    with contextlib.suppress(OSError):  # another call's trash is there, or none at all
        trash.parent.rmdir()
    return left


def _dropped(stage: StageFolder, home: Home, report: ForgetReport) -> bool:
    store = StageStore(home.stage_store)
    with lease_if_free(store, stage.key) as free:
        if not free:
            report.kept.append(f"stage {stage.key}: is being computed")
            return False
        store.drop(stage.key, stage.snapshots)
        shutil.rmtree(home.stages / stage.key, ignore_errors=True)
    return True


def _set_aside_run(run: RunFolder, trash: Path) -> None:
    with run.lock("driver", timeout_s=1.0), run.lock("writer", timeout_s=1.0):
        _set_aside(run.path, trash)


def _set_aside(path: Path, trash: Path) -> None:
    home = following(path)
    if home is not None:
        home.remove(path)
        return
    trash.mkdir(parents=True, exist_ok=True)
    os.replace(path, trash / f"{uuid.uuid4().hex[:8]}-{path.name}")


def _stage_size(stage: StageFolder) -> float:
    return (stage.bytes_without(set(stage.snapshots)) + sum(stage.leftovers.values())) / 1e9


def _size(path: Path) -> float:
    """10^9 bytes of a file or of all files below a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if file.is_file() and not file.is_symlink()) / 1e9
