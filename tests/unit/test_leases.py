"""Leases: one holder at a time, whoever dies is succeeded, and whoever lost knows it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sage_ray.errors import UserError
from sage_ray.leases import LEASES, SESSIONS, Lease, lease_s
from sage_ray.locks import is_locked, lease_of, locked, share_sessions
from sage_ray.object_store import ObjectStore, open_object_store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    monkeypatch.setenv("SAGE_LEASE_SECONDS", "1")
    return open_object_store(tmp_path)


def beat(store: ObjectStore, token: str, number: int = 1, **more: float) -> None:
    """A sign of life of another process."""
    content = {"beats": number, "lease_s": 1.0, "at": time.time(), **more}
    store.write(f"{SESSIONS}/{token}", json.dumps(content).encode())


def held_by(store: ObjectStore, token: str, name: str = "a/x", generation: int = 1) -> None:
    """A lease as another process has taken it."""
    folder, _, stem = name.rpartition("/")
    content = json.dumps({"free": False, "session": token, "depth": 1}).encode()
    assert store.create(f"{folder}/{LEASES}/{stem}.{generation}", content)


@contextmanager
def alive(store: ObjectStore, token: str) -> Iterator[None]:
    """Another process that gives signs of life for the body."""
    over = threading.Event()

    def work() -> None:
        number = 1
        while not over.wait(0.05):
            number += 1
            beat(store, token, number)

    beat(store, token)
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_one_holds_it_until_it_is_given_back(store: ObjectStore) -> None:
    first, second = Lease(store, "a/x"), Lease(store, "a/x")
    assert first.take(0) and not second.take(0) and not first.lost() and second.lost()
    assert first.is_held() and second.is_held() and not Lease(store, "a/y").is_held()
    first.give_back()
    assert first.lost() and not second.is_held() and second.take(0)
    assert first.lost() and not first.take(0)
    second.give_back()
    assert len(store.names(f"a/{LEASES}")) == 1, "what came before is not kept"


def test_threads_and_their_turns(store: ObjectStore) -> None:
    turns: list[int] = []
    inside = threading.Semaphore(1)

    def work() -> None:
        for _ in range(12):
            lease = Lease(store, "x")
            assert lease.take(None)
            assert inside.acquire(blocking=False), "two hold it at a time"
            turns.append(len(turns))
            inside.release()
            lease.give_back()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert turns == list(range(72))


def test_a_holder_that_gives_no_sign_is_succeeded_and_all_that_it_held_is_free(store: ObjectStore) -> None:
    beat(store, "t", at=time.time() + 1e6, lease_s=1.0)
    held_by(store, "t")
    held_by(store, "t", "b/y")
    lease, began = Lease(store, "a/x"), time.monotonic()
    assert lease.take(0.0) is False
    assert lease.take(0.1), "it is not known to be alive, so it is waited for until that shows"
    assert 1.0 <= time.monotonic() - began < 4
    assert not store.exists(f"{SESSIONS}/t")
    assert Lease(store, "b/y").take(0), "its death is known to all"


def test_a_clock_of_another_machine_decides_nothing(store: ObjectStore) -> None:
    held_by(store, "t")
    with alive(store, "t"):
        beat(store, "t", at=0.0)
        assert not Lease(store, "a/x").take(0.2)
    beat(store, "t", at=time.time() + 1e6)
    assert Lease(store, "a/x").take(None)


def test_a_holder_that_is_alive_is_waited_for_as_long_as_asked(store: ObjectStore) -> None:
    held_by(store, "t")
    with alive(store, "t"):
        lease, began = Lease(store, "a/x"), time.monotonic()
        assert not lease.take(1.5)
        assert 1.5 <= time.monotonic() - began < 3
        asked: list[int] = []
        assert not lease.take(None, lambda: asked.append(1) or len(asked) == 3)
        assert len(asked) == 3


def test_the_longer_of_two_settings_counts(store: ObjectStore) -> None:
    beat(store, "t", lease_s=2.0)
    held_by(store, "t")
    began = time.monotonic()
    assert Lease(store, "a/x").take(None)
    assert time.monotonic() - began >= 2


def test_whoever_was_taken_for_dead_knows_it_and_harms_nobody(store: ObjectStore) -> None:
    stopped = Lease(store, "a/x")
    assert stopped.take(0)
    (session,) = [entry.name for entry in store.names(SESSIONS)]
    store.delete([session])
    other = Lease(store, "a/x")
    assert other.take(0) and stopped.lost() and not other.lost()
    stopped.give_back()
    assert not other.lost() and other.is_held()
    time.sleep(0.3)
    assert not store.exists(session), "its thread has seen that it is gone"


@pytest.mark.parametrize("taken", [False, True])
def test_a_holder_that_was_cut_off_for_long_has_it_still_unless_somebody_took_it(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    lease = Lease(store, "a/x")
    assert lease.take(0)
    (session,) = [entry.name for entry in store.names(SESSIONS)]

    def away(*words: object, **more: object) -> None:
        raise OSError(113, "No route to host")

    with monkeypatch.context() as cut:
        for name in ("write", "exists", "names", "read"):
            cut.setattr(store, name, away)
        time.sleep(1.3)
        with pytest.raises(OSError, match="No route"):
            lease.lost()  # nobody knows
        if taken:
            elsewhere = open_object_store(str(store.uri))
            elsewhere.delete([session])
            held_by(elsewhere, "other", generation=2)
    assert lease.lost() is taken
    time.sleep(0.3)
    assert lease.lost() is taken and store.exists(session) is not taken


def test_a_claim_that_comes_too_late_is_withdrawn(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    late, others = Lease(store, "a/x"), Lease(store, "a/x")
    assert others.take(0)
    others.give_back()
    seen = late._newest()
    for _ in range(3):
        assert others.take(0)
        others.give_back()
    assert others.take(0)
    with monkeypatch.context() as patch:
        patch.setattr(late, "_newest", lambda: seen)
        assert not late.take(0)
    assert not others.lost() and late.lost()


def test_a_store_that_is_away_kills_nobody(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    beat(store, "t")
    held_by(store, "t")
    read, away = store.read, [False]

    def reading(name: str) -> bytes:
        if away[0] and name.startswith(SESSIONS):
            raise OSError(5, "Input/output error")
        return read(name)

    monkeypatch.setattr(store, "read", reading)
    lease, began = Lease(store, "a/x"), time.monotonic()
    assert not lease.take(0)

    def waiting() -> bool:
        away[0] = 0.2 < time.monotonic() - began < 1.8
        return time.monotonic() - began > 1.9

    assert not lease.take(None, waiting)
    away[0] = False
    assert not lease.take(0), "it gets its time once more"
    assert lease.take(None)


def test_a_lock_has_its_session_in_the_shared_folder_and_is_found_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_LEASE_SECONDS", "1")
    home = tmp_path / "home"
    share_sessions(home)
    path = home / "runs" / "r" / ".driver.lock"
    with locked(path, 0) as held:
        assert held and is_locked(path)
        # Beside it may stand what is just being written.
        assert len([path for path in (home / SESSIONS).iterdir() if path.name.isalnum()]) == 1
        elsewhere = Lease(open_object_store(path.parent), "driver")
        assert not elsewhere.take(0) and elsewhere.is_held()
        with locked(path, 0) as again:
            assert not again
        assert lease_of(path).is_held()
    assert not is_locked(path)


@pytest.mark.parametrize("text", ["", "soon", "0", "nan", "inf", "-3"])
def test_a_bad_time_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGE_LEASE_SECONDS", text)
    with pytest.raises(UserError, match="SAGE_LEASE_SECONDS"):
        lease_s()
