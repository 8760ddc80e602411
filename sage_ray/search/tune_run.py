"""One start of a study as an experiment of Ray Tune: what is drawn and run, what is heard of it, what ends it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from sage_ray.runtime.driver_side import DriverSide
from sage_ray.runtime.home_signs import CheckedNodes
from sage_ray.runtime.ray_lines import folded
from sage_ray.runtime.room import ask_for
from sage_ray.runtime.worker_signs import WorkerSigns
from sage_ray.search.faults import Faults
from sage_ray.search.halt import FAULT, OUT_OF_GPU_HOURS, Halt, HaltStopper, signals
from sage_ray.search.nodes import TrialNodes
from sage_ray.search.objectives import devices_of
from sage_ray.search.placement import worker_resources
from sage_ray.search.ray_session import environment, ray_session
from sage_ray.search.reconcile import make_scheduler
from sage_ray.search.sampling import drawn_blindly
from sage_ray.search.searcher import OptunaSearcher
from sage_ray.search.silence import Silence
from sage_ray.search.storage import Drawn, Progress, StudyStorage, TrialRow
from sage_ray.search.study_budgets import StudyBudgets
from sage_ray.search.study_folder import StudyFolder
from sage_ray.search.study_status import TrialStatus, status_of
from sage_ray.search.trainable import TrialRun, TrialTask, run_trial
from sage_ray.search.trial_queue import StagesOfTrials, TrialQueue
from sage_ray.study.spec import StudySpec
from sage_ray.watch import Watch

UPDATE_S = 1.0
"""Least time between two looks at the storage for the live table."""


class TuneRun:
    """One experiment of Ray Tune over what is left of a study.

    Args:
        folder: the study.
        spec: what it runs, placed.
        storage: its trials.
        budgets: told the epochs that its trials may end at.
        halt: ends the experiment when it is on.
        watch: shown the status and told lines.
    """

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
        self._faults = Faults(
            storage.tell_failed, lambda reason: halt.want(FAULT, reason), spec.file.max_failures_in_a_row
        )

    def run(self, orphans: list[int], remaining: int) -> None:
        """Take up the trials `orphans`, and draw and run the others of `remaining`, until all ended or the halt is on.

        Raises:
            UserError: a node that could get a trial lacks the package, the home or the data, or has another version.
        """
        with (
            environment(), folded(self._watch.line), ray_session(), signals(self._halt),
            TrialNodes(self._folder, self._spec, self._halt, self._faults.failed, self._watch.line) as nodes,
            self._room(),
        ):  # fmt: skip
            searcher = OptunaSearcher(
                self._storage,
                self._spec,
                queue=TrialQueue(orphans, StagesOfTrials(self._folder, self._spec).can_go_on),
                payload=lambda drawn: self._payload(drawn, nodes),
                progress=self._progress,
                failed=self._faults.failed,
                halted=self._halt.check,
                limit=nodes.waiting.limit,
                blind=partial(drawn_blindly, self._spec),
                misplaced=nodes.misplaced,
            )
            listener = _Listener(self._folder, self._spec, self._storage, self._faults, self._halt, self._watch, nodes)
            tune.run(
                tune.with_resources(nodes.trainable(run_trial), nodes),
                name=f"start-{self._folder.meta()['starts']:04d}",
                storage_path=str(self._folder.path / "ray"),
                search_alg=searcher,
                scheduler=make_scheduler(self._spec, self._storage.rows()),
                # The searcher ends it: a trial that goes on elsewhere is one more for Tune.
                num_samples=-1,
                reuse_actors=True,
                max_failures=self._spec.base.runtime.max_retries,
                stop=HaltStopper(self._halt),
                # Tune's own for notebooks would clear what stands in the cell, the lines of the watch included.
                progress_reporter=tune.CLIReporter(),
                callbacks=[listener],
                raise_on_failed_trial=False,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
                verbose=0,
            )
            for number in self._faults.close(stopped=self._halt.reason is not None):
                nodes.leave_open(number, "ended by what ended every trial; it goes on with its study")

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        """Ask a cluster's autoscaler for room for all trials that `concurrency` names; drawn are those that fit."""
        wanted = self._spec.file.concurrency
        if wanted == "auto" or not os.environ.get("RAY_ADDRESS"):
            yield
            return
        ask_for([worker_resources(self._spec)] * (wanted * self._spec.file.resources.workers))
        try:
            yield
        finally:
            ask_for([])

    def _payload(self, drawn: Drawn, nodes: TrialNodes) -> Mapping[str, Any]:
        self._budgets.note(drawn.sample.values, drawn.configs[0])
        return {"task": make_task(drawn, self._spec, self._folder, nodes.checked())}

    def _progress(self, number: int) -> Progress:
        runs = self._folder.run_folders(self._spec, number)
        return Progress(sum(run.count_epochs() for run in runs), sum(run.read().attempt for run in runs))


