"""runs/ID/log.txt: what was said and warned while the run was computed, over all its attempts; verbs name it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from tiny_cases import tiny_config

from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.runtime.launch import run
from sage_ray.terminal.cli import call

SETS = ("pretrain.epochs=2", "adversarial.epochs=1", "runtime.pictures=false")


def test_a_log_holds_what_was_said_over_all_attempts(home: Home) -> None:
    said: list[str] = []

    def on_report(report: dict[str, Any]) -> None:
        warnings.warn(f"odd epoch {report['epoch']}", stacklevel=1)

    config = tiny_config(*SETS)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda *_: None
        run(config, home, "r", on_report=on_report, should_stop=lambda: True, mirror=False, say=said.append)
    folder = RunFolder.open(home.runs, "r")
    first = folder.log.path.read_text()
    assert said and all(line in first for line in said) and "data: drawn particles" in said[0]
    assert "attempt 1 on CPU, torch" in first and "warning: UserWarning: odd epoch 1" in first
    assert "RUNNING -> PRUNED" in first
    run(config, home, "r", mirror=False)
    both = folder.log.path.read_text()
    assert both.startswith(first) and "PRUNED -> RUNNING" in both and "attempt 2 on" in both
    assert both.splitlines()[-1].endswith("RUNNING -> COMPLETE")
    # A finished run that is asked for again says nothing.
    run(config, home, "r", mirror=False)
    assert folder.log.path.read_text() == both


def test_verbs_name_the_log(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    run(tiny_config(*SETS), home, "good", mirror=False)
    assert call(["status", "good", "--json", "--home", str(home.path)]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert Path(answer["paths"]["log"]) == home.runs / "good" / "log.txt"
    sets = [f"--set={text}" for text in (*SETS, "adversarial.lambda_cycle=1e38")]
    config = tiny_config(*SETS, "adversarial.lambda_cycle=1e38", "adversarial.freeze_epochs=0")
    record = run(config, home, "bad", mirror=False)
    assert record.state == "FAIL" and sets
    assert "RUNNING -> FAIL: diverged" in (home.runs / "bad" / "log.txt").read_text()
    assert call(["resume", "bad", "--home", str(home.path)]) == 1
    assert f"log: {home.runs / 'bad' / 'log.txt'}" in capsys.readouterr().err
