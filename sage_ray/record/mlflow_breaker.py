"""Whether MLflow answered when it was last asked, noted in the home for all processes that send its runs.

A server that accepts connections and never answers costs each call its whole time-out. So the first time-out is noted,
and nobody asks again before a while has passed; then one process does, and the others go on without waiting for it.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from sage_ray.files import read_json, write_json
from sage_ray.locks import locked
from sage_ray.record.mlflow_client import MirrorAway

FILE = ".mlflow-away.json"
FIRST_WAIT_S, LONGEST_WAIT_S = 60.0, 1800.0


@dataclass(frozen=True)
class Away:
    """A store that did not answer: since when (text), why, how long it is left alone, and until when (Unix time)."""

    store: str
    since: str
    reason: str
    wait_s: float
    until: float
    noted: float
    """Unix time of the last time-out."""


class Breaker:
    """Guards one store of a home; kept in a file, so that processes and machines that share the home share it.

    Args:
        folder: the home.
        store: mark of the store, as in the cursors: what is noted of another store does not count.
    """

    def __init__(self, folder: Path, store: str) -> None:
        self._path, self._lock, self._store = folder / FILE, folder / ".mlflow-away.lock", store

    def away(self) -> Away | None:
        """What is noted of the store, whether or not it may be asked again; None if it answered last time."""
        try:
            found = Away(**read_json(self._path))
        except (OSError, ValueError, TypeError):
            return None
        return found if found.store == self._store else None

    def told(self) -> str | None:
        """What the user is told of the store's silence; None if it answered last time."""
        found = self.away()
        return None if found is None else _told(found)

    def check(self) -> None:
        """Return if the store may be asked now.

        After a while one caller may, and has the time of one wait to do so before the next one may.

        Raises:
            MirrorAway: it did not answer, and the wait is not over.
        """
        found = self.away()
        if found is None:
            return
        if self._resting(found):
            raise MirrorAway(_told(found))
        with locked(self._lock, timeout_s=0) as held:
            again = self.away()
            if again is None:
                return
            if not held or self._resting(again):
                raise MirrorAway(_told(again))
            self._write(again, until=time.time() + again.wait_s)

    def trip(self, reason: str, asked: float) -> str:
        """Note a time-out of a call that began at Unix time `asked`; the wait doubles with each that follows.

        Returns:
            What to tell the user; the same for all who meet this silence.
        """
        with locked(self._lock, timeout_s=5.0):
            found = self.away()
            if found is None:
                began = time.strftime("%Y-%m-%d %H:%M:%S")
                found = Away(self._store, began, reason, FIRST_WAIT_S, time.time() + FIRST_WAIT_S, time.time())
                self._write(found)
            elif found.noted < asked:  # else another process has just met the same silence
                wait_s = min(2 * found.wait_s, LONGEST_WAIT_S)
                self._write(found, wait_s=wait_s, until=time.time() + wait_s, noted=time.time())
        return _told(found)

    def reset(self) -> None:
        """Note that the store has answered."""
        if self.away() is not None:
            self._path.unlink(missing_ok=True)

    @staticmethod
    def _resting(found: Away) -> bool:
        # A time far ahead comes from a clock that was set since, or that is another machine's.
        return time.time() < found.until <= time.time() + 2 * LONGEST_WAIT_S

    def _write(self, found: Away, **changes: float) -> None:
        with contextlib.suppress(OSError):  # on a full disk every call waits for itself
            write_json(self._path, {**asdict(found), **changes}, durable=False)


def _told(found: Away) -> str:
    return f"no answer since {found.since}: {found.reason}"
