"""How long a trial may report nothing before it counts as hung, and the end of the process that hangs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.tune.experiment import Trial

FIRST_S = 3600.0
"""Silence allowed before the study's first epoch has been timed: data are read and kernels chosen before it."""
LEAST_S = 600.0
EPOCHS = 20.0
"""Without a setting, the longest epoch so far times this is allowed, and at least `LEAST_S`."""
START_S = 300.0
"""Least silence allowed from the start of an attempt to its first epoch trained, whatever the setting: a process
begins, data are read, workers meet."""
LOOK_S = 1.0


class Silence:
    """Ends running trials that have reported nothing for too long; Tune then tries them again.

    Args:
        minutes: `runtime.silence_minutes`; None: by the study's own epochs.
        say: told one line for each trial that is ended.
        again: whether a trial that is ended now is tried again.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        minutes: float | None,
        say: Callable[[str], None],
        again: Callable[[Trial], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._minutes, self._say, self._again, self._clock = minutes, say, again, clock
        self._heard: dict[str, float] = {}
        self._trains: set[str] = set()
        """Trials whose present attempt has trained an epoch; what it takes over from the store is told at once."""
        self._longest = 0.0
        self._looked = clock()
        self.ended: dict[str, str] = {}
        """Why a trial was ended, by Tune's name of it."""

    def started(self, trial: Trial) -> None:
        """A trial begins, or begins again."""
        self._heard[trial.trial_id] = self._clock()
        self._trains.discard(trial.trial_id)

    def heard(self, trial: Trial, result: dict[str, Any]) -> None:
        """A trial has reported."""
        self._heard[trial.trial_id] = self._clock()
        self.ended.pop(trial.trial_id, None)
        if result.get("spent"):
            self._trains.add(trial.trial_id)
        if not result.get("waits"):
            self._longest = max(self._longest, float(result.get("epoch_seconds") or 0.0))

    def allowed_s(self) -> float:
        """Seconds that a trial which has begun to train may be silent for now."""
        if self._minutes is not None:
            return 60.0 * self._minutes
        return FIRST_S if not self._longest else max(LEAST_S, EPOCHS * self._longest)

    def look(self, trials: list[Trial]) -> None:
        """End the running trials that are silent for too long."""
        now = self._clock()
        if now - self._looked < LOOK_S:
            return
        if now - self._looked > self.allowed_s() / 2:
            # This process itself was stopped or asleep: nobody could be heard.
            self._heard = dict.fromkeys(self._heard, now)
        self._looked = now
        for trial in trials:
            silent = now - self._heard.get(trial.trial_id, now)
            allowed = self.allowed_s() if trial.trial_id in self._trains else max(START_S, self.allowed_s())
            if trial.status == Trial.RUNNING and silent > allowed:
                self._end(trial, silent)

    def _end(self, trial: Trial, silent: float) -> None:
        self._heard[trial.trial_id] = self._clock()
        reason = f"silent: nothing was reported for {silent / 60:.1f} minutes (runtime.silence_minutes)"
        self.ended[trial.trial_id] = reason
        again = " and tried again" if self._again(trial) else ""
        self._say(f"trial {trial.config['number']} is ended{again}, {reason}")
        actor = trial.temporary_state.ray_actor
        if actor is not None:
            with contextlib.suppress(Exception):  # it may be gone by now
                ray.kill(actor, no_restart=True)
