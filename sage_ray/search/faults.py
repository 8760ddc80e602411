"""Failures that are not a trial's own: what ends every trial in the same way stops the study, and costs no trial."""

from __future__ import annotations

import re
from collections.abc import Callable

from sage_ray.runtime.node_watch import NodeWatch

SHARED = 3
"""Trials that end one after another before their first epoch, all for one reason, before it counts as the study's."""
_OWN = re.compile(r"\S*-t\d{4,}-s\d+\S*|\b0x[0-9a-f]+\b|\d+")
"""What differs between two trials that fail of one thing: names, addresses, numbers."""
_NODE = re.compile(
    r"\b(ImportError|ModuleNotFoundError)\b|\[Errno (5|28|30|116|122)\]|NVIDIA driver|CUDA driver|no CUDA-capable"
    r"|CUDA (unknown|initialization) error|cudaGetDeviceCount|initialization error|ECC error|fallen off the bus"
    r"|no kernel image is available|CUDA-capable device\(s\) is/are busy|system not yet initialized|sees no CUDA device"
)
"""What a trial fails of that is its machine's: a package that cannot be imported, an I/O error, a disk that is full or
read-only, a lost share, a quota, CUDA that does not start. What an operation on a working GPU raises is not in it."""
NODES_PER_TRIAL = 2
"""Nodes that one trial may blame, of those that have trained another one; what meets it there too is its own."""


def is_node_fault(error: str) -> bool:
    """Whether the line that says why a run ended names what its machine lacks, and not the run's own fault."""
    return _NODE.search(error) is not None


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


class NodeFaults:
    """Judges the endings of trials that blame their node: the trial goes elsewhere, or the study stops.

    Args:
        nodes: the study's nodes, of which one is left out.
        sees: what is wrong with home and data as the driver itself sees them; None: nothing.
        own: told number and reason of a trial that has failed by its own fault after all.
        stop: called with the reason for which the study has to stop.
    """

    def __init__(
        self,
        nodes: NodeWatch,
        sees: Callable[[], str | None],
        own: Callable[[int, str], None],
        stop: Callable[[str], None],
    ) -> None:
        self._nodes, self._sees, self._own, self._stop = nodes, sees, own, stop
        self._trained: dict[str, set[int]] = {}
        self._blamed: dict[int, list[str]] = {}

    def trained(self, number: int, node_id: str) -> None:
        """A trial has trained an epoch on a node."""
        self._trained.setdefault(node_id, set()).add(number)

    def blames(self, number: int, node_id: str, reason: str, *, shared: bool) -> bool:
        """A trial has ended because of its node; returns whether it goes on, elsewhere or when the study does.

        Args:
            number: of the trial.
            node_id: where it was.
            reason: why it ended.
            shared: what it lacks should be the same on all machines, so that the driver can look for itself.
        """
        problem = self._sees() if shared else None
        if problem is not None or (shared and self._nodes.check is None):
            self._stop(problem or reason)
            return True
        blamed = self._blamed.setdefault(number, [])
        proven = [other for other in (*blamed, node_id) if self._trained.get(other, set()) - {number}]
        if len(proven) >= NODES_PER_TRIAL:
            for other in proven:
                self._nodes.forgive(other)
            self._own(number, reason)
            return False
        blamed.append(node_id)
        self._nodes.blame(node_id, reason)
        if self._nodes.exhausted():
            self._stop(f"no node is left for trials: {'; '.join(self._nodes.reasons())}")
        return True
