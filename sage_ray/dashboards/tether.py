"""A process that runs a command and ends it, and all that it has started, as soon as its own standard input closes.

Whoever started this process holds the other end. It closes when that one lets go of it, and also when it is killed, so
that no server outlives the command that started it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

LOOK_S = 0.2
GRACE_S = 5.0
"""How long a command that was asked to end may take."""


def tethered(words: Sequence[str]) -> list[str]:
    """The command that runs `words` in this way; its standard input is a pipe."""
    return [sys.executable, "-m", __name__, *words]


def run(words: Sequence[str]) -> int:
    """Run a command until it ends by itself or standard input closes; its exit code, or 0 if it was ended here.

    The code of a command that was killed is 128 and the number of the signal, as a shell has it.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    child = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: ended.append(number))
    while child.poll() is None and not ended and not _is_closed():
        pass
    code = child.poll()
    end_group(child)
    return 0 if code is None else 128 - code if code < 0 else code


def end_group(child: subprocess.Popen[bytes]) -> None:
    """End a process and those of its group: by SIGTERM, and by SIGKILL what is left after `GRACE_S`."""
    deadline = time.monotonic() + GRACE_S
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
        while time.monotonic() < deadline:
            child.poll()  # one that has ended stays in its group until it is asked
            os.killpg(child.pid, 0)
            time.sleep(LOOK_S / 4)
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _is_closed() -> bool:
    """Whether standard input has closed, after a wait of `LOOK_S` at most."""
    readable, _, _ = select.select([0], [], [], LOOK_S)
    return bool(readable) and not os.read(0, 1)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
