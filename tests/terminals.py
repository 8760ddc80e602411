"""A program in a real pseudo-terminal, and the screens that a person would see; pyte draws them."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import pyte

Screen = list[str]
ROW = re.compile(
    r"^ *\*?(?P<number>\d+) +(?P<state>RUNNING|INTERRUPTED|COMPLETE|PRUNED|FAIL) +(?P<epoch>\d+)/(?P<total>\d+)"
    r" +(?P<score>-|\d+\.\d{4})(?: +(?P<eta>-|\d+:\d\d(?::\d\d)?)(?= |$))?"
)
"""A row of the table of trials with every number whole."""
BAR = re.compile(
    r"^(?:s(?P<seed>\d+) )?(?P<phase>pre\w*|adv\w*) .*?(?P<epoch>\d+)/(?P<total>\d+)"
    r" .*ETA (?P<eta>-|\d+:\d\d(?::\d\d)?)$"
)
"""The bar of a run with its epochs and remaining time whole."""


def set_size(descriptor: int, columns: int, rows: int) -> None:
    """Give the terminal behind a descriptor a size; its foreground processes get SIGWINCH."""
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


class Emulator:
    """What a terminal of a size makes of the bytes that it gets: the screen, and what has scrolled off its top."""

    def __init__(self, columns: int, rows: int) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=10_000, ratio=0.5)
        self._stream = pyte.ByteStream(self.screen)

    def feed(self, data: bytes) -> None:
        self._stream.feed(data)

    def resize(self, columns: int, rows: int) -> None:
        self.screen.resize(rows, columns)

    def lines(self) -> Screen:
        """The lines of the screen without trailing blanks."""
        return [line.rstrip() for line in self.screen.display]

    def everything(self) -> Screen:
        """All that was scrolled off, and the screen."""
        columns = self.screen.columns
        above = ["".join(row[x].data for x in range(columns)).rstrip() for row in self.screen.history.top]
        return [*above, *self.lines()]

    @property
    def cursor_visible(self) -> bool:
        return not self.screen.cursor.hidden


class Terminal:
    """A `sage-ray` command line in a terminal of its own, whose Ctrl-C it gets as from a keyboard.

    Args:
        words: after `sage-ray`, or with `program` after that.
        columns, rows: size at the start.
        deadline_s: seconds after which every wait fails, counted from the start.
        program: what is run instead of `sage-ray`.
    """

    def __init__(
        self,
        words: Sequence[str | Path],
        columns: int = 80,
        rows: int = 24,
        *,
        deadline_s: float = 240,
        program: Sequence[str] = (sys.executable, "-m", "sage_ray"),
    ) -> None:
        self.emulator = Emulator(columns, rows)
        self.screens: list[Screen] = []
        self.raw = b""
        self._deadline = time.monotonic() + deadline_s
        self._main, side = pty.openpty()
        set_size(self._main, columns, rows)
        environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            [*program, *map(str, words)],
            stdin=side,
            stdout=side,
            stderr=side,
            env={**environment, "TERM": "xterm-256color"},
            start_new_session=True,
            preexec_fn=_own_terminal,
        )
        os.close(side)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        os.close(self._main)

    @property
    def screen(self) -> Screen:
        """What stands on the screen now."""
        return self.emulator.lines()

    def until(self, *patterns: str | re.Pattern[str]) -> Screen:
        """The first screen with a line for each pattern; fails when the program ends or the deadline passes."""
        while not all(any(re.search(pattern, line) for line in self.screen) for pattern in patterns):
            assert self._read(), f"ended without {patterns}: {self._told()}"
        return self.screen

    def press_ctrl_c(self) -> None:
        os.write(self._main, b"\x03")

    def resize(self, columns: int, rows: int) -> None:
        set_size(self._main, columns, rows)
        self.emulator.resize(columns, rows)

    def until_drawn(self) -> None:
        """Return when the program has written something more, such as a picture for a new size."""
        before = len(self.raw)
        while len(self.raw) == before:
            assert self._read(), f"ended without a word: {self._told()}"

    def end(self) -> int:
        """The exit code, after all that is said has been read."""
        while self._read():
            pass
        return self.process.wait(max(self._deadline - time.monotonic(), 1))

    def _read(self) -> bool:
        """Take what has been written, or wait a moment; False when nothing more will come."""
        ready, _, _ = select.select([self._main], [], [], 0.1)
        assert time.monotonic() < self._deadline, f"too slow: {self._told()}"
        if not ready:
            # Processes that the program leaves behind may keep the terminal open.
            return self.process.poll() is None
        try:
            data = os.read(self._main, 65536)
        except OSError:  # Linux: nobody has the other end open
            return False
        self.raw += data
        self.emulator.feed(data)
        if not self.screens or self.screens[-1] != self.screen:
            self.screens.append(self.screen)
        return bool(data)

    def _told(self) -> str:
        return "\n".join(self.emulator.everything()).rstrip()


def _own_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
