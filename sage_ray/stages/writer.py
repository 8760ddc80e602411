"""Snapshots written off the step's path: tensors are copied to the host at once, the file is written by a thread."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from torch import Tensor

from sage_ray.stages.host_copy import HostCopy
from sage_ray.stages.store import BEST, Snapshot, StageStore


class SnapshotWriter:
    """Writes snapshots in order, one at a time, in the background.

    A failed write is raised at the next `put` or at `close`, so that a full disk ends the run instead of passing
    unseen.
    """

    def __init__(self, store: StageStore) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="snapshot")
        self._pending: Future[str | None] | None = None
        self._host = HostCopy()
        self._best: tuple[str, Any] | None = None
        """Stage and epoch of the best weights that were put last."""
        self._best_sha: str | None = None

    def put(self, snapshot: Snapshot) -> None:
        """Queue a snapshot; waits for the one before it. Raises SnapshotFailed if that one failed.

        Best weights are those of epoch `meta["best_epoch"]` of the stage, and are copied once per change.
        """
        self.flush()
        best = (snapshot.key, snapshot.meta.get("best_epoch"))
        same = best == self._best and best[1] is not None
        unchanged = {name for name in snapshot.tensors if name.startswith(BEST)} if same else set()
        whole = self._host.take(snapshot.tensors, unchanged)
        self._best, known = best, self._best_sha if same else None
        # Training goes on and adds to its history while the thread writes.
        held = replace(snapshot, tensors={}, meta=copy.deepcopy(snapshot.meta))
        try:
            self._pending = self._pool.submit(self._write, held, whole, known)
        except RuntimeError:
            # The process is ending (Tune dropped the actor whose thread this is), and no thread takes work any more.
            self._best_sha = self._write(held, whole, known)

    def flush(self) -> None:
        """Return when all that was put is on disk. Raises SnapshotFailed if it is not."""
        pending, self._pending = self._pending, None
        if pending is not None:
            self._best_sha = pending.result()

    def close(self) -> None:
        """Flush and end the thread."""
        try:
            self.flush()
        finally:
            self._pool.shutdown()

    def _write(self, snapshot: Snapshot, whole: Callable[[], dict[str, Tensor]], best_sha: str | None) -> str | None:
        sha = self._store.save(replace(snapshot, tensors=whole()), best_sha)
        self._store.prune(snapshot.key)
        return sha
