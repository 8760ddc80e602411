"""When the state of a run goes to disk: by time, at the ends of stages, at named epochs, and at every stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping

from sage_ray.stages.store import Snapshot, StageStore
from sage_ray.stages.writer import SnapshotWriter
from sage_ray.training.context import RunContext
from sage_ray.training.state import TrainState


class Snapshots:
    """The snapshots of one run. Rank 0 alone writes, so that its clock alone decides.

    A snapshot by time is begun before the epoch is reported. A run that is stopped at the end of an epoch loses none;
    one that is killed loses what it trained since the last snapshot, and trains it again to the same bits.

    Args:
        store: where they are kept.
        ctx: the run's place among workers.
        seconds: least time between two snapshots by time; 0 takes one per epoch.
        named: epochs of each phase, beside its end, that other trials start from.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        store: StageStore,
        ctx: RunContext,
        seconds: float,
        named: Mapping[str, Collection[int]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ctx, self._seconds, self._named, self._clock = ctx, seconds, named, clock
        self._writer = SnapshotWriter(store)
        self._key, self._end, self._saved = "", 0, 0
        self._last = clock()

    def enter(self, key: str, end: int, state: TrainState) -> None:
        """Begin with stage `key` of `end` epochs, at an epoch that is stored (or at 0)."""
        self._key, self._end, self._saved = key, end, state.phase_epoch

    def unsaved(self, state: TrainState) -> bool:
        """Whether a finished epoch would be lost if the run ended now."""
        return state.phase_epoch > self._saved

    def after_epoch(self, state: TrainState) -> None:
        """Take a snapshot if one is due; at the end of a stage return when every worker can read it.

        Raises:
            SnapshotFailed: the snapshot before this one, or the end of the stage, could not be written.
        """
        ends = state.phase_epoch == self._end
        marked = ends or state.phase_epoch in self._named.get(state.phase, ())
        if marked or self._clock() - self._last >= self._seconds:
            self._put(state, keep=marked)
        if ends:
            self._writer.flush()
            self._ctx.barrier()

    def at_stop(self, state: TrainState) -> None:
        """Take a snapshot, unless the epoch has one: the run ends here, on purpose or not, and goes on from here."""
        if self.unsaved(state):
            self._put(state, keep=False)

    def close(self) -> None:
        """Return when everything is on disk. Raises SnapshotFailed if it is not."""
        self._writer.close()

    def _put(self, state: TrainState, *, keep: bool) -> None:
        if self._ctx.rank == 0:
            self._writer.put(Snapshot(self._key, state.phase_epoch, state.tensors(), state.scalars(), keep=keep))
        self._saved = state.phase_epoch
        self._last = self._clock()
