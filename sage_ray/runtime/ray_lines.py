"""What Ray prints into the driver's terminal by itself ("(raylet) ...", "(run_trial pid=...) ..."): one line per kind.

Ray has no setting for it: the messages of its own processes are printed whatever `log_to_driver` says, and those of
workers where somebody had connected to Ray before. Both pass through one function of Ray, which is replaced while a
sweep or a run goes on. tests/ray/test_ray_lines.py tells when a later Ray prints by another way.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

MAX_CHARS = 160
MAX_KINDS = 12
"""Kinds of lines that are told; lines of any other are counted together."""
_REPEATED = re.compile(r"\s*\[repeated (\d+)x across cluster\].*$", re.DOTALL)
_FOLDING = threading.Lock()
"""Held while lines are folded: the function that is replaced is the whole process's."""
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


class RayLines:
    """Tells the first line of each kind, and at the end how many more there were.

    Lines are of one kind if they differ in words with digits alone, as ids, addresses and times.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._more: Counter[str] = Counter()
        self._others = 0
        self._lock = threading.Lock()

    def take(self, data: Mapping[str, Any], *_: Any, **__: Any) -> None:
        """Stands for Ray's function that prints a batch of lines."""
        name = data.get("actor_name") or data.get("task_name") or data.get("pid") or "ray"
        for line in data.get("lines", ()):
            self._take(str(name), _ESCAPES.sub("", str(line)))

    def close(self) -> None:
        """Tell how many lines there were beside those that were told."""
        with self._lock:
            for short, count in self._more.items():
                if count:
                    self._say(f"{count} more of: {short}")
            if self._others:
                self._say(f"{self._others} other lines of Ray and its workers; each run's own are in runs/ID/log.txt")
            self._more, self._others = Counter(), 0

    def _take(self, name: str, text: str) -> None:
        repeated = _REPEATED.search(text)
        times = int(repeated[1]) if repeated else 1
        short = shortened(f"({name}) {_REPEATED.sub('', text)}")
        with self._lock:
            if short in self._more:
                self._more[short] += times
            elif len(self._more) >= MAX_KINDS:
                self._others += times
            elif text.strip():
                self._more[short] = times - 1
                self._say(short)


def shortened(text: str) -> str:
    """The first sentence of a line, without words that hold digits, on at most `MAX_CHARS` characters."""
    sentence = " ".join(text.split()).split(". ")[0]
    words = [word for word in sentence.split(" ") if not any(character.isdigit() for character in word)]
    plain = " ".join(words)
    return plain if len(plain) <= MAX_CHARS else f"{plain[: MAX_CHARS - 3]}..."


@contextmanager
def folded(say: Callable[[str], None]) -> Iterator[None]:
    """In the body, `say` is told one line for each kind of lines that Ray prints here, and in the end how many more.

    Within another such body, of whichever thread, that one's `say` is told, and nothing happens here.
    """
    from ray._private import ray_logging, worker

    if not _FOLDING.acquire(blocking=False):
        yield
        return
    lines, before = RayLines(say), worker.print_worker_logs
    worker.print_worker_logs = lines.take
    try:
        yield
    finally:
        worker.print_worker_logs = before
        _FOLDING.release()
        # Ray holds lines that are repeated back for some seconds, and would print them when it is left.
        for held_back in (ray_logging.stdout_deduplicator, ray_logging.stderr_deduplicator):
            for batch in held_back.flush():
                lines.take(batch)
        lines.close()
