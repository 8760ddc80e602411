"""The log of a run: what was said while it was computed, warnings included, with times; bounded in size."""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from sage_ray.files import replacing

LOG_FILE = "log.txt"
MAX_BYTES = 1_000_000
"""Largest size of a log. A longer one loses lines from its middle: its beginning and its end are what is looked for."""
HEAD_BYTES, TAIL_BYTES = 200_000, 500_000
SAME = 3
"""Times that a process writes the same text into a log; what comes more often is counted."""
APART = ("torch", "ray")
"""Loggers that do not hand on to the root where their libraries set them up so."""
MAX_TEXTS = 1000
"""Distinct texts that are counted; later ones are written each time."""


class RunLog:
    """runs/ID/log.txt, one event per line; several processes and attempts append to it.

    Nothing is ever raised for a log that cannot be written: a full disk is told by what needs the disk.
    """

    def __init__(self, path: Path, who: str = "") -> None:
        self.path, self._who = path, f"[{who}] " if who else ""
        self._seen: Counter[str] = Counter()
        self._lock = threading.Lock()

    def line(self, text: str) -> None:
        """Append one event; later lines of a longer text are indented."""
        with self._lock:
            if text in self._seen or len(self._seen) < MAX_TEXTS:
                self._seen[text] += 1
            if self._seen[text] <= SAME:
                self._write(text)

    def close(self) -> None:
        """Write how often the texts came that were only counted."""
        with self._lock:
            for text, count in self._seen.items():
                if count > SAME:
                    self._write(f"{count - SAME} times more: {text.splitlines()[0] if text else ''}")
            self._seen.clear()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record in the body what warnings and the logging of libraries (from WARNING on) say in this process."""
        handler = _Handler(self)
        named = [logging.getLogger(name) for name in APART]
        loggers = [logging.getLogger(), *(logger for logger in named if not logger.propagate)]
        for logger in loggers:
            logger.addHandler(handler)
        _Warnings.begin(self)
        try:
            yield
        finally:
            _Warnings.end(self)
            for logger in loggers:
                logger.removeHandler(handler)
            self.close()

    def _write(self, text: str) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        whole = f"{stamp} {self._who}" + "\n    ".join(text.splitlines() or [""]) + "\n"
        with suppress(OSError):
            with self.path.open("a", encoding="utf-8", errors="replace") as file:
                file.write(whole)
                size = file.tell()
            if size > MAX_BYTES:
                self._shorten()

    def _shorten(self) -> None:
        content = self.path.read_bytes()
        head = content[:HEAD_BYTES].rpartition(b"\n")[0]
        tail = content[-TAIL_BYTES:].partition(b"\n")[2]
        left_out = content.count(b"\n") - head.count(b"\n") - tail.count(b"\n") - 1
        with replacing(self.path, durable=False) as temporary:
            temporary.write_bytes(head + f"\n... {left_out} lines left out\n".encode() + tail)


class _Handler(logging.Handler):
    """Hands what loggers say to the log of a run."""

    def __init__(self, log: RunLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = f"{record.levelname.lower()} of {record.name}: {record.getMessage()}"
            if record.exc_info and record.exc_info[1] is not None:
                text += f" ({type(record.exc_info[1]).__name__}: {record.exc_info[1]})"
        except Exception:  # a message that does not fit its arguments is its author's fault, and no run ends by it
            text = f"{record.levelname.lower()} of {record.name}: {record.msg}"
        self._log.line(text)


class _Warnings:
    """Python's warnings, handed to the logs of all runs that record, and to whoever showed them before."""

    _logs: list[RunLog] = []
    _before: Any = None
    _lock = threading.Lock()

    @classmethod
    def begin(cls, log: RunLog) -> None:
        with cls._lock:
            if not cls._logs:
                cls._before, warnings.showwarning = warnings.showwarning, cls._show
            cls._logs.append(log)

    @classmethod
    def end(cls, log: RunLog) -> None:
        with cls._lock:
            cls._logs.remove(log)
            # Somebody else may have put theirs in the place meanwhile, and puts back what was before.
            if not cls._logs and warnings.showwarning == cls._show:
                warnings.showwarning = cls._before

    @classmethod
    def _show(
        cls,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        for log in list(cls._logs):
            log.line(f"warning: {category.__name__}: {message} ({filename}:{lineno})")
        if cls._before is not None:
            cls._before(message, category, filename, lineno, file, line)
