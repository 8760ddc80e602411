"""Locks between processes that share folders, on one machine or on several: leases by the name of a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sage_ray.leases import Lease
from sage_ray.object_store import open_object_store

_ROOTS: set[Path] = set()


def share_sessions(root: Path) -> None:
    """Keep this process's session in `root` for all locks below it: one sign of life for all of them."""
    _ROOTS.add(root.absolute())


@contextmanager
def locked(path: Path, timeout_s: float) -> Iterator[bool]:
    """Hold the lock that `path` names; yields False if another process, alive, kept it for `timeout_s`.

    One that died keeps it until that shows, `leases.lease_s()` seconds; `timeout_s=0` does not wait for that either.
    """
    lease = lease_of(path)
    if not lease.take(timeout_s):
        yield False
        return
    try:
        yield True
    finally:
        lease.give_back()


def is_locked(path: Path) -> bool:
    """Whether a live process seems to hold the lock that `path` names; for what is shown."""
    return lease_of(path).is_held()


def lease_of(path: Path) -> Lease:
    """The lease that `path` (".driver.lock") names ("driver"), with its session in the shared root above it."""
    path = path.absolute()
    above = [root for root in _ROOTS if path.is_relative_to(root)]
    root = min(above, key=lambda each: len(each.parts), default=path.parent)
    name = path.name.removesuffix(".lock").removeprefix(".")
    return Lease(open_object_store(root), str(path.with_name(name).relative_to(root)))
