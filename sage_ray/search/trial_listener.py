"""What is heard of the trials of a start: the live table, the account of hours, those that hang, crash or fail."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from sage_ray.runtime.driver_side import DriverSide
from sage_ray.runtime.worker_signs import WorkerSigns
from sage_ray.search.crashes import Crashes
from sage_ray.search.faults import Faults
from sage_ray.search.halt import FAULT, OUT_OF_GPU_HOURS, Halt
from sage_ray.search.nodes import TrialNodes
from sage_ray.search.objectives import devices_of
from sage_ray.search.silence import Silence
from sage_ray.search.storage import StudyStorage, TrialRow
from sage_ray.search.study_folder import StudyFolder
from sage_ray.search.study_status import TrialStatus, status_of
from sage_ray.study.spec import StudySpec
from sage_ray.watch import Watch

UPDATE_S = 1.0
"""Least time between two looks at all trials for the live table."""
LOOKING_SHARE = 0.05
"""Most of its time that a driver spends on looks when trials begin and end, which are shown sooner."""


class TrialListener(DriverSide, tune.Callback):
    """Hears what trials report: keeps the live table and the account of hours, and looks after those that hang.

    Args:
        folder: the study.
        spec: what it runs, placed.
        storage: its trials.
        faults: judges trials that failed.
        crashes: judges trials that crashed.
        halt: ends the experiment when it is on.
        watch: shown the status and told lines.
        nodes: the study's nodes.
    """

    def __init__(
        self,
        folder: StudyFolder,
        spec: StudySpec,
        storage: StudyStorage,
        faults: Faults,
        crashes: Crashes,
        halt: Halt,
        watch: Watch,
        nodes: TrialNodes,
    ) -> None:
        self._folder, self._spec, self._storage, self._nodes = folder, spec, storage, nodes
        self._faults, self._crashes, self._halt, self._watch = faults, crashes, halt, watch
        self._silence = Silence(spec.base.runtime.silence_minutes, watch.line, crashes.would_go_on)
        self.ended: dict[int, TrialStatus] = {}
        """What is known of trials that have ended; they are not looked at again."""
        self._shown, self._look_s = 0.0, 0.0
        self._spent_s = spent_seconds(folder, spec, storage.rows()) if spec.file.max_gpu_hours is not None else 0.0

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Look after trials that are silent, and those that wait for a node; keep what was reported."""
        self._storage.write_reports()
        self._halt.look(trials)
        self._silence.look(trials)
        self._nodes.waiting.look(trials)

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial begins, or begins again."""
        self._silence.started(trial)
        self._crashes.began(int(trial.config["number"]))
        self._show(at_once=True)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial has crashed and is tried again."""
        self._crashes.tried_again(trial)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial has reported an epoch, a sign of life or its end."""
        self._silence.heard(trial, result)
        if result.get("study_fault"):
            self._halt.want(FAULT, str(result["study_fault"]))
        if result.get("spent_first"):
            self._spend(float(result["spent_first"]))
        if "spent" in result:
            self._faults.epoch(int(trial.config["number"]))
            self._nodes.faults.trained(int(trial.config["number"]), str(result.get("node") or ""))
            self._spend(float(result["spent"]))
        self._show()

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial has ended, as the storage knows by now."""
        self._show(at_once=True)
        if self._storage.row(int(trial.config["number"])).state in ("COMPLETE", "PRUNED"):
            self._faults.ended_well()

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial has failed: unless it goes on all the same, its reason is told and its runs keep the trace."""
        number = int(trial.config["number"])
        if self._crashes.goes_on(number):
            return
        trace = _trace(trial)
        reason = self._silence.ended.get(trial.trial_id)
        self._faults.failed(number, reason or (trace.strip().splitlines() or ["its process died"])[-1])
        for run in self._folder.run_folders(self._spec, number):
            WorkerSigns(self._folder.home, run.run_id).free()
            if run.read().state in ("RUNNING", "FAIL") and not (run.path / "error.txt").exists():
                run.write_error(trace or "the process of the run died without a word (killed, or out of memory?)")
        self._show(at_once=True)

    def _spend(self, seconds: float) -> None:
        limit = self._spec.file.max_gpu_hours
        self._spent_s += seconds
        if limit is not None and self._spent_s >= 3600 * limit:
            self._halt.want(OUT_OF_GPU_HOURS, f"max_gpu_hours ({limit:g}) are spent")

    def _show(self, *, at_once: bool = False) -> None:
        began = time.monotonic()
        if began - self._shown >= (min(UPDATE_S, self._look_s / LOOKING_SHARE) if at_once else UPDATE_S):
            self._watch.update(status_of(self._folder, self._spec, self._storage.rows(), self.ended))
            self._shown = time.monotonic()
            self._look_s = self._shown - began


def spent_seconds(folder: StudyFolder, spec: StudySpec, rows: Sequence[TrialRow]) -> float:
    """Seconds that the runs of a study have trained for so far, times their GPUs, or on a CPU their workers.

    What they trained first for their extra pairs counts too; what they took from the stage store does not.
    """
    total = 0.0
    for row in rows:
        for run in folder.run_folders(spec, row.number):
            lines = [line for line in run.metrics() if not line.get("replayed")]
            seconds = sum(float(line["seconds"]) for line in lines) + run.read().pair_seconds_spent
            total += seconds * devices_of(run.config())
    return total


def _trace(trial: Trial) -> str:
    with contextlib.suppress(OSError, TypeError):
        return Path(trial.error_file).read_text(encoding="utf-8")
    return ""
