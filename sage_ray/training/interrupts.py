"""Ctrl-C, or a signal that asks to end, in mid-epoch: it waits for the end of one that would be lost otherwise."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sage_ray.termination import END_SOON, handled


class Interrupts:
    """Ctrl-C (also SIGTERM and SIGUSR1) in the body of `taken`: raised at once, or held back until `check`.

    A second one is not held back.

    Epochs that take longer than the time between snapshots are all on disk, and nothing is held back for them: what is
    waited for is short. Does nothing outside the main thread, where no signal arrives.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._wanted = self._holds = False

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Take these signals in the body; one that is held back at its end is raised there."""
        # Those without a handler stay as they are: a process in the background of a shell ignores SIGINT.
        numbers = [number for number in (signal.SIGINT, *END_SOON) if callable(signal.getsignal(number))]

        def handle(number: int, frame: Any) -> None:
            if self._wanted or not self._holds:
                raise KeyboardInterrupt
            self._wanted = True
            self._say("interrupted: the epoch is finished and kept first; once more ends at once")

        self._holds = False
        with handled(numbers, handle):
            yield
        self.check()

    def hold(self, hold: bool) -> None:
        """Hold back the first of them from now on if `hold`; else raise one that is held back, and all that follow."""
        self._holds = hold
        if not hold:
            self.check()

    def check(self) -> None:
        """Raise KeyboardInterrupt if one was held back."""
        if self._wanted:
            self._wanted = False
            raise KeyboardInterrupt
