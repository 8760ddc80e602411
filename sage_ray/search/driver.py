"""The driver of a study. It keeps no state (storage, run records and stage store do), so it may die at any moment."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypedDict

from sage_ray.data.prepare import headline, prepare
from sage_ray.errors import RunFailed, UserError
from sage_ray.followed import exists, push
from sage_ray.leases import Lease
from sage_ray.object_store import check_writable, open_object_store
from sage_ray.record.home import Home
from sage_ray.runtime.disk_space import Need, check_space, run_need
from sage_ray.search.changes import Change, changed_spec, check_changes
from sage_ray.search.earlier import begun_from
from sage_ray.search.forecast import note_forecast
from sage_ray.search.halt import FAULT, INTERRUPTED, Halt
from sage_ray.search.opening import check_wish, failed_trials, open_storage, refuse_taken_name, write_study
from sage_ray.search.parent_run import ParentRun
from sage_ray.search.placement import Placement, placed
from sage_ray.search.ray_session import seen_machines
from sage_ray.search.reconcile import lately_ended, settle, take_up
from sage_ray.search.sampling import simulate
from sage_ray.search.storage import StudyStorage
from sage_ray.search.study_at_hand import check_study
from sage_ray.search.study_budgets import StudyBudgets
from sage_ray.search.study_folder import StudyFolder, new_study_name
from sage_ray.search.study_status import StudyStatus, as_left, status_of, study_rows
from sage_ray.search.tune_run import TuneRun
from sage_ray.sections import RuntimeConfig
from sage_ray.stages.store import StageStore
from sage_ray.study.design import Design
from sage_ray.study.space import Space
from sage_ray.study.spec import StudySpec
from sage_ray.termination import terminated_as_interrupted
from sage_ray.watch import SilentWatch, Watch

LEAVE_S = 20.0
"""Time that trials get, once Ray has ended, to be gone."""


@dataclasses.dataclass(frozen=True)
class _Start:
    """One start of a study: its runtime at the first one, what changes, and which failed trials go on again."""

    begun: RuntimeConfig | None
    changes: Sequence[Change] = ()
    again: Collection[str] = ()


class Wishes(TypedDict, total=False):
    """What `resume` may be asked beside going on; see there."""

    sets: Iterable[str] | Mapping[str, Any]
    retry_failed: bool
    retry: Collection[int]


def sweep(
    space: StudySpec,
    home: Home,
    name: str | None = None,
    watch: Watch | None = None,
    *,
    earlier: Sequence[str] = (),
) -> StudyStatus:
    """Run the study of `space` to its end, or go on with it if it exists; returns its status.

    Args:
        space: what to search, or the design of an ablation (whose verb also scores the locked test at the end). Of a
            study that exists it may differ in what `search.changes` lists.
        home: where study, runs and stages are kept.
        name: of the study; default: the space's.
        watch: shown the status as it changes and lines for the user.
        earlier: studies of the home whose trials the sampler shall know, and whose best are tried first.

    Raises:
        UserError: bad input; nothing was trained.
        RunFailed: a fault that would end every trial (full disk, say) stopped the study; it can be resumed.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the study can be resumed.
    """
    watch = watch or SilentWatch()
    name = new_study_name(name or space.name)
    spec = space.renamed(name)
    home.check_writable()
    folder = StudyFolder(home, name)
    refuse_taken_name(folder, spec)
    folder.store(spec.file.store).check()
    fingerprint = _look_at_data(spec, home, watch)
    if not folder.exists:
        check_study(spec, home)
    spec = _with_earlier(folder, spec, earlier, fingerprint)
    changes = check_wish(folder, spec)
    begun = folder.spec().base.runtime if folder.exists else None
    return _start(folder, spec, fingerprint, _Start(begun, changes), watch)


def resume(
    name: str,
    home: Home,
    watch: Watch | None = None,
    *,
    sets: Iterable[str] | Mapping[str, Any] = (),
    retry_failed: bool = False,
    retry: Collection[int] = (),
) -> StudyStatus:
    """Go on with a study after any kind of end, or with more of it; see `sweep`.

    Args:
        name: of the study.
        home: where it is.
        watch: shown the status as it changes and lines for the user.
        sets: keys of its file that change, such as "trials=64" (`search.changes` lists them).
        retry_failed: take up again the trials that crashed or hung.
        retry: numbers of failed trials to take up again, diverged ones too.

    Raises:
        UserError: no such study, it is being run, its data changed, or it must not change so.
    """
    watch = watch or SilentWatch()
    folder = StudyFolder.open(home, name)
    home.check_writable()
    old = folder.spec()
    spec = changed_spec(folder, sets) if sets else old
    folder.store(spec.file.store).check()
    changes = check_changes(old, spec, study_rows(folder, old), folder) if sets else []
    again = failed_trials(folder, all_crashed=retry_failed, named=retry) if retry_failed or retry else set()
    if retry_failed and not again:
        watch.line("no trial has crashed: there is none to try again (--retry N takes a diverged one)")
    fingerprint = _look_at_data(spec, home, watch)
    return _start(folder, spec, fingerprint, _Start(old.base.runtime, changes, again), watch)


def _with_earlier(folder: StudyFolder, spec: StudySpec, names: Sequence[str], fingerprint: str) -> StudySpec:
    """The study with what it takes from earlier ones: as it was begun, if it exists."""
    if folder.exists:
        stored = folder.spec()
        known = stored.file.earlier if isinstance(stored, Space) else ()
        if names and tuple(names) != known:
            mend = "choose another --name: what a sampler knows from the start does not change"
            began = f"with --from {', '.join(known)}" if known else "without --from"
            raise UserError(f"study began {began}", folder.name, mend)
        if known and isinstance(spec, Space) and isinstance(stored, Space):
            points = (*stored.file.points, *(p for p in spec.file.points if p not in stored.file.points))
            file = spec.file.model_copy(update={"points": points, "earlier": known})
            return dataclasses.replace(spec, file=file)
        return spec
    return begun_from(spec, names, folder.home, fingerprint)


def _start(folder: StudyFolder, spec: StudySpec, fingerprint: str, start: _Start, watch: Watch) -> StudyStatus:
    """One start of a study, whose name and file have been looked at."""
    for note in spec.notes:
        watch.line(note)
    for change in start.changes:
        watch.line(f"changed: {change}")
    with seen_machines() as machines:
        spec, placement = placed(spec, machines, begun=start.begun)
        _check_drawable(spec)
        if spec.base.runtime.stage_store is not None:
            check_writable(open_object_store(spec.base.runtime.stage_store))
        folder.path.mkdir(parents=True, exist_ok=True)
        with folder.driver_lock(watch.line) as lease, terminated_as_interrupted():
            write_study(folder, spec, fingerprint, start.changes)
            spec = folder.settled(spec)
            note_forecast(spec, folder, placement)
            storage = open_storage(folder, spec, fingerprint, watch, start.again)
            with contextlib.closing(storage):
                return _drive(folder, spec, storage, watch, placement, lease)


def _check_drawable(spec: StudySpec) -> None:
    """Raise UserError if the constraints of a space leave nothing to draw."""
    if isinstance(spec, Space) and spec.constraints and spec.trials > len(spec.fixed):
        simulate(spec, len(spec.fixed) + 1)


def _look_at_data(spec: StudySpec, home: Home, watch: Watch) -> str:
    """Fingerprint of the study's data, after the line that says what they are."""
    data = prepare(spec.base.data, home.cache, say=watch.line)
    watch.line(headline(data, spec.base.data))
    return data.fingerprint