def make_task(drawn: Drawn, spec: StudySpec, folder: StudyFolder, checked: CheckedNodes | None = None) -> TrialTask:
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
        objectives=spec.objectives,
        runs=runs,
        checked=checked or CheckedNodes(),
    )


class _Listener(DriverSide, tune.Callback):
    """Hears what trials report: keeps the live table and the account of hours, and looks after those that hang."""

    def __init__(
        self,
        folder: StudyFolder,
        spec: StudySpec,
        storage: StudyStorage,
        faults: Faults,
        halt: Halt,
        watch: Watch,
        nodes: TrialNodes,
    ) -> None:
        self._folder, self._spec, self._storage, self._nodes = folder, spec, storage, nodes
        self._faults, self._halt, self._watch = faults, halt, watch
        self._silence = Silence(spec.base.runtime.silence_minutes, watch.line)
        self._ended: dict[int, TrialStatus] = {}
        self._reached: dict[int, int] = {}
        """Epochs that a trial had when it was first started, or crashed last."""
        self._shown = 0.0
        self._spent_s = spent_seconds(folder, spec, storage.rows()) if spec.file.max_gpu_hours is not None else 0.0

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self._silence.look(trials)
        self._nodes.waiting.look(trials)

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._silence.started(trial)
        number = int(trial.config["number"])
        self._reached.setdefault(number, self._epochs(number))
        self._show(at_once=True)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Count a crash, which Tune has done already, only if the trial got no further since the one before."""
        number = int(trial.config["number"])
        now = self._epochs(number)
        if now > self._reached[number]:
            trial.run_metadata.num_failures = 0
        self._reached[number] = now

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        self._silence.heard(trial, result)
        if result.get("study_fault"):
            self._halt.want(FAULT, str(result["study_fault"]))
        if "spent" in result:
            self._faults.epoch(int(trial.config["number"]))
            self._nodes.faults.trained(int(trial.config["number"]), str(result.get("node") or ""))
            self._spend(float(result["spent"]))
        self._show()

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._show(at_once=True)
        if self._storage.row(int(trial.config["number"])).state in ("COMPLETE", "PRUNED"):
            self._faults.ended_well()

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        number = int(trial.config["number"])
        trace = _trace(trial)
        reason = self._silence.ended.get(trial.trial_id)
        self._faults.failed(number, reason or (trace.strip().splitlines() or ["its process died"])[-1])
        for run in self._folder.run_folders(self._spec, number):
            WorkerSigns(self._folder.home, run.run_id).free()
            if run.read().state in ("RUNNING", "FAIL") and not (run.path / "error.txt").exists():
                run.write_error(trace or "the process of the run died without a word (killed, or out of memory?)")
        self._show(at_once=True)

    def _epochs(self, number: int) -> int:
        return sum(run.count_epochs() for run in self._folder.run_folders(self._spec, number))

    def _spend(self, seconds: float) -> None:
        limit = self._spec.file.max_gpu_hours
        self._spent_s += seconds
        if limit is not None and self._spent_s >= 3600 * limit:
            self._halt.want(OUT_OF_GPU_HOURS, f"max_gpu_hours ({limit:g}) are spent")

    def _show(self, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if at_once or now - self._shown >= UPDATE_S:
            self._shown = now
            self._watch.update(status_of(self._folder, self._spec, self._storage.rows(), self._ended))


def spent_seconds(folder: StudyFolder, spec: StudySpec, rows: Sequence[TrialRow]) -> float:
    """Seconds that the runs of a study have trained for so far, times their GPUs, or on a CPU their workers."""
    total = 0.0
    for row in rows:
        for run in folder.run_folders(spec, row.number):
            lines = [line for line in run.metrics() if not line.get("replayed")]
            total += sum(float(line["seconds"]) for line in lines) * devices_of(run.config())
    return total


def _trial_name(trial: Trial) -> str:
    return f"t{int(trial.config['number']):04d}-{trial.trial_id}"


def _trace(trial: Trial) -> str:
    with contextlib.suppress(OSError, TypeError):
        return Path(trial.error_file).read_text(encoding="utf-8")
    return ""
