"""Signals that ask for an end are neither lost nor taken by whom they are not meant for."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

from sage_ray.termination import held_back, terminated_as_interrupted


def swallowing(number: int) -> None:
    """Other people's code: what is raised in it does not leave it."""
    with contextlib.suppress(BaseException):
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_raised_once_the_body_has_ended(number: int) -> None:
    ended = False
    with terminated_as_interrupted(), pytest.raises(KeyboardInterrupt, match="received"), held_back():
        swallowing(number)
        ended = True
    assert ended


def test_a_second_one_is_raised_at_once() -> None:
    with pytest.raises(KeyboardInterrupt, match="twice"), held_back():
        swallowing(signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not reached")


def test_handlers_that_the_body_puts_in_place_do_not_stay() -> None:
    before = signal.getsignal(signal.SIGINT)
    with held_back():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_process_in_the_background_goes_on_to_ignore_it() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with held_back():
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
