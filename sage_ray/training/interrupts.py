"""Ctrl-C, or a signal that asks to end, in mid-epoch: it waits for the end of one that would be lost otherwise."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sage_ray.termination import END_SOON, handled


class Interrupts:
    """Ctrl-C (also SIGTERM and SIGUSR1), held back in the body of `held` and raised by `check`.

    A second one is not held back.

    Epochs that take longer than the time between snapshots are all on disk, and nothing is held back for them: what is
    waited for is short. Does nothing outside the main thread, where no signal arrives.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._wanted = False

    @contextmanager
    def held(self, hold: bool) -> Iterator[None]:
        """Hold back the first of them in the body if `hold`."""
        # Those without a handler stay as they are: a process in the background of a shell ignores SIGINT.
        numbers = [number for number in (signal.SIGINT, *END_SOON) if callable(signal.getsignal(number))]

        def handle(number: int, frame: Any) -> None:
            if self._wanted:
                raise KeyboardInterrupt
            self._wanted = True
            self._say("interrupted: the epoch is finished and kept first; once more ends at once")

        with handled(numbers if hold else (), handle):
            yield

    def check(self) -> None:
        """Raise KeyboardInterrupt if one was held back."""
        if self._wanted:
            self._wanted = False
            raise KeyboardInterrupt
