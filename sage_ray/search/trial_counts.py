"""How many trials of a study are in which state, written down for `list`, which opens no server and no journal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from sage_ray.files import write_json
from sage_ray.record.overview import COUNTS_FILE, ENDED


class TrialCounts:
    """counts.json of a study: written by its driver as trials begin and end."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / COUNTS_FILE
        self._states: dict[int, str] = {}
        self._count: Counter[str] = Counter()

    def begin(self, states: Mapping[int, str]) -> None:
        """Write the counts of all trials, by number."""
        self._states = dict(states)
        self._count = Counter(self._states.values())
        self._write()

    def note(self, number: int, state: str) -> None:
        """A trial is in this state by now; one that has ended stays as it is."""
        before = self._states.get(number)
        if before in ENDED or before == state:
            return
        self._states[number] = state
        self._count[state] += 1
        if before is not None:
            self._count[before] -= 1
        self._write()

    def _write(self) -> None:
        write_json(self._file, {state: count for state, count in sorted(self._count.items()) if count}, durable=False)
