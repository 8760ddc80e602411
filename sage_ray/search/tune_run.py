"""One start of a study as an experiment of Ray Tune: what is drawn and run, what is heard of it, what ends it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from sage_ray.runtime.home_signs import CheckedNodes
from sage_ray.runtime.ray_lines import folded
from sage_ray.runtime.room import ask_for
from sage_ray.search.arm_seconds import ArmSeconds
from sage_ray.search.crashes import Crashes
from sage_ray.search.faults import Faults
from sage_ray.search.halt import FAULT, LOST, Halt, HaltStopper, signals
from sage_ray.search.nodes import TrialNodes
from sage_ray.search.placement import worker_resources
from sage_ray.search.ray_session import environment, ray_session
from sage_ray.search.reconcile import await_left, await_sent, make_scheduler
from sage_ray.search.sampling import drawn_blindly
from sage_ray.search.searcher import OptunaSearcher
from sage_ray.search.storage import Drawn, Progress, StudyStorage
from sage_ray.search.study_budgets import StudyBudgets
from sage_ray.search.study_folder import StudyFolder
from sage_ray.search.trainable import TrialRun, TrialTask, run_trial
from sage_ray.search.trial_listener import TrialListener
from sage_ray.search.trial_queue import StagesOfTrials, TrialQueue
from sage_ray.study.spec import StudySpec
from sage_ray.watch import Watch

LEAVE_S = 20.0
"""Time that trials which have ended get, before Ray does, to write the last of it."""


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
            crashes = Crashes(lambda number: self._progress(number).epochs)
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
                given_up=crashes.given_up,
                ready=ArmSeconds(self._folder, self._spec, self._storage, self._watch.line).ready,
            )
            heard_by = (self._faults, crashes, self._halt, self._watch, nodes)
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
                callbacks=[TrialListener(self._folder, self._spec, self._storage, *heard_by)],
                raise_on_failed_trial=False,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
                verbose=0,
            )
            if self._halt.reason != LOST:
                await_left(self._storage, self._folder, self._spec, LEAVE_S)
                await_sent(self._storage, self._folder, self._spec, LEAVE_S)
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
        home=folder.home.address,
        objectives=spec.objectives,
        runs=runs,
        checked=checked or CheckedNodes(),
    )


def _trial_name(trial: Trial) -> str:
    return f"t{int(trial.config['number']):04d}-{trial.trial_id}"
