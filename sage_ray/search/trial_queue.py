"""Drawn trials that wait for their turn: those of earlier starts, and those whose stage another trial computes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable

from sage_ray.errors import UserError
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunRecord
from sage_ray.search.study_folder import StudyFolder
from sage_ray.stages.lease import held
from sage_ray.stages.pair_keys import RENDER
from sage_ray.stages.pairs_in_work import being_made, being_rendered
from sage_ray.stages.render_keys import rendered_pairs_key
from sage_ray.stages.store import StageStore
from sage_ray.study.spec import StudySpec
from sage_ray.training.resume import chain

LOOK_S = 2.0
"""Least time between two looks at the stages that are waited for."""
AT_LATEST_S = 600.0
"""After so long a trial tries again, whatever the store shows."""


class TrialQueue:
    """The trials that were drawn, have not ended and are not running.

    A trial that waits for a stage is set aside, and comes before all others as soon as it can go on.

    Args:
        numbers: trials of earlier starts, in order.
        can_go_on: whether the stages that a trial lacks are stored, or computed by nobody.
        clock: seconds that only grow.
    """

    def __init__(
        self, numbers: Iterable[int], can_go_on: Callable[[int], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._next, self._can_go_on, self._clock = deque(numbers), can_go_on, clock
        self._aside: dict[int, float] = {}
        self._looked = -LOOK_S

    @property
    def aside(self) -> int:
        """How many wait for a stage."""
        return len(self._aside)

    def __bool__(self) -> bool:
        return bool(self._next or self._aside)

    def add(self, number: int) -> None:
        """A trial may go on at once."""
        self._next.append(number)

    def set_aside(self, number: int) -> None:
        """A trial waits for a stage."""
        self._aside[number] = self._looked = self._clock()

    def take(self) -> int | None:
        """The trial that is to go on now; None if there is none that can."""
        now = self._clock()
        if self._aside and now - self._looked >= LOOK_S:
            self._looked = now
            ready = [n for n, since in self._aside.items() if now - since >= AT_LATEST_S or self._can_go_on(n)]
            for number in reversed(ready):
                del self._aside[number]
                self._next.appendleft(number)
        return self._next.popleft() if self._next else None


class StagesOfTrials:
    """What the stage store has of the trials of a study.

    Args:
        folder: the study.
        spec: what it runs.
    """

    def __init__(self, folder: StudyFolder, spec: StudySpec) -> None:
        self._folder, self._spec = folder, spec
        self._store = StageStore(spec.base.runtime.stage_store or folder.home.stage_store)

    def can_go_on(self, number: int) -> bool:
        """Whether the first stage that a trial lacks is computed by nobody, or it lacks none.

        A store that does not answer, or a damaged record, is no reason to wait: the trial will say what is wrong.
        """
        try:
            return all(self._run_can(run, run.read()) for run in self._folder.run_folders(self._spec, number))
        except (OSError, UserError):
            return True

    def _run_can(self, run: RunFolder, record: RunRecord) -> bool:
        if record.finished:
            return True
        config, keys = run.config(), record.stage_keys
        if being_made(config, record.pair_stages, self._store):
            return False
        rendering = keys.get(RENDER)
        if rendering and being_rendered(self._store, rendering, rendered_pairs_key(config, rendering)):
            return False
        for phase in chain(config, keys):
            if self._store.latest(phase.key, phase.epochs) != phase.epochs:
                return not held(self._store, phase.key)
        return True
