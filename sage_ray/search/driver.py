"""The driver of a study. It keeps no state (storage, run records and stage store do), so it may die at any moment."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from sage_ray.config import dump
from sage_ray.data.prepare import headline, prepare
from sage_ray.errors import RunFailed, UserError
from sage_ray.files import write_text
from sage_ray.record.home import Home
from sage_ray.record.provenance import code_version
from sage_ray.record.run_folder import RunFolder
from sage_ray.runtime.disk_space import check_space, run_need
from sage_ray.runtime.driver_side import DriverSide
from sage_ray.search.halt import FAULT, INTERRUPTED, Halt, HaltStopper, signals, terminated_as_interrupted
from sage_ray.search.parent_run import ParentRun
from sage_ray.search.placement import Placement, limit, placed, worker_resources
from sage_ray.search.ray_session import environment, nodes_now, ray_session, seen_machines
from sage_ray.search.reconcile import make_scheduler, settle, take_up
from sage_ray.search.searcher import OptunaSearcher
from sage_ray.search.storage import Drawn, Progress, StudyStorage
from sage_ray.search.study_budgets import StudyBudgets
from sage_ray.search.study_folder import StudyFolder, StudyStatus, new_study_name, status_of
from sage_ray.search.trainable import TrialRun, TrialTask, run_trial
from sage_ray.sections import RuntimeConfig
from sage_ray.stages.store import StageStore
from sage_ray.study.spec import StudySpec
from sage_ray.watch import SilentWatch, Watch

UPDATE_S = 1.0
"""Least time between two looks at the storage for the live table."""
LEAVE_S = 20.0
"""Time that trials get, once Ray has ended, to be gone."""


def sweep(space: StudySpec, home: Home, name: str | None = None, watch: Watch | None = None) -> StudyStatus:
    """Run the study of `space` to its end, or go on with it if it exists; returns its status.

    Args:
        space: what to search, or the design of an ablation (whose verb also scores the locked test at the end).
        home: where study, runs and stages are kept.
        name: of the study; default: the space's.
        watch: shown the status as it changes and lines for the user.

    Raises:
        UserError: bad input; nothing was trained.
        RunFailed: a fault that would end every trial (full disk, say) stopped the study; it can be resumed.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the study can be resumed.
    """
    name = new_study_name(name or space.name)
    spec = space.renamed(name)
    home.check_writable()
    folder = StudyFolder(home, name)
    _refuse_other(folder, spec)
    begun = folder.spec().base.runtime if folder.exists else None
    return _start(folder, spec, begun, watch or SilentWatch())


def resume(name: str, home: Home, watch: Watch | None = None) -> StudyStatus:
    """Go on with a study after any kind of end; see `sweep`.

    Raises:
        UserError: no such study, it is being run, or its data changed.
    """
    folder = StudyFolder.open(home, name)
    home.check_writable()
    spec = folder.spec()
    return _start(folder, spec, spec.base.runtime, watch or SilentWatch())


def _start(folder: StudyFolder, spec: StudySpec, begun: RuntimeConfig | None, watch: Watch) -> StudyStatus:
    """One start of a study; `begun` is the runtime of its first."""
    fingerprint = _look_at_data(spec, folder.home, watch)
    with seen_machines() as machines:
        spec, placement = placed(spec, machines, begun=begun)
        folder.path.mkdir(parents=True, exist_ok=True)
        with folder.driver_lock(), terminated_as_interrupted():
            _write_study(folder, spec, fingerprint)
            return _drive(folder, spec, watch, placement)


def _look_at_data(spec: StudySpec, home: Home, watch: Watch) -> str:
    """Fingerprint of the study's data, after the line that says what they are."""
    data = prepare(spec.base.data, home.cache, say=watch.line)
    watch.line(headline(data, spec.base.data))
    return data.fingerprint


