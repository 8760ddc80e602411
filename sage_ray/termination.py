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
def postponed() -> Iterator[None]:
    """Ctrl-C and the signals of `END_SOON` raise KeyboardInterrupt when the body is left; a second one at once.

    For what must not be left halfway. What the body raises after one is taken for its effect.
    """
    came: list[int] = []

    def handle(number: int, frame: Any) -> None:
        came.append(number)
        if len(came) > 1:
            raise KeyboardInterrupt(f"{signal.Signals(number).name} received again")

    minded = [number for number in (signal.SIGINT, *END_SOON) if signal.getsignal(number) != signal.SIG_IGN]
    try:
        with handled(minded, handle):
            yield
    except (Exception, SystemExit):
        if not came:
            raise
    if came:
        raise KeyboardInterrupt(f"{signal.Signals(came[0]).name} received")


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Signals of `END_SOON` raise KeyboardInterrupt in the body, as Ctrl-C does."""

    def handle(number: int, frame: Any) -> None:
        raise KeyboardInterrupt(f"{signal.Signals(number).name} received")

    with handled(END_SOON, handle):
        yield
