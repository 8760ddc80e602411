"""Leases: who computes a stage, so that two trials that share it do not both do so.

The store alone decides whether a stage is done; losing a lease costs work twice, never a wrong result.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from sage_ray.errors import RunStopped, StageBusy
from sage_ray.leases import LEASES, Lease
from sage_ray.locks import lease_of, share_sessions
from sage_ray.stages.store import StageStore

OLD_LEASE = "lease.json"
"""The lease of a stage in the releases before 0.4."""


@contextlib.contextmanager
def stage_lease(
    store: StageStore,
    key: str,
    done: Callable[[], bool],
    *,
    should_stop: Callable[[], bool] = lambda: False,
    waiting: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = lambda line: None,
    patience_s: float | None = None,
) -> Iterator[None]:
    """Wait until `done()` or until this process holds the lease of `key`; hold it for the body of the `with`.

    `waiting` is called again and again meanwhile.

    Raises:
        RunStopped: `should_stop()` turned true while waiting.
        StageBusy: the stage is still being computed after `patience_s` (None: it is waited for without end).
    """
    since: float | None = None

    def wait() -> bool:
        nonlocal since
        if since is None:
            say(f"stage {key} is being computed by another trial; waiting for it")
            since = time.monotonic()
        if should_stop():
            raise RunStopped("stopped while waiting for a shared stage")
        waiting()
        if done():
            return True
        if patience_s is not None and time.monotonic() - since >= patience_s:
            raise StageBusy(f"{key} is being computed by another trial")
        return False

    lease = _lease(store, key)
    if done() or not lease.take(None, wait):
        yield
        return
    try:
        yield
    finally:
        lease.give_back()


@contextlib.contextmanager
def lease_if_free(store: StageStore, key: str) -> Iterator[bool]:
    """Hold the lease of `key` for the body if nobody has it; yields whether."""
    lease = _lease(store, key)
    if not store.objects.names(key) or not lease.take(0):
        yield False
        return
    try:
        yield True
    finally:
        left = [entry.name for entry in store.objects.names(key)]
        if all(LEASES in name or name.endswith(f"/{OLD_LEASE}") for name in left):  # nothing is left of the stage
            store.objects.delete(left)
        lease.give_back()


def held(store: StageStore, key: str) -> bool:
    """Whether a live process seems to hold the lease of `key`."""
    return _lease(store, key).is_held()


def _lease(store: StageStore, key: str) -> Lease:
    if store.local_root is None:
        return Lease(store.objects, f"{key}/stage")
    share_sessions(store.local_root)
    return lease_of(store.local_root / key / ".stage.lock")
