"""Leases: who holds a thing that processes on several machines share, such as a study, a run or a stage.

Nothing is believed that differs between file systems, containers or clocks: no file locks, no host names, no process
ids, no times of others. All is made of small objects that are created only if they are absent, in a folder or in an
object store:

- A process that holds leases has a session, `.sessions/TOKEN`, and writes it anew every few seconds.
- A lease is a row of generations, `.leases/NAME.GENERATION` beside what it guards; the highest one counts, and says
  which session holds it, or that it was given back. To take a lease is to create the next generation: of several
  processes one succeeds.
- A session whose content has not changed for `lease_s()` seconds on the waiting process's own monotonic clock is dead.
  Its object is removed, which tells all others, and what it held can be taken.

A holder that was stopped, or cut off from the store, for so long finds its session removed, or a higher generation,
and knows that it holds nothing (`Lease.lost`). If nobody has wanted the lease meanwhile, it has it still. It may have
worked on for a moment: a lease saves work done twice, and keeps two drivers apart; what it guards has to be right
without it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from sage_ray.errors import UserError
from sage_ray.object_store import ObjectStore, open_object_store

SESSIONS, LEASES = ".sessions", ".leases"
BEATS = 12
"""How often a session is written anew within the time after which it would count as dead."""
MISSED = 2.5
"""So many signs late, a holder is said to be silent."""
FIRST_POLL_S, LAST_POLL_S = 0.02, 0.5
AWAY_S = 600.0
"""Who waits for a lease does not mind that the store is away for so long."""
END_S = 5.0
"""A process that ends does not wait for longer until its signs of life are taken away; without that they grow old."""
_SETTING = "SAGE_LEASE_SECONDS"


def lease_s() -> float:
    """Seconds without a sign of life after which a holder counts as dead: 60, or `SAGE_LEASE_SECONDS`.

    Raises:
        UserError: the variable is no number of at least 1.
    """
    text = os.environ.get(_SETTING, "60")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds < float("inf"):
        raise UserError("bad time of leases", f"{_SETTING}={text}", "set seconds, at least 1 (60 is the default)")
    return seconds


@dataclass(frozen=True)
class LifeSign:
    """What is seen of whoever has a lease, or had it.

    Attributes:
        held: somebody seems to hold it.
        died: its holder has given no sign of life for too long, and never gave it back.
        silent_s: seconds since the last sign, where the next one is overdue; None otherwise.
        limit_s: after so many the holder counts as dead.
    """

    held: bool = False
    died: bool = False
    silent_s: float | None = None
    limit_s: float = 0.0


class Lease:
    """One lease, taken and given back any number of times by the process that made the object.

    Args:
        store: what it is in.
        name: of what it guards, with the folders that lead there.
    """

    def __init__(self, store: ObjectStore, name: str) -> None:
        path = PurePosixPath(name)
        self.store, self.name = store, name
        self._folder, self._stem = str(path.parent / LEASES), path.name
        self._depth = len(path.parts) - 1
        self._generation = 0
        self._session: _Session | None = None

    def take(self, timeout_s: float | None, waiting: Callable[[], bool | None] = lambda: None) -> bool:
        """Wait for the lease; returns whether it is held.

        Args:
            timeout_s: how long a holder that is alive is waited for (None: without end). Whether it is alive shows
                within a twelfth of `lease_s()`, so the wait may be so much longer, and if it is dead, as long as that
                takes to show. 0 does not wait at all.
            waiting: called again and again meanwhile; true gives up.

        Raises:
            OSError: the store does not answer, and if it answered first, for `AWAY_S` since.
        """
        if self._try():
            return True
        if timeout_s == 0:
            return False
        began, poll_s, first = time.monotonic(), FIRST_POLL_S, self._seen()
        swept = answered = began
        while True:
            now = time.monotonic()
            try:
                if self._try():
                    return True
                if timeout_s is not None and now - began >= timeout_s and self._seen() != first:
                    return False
                if now - swept > lease_s() / BEATS:
                    swept = now
                    _sweep(self.store)
                answered = now
            except OSError as error:
                if isinstance(error, PermissionError) or now - answered > AWAY_S:
                    raise
            if waiting():
                return False
            time.sleep(poll_s)
            poll_s = min(1.5 * poll_s, LAST_POLL_S, lease_s() / BEATS)

    def give_back(self) -> None:
        """Let others take it; nothing happens if it is lost already."""
        if not self._generation:
            return
        if not self.lost():
            self.store.write(self._object(self._generation), _dump({"free": True}), durable=False)
        self._generation = 0

    def lost(self) -> bool:
        """Whether this object does not hold the lease (any more): a request to the store, or two.

        Raises:
            OSError: the store does not answer, so that nobody knows.
        """
        session = self._session
        if not self._generation or session is None or session.is_gone():
            return True
        return self._newest()[0] != self._generation

    def is_held(self) -> bool:
        """Whether somebody seems to hold it: for what is shown, as it compares the clocks of two machines."""
        return self.sign().held

    def sign(self) -> LifeSign:
        """What is seen of its holder: for what is shown, as it compares the clocks of two machines."""
        holder = self._newest()[1]
        if holder is None or holder.free:
            return LifeSign()
        beat = _read_beat(self._sessions(holder), holder.token)
        if beat is None:
            return LifeSign(died=True)
        limit_s, silent_s = float(beat["lease_s"]), max(time.time() - float(beat.get("at", 0.0)), 0.0)
        held = silent_s < (1 + 1 / BEATS) * limit_s
        overdue = silent_s > MISSED * limit_s / BEATS
        return LifeSign(held, not held, silent_s if overdue else None, limit_s)

    def _try(self) -> bool:
        generation, holder = self._newest()
        if holder is not None and not holder.free and not _OTHERS.is_dead(self._sessions(holder), holder.token):
            return False
        session = _session(self.store)
        mine = generation + 1
        content = _dump({"free": False, "session": session.token, "depth": self._depth})
        if not self.store.create(self._object(mine), content, durable=False):
            return False
        there = self._generations()
        if max(there, default=0) != mine:
            # The look at the generation before was so long ago that others have come and gone.
            self.store.delete([self._object(mine)])
            return False
        self.store.delete([self._object(number) for number in there if number < mine])
        self._generation, self._session = mine, session
        return True

    def _seen(self) -> tuple[Any, ...]:
        """What changes while the holder is alive, or when it is another one."""
        generation, holder = self._newest()
        beat = None if holder is None or holder.free else _read_beat(self._sessions(holder), holder.token)
        return generation, None if beat is None else beat.get("beats")

    def _newest(self) -> tuple[int, _Holder | None]:
        while True:
            generation = max(self._generations(), default=0)
            if not generation:
                return 0, None
            try:
                return generation, _Holder.read(self.store.read(self._object(generation)))
            except FileNotFoundError:  # a higher one has come in the meantime
                continue

    def _generations(self) -> list[int]:
        names = (PurePosixPath(entry.name).name for entry in self.store.names(self._folder))
        parts = (name.rpartition(".") for name in names)
        return [int(number) for stem, _, number in parts if stem == self._stem and number.isdigit()]

    def _object(self, generation: int) -> str:
        return f"{self._folder}/{self._stem}.{generation}"

    def _sessions(self, holder: _Holder) -> ObjectStore:
        """The store that has the holder's session: its process may name what is guarded from another folder."""
        if holder.depth == self._depth or self.store.local is None:
            return self.store
        place = (self.store.local / self.name).parent
        return open_object_store(place if not holder.depth else place.parents[holder.depth - 1])


