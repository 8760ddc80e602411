"""Snapshots written off the step's path: tensors are copied to the host at once, the file is written by a thread."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from sage_ray.stages.store import Snapshot, StageStore


class SnapshotWriter:
    """Writes snapshots in order, one at a time, in the background.

    A failed write is raised at the next `put` or at `close`, so that a full disk ends the run instead of passing
    unseen.
    """

    def __init__(self, store: StageStore) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="snapshot")
        self._pending: Future[None] | None = None

    def put(self, snapshot: Snapshot) -> None:
        """Queue a snapshot; waits for the one before it. Raises SnapshotFailed if that one failed."""
        self.flush()
        tensors = {name: tensor.detach().to("cpu", copy=True) for name, tensor in snapshot.tensors.items()}
        held = replace(snapshot, tensors=tensors)
        self._pending = self._pool.submit(self._write, held)

    def flush(self) -> None:
        """Return when all that was put is on disk. Raises SnapshotFailed if it is not."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Flush and end the thread."""
        try:
            self.flush()
        finally:
            self._pool.shutdown()

    def _write(self, snapshot: Snapshot) -> None:
        self._store.save(snapshot)
        self._store.prune(snapshot.key)
