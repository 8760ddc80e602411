"""Signals that ask a process to end, as a scheduler sends them before it takes a machine away."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

END_SOON = (signal.SIGTERM, signal.SIGUSR1)
"""Beside Ctrl-C: what Kubernetes and Slurm send by default, and what `sbatch --signal=B:USR1@...` sends."""


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Signals of `END_SOON` raise KeyboardInterrupt in the body, as Ctrl-C does.

    Does nothing outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: Any) -> None:
        raise KeyboardInterrupt(f"{signal.Signals(number).name} received")

    before = [signal.signal(number, handle) for number in END_SOON]
    try:
        yield
    finally:
        for number, handler in zip(END_SOON, before, strict=True):
            signal.signal(number, handler)