@dataclass(frozen=True)
class _Holder:
    """Content of a generation. `depth`: folders between the lease and the store that has the session."""

    free: bool
    token: str = ""
    depth: int = 0

    @classmethod
    def read(cls, content: bytes) -> _Holder:
        value = _load(content)
        return cls(bool(value.get("free", True)), str(value.get("session", "")), int(value.get("depth", 0)))


class _Session:
    """The sign of life of this process in a store, which a thread renews."""

    def __init__(self, store: ObjectStore) -> None:
        self.token, self._store = uuid.uuid4().hex, store
        self._beats, self._gone = 0, False
        self._ended, self._left = threading.Event(), threading.Event()
        self._limit_s = lease_s()
        self._last = time.monotonic()
        self._store.create(self._name, self._content(), durable=False)
        threading.Thread(target=self._work, name="session", daemon=True).start()

    @property
    def _overdue(self) -> bool:
        """Whether others may take this process for dead: its object could not be renewed for too long."""
        return time.monotonic() - self._last > self._limit_s

    def is_gone(self) -> bool:
        """Whether somebody has taken this process for dead; who could have is asked only if it is overdue."""
        return self._gone or (self._overdue and not self._store.exists(self._name))

    def is_there(self) -> bool:
        """Whether a lease may be taken in its name: nobody has taken this process for dead, nor may do so now."""
        return not self._gone and not self._overdue and self._store.exists(self._name)

    def end(self) -> None:
        """Let its thread take the sign away: the process ends."""
        self._ended.set()

    def wait(self, timeout_s: float) -> None:
        """Wait until the sign has been taken away; a store that is away or gone is not waited for any longer."""
        self._left.wait(timeout_s)

    @property
    def _name(self) -> str:
        return f"{SESSIONS}/{self.token}"

    def _content(self) -> bytes:
        self._beats += 1
        # The last two are for people and for what is shown, and nothing is decided by them.
        shown = {"at": time.time(), "process": f"{os.getpid()} of {socket.gethostname()}"}
        return _dump({"beats": self._beats, "lease_s": self._limit_s, **shown})

    def _work(self) -> None:
        self._beat()
        with contextlib.suppress(OSError):  # the store is away, or was removed
            if not self._gone:
                self._store.delete([self._name])
        self._left.set()

    def _beat(self) -> None:
        while not self._ended.wait(self._limit_s / BEATS):
            began = time.monotonic()
            try:
                self._gone = self._gone or not self._store.exists(self._name)
                if self._gone:
                    return
                self._store.write(self._name, self._content(), durable=False)
            except OSError:
                continue  # the store is away: others see as little of it as this process
            self._last = began


