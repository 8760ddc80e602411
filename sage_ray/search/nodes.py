"""The nodes of one start of a study: where its trials may go, what they take along, and what happens when one fails."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from ray import tune
from ray.tune.execution import class_cache

from sage_ray.data.prepare import prepare
from sage_ray.errors import UserError
from sage_ray.record.run_folder import RunFolder
from sage_ray.runtime.driver_side import DriverSide
from sage_ray.runtime.gpu_models import preference
from sage_ray.runtime.home_signs import WAIT_S, CheckedNodes
from sage_ray.runtime.node_check import NodeCheck
from sage_ray.runtime.node_watch import NodeWatch
from sage_ray.runtime.ray_cluster import self_started
from sage_ray.runtime.worker_signs import WorkerSigns
from sage_ray.search.faults import NodeFaults
from sage_ray.search.halt import FAULT, Halt
from sage_ray.search.placement import worker_resources
from sage_ray.search.study_folder import StudyFolder
from sage_ray.search.waiting import Waiting
from sage_ray.study.spec import StudySpec

TRAINS = "sage_ray.search.trainable"
"""All that a trial imports."""
LOOK_S = 0.1


class TrialNodes(DriverSide):
    """Knows the nodes of the connected Ray for a study; a context, in which they are checked and looked after.

    Tune calls the object itself for what a trial asks of Ray.

    Args:
        folder: the study.
        spec: what it runs, placed.
        halt: asked to end the study when no node is left.
        failed: told number and reason of a trial that has failed by its own fault.
        say: told lines for the user.
    """

    def __init__(
        self,
        folder: StudyFolder,
        spec: StudySpec,
        halt: Halt,
        failed: Callable[[int, str], None],
        say: Callable[[str], None],
    ) -> None:
        self._folder, self._spec, self._say = folder, spec, say
        self._bundle = worker_resources(spec)
        check = None if self_started() else self._check()

        def stop(reason: str) -> None:
            halt.want(FAULT, reason)

        several = spec.file.resources.workers > 1
        self.watch = NodeWatch(
            check, lambda node: node.workers(self._bundle["CPU"], self._bundle.get("GPU", 0.0)) > 0, say, head=several
        )
        self.faults = NodeFaults(self.watch, self._sees, failed, stop)
        self.waiting = Waiting(folder, spec, self.watch, stop, say)
        self._withheld = set[str]()
        self._surroundings = None if check is None else check.surroundings

    def __enter__(self) -> TrialNodes:
        self._folder.awaiting_path.unlink(missing_ok=True)
        # Tune would write AWS's secrets into the `runtime_env` of trials, and so into a cluster's logs and dashboard.
        self._withheld = {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
        class_cache.ENV_VARS_TO_PROPAGATE.difference_update(self._withheld)
        try:
            self.watch.begin()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        class_cache.ENV_VARS_TO_PROPAGATE.update(self._withheld)
        self.waiting.close()
        self.watch.close()

    def trainable(self, work: Callable[..., None]) -> Callable[..., None]:
        """The trainable with the surroundings that its workers need, which travel through Ray's object store.

        Tune writes what a trial is given into files of the study; an object of the store is only named there.
        """
        if self._surroundings is None:
            return work
        found: Callable[..., None] = tune.with_parameters(work, surroundings=self._surroundings)
        return found

    def checked(self) -> CheckedNodes:
        """What a trial that begins now gets to know of the nodes."""
        check = self.watch.check
        sign = None if check is None else check.signs.token
        return CheckedNodes(sign, self.watch.avoided(), self._folder.meta().get("data_fingerprint"))

    def __call__(self, config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
        """What Tune asks of Ray for a trial: its resources, on a node that is not to be avoided."""
        if self._spec.file.resources.workers > 1:
            # The trial itself only waits for the workers that Ray Train places for it. Tune refuses a trial that asks
            # for nothing, so it takes a grain of the resource that every cluster's head node has.
            return tune.PlacementGroupFactory([{"node:__internal_head__": 0.001}])
        selector = self.watch.selector() | self._model_of_gpu(int(config["number"]))
        # Only where it is needed: trials of equal requests share their processes.
        more: dict[str, Any] = {"bundle_label_selector": [selector]} if selector else {}
        return tune.PlacementGroupFactory([self._bundle], **more)

    def _model_of_gpu(self, number: int) -> dict[str, str]:
        """Selector of the model of GPU that a trial began on; {}: none, or none of it is free, which is said."""
        computed_on: list[str] = []
        if self._bundle.get("GPU"):
            for run in self._folder.run_folders(self._spec, number):
                with contextlib.suppress(UserError):  # a damaged record is the trial's own affair
                    computed_on += run.read().computed_on
        wish = preference(f"trial {number}", computed_on, self._bundle, 1, self.watch.avoided())
        if wish.missed is not None:
            self._say(wish.missed)
        return wish.selector

    def misplaced(self, number: int, result: Mapping[str, Any]) -> bool:
        """Whether a trial that has ended goes on, on another node or when the study does: its node is at fault."""
        reason = result.get("node_fault")
        if reason is None and result.get("trial_complete") and self._unrecorded(number):
            reason = f"the record of {self._unrecorded(number)} is not in the home"
        if reason is None:
            return False
        shared = bool(result.get("node_shared"))
        goes_on = self.faults.blames(number, str(result.get("node") or ""), str(reason), shared=shared)
        if goes_on:
            self.leave_open(number, f"{reason}; it goes on elsewhere")
        return goes_on

    def leave_open(self, number: int, reason: str) -> None:
        """Note that the runs of a trial have not failed: they go on elsewhere, or with the study."""
        for run in self._folder.run_folders(self._spec, number):
            WorkerSigns(self._folder.home, run.run_id).free()
            run.refresh(now=True)
            if run.read().state in ("FAIL", "RUNNING"):
                run.set_state("INTERRUPTED", error=reason)

    def _unrecorded(self, number: int) -> str | None:
        """A run of a complete trial whose record has not arrived in the home; a network file system may be late."""
        deadline = time.monotonic() + (WAIT_S if self.watch.check is not None else 0.0)
        for place in self._spec.run_grid(number):
            run = RunFolder(self._folder.home.runs / place.run_id)
            run.refresh(now=True)
            while not _complete(run):
                run.refresh()
                if time.monotonic() >= deadline:
                    return place.run_id
                time.sleep(LOOK_S)
        return None

    def _sees(self) -> str | None:
        """What is wrong with home and data as this process sees them."""
        try:
            self._folder.home.check_writable()
            if self.watch.check is not None:
                self.watch.check.signs.put()
            prepare(self._spec.base.data, self._folder.home.cache)
        except UserError as problem:
            return str(problem)
        return None

    def _check(self) -> NodeCheck:
        gpu = bool(self._bundle.get("GPU"))
        several = self._spec.file.resources.workers > 1
        return NodeCheck(self._folder.home, [self._spec.base], gpu=gpu, imports=TRAINS, several=several)


def _complete(run: RunFolder) -> bool:
    try:
        return run.read().finished
    except UserError:
        return False
