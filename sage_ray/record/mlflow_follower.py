"""Sending a run to MLflow while it goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from sage_ray.errors import UserError
from sage_ray.locks import is_locked
from sage_ray.record.home import Home
from sage_ray.record.mlflow_breaker import Breaker
from sage_ray.record.mlflow_client import MirrorUnavailable
from sage_ray.record.mlflow_mirror import Mirror
from sage_ray.record.mlflow_rows import SENDING_LOCK
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.store_uris import is_http

FIRST_S = 1.0
"""Until MLflow is told that a run has begun: a run that is over by then is sent once, whole."""
POLL_S = 2.0
FLUSH_S = 20.0
MAX_BACKOFF_S = 30.0
LOOK_S = 0.1


class Follower:
    """Mirrors one run while it runs, from a thread of its own; a slow or absent server never stalls the training.

    Args:
        home: of the run.
        folder: the run.
        say: told once if MLflow is away.
    """

    def __init__(self, home: Home, folder: RunFolder, say: Callable[[str], None]) -> None:
        self._mirror, self._folder, self._say = Mirror(home), folder, say
        self._ending, self._said = threading.Event(), False
        self.sent = False
        self._thread = threading.Thread(target=self._work, name=f"mirror-{folder.run_id}", daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """Send the end of the run while the process goes on with others; `wait_for_left` waits for it.

        So does the process before it ends: cut off in the middle, it would leave the run to nobody for as long as it
        takes to see that it is dead.
        """
        self._ending.set()
        _LEFT.append(self)
        threading.Thread(target=self._wait, args=(FLUSH_S,), name="stays", daemon=False).start()

    def _wait(self, timeout_s: float) -> bool:
        return wait_for(self._thread, timeout_s, self._mirror.breaker)

    def close(self, timeout_s: float = FLUSH_S) -> bool:
        """Send the end of the run, for at most `timeout_s`; returns whether MLflow has all of it.

        A server that does not answer is not waited for: neither here nor, once it is known, at the end of other runs.
        """
        asked = time.time()
        self._ending.set()
        in_time = self._wait(timeout_s)
        if not in_time and not is_http(self._mirror.uri) and not self._mirror.uri.startswith("sqlite"):
            # A database's driver has no time-out of its own.
            self._mirror.breaker.trip("it did not take the end of a run in time", asked)
        if not self.sent:
            # The thread may have noted a silence just now and not told it yet.
            self._tell(self._mirror.breaker.told() or "it did not take the end of the run in time")
        return self.sent

    def _work(self) -> None:
        wait_s, last = FIRST_S, False
        while not last:
            last = self._ending.wait(wait_s)
            try:
                self._mirror.push(self._folder)
                wait_s = POLL_S
                self.sent = last
            except (MirrorUnavailable, UserError) as error:
                self._tell(str(error))
                wait_s = min(MAX_BACKOFF_S, max(POLL_S, 2 * wait_s))

    def _tell(self, reason: str) -> None:
        if not self._said:
            self._said = True
            self._say(f"MLflow is behind ({reason}); the local record is complete, `sage-ray sync` sends it later")


_LEFT: list[Follower] = []
"""Followers of this process that still send the end of their run."""


def wait_for_left(timeout_s: float = FLUSH_S) -> None:
    """Wait, as `Follower.close` does, for the followers that were left: the next run has no more than one before it."""
    while _LEFT:
        _LEFT.pop().close(timeout_s)


def is_sending(run: RunFolder) -> bool:
    """Whether a process, alive, seems to be sending a run to MLflow."""
    return is_locked(run.path / SENDING_LOCK)


def wait_for(thread: threading.Thread, timeout_s: float, breaker: Breaker) -> bool:
    """Wait until a thread that sends to MLflow has ended; returns whether it has.

    The wait is given up after `timeout_s`, and when MLflow is known not to answer.
    """
    deadline = time.monotonic() + timeout_s
    thread.join(min(LOOK_S, timeout_s))
    while thread.is_alive() and time.monotonic() < deadline and breaker.away() is None:
        thread.join(LOOK_S)
    return not thread.is_alive()
