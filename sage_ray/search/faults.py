"""Failures that are not a trial's own: what ends every trial in the same way stops the study, and costs no trial."""

from __future__ import annotations

import re
from collections.abc import Callable

from sage_ray.errors import SnapshotFailed, StoreFailed
from sage_ray.record.run_record import RunRecord

SHARED = 3
"""Trials that end one after another before their first epoch, all for one reason, before it counts as the study's."""
_OWN = re.compile(r"\S*-t\d{4,}-s\d+\S*|\b0x[0-9a-f]+\b|\d+")
"""What differs between two trials that fail of one thing: names, addresses, numbers."""


def is_study_fault(record: RunRecord) -> bool:
    """Whether a run failed of something that would end every other trial too: a full disk, a lost share."""
    everybodys = (SnapshotFailed.state, StoreFailed.__name__)
    return record.state == "FAIL" and (record.error or "").startswith(everybodys)


class Faults:
    """Judges the failures of one start of a study.

    A trial that ends before its first epoch is a suspect: it may itself be at fault, or what all trials need may be
    missing. It is told as failed as soon as another trial gets through an epoch. If instead the next ones end for the
    same reason, the study stops and the suspects stay open.

    Args:
        tell: called with number and reason of a trial that has failed by its own fault.
        stop: called with the reason for which the study has to stop.
        in_a_row: failed trials one after another that stop the study; None: never.
    """

    def __init__(self, tell: Callable[[int, str], None], stop: Callable[[str], None], in_a_row: int | None) -> None:
        self._tell, self._stop, self._in_a_row = tell, stop, in_a_row
        self._suspects: dict[int, str] = {}
        self._trained: set[int] = set()
        self._anybody_trained = False
        self._failed_in_a_row = 0

    def epoch(self, number: int) -> None:
        """A trial has trained, or taken over, an epoch."""
        self._trained.add(number)
        self._anybody_trained = True
        self._accuse()

    def ended_well(self) -> None:
        """A trial was completed or stopped early."""
        self._failed_in_a_row = 0

    def failed(self, number: int, error: str) -> None:
        """A trial has failed."""
        if number in self._trained or self._anybody_trained:
            self._own_fault(number, error)
            return
        self._suspects[number] = error
        reasons = {_OWN.sub("#", reason) for reason in self._suspects.values()}
        if len(reasons) == 1 and len(self._suspects) >= SHARED:
            self._stop(f"{len(self._suspects)} trials in a row ended before their first epoch: {error}")
        elif len(reasons) > 1:
            self._accuse()

    def close(self, *, stopped: bool) -> list[int]:
        """The start is over. Returns the suspects that stay open, if the study was stopped; else they have failed."""
        if not stopped:
            self._accuse()
        return list(self._suspects)

    def _accuse(self) -> None:
        suspects, self._suspects = self._suspects, {}
        for number, error in suspects.items():
            self._own_fault(number, error)

    def _own_fault(self, number: int, error: str) -> None:
        self._tell(number, error)
        self._failed_in_a_row += 1
        if self._in_a_row is not None and self._failed_in_a_row >= self._in_a_row:
            self._stop(f"{self._failed_in_a_row} trials in a row failed (max_failures_in_a_row), the last: {error}")
