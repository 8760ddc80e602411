"""Errors that reach a user, each with the exit code it ends a command with."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OneLine:
    """Mixed into errors whose message says all: a notebook shows that one line, and no trace of our calls."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows; `%tb` has the trace."""
        return [f"{type(self).__name__}: {self}"]


class Interrupted(OneLine, KeyboardInterrupt):
    """A call from Python was interrupted in an orderly way; the message says how to go on."""


class UserError(OneLine, ValueError):
    """Bad input: one line "what: where: how to mend"; a command ends with exit code 2.

    Raised before any training starts. `what` says what is wrong, `where` names the file or key, `mend` the remedy.
    """

    exit_code = 2

    def __init__(self, what: str, where: object, mend: str) -> None:
        super().__init__(f"{what}: {where}: {mend}")
        self.what, self.where, self.mend = what, str(where), mend

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str, str]]:
        return type(self), (self.what, self.where, self.mend)


class NoSpace(UserError):
    """The disk has no room for what a run will write; nothing was trained."""


class CannotWrite(UserError):
    """A file of results cannot be written (full disk, no permission): a fault of no single input."""


class StoreRefused(UserError):
    """An object store cannot be used: no such bucket, no right, a wrong or expired key, no answer at first contact."""


class StoreFailed(OSError):
    """A request to an object store failed after the first contact; what was stored before stays valid.

    The message is one line, `what: where: mend`, without anything secret. An object that is not there is a
    FileNotFoundError instead.
    """

    what, mend = "", ""


class NodeUnfit(UserError):
    """A machine of the cluster cannot run what it was given, another may; `node_id` is Ray's name of it."""

    def __init__(self, what: str, where: object, mend: str, node_id: str = "") -> None:
        super().__init__(what, where, mend)
        self.node_id = node_id

    def __reduce__(self) -> tuple[type[NodeUnfit], tuple[str, str, str, str]]:  # type: ignore[override]
        return type(self), (self.what, self.where, self.mend, self.node_id)


class RunEnd(OneLine, RuntimeError):
    """A run ended before its last epoch, for a reason that has a name; its record says "NAME: message"."""

    state = "ended"

    @classmethod
    def is_told_by(cls, error: str | None) -> bool:
        """Whether a record's `error` tells of this reason."""
        return (error or "").startswith(cls.state)


class RunFailed(RunEnd):
    """A run ended in a named failed state; a command ends with exit code 1."""

    exit_code = 1
    state = "failed"


class NonFiniteLoss(RunFailed):
    """The loss or a gradient became NaN or infinite; the message names phase, epoch and step."""

    state = "diverged"


class OutOfMemory(RunFailed):
    """The GPU, or the machine, has no memory left for what a phase trains; the message names what to lower."""

    state = "out_of_memory"


class SnapshotFailed(RunFailed):
    """A stage snapshot could not be written (full disk, lost share); the snapshot before it stays valid."""

    state = "snapshot_failed"


class RunStopped(RunEnd):
    """A scheduler or `sage-ray stop` asked the run to end early; it ends as PRUNED at its epoch."""

    state = "stopped"


class StageBusy(RunStopped):
    """Another run computes a stage that this one needs; it ends as INTERRUPTED, and goes on once the stage is there."""

    state = "waits for a stage"


def did_you_mean(name: str, known: Iterable[str], otherwise: str, *, least: float = 0.4) -> str:
    """How to mend a name that does not exist: the nearest one that does, or what to do where none is near.

    Args:
        name: that was given.
        known: names that exist.
        otherwise: said if none of them is near.
        least: similarity from which a name is near, 0 to 1 (`difflib`).
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=least)
    return f"did you mean {near[0]}?" if near else otherwise
