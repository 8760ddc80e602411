"""Leases: who computes a stage, so that two trials that share it do not both do so.

A lease is a file beside the stage's snapshots, created exclusively, touched by a heartbeat, removed at release. A
lease whose process is dead (same host) or whose heartbeat stopped is taken over. The store alone decides whether a
stage is done; losing a lease costs work twice, never a wrong result. Stores that are no folder (S3, GCS) cannot
create a file exclusively and have no leases.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sage_ray.errors import RunStopped
from sage_ray.stages.store import StageStore

LEASE = "lease.json"
HEARTBEAT_S = 5.0
STALE_S = 60.0
POLL_S = 0.25


@contextlib.contextmanager
def stage_lease(
    store: StageStore,
    key: str,
    done: Callable[[], bool],
    *,
    should_stop: Callable[[], bool] = lambda: False,
    waiting: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[None]:
    """Wait until `done()` or until this process holds the lease of `key`; hold it for the body of the `with`.

    `waiting` is called again and again meanwhile.

    Raises:
        RunStopped: `should_stop()` turned true while waiting.
    """
    if store.local_root is None or done():
        yield
        return
    path = store.local_root / key / LEASE
    path.parent.mkdir(parents=True, exist_ok=True)
    owner = uuid.uuid4().hex
    waited = False
    while not _acquire(path, owner):
        if not waited:
            say(f"stage {key} is being computed by another trial; waiting for it")
            waited = True
        if should_stop():
            raise RunStopped("stopped while waiting for a shared stage")
        waiting()
        time.sleep(POLL_S)
        if done():
            yield
            return
    with _kept_alive(path, owner):
        yield


@contextlib.contextmanager
def lease_if_free(store: StageStore, key: str) -> Iterator[bool]:
    """Hold the lease of `key` for the body if nobody has it; yields whether. True where there are no leases."""
    if store.local_root is None:
        yield True
        return
    path, owner = store.local_root / key / LEASE, uuid.uuid4().hex
    # A lease whose owner is dead is taken away at the first try and taken over at the second.
    if not path.parent.is_dir() or not (_acquire(path, owner) or _acquire(path, owner)):
        yield False
        return
    with _kept_alive(path, owner):
        yield True


def held(store: StageStore, key: str) -> bool:
    """Whether a live process holds the lease of `key`."""
    path = None if store.local_root is None else store.local_root / key / LEASE
    return path is not None and path.exists() and not _stale(path)


@contextlib.contextmanager
def _kept_alive(path: Path, owner: str) -> Iterator[None]:
    stop = threading.Event()
    beat = threading.Thread(target=_heartbeat, args=(path, stop), daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()
        if _owner(path).get("owner") == owner:
            path.unlink(missing_ok=True)


def _acquire(path: Path, owner: str) -> bool:
    content = json.dumps({"owner": owner, "host": socket.gethostname(), "pid": os.getpid()})
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        if _stale(path):
            aside = path.with_name(f".stale-{uuid.uuid4().hex[:8]}")
            with contextlib.suppress(FileNotFoundError):
                os.rename(path, aside)
                aside.unlink()
        return False
    with os.fdopen(descriptor, "w") as stream:
        stream.write(content)
    return True


def _stale(path: Path) -> bool:
    try:
        age_s = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return False
    holder = _owner(path)
    if holder.get("host") == socket.gethostname():
        return not _alive(int(holder.get("pid", 0)))
    return age_s > STALE_S


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _owner(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _heartbeat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_S):
        with contextlib.suppress(OSError):
            os.utime(path)