class _Others:
    """Sessions of other processes as this process has seen them, each with the time since when it is unchanged."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], tuple[bytes, float, float]] = {}
        self._lock = threading.Lock()

    def is_dead(self, store: ObjectStore, token: str) -> bool:
        """Whether the session is gone, or has been silent for too long; then it is removed."""
        key, now = (store.uri, token), time.monotonic()
        try:
            content = store.read(f"{SESSIONS}/{token}")
        except FileNotFoundError:
            return True
        except OSError:
            with self._lock:
                self._seen.pop(key, None)  # while the store is away, nobody can give a sign
            return False
        limit = max(lease_s(), float(_load(content).get("lease_s", 0.0)))
        with self._lock:
            before, since, looked = self._seen.get(key, (b"", now, now))
            # After a pause of this process itself the others get their time once more.
            since = since if before == content and now - looked < limit / 2 else now
            self._seen[key] = content, since, now
        if now - since <= limit:
            return False
        store.delete([f"{SESSIONS}/{token}"])
        return True


_OTHERS = _Others()
_OWN: dict[tuple[int, str], _Session] = {}
_OWN_LOCK = threading.Lock()


def _session(store: ObjectStore) -> _Session:
    """This process's session in a store; a process that was forked from another one has its own."""
    key = (os.getpid(), store.uri)
    with _OWN_LOCK:
        if key not in _OWN or not _OWN[key].is_there():
            _OWN[key] = _Session(store)
        return _OWN[key]


def _sweep(store: ObjectStore) -> None:
    """Look at all sessions of a store: the dead are removed, and nobody waits for the same one twice."""
    for entry in store.names(SESSIONS):
        _OTHERS.is_dead(store, PurePosixPath(entry.name).name)


@atexit.register
def end_sessions(wait_s: float = END_S) -> None:
    """Take away this process's signs of life: what it holds is free at once. A process that goes on makes new ones.

    Args:
        wait_s: a store that does not answer is waited for no longer, all together.
    """
    # Without the lock, which a process that was forked from this one may have got in a locked state.
    sessions = [_OWN.pop(key) for key in list(_OWN) if key[0] == os.getpid()]
    for session in sessions:
        session.end()
    deadline = time.monotonic() + wait_s
    for session in sessions:
        session.wait(max(deadline - time.monotonic(), 0.0))


def _read_beat(store: ObjectStore, token: str) -> dict[str, Any] | None:
    try:
        return {"lease_s": lease_s(), **_load(store.read(f"{SESSIONS}/{token}"))}
    except FileNotFoundError:
        return None


def _dump(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()


def _load(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
