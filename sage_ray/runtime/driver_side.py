"""The one place that says what may go to Ray: plain data, functions of modules, and `DriverSide` objects.

Ray Tune pickles its stopper into a file every few seconds, and may pickle or copy callbacks, searchers and trainables.
What the driver works with reaches a terminal, locks, threads and a database, none of which can be pickled (a terminal
not even by cloudpickle, which takes what stdout is otherwise: a fault that only a person at a terminal meets). So an
object that Ray calls in the driver is a `DriverSide`: what is pickled of it is a name. In the process that made it the
name is exchanged for the object itself; anywhere else it is a `Gone`, which does nothing.
tests/integration/runtime/test_driver_side.py pickles all that is handed to Ray while the watch holds a terminal.
"""

from __future__ import annotations

import uuid
import weakref
from dataclasses import dataclass
from typing import Any

_HERE: weakref.WeakValueDictionary[str, DriverSide] = weakref.WeakValueDictionary()


@dataclass(frozen=True)
class Gone:
    """What stands for a driver's object in another process, or after the driver dropped it: only its kind is known."""

    kind: str


class DriverSide:
    """Base of objects that Ray calls in the driver: pickling or copying one gives itself, never a copy of its parts."""

    _token: str | None = None

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        if self._token is None:
            self._token = uuid.uuid4().hex
            _HERE[self._token] = self
        return _seek, (self._token, type(self).__name__)


def _seek(token: str, kind: str) -> DriverSide | Gone:
    return _HERE.get(token) or Gone(kind)
