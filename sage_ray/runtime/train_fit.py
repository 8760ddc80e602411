"""One `fit` of Ray Train, in a thread of its own, and what its end means for the run."""

from __future__ import annotations

import threading
from typing import Any

import ray

from sage_ray.errors import UserError
from sage_ray.runtime.attempt import state_of


class Fit:
    """`trainer.fit()` in a thread, so that the calling one can watch, stop and be interrupted.

    Attributes:
        error: what it ended with; None if all went well, or while it runs.
    """

    def __init__(self, trainer: Any) -> None:
        self.error: BaseException | None = None
        self._trainer = trainer
        self._thread = threading.Thread(target=self._work, name="ray-train", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            self._trainer.fit()
        except BaseException as error:  # handed to the watching thread
            self.error = error

    def running(self, timeout_s: float) -> bool:
        """Whether it still runs after `timeout_s`."""
        self._thread.join(timeout_s)
        return self._thread.is_alive()

    def join(self, timeout_s: float) -> None:
        """Wait for its end, at most so long."""
        self._thread.join(timeout_s)

    @property
    def _failures(self) -> dict[int, BaseException]:
        """Errors of the workers by rank."""
        return getattr(self.error, "worker_failures", None) or {}

    @property
    def refusals(self) -> list[UserError]:
        """What workers found wrong with their input."""
        return [failure for failure in self._failures.values() if isinstance(failure, UserError)]

    @property
    def crashed(self) -> bool:
        """Whether workers ended, more often than Ray tries again, by something that is no verdict on their input."""
        return bool(self._failures) and not self.refusals

    @property
    def died_at_start(self) -> bool:
        """Whether a worker died while they were made known to each other, which Ray Train does not try again."""
        return isinstance(getattr(self.error, "controller_failure", None), ray.exceptions.RayError)

    def blame(self) -> str:
        """Why it ended, in one line. Only for a fit that ended with an error."""
        assert self.error is not None
        if self.died_at_start:
            return f"out of retries; worker died as it started: {' '.join(str(self.error).split())[:300]}"
        if not self._failures:
            return state_of(self.error)[1] or type(self.error).__name__
        rank, first = sorted(self._failures.items())[0]
        return f"out of retries; worker {rank}: {type(first).__name__}: {first}"
