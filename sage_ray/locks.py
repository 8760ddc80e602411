"""Locks between processes that share folders, on one machine or on several: leases by the name of a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sage_ray.followed import following
from sage_ray.leases import Lease, LifeSign, lease_s
from sage_ray.object_store import open_object_store

PATIENCE_S = 2.0
"""Who waits longer for a lock says so."""
_ROOTS: set[Path] = set()


def share_sessions(root: Path) -> None:
    """Keep this process's session in `root` for all locks below it: one sign of life for all of them."""
    _ROOTS.add(root.absolute())


@contextmanager
def locked(path: Path, timeout_s: float, say: Callable[[str], None] | None = None) -> Iterator[Lease | None]:
    """Hold the lock that `path` names; yields None if another process, alive, kept it for `timeout_s`.

    One that died keeps it until that shows, `leases.lease_s()` seconds; `timeout_s=0` does not wait for that either.

    Args:
        path: of the lock.
        timeout_s: how long a live holder is waited for.
        say: told once, if it takes a while, what is waited for.
    """
    lease, told, began = lease_of(path), False, time.monotonic()

    def waiting() -> None:
        nonlocal told
        if say is not None and not told and time.monotonic() - began > PATIENCE_S:
            told = True
            say(f"looking whether the process that had {path.parent.name} is alive; takes up to {lease_s():g} s")

    if not lease.take(timeout_s, waiting):
        yield None
        return
    try:
        yield lease
    finally:
        lease.give_back()


def is_locked(path: Path) -> bool:
    """Whether a live process seems to hold the lock that `path` names; for what is shown."""
    return lease_of(path).is_held()


def sign_of(path: Path) -> LifeSign:
    """What is seen of whoever holds the lock that `path` names, or held it when it died; for what is shown."""
    return lease_of(path).sign()


def lease_of(path: Path) -> Lease:
    """The lease that `path` (".driver.lock") names ("driver"), with its session in the shared root above it."""
    path = path.absolute()
    home = following(path)
    name = path.name.removesuffix(".lock").removeprefix(".")
    if home is not None:
        return Lease(home.store, "/".join(path.with_name(name).relative_to(home.root).parts))
    above = [root for root in _ROOTS if path.is_relative_to(root)]
    root = min(above, key=lambda each: len(each.parts), default=path.parent)
    return Lease(open_object_store(root), str(path.with_name(name).relative_to(root)))
