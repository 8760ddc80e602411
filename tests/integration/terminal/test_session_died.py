"""What `status` and `list` say of work whose process was killed: silent at first, then dead, with what goes on."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from study_cases import Study, tiny_space

from sage_ray.record.home import Home
from sage_ray.search.study_status import status
from sage_ray.terminal.cli import call

KILLED = """
import os, sys
from pathlib import Path
from sage_ray.locks import lease_of
from sage_ray.record.home import Home
Home(sys.argv[1])
assert lease_of(Path(sys.argv[2])).take(0)
os._exit(9)
"""
LEASE_S = 3


@pytest.fixture(autouse=True)
def _lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGE_LEASE_SECONDS", str(LEASE_S))


def leave_locked(home: Home, lock: Path) -> None:
    """Take a lock in a process that ends as by `kill -9`."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(home.path), str(lock)], check=False, timeout=60)
    assert done.returncode == 9


def told(capsys: pytest.CaptureFixture[str], *words: str, home: Home) -> tuple[list[str], dict[str, Any]]:
    assert call([*words, "--home", str(home.path), "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    return lines[:-1], json.loads(lines[-1])


def test_a_study_whose_driver_was_killed(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = Study(home, tiny_space(tmp_path), running=2)
    study.train(0, should_stop=lambda: True)
    study.storage.report(0, 1, 0.5)
    leave_locked(home, study.folder.path / "driver.lock")
    began = time.monotonic()
    time.sleep(LEASE_S / 3)
    lines, found = told(capsys, "status", "tiny", home=home)
    if time.monotonic() - began < LEASE_S:
        assert found["state"] == "running" and found["silent_s"] >= LEASE_S / 3 and not found["died"]
        (line,) = (line for line in lines if line.startswith("no sign of life came from its session for "))
        assert line.endswith(f"after {LEASE_S} s it counts as dead")
    time.sleep(LEASE_S)
    lines, found = told(capsys, "status", "tiny", home=home)
    assert "the session that ran it died; 2 trials were cut off: trial 0 at epoch 1, trial 1 before an epoch" in lines
    assert (found["state"], found["died"], found["running"], found["interrupted"]) == ("interrupted", True, 0, 2)
    assert found["silent_s"] is None and {trial["state"] for trial in found["trials"]} == {"INTERRUPTED"}
    assert found["next"] == [f"sage-ray resume tiny --home {home.path}"]
    lines, found = told(capsys, "list", home=home)
    assert lines[0].startswith("study tiny: interrupted (its session died; `sage-ray resume tiny --home")
    assert lines[0].endswith("0 running, 2 cut off") and found["studies"][0]["died"]
    with study.folder.driver_lock():
        assert not status("tiny", home).died and status("tiny", home).running == 2
    assert not status("tiny", home).died, "it was left in an orderly way"


def test_a_run_whose_process_was_killed(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Study(home, tiny_space(tmp_path), running=1).train(0, should_stop=lambda: True)
    alone = home.runs / "alone"
    run.path.rename(alone)
    record = json.loads((alone / "record.json").read_text())
    record |= {"run_id": "alone", "study": None, "trial": None, "state": "RUNNING"}
    (alone / "record.json").write_text(json.dumps(record))
    leave_locked(home, alone / ".writer.lock")
    time.sleep(LEASE_S + 1)
    lines, found = told(capsys, "status", "alone", home=home)
    assert lines[0].startswith("alone INTERRUPTED: epoch 1") and "its process died at epoch 1" in lines
    assert found["state"] == "INTERRUPTED" and found["next"][0].startswith("sage-ray resume alone")
    lines, found = told(capsys, "list", home=home)
    assert "run   alone: INTERRUPTED, epoch 1" in lines and found["runs"][0]["state"] == "INTERRUPTED"
