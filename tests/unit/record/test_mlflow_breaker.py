"""A store that did not answer is left alone for a while, by all who share the home."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from sage_ray.record import mlflow_breaker
from sage_ray.record.mlflow_breaker import Breaker
from sage_ray.record.mlflow_client import MirrorAway


def put_off(folder: Path, seconds: float) -> None:
    """As if `seconds` had passed since the last time-out."""
    path = folder / mlflow_breaker.FILE
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, "until": value["until"] - seconds, "noted": value["noted"] - seconds}))


def test_the_first_time_out_is_the_last_for_a_while(tmp_path: Path) -> None:
    mine, other = Breaker(tmp_path, "store"), Breaker(tmp_path, "store")
    mine.check()
    said = mine.trip("timed out", time.time())
    with pytest.raises(MirrorAway) as caught:
        other.check()
    assert str(caught.value) == said and said.endswith("timed out")
    Breaker(tmp_path, "another store").check()
    mine.reset()
    other.check()


def test_one_caller_tries_again_and_the_wait_grows(tmp_path: Path) -> None:
    mine, other = Breaker(tmp_path, "store"), Breaker(tmp_path, "store")
    mine.trip("timed out", time.time())
    put_off(tmp_path, mlflow_breaker.FIRST_WAIT_S + 1)
    other.check()
    with pytest.raises(MirrorAway):
        mine.check()
    other.trip("timed out", time.time())
    found = mine.away()
    assert found is not None and found.wait_s == 2 * mlflow_breaker.FIRST_WAIT_S
    for _ in range(20):
        put_off(tmp_path, 2 * mlflow_breaker.LONGEST_WAIT_S)
        mine.check()
        mine.trip("timed out", time.time())
    found = mine.away()
    assert found is not None and found.wait_s == mlflow_breaker.LONGEST_WAIT_S


def test_those_who_wait_in_vain_together_count_once(tmp_path: Path) -> None:
    asked = time.time() - 5
    for _ in range(8):
        Breaker(tmp_path, "store").trip("timed out", asked)
    found = Breaker(tmp_path, "store").away()
    assert found is not None and found.wait_s == mlflow_breaker.FIRST_WAIT_S


def test_a_damaged_note_or_a_clock_that_was_set_blocks_nobody(tmp_path: Path) -> None:
    breaker = Breaker(tmp_path, "store")
    (tmp_path / mlflow_breaker.FILE).write_text("{")
    breaker.check()
    breaker.trip("timed out", time.time())
    put_off(tmp_path, -1e6)
    breaker.check()
