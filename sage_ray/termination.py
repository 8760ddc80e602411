"""Signals that ask a process to end, as a scheduler sends them before it takes a machine away."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

END_SOON = (signal.SIGTERM, signal.SIGUSR1)
"""Beside Ctrl-C: what Kubernetes and Slurm send by default, and what `sbatch --signal=B:USR1@...` sends."""


@contextmanager
def handled(numbers: Sequence[int], handle: Callable[[int, Any], None]) -> Iterator[None]:
    """`handle` takes signals in the body. Does nothing outside the main thread, where no signal arrives."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [signal.signal(number, handle) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def held_back() -> Iterator[None]:
    """Ctrl-C and signals of `END_SOON` raise KeyboardInterrupt once the body has ended; a second one at once.

    For calls of other people's code that may swallow what is raised within them, or put handlers of their own in place.
    """
    seen: list[int] = []

    def handle(number: int, frame: Any) -> None:
        if seen:
            raise KeyboardInterrupt(f"{signal.Signals(number).name} twice")
        seen.append(number)

    # Those without a handler stay as they are: a process in the background of a shell ignores SIGINT.
    numbers = [number for number in (signal.SIGINT, *END_SOON) if callable(signal.getsignal(number))]
    with handled(numbers, handle):
        yield
    if seen:
        raise KeyboardInterrupt(f"{signal.Signals(seen[0]).name} received")


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Signals of `END_SOON` raise KeyboardInterrupt in the body, as Ctrl-C does."""

    def handle(number: int, frame: Any) -> None:
        raise KeyboardInterrupt(f"{signal.Signals(number).name} received")

    with handled(END_SOON, handle):
        yield
