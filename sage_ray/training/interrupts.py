"""Ctrl-C while an epoch is trained: it waits for the epoch's end where a finished epoch would be lost otherwise."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Interrupts:
    """SIGINT of this process, held back in the body of `held` and raised by `check`. A second one is not held back.

    Epochs that take longer than the time between snapshots are all on disk, and nothing is held back for them: what is
    waited for is short. Does nothing outside the main thread, where no signal arrives.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._wanted = False

    @contextmanager
    def held(self, hold: bool) -> Iterator[None]:
        """Hold back the first SIGINT in the body if `hold`."""
        before = signal.getsignal(signal.SIGINT)
        # A process in the background of a shell ignores SIGINT, and goes on ignoring it.
        if not hold or threading.current_thread() is not threading.main_thread() or not callable(before):
            yield
            return

        def handle(number: int, frame: Any) -> None:
            if self._wanted:
                raise KeyboardInterrupt
            self._wanted = True
            self._say("interrupted: the epoch is finished and kept first; once more ends at once")

        signal.signal(signal.SIGINT, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def check(self) -> None:
        """Raise KeyboardInterrupt if one was held back."""
        if self._wanted:
            self._wanted = False
            raise KeyboardInterrupt