def _refuse_other(folder: StudyFolder, spec: StudySpec) -> None:
    """Raise UserError if the name is taken: by another study, or by runs that are no part of this one."""
    if folder.exists:
        if folder.meta()["space_hash"] != spec.hash:
            mend = f"choose another --name, or resume it with its own {spec.noun} ({spec.may_change} may change)"
            raise UserError(f"study exists with another {spec.noun}", folder.name, mend)
        return
    for place in (place for number in range(spec.trials) for place in spec.run_grid(number)):
        run = RunFolder(folder.home.runs / place.run_id)
        if (run.path / "record.json").is_file() and run.read().study != folder.name:
            raise UserError(f"run {place.run_id} is no part of this study", folder.name, "choose another --name")


def _write_study(folder: StudyFolder, spec: StudySpec, fingerprint: str) -> None:
    """Write the file of the study, base.yaml and study.json, and count this start; the caller holds the lock."""
    _refuse_other(folder, spec)
    commit, dirty = code_version()
    meta: dict[str, Any] = {
        "name": folder.name,
        "space_hash": spec.hash,
        "data_fingerprint": fingerprint,
        "commit": commit,
        "dirty": dirty,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "starts": 0,
    }
    if folder.exists:
        meta = folder.meta()
    if meta["data_fingerprint"] != fingerprint:
        where = f"{spec.base.data.path} of study {folder.name}"
        raise UserError("the images changed since the study began", where, "restore them, or begin another study")
    write_text(folder.base_path, dump(spec.base))
    if folder.spec_path.name != spec.file_name:
        folder.spec_path.unlink(missing_ok=True)  # of another study, killed before it was one
    write_text(folder.path / spec.file_name, spec.to_yaml(folder.base_path.name))
    folder.write_meta({**meta, **spec.facts(), "starts": meta["starts"] + 1, "commit_of_last_start": commit})


def _drive(folder: StudyFolder, spec: StudySpec, watch: Watch, placement: Placement) -> StudyStatus:
    folder.stop_path.unlink(missing_ok=True)
    storage = StudyStorage(folder.path, folder.name, spec)
    storage.enqueue(spec.fixed, spec)
    orphans = take_up(storage, folder, spec)
    settle(storage, folder, spec)
    ended = sum(row.state != "RUNNING" for row in storage.rows())
    budgets = StudyBudgets(folder, spec)
    if ended < spec.trials:
        store = StageStore(spec.base.runtime.stage_store or folder.home.stages)
        check_space(run_need(spec.base, folder.home), folder.home, store, watch.line)
        budgets.open([row.values for row in storage.rows() if row.values is not None])
    halt = Halt(folder.stop_path, spec.file.max_hours, watch.line)
    watch.update(status_of(folder, spec, storage.rows()))
    parent = ParentRun(folder, watch)
    parent.say("RUNNING")
    try:
        if ended < spec.trials:
            for line in placement.lines():
                watch.line(line)
            if orphans:
                watch.line(f"going on with {len(orphans)} unfinished trials, {ended} of {spec.trials} have ended")
            _Sweep(folder, spec, storage, budgets, halt, watch).run(orphans, spec.trials - ended)
    finally:
        ended_runs = settle(storage, folder, spec, patience_s=LEAVE_S)
        for row in storage.rows():
            if row.state == "RUNNING":
                ended_runs += folder.run_folders(spec, row.number)
                if halt.reason is not None:
                    storage.forgive(row.number)
        status = status_of(folder, spec, storage.rows())
        finished = status.done + status.pruned + status.failed >= status.target
        if finished:
            budgets.close()
        parent.say("COMPLETE" if finished else "INTERRUPTED", status, ended_runs)
        watch.update(status)
    folder.stop_path.unlink(missing_ok=True)
    if halt.reason == FAULT:
        raise RunFailed(f"study {folder.name} stopped: {halt.detail}; mend it, then `sage-ray resume {folder.name}`")
    if halt.reason == INTERRUPTED and not finished:
        raise KeyboardInterrupt(f"stopped cleanly; go on with: sage-ray resume {folder.name}")
    return dataclasses.replace(status, state="finished" if finished else "interrupted")