def _need(spec: StudySpec, home: Home, *, fresh: bool) -> Need:
    """What a run of the study's base adds at least; of an ablation that begins, what its largest run does."""
    images = len(prepare(spec.base.data, home.cache).split.train)
    arms = [arm.config for arm in spec.arms if arm.not_run is None] if fresh and isinstance(spec, Design) else []
    needs = [run_need(config, home, training_images=images) for config in arms or [spec.base]]
    return max(needs, key=lambda need: need.stages + need.writing + need.results)


def _forget_stop(folder: StudyFolder) -> None:
    """Remove a wish to stop: an old one, or one that was followed."""
    if exists(folder.stop_path):
        folder.stop_path.unlink(missing_ok=True)
        push(folder.stop_path)


def _drive(
    folder: StudyFolder, spec: StudySpec, storage: StudyStorage, watch: Watch, placement: Placement, lease: Lease
) -> StudyStatus:
    began = time.monotonic()
    _forget_stop(folder)
    storage.enqueue(spec.fixed, spec)
    orphans = take_up(storage, folder, spec)
    settle(storage, folder, spec)
    ended = sum(row.state != "RUNNING" for row in storage.rows())
    budgets = StudyBudgets(folder, spec)
    if ended < spec.trials:
        store = StageStore(spec.base.runtime.stage_store or folder.home.stage_store)
        check_space(_need(spec, folder.home, fresh=not ended and not orphans), folder.home, store, watch.line)
        budgets.open([row.values for row in storage.rows() if row.values is not None])
    halt = Halt(folder.stop_path, spec.file.max_hours, watch.line, lease, spec.base.runtime.snapshot_seconds)
    storage.when_away(lambda reason: halt.want(FAULT, reason), halt.check)
    before = status_of(folder, spec, storage.rows())
    watch.update(before)
    parent = ParentRun(folder, watch)
    parent.say("RUNNING", before)
    try:
        if ended < spec.trials:
            for line in placement.lines():
                watch.line(line)
            if orphans:
                watch.line(f"going on with {len(orphans)} unfinished trials, {ended} of {spec.trials} have ended")
            TuneRun(folder, spec, storage, budgets, halt, parent.watching()).run(orphans, spec.trials - ended)
    finally:
        if lease.lost():
            raise RunFailed(f"study {folder.name} is left to another driver, as this one gave no sign of life")
        spec = folder.settled(spec)
        ended_runs = settle(storage, folder, spec, patience_s=LEAVE_S)
        for row in storage.rows():
            if row.state == "RUNNING":
                ended_runs += folder.run_folders(spec, row.number)
                if halt.reason is not None:
                    storage.forgive(row.number)
        status = status_of(folder, spec, storage.rows())
        finished = status.done + status.pruned + status.failed >= status.target and storage.away is None
        if finished:
            budgets.close()
        folder.note_driven(time.monotonic() - began if ended < spec.trials else 0.0)
        parent.say("COMPLETE" if finished else "INTERRUPTED", status, [*ended_runs, *lately_ended(folder, status)])
        watch.update(status)
    _forget_stop(folder)
    if halt.reason == FAULT or (storage.away is not None and halt.reason != INTERRUPTED):
        why = halt.detail or storage.away
        raise RunFailed(f"study {folder.name} stopped: {why}; mend it, then `sage-ray resume {folder.name}`")
    if halt.reason == INTERRUPTED and not finished:
        raise KeyboardInterrupt(f"stopped cleanly; go on with: sage-ray resume {folder.name}")
    return as_left(status, "finished" if finished else "interrupted")
