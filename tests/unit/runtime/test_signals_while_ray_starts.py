"""A signal while Ray starts: Ray is not left halfway, its own handler of SIGTERM is kept out, one error is raised."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray._private import utils

from sage_ray.errors import UserError
from sage_ray.runtime.ray_cluster import connect
from sage_ray.termination import postponed, terminated_as_interrupted


class Starting:
    """Stands for `ray.init`: takes SIGTERM over as Ray does, and gets signals while it is at it."""

    def __init__(self, *signals: signal.Signals, fault: BaseException | None = None) -> None:
        self.signals, self.fault = signals, fault
        self.whole = False

    def __call__(self, **settings: Any) -> None:
        utils.set_sigterm_handler(lambda number, frame: sys.exit(number))
        for number in self.signals:
            os.kill(os.getpid(), number)
        if self.fault:
            raise self.fault
        self.whole = True


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    yield
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_ray_is_whole_before_a_signal_counts(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    starting = Starting(number)
    monkeypatch.setattr(ray, "init", starting)
    with terminated_as_interrupted(), pytest.raises(KeyboardInterrupt, match=f"{number.name} received"):
        connect()
    assert starting.whole


def test_a_second_signal_counts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    starting = Starting(signal.SIGTERM, signal.SIGTERM)
    monkeypatch.setattr(ray, "init", starting)
    with terminated_as_interrupted(), pytest.raises(KeyboardInterrupt, match="SIGTERM received again"):
        connect()
    assert not starting.whole


def test_what_breaks_by_a_signal_is_the_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C reaches Ray's own processes too, which may end by it while they start."""
    monkeypatch.setattr(ray, "init", Starting(signal.SIGINT, fault=RuntimeError("the GCS has ended")))
    with pytest.raises(KeyboardInterrupt):
        connect()
    monkeypatch.setattr(ray, "init", Starting(fault=RuntimeError("the GCS has ended")))
    with pytest.raises(UserError, match="Ray does not start.*the GCS has ended"):
        connect()


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with postponed():
            os.kill(os.getpid(), signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