class _Sweep:
    """One Tune experiment over what is left of a study."""

    def __init__(
        self,
        folder: StudyFolder,
        spec: StudySpec,
        storage: StudyStorage,
        budgets: StudyBudgets,
        halt: Halt,
        watch: Watch,
    ) -> None:
        self._folder, self._spec, self._storage, self._budgets = folder, spec, storage, budgets
        self._halt, self._watch = halt, watch

    def run(self, orphans: list[int], remaining: int) -> None:
        with environment(), ray_session(), signals(self._halt):
            look = nodes_now()
            searcher = OptunaSearcher(
                self._storage,
                self._spec,
                orphans=orphans,
                payload=self._payload,
                progress=self._progress,
                halted=self._halt.check,
                limit=lambda: limit(self._spec, look),
            )
            tune.run(
                tune.with_resources(run_trial, self._resources()),
                name=f"start-{self._folder.meta()['starts']:04d}",
                storage_path=str(self._folder.path / "ray"),
                search_alg=searcher,
                scheduler=make_scheduler(self._spec, self._storage.rows()),
                num_samples=remaining,
                reuse_actors=True,
                max_failures=self._spec.base.runtime.max_retries,
                stop=HaltStopper(self._halt),
                callbacks=[_Teller(self._folder, self._spec, self._storage, self._halt, self._watch)],
                raise_on_failed_trial=False,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
                verbose=0,
            )

    def _payload(self, drawn: Drawn) -> Mapping[str, Any]:
        self._budgets.note(drawn.sample.values, drawn.configs[0])
        return {"task": make_task(drawn, self._spec, self._folder)}

    def _progress(self, number: int) -> Progress:
        records = [run.read() for run in self._folder.run_folders(self._spec, number)]
        return Progress(sum(record.epoch for record in records), sum(record.attempt for record in records))

    def _resources(self) -> Any:
        if self._spec.file.resources.workers > 1:
            # The trial itself only waits for the workers that Ray Train places for it. Tune refuses a trial that asks
            # for nothing, so it takes a grain of the resource that every cluster's head node has.
            return tune.PlacementGroupFactory([{"node:__internal_head__": 0.001}])
        return tune.PlacementGroupFactory([worker_resources(self._spec)])


def make_task(drawn: Drawn, spec: StudySpec, folder: StudyFolder) -> TrialTask:
    """What an actor gets of a drawn trial: the configs that were built when it was drawn, each with its run's name."""
    runs = tuple(
        TrialRun(run_id=place.run_id, arm=place.arm, fold=place.fold, config=config)
        for place, config in zip(spec.run_grid(drawn.number), drawn.configs, strict=True)
    )
    return TrialTask(
        study=folder.name,
        number=drawn.number,
        home=folder.home.path,
        stop_path=folder.stop_path,
        objective=spec.objective,
        runs=runs,
    )


class _Teller(DriverSide, tune.Callback):
    """Keeps the live table up to date and notes why a trial crashed."""

    def __init__(self, folder: StudyFolder, spec: StudySpec, storage: StudyStorage, halt: Halt, watch: Watch) -> None:
        self._folder, self._spec, self._storage = folder, spec, storage
        self._halt, self._watch = halt, watch
        self._shown = 0.0

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._show(at_once=True)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if result.get("study_fault"):
            self._halt.want(FAULT, str(result["study_fault"]))
        self._show()

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._show(at_once=True)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        number = int(trial.config["number"])
        trace = _trace(trial)
        self._storage.tell_failed(number, trace.strip().splitlines()[-1] if trace.strip() else "its process died")
        for run in self._folder.run_folders(self._spec, number):
            if run.read().state in ("RUNNING", "FAIL") and not (run.path / "error.txt").exists():
                run.write_error(trace or "the process of the run died without a word (killed, or out of memory?)")
        self._show(at_once=True)

    def _show(self, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if at_once or now - self._shown >= UPDATE_S:
            self._shown = now
            self._watch.update(status_of(self._folder, self._spec, self._storage.rows()))


def _trial_name(trial: Trial) -> str:
    return f"t{int(trial.config['number']):04d}-{trial.trial_id}"


def _trace(trial: Trial) -> str:
    with contextlib.suppress(OSError, TypeError):
        return Path(trial.error_file).read_text(encoding="utf-8")
    return ""
