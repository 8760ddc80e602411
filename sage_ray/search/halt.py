"""Ending a sweep on purpose: a signal, `sage-ray stop`, the time budget, or a fault that would end every trial."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from sage_ray.followed import exists, push
from sage_ray.leases import BEATS, Lease, lease_s
from sage_ray.runtime.driver_side import DriverSide
from sage_ray.termination import END_SOON, handled

STOPPED, INTERRUPTED, OUT_OF_TIME, FAULT = "stopped", "interrupted", "out of time", "fault"
OUT_OF_GPU_HOURS, LOST = "out of GPU-hours", "lost"


LOOK_S = 2.0
"""A stop file in a bucket is looked for no more often."""
MARGIN_S = 30.0
"""What a trial gets beyond the time between two snapshots, to end its epoch, score it and write it."""


class Halt:
    """Whether and why the sweep is to end. Once halted it stays so, and the study's stop file tells the trials.

    Args:
        stop_path: the study's stop file, which `sage-ray stop` writes too.
        max_hours: wall time from now, or None.
        say: told one line when the sweep begins to end.
        lease: of the study. A driver that was stopped for so long that another one could take the study ends at once,
            and leaves everything to that one.
        snapshot_seconds: longest time of its trials between two snapshots. Epochs that take longer are all on disk, so
            trials get this time, and `MARGIN_S`, to end by themselves: no finished epoch is lost.
    """

    def __init__(
        self,
        stop_path: Path,
        max_hours: float | None,
        say: Callable[[str], None],
        lease: Lease,
        snapshot_seconds: float = 0.0,
    ) -> None:
        self._stop_path, self._say = stop_path, say
        self._lease, self._looked = lease, time.monotonic()
        self._patience_s, self._halted_at = snapshot_seconds + MARGIN_S, 0.0
        self._running: int | None = None
        self._deadline = None if max_hours is None else time.monotonic() + 3600 * max_hours
        self._wanted: tuple[str, str] | None = None
        self.reason: str | None = None
        self.detail = ""

    def want(self, reason: str, detail: str) -> None:
        """Ask for the end; safe in a signal handler."""
        self._wanted = self._wanted or (reason, detail)

    def check(self) -> bool:
        """Whether the sweep is ending; takes notice of the stop file and of the clock."""
        if self.reason is not None:
            return True
        if self._is_lost():
            self.reason, self.detail = LOST, "another driver may have the study, as this one gave no sign of life"
            return True
        if self._wanted is None and exists(self._stop_path, every_s=LOOK_S):
            self.want(STOPPED, "asked to by sage-ray stop")
        if self._wanted is None and self._deadline is not None and time.monotonic() >= self._deadline:
            self.want(OUT_OF_TIME, "max_hours are over")
        if self._wanted is None:
            return False
        self.reason, self.detail = self._wanted
        self._halted_at = time.monotonic()
        self._stop_path.write_text(f"{self.reason}: {self.detail}\n")
        push(self._stop_path)
        self._say(f"{self.reason}: {self.detail}; running trials end at their epoch, or after {self._patience_s:.0f} s")
        return True

    def look(self, trials: Sequence[Trial]) -> None:
        """Count those of Tune's trials that still run, once the sweep is ending."""
        if self.reason is not None:
            self._running = sum(trial.status == Trial.RUNNING for trial in trials)

    def over(self) -> bool:
        """Whether nothing is waited for any more: no trial runs, or they have had the time to end by themselves."""
        if not self.check():
            return False
        return self.reason == LOST or self._running == 0 or time.monotonic() - self._halted_at >= self._patience_s

    def _is_lost(self) -> bool:
        now = time.monotonic()
        if now - self._looked < lease_s() / BEATS:
            return False
        self._looked = now
        with contextlib.suppress(OSError):  # a home that is away for a moment says nothing
            return self._lease.lost()
        return False


class HaltStopper(DriverSide, tune.Stopper):
    """Ends the whole Tune experiment when the halt is over; single trials are the scheduler's affair.

    Tune ends a trial in the middle of its epoch: it drops the process, which takes the finished epochs that are not on
    disk yet with it. So the trials are told by the study's stop file first, and end by themselves.
    """

    def __init__(self, halt: Halt) -> None:
        self._halt = halt

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether Tune shall end one trial: never, they are ended together."""
        return False

    def stop_all(self) -> bool:
        """Whether Tune shall end all trials."""
        return self._halt.over()


@contextmanager
def signals(halt: Halt) -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGUSR1 end the sweep cleanly; a second one at once. Does nothing outside the main thread."""

    def handle(number: int, frame: Any) -> None:
        name = signal.Signals(number).name
        if seen:
            raise KeyboardInterrupt(f"{name} twice")
        seen.append(name)
        halt.want(INTERRUPTED, f"{name} received, once more ends at once")

    seen: list[str] = []
    with handled((signal.SIGINT, *END_SOON), handle):
        yield
