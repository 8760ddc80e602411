"""The searcher through which Ray Tune asks Optuna for trials and tells it how they ended.

The storage is the truth about what was tried. A trial that was running when its driver died is taken up again under its
own number; it fails only if it took the driver down several times without getting any further.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from sage_ray.errors import UserError
from sage_ray.record.patient_storage import StorageAway
from sage_ray.runtime.driver_side import DriverSide
from sage_ray.search.arm_seconds import Ready
from sage_ray.search.storage import Drawn, Progress, StudyStorage
from sage_ray.search.trial_queue import TrialQueue
from sage_ray.study.spec import StudySpec

logger = logging.getLogger(__name__)

MAX_STALLS = 5
"""Starts in a row that began to train, got no epoch further and ended with the driver, after which a trial fails."""


class OptunaSearcher(DriverSide, Searcher):
    """Asks Optuna for Tune and tells it how each trial ended.

    Args:
        storage: the study.
        spec: what is searched or compared.
        queue: trials to take up again, first; those that wait for a stage come into it.
        payload: what the trainable gets for a drawn trial; merged with its number.
        progress: what a trial has on disk.
        failed: told number and reason of a trial that failed, and decides whether it was the trial's own fault.
        halted: whether the sweep is being ended on purpose; its trials then stay RUNNING, to be taken up again.
        blind: whether results have no say in what a trial is drawn as, by its number: up to `limit` of such trials are
            drawn in place of those that wait for a stage.
        limit: how many trials there may be at a time, asked anew for each: machines join and leave; 0: none fits now.
            Tune's own limiter is fixed when the sweep starts.
        misplaced: told number and last result of a trial that has ended; true if it goes on, on another node or when
            the study does.
        ready: what the next new trial is drawn by; None if it has to wait for the end of another one. Default: `spec`.
        given_up: told number of a trial that crashed once too often for Tune; false if it goes on nevertheless.
    """

    def __init__(
        self,
        storage: StudyStorage,
        spec: StudySpec,
        *,
        queue: TrialQueue,
        payload: Callable[[Drawn], Mapping[str, Any]],
        progress: Callable[[int], Progress],
        failed: Callable[[int, str], None],
        halted: Callable[[], bool],
        limit: Callable[[], int],
        blind: Callable[[int], bool] = lambda number: False,
        misplaced: Callable[[int, Mapping[str, Any]], bool] = lambda number, result: False,
        given_up: Callable[[int], bool] = lambda number: True,
        ready: Callable[[], Ready | None] | None = None,
    ) -> None:
        super().__init__(metric="objective", mode="max" if spec.file.objective.maximize else "min")
        self._storage, self._spec, self._queue = storage, spec, queue
        self._payload, self._progress, self._failed = payload, progress, failed
        self._halted, self._limit, self._blind = halted, limit, blind
        self._misplaced, self._given_up = misplaced, given_up
        self._ready = ready or (lambda: Ready(spec))
        self._numbers: dict[str, int] = {}
        self._live: set[str] = set()
        self._count: int | None = None
        """Trials that were started, once it is known: nobody else starts any."""

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """What the next trial gets; None if it shall wait, FINISHED if there is none."""
        while not self._halted():
            if not self._queue and self._begun() >= self._spec.trials:
                # One of those that live may have to go on elsewhere.
                return None if self._live else Searcher.FINISHED  # type: ignore[return-value]
            # With a trial alive, None makes Tune look after that one and ask again; without one it waits, and asks.
            limit = self._limit()
            if len(self._live) >= limit:
                return None
            number = self._queue.take()
            fresh = number is None
            if fresh and not self._may_draw(limit):
                return None
            ready = self._ready() if fresh else Ready(self._spec)
            if ready is None:
                # Tune looks after those that live, and asks again; with none left the study goes on another time.
                return None if self._live or self._queue else Searcher.FINISHED  # type: ignore[return-value]
            try:
                drawn = self._storage.draw(number, ready.spec, self._progress)
            except UserError as error:
                logger.warning("%s", error)
                self._count = None
                continue
            except StorageAway:  # the storage has told the driver, which ends the sweep
                break
            self._count = self._begun() + fresh
            number = drawn.number
            if ready.refusal is not None:
                self._storage.tell_failed(number, ready.refusal)
                continue
            if drawn.stalls >= MAX_STALLS:
                self._storage.tell_failed(number, f"began to train {drawn.stalls} times without getting any further")
                continue
            self._numbers[trial_id] = number
            self._live.add(trial_id)
            return {"number": number, **self._payload(drawn)}
        # Not None: Tune would ask again for minutes before it looked at anything else.
        return Searcher.FINISHED  # type: ignore[return-value]

    def _may_draw(self, limit: int) -> bool:
        """Whether a trial may be drawn although others wait for a stage: each that does was drawn without results."""
        begun = self._begun()
        ahead = limit if self._blind(begun) else 0
        return begun < self._spec.trials and len(self._live) + self._queue.aside < limit + ahead

    def _begun(self) -> int:
        if self._count is None:
            self._count = len(self._storage.rows())
        return self._count

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tell Optuna the running objective of a trial."""
        self._note(self._numbers[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna how a trial ended."""
        number = self._numbers[trial_id]
        self._live.discard(trial_id)
        if error:
            # The driver's callback comes next, knows the trace, and tells the failure with it, if it is one.
            if not self._given_up(number):
                self._queue.add(number)
            return
        if result and self._misplaced(number, result):
            self._storage.forgive(number, begun=False)
            self._queue.add(number)
        elif result and result.get("stage_busy"):
            self._storage.forgive(number, begun=False)
            self._queue.set_aside(number)
        elif result and result.get("node_fault"):
            pass  # it was the trial's own after all, and is told
        elif result and result.get("trial_failed"):
            self._failed(number, str(result["trial_failed"]))
        elif result and result.get("trial_complete"):
            self._storage.tell_complete(number, [float(value) for value in result["objectives"]])
        elif self._halted() or not result or result.get("trial_halted"):
            self._storage.forgive(number)
        else:
            self._note(number, result)
            self._storage.tell_pruned(number)

    def _note(self, number: int, result: Mapping[str, Any]) -> None:
        if "step" in result:
            self._storage.report(number, int(result["step"]), float(result["objective"]))

    def save(self, checkpoint_path: str) -> None:
        """Write the file that Tune insists on; nothing is kept in it, as the storage has all."""
        Path(checkpoint_path).write_text("the study's storage is the truth\n")

    def restore(self, checkpoint_path: str) -> None:
        """Never used: a resumed sweep starts anew from the storage."""
