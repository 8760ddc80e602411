"""The log of a run: appended over attempts, repeated texts counted, bounded; warnings and loggers are recorded."""

from __future__ import annotations

import logging
import re
import warnings
from pathlib import Path

import pytest

from sage_ray.record import run_log
from sage_ray.record.run_log import RunLog

STAMP = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ", re.MULTILINE)


def texts(path: Path) -> list[str]:
    return STAMP.sub("", path.read_text()).splitlines()


def test_lines_have_times_and_attempts_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    RunLog(path).line("first\nmore of it")
    RunLog(path, who="worker 1").line("second")
    assert texts(path) == ["first", "    more of it", "[worker 1] second"]
    assert len(STAMP.findall(path.read_text())) == 2


def test_what_comes_again_and_again_is_counted(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.txt")
    for _ in range(250):
        log.line("the same")
    log.line("another")
    log.close()
    assert texts(log.path) == ["the same"] * 3 + ["another", "247 times more: the same"]


def test_a_long_log_loses_its_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_log, "MAX_BYTES", 10_000)
    monkeypatch.setattr(run_log, "HEAD_BYTES", 2_000)
    monkeypatch.setattr(run_log, "TAIL_BYTES", 4_000)
    log = RunLog(tmp_path / "log.txt")
    for number in range(2000):
        log.line(f"event {number}")
        assert log.path.stat().st_size <= 10_000
    kept = texts(log.path)
    assert kept[0] == "event 0" and kept[-1] == "event 1999"
    assert sum("lines left out" in line for line in kept) == 1


@pytest.mark.filterwarnings("ignore:lost too")
def test_a_log_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "nowhere" / "log.txt")
    log.line("lost")
    with log.recording():
        warnings.warn("lost too", stacklevel=1)
    assert not log.path.parent.exists()


def test_warnings_and_loggers_are_recorded_and_shown_as_before(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.txt")
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with log.recording():
            warnings.warn("this is odd", UserWarning, stacklevel=1)
            logging.getLogger("torch.somewhere").warning("slow %s", "path")
            logging.getLogger("anything").info("chatter")
            try:
                raise ZeroDivisionError("by zero")
            except ZeroDivisionError:
                logging.getLogger("anything").exception("went wrong")
        warnings.warn("after it", UserWarning, stacklevel=1)
        logging.getLogger("anything").warning("after it")
    found = texts(log.path)
    assert found[0].startswith("warning: UserWarning: this is odd (") and "test_run_log.py:" in found[0]
    assert found[1] == "warning of torch.somewhere: slow path"
    assert found[2] == "error of anything: went wrong (ZeroDivisionError: by zero)"
    assert len(found) == 3
    assert [str(each.message) for each in shown] == ["this is odd", "after it"]


def test_two_runs_of_one_process_both_record(tmp_path: Path) -> None:
    first, second = RunLog(tmp_path / "a.txt"), RunLog(tmp_path / "b.txt")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = shown = lambda *_: None
        with first.recording():
            with second.recording():
                warnings.warn("for both", stacklevel=1)
            warnings.warn("for one", stacklevel=1)
        assert warnings.showwarning is shown
    assert [len(texts(log.path)) for log in (first, second)] == [2, 1]
