"""Training from the command line: what it says and writes, the same command again, Ctrl-C and going on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_cases import SMALLEST, as_sets

from sage_ray.terminal.cli import call

TINY = SMALLEST | {
    "pretrain.epochs": 1,
    "adversarial.epochs": 2,
    "adversarial.freeze_epochs": 0,
    "adversarial.mix_start": 1,
    "adversarial.mix_max": 1,
    "runtime.pictures": False,
}


def words(**more: Any) -> list[str]:
    sets = as_sets(TINY | {name.replace("__", "."): value for name, value in more.items()})
    return ["train", "--preset", "tiny_sage_gan", *(word for text in sets for word in ("--set", text))]


def last_json(text: str) -> dict[str, Any]:
    return dict(json.loads(text.splitlines()[-1]))


def test_train_reports_each_epoch_and_repeats_itself_for_free(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    assert call([*words(), "--home", str(home), "--json"]) == 0
    out = capsys.readouterr().out
    answer = last_json(out)
    assert [line.split()[1] for line in out.splitlines() if line.startswith("epoch ")] == ["1/3", "2/3", "3/3"]
    assert answer["state"] == "COMPLETE" and answer["epoch"] == 3
    assert answer["run_id"].startswith("tiny_sage_gan-") and answer["run_id"].endswith("-s0")
    assert answer["generator_updates"] > 0 and answer["synthetic_steps"] > 0 and len(answer["weights_sha"]) == 64
    assert 0 <= answer["metrics"]["val/dice"] <= 1
    run = Path(answer["paths"]["run"])
    assert (run / "record.json").is_file() and Path(answer["paths"]["model"]).is_dir()
    assert any(f"predict {answer['run_id']}" in command for command in answer["next"])

    # The same command again, and the run's own config, find the finished run.
    assert call([*words(), "--home", str(home), "--json"]) == 0
    assert last_json(capsys.readouterr().out)["weights_sha"] == answer["weights_sha"]
    again = ["train", "-c", str(run / "config.yaml"), "--run-id", "repeat", "--home", str(home), "--json", "--quiet"]
    assert call(again) == 0
    out = capsys.readouterr().out
    assert last_json(out)["weights_sha"] == answer["weights_sha"] and not out.startswith("epoch")

    assert call(["list", "--home", str(home), "--json"]) == 0
    assert {run["run_id"] for run in last_json(capsys.readouterr().out)["runs"]} == {answer["run_id"], "repeat"}
    assert call(["status", "repeat", "--home", str(home), "--json"]) == 0
    assert last_json(capsys.readouterr().out)["state"] == "COMPLETE"
    assert call(["status", "repaet", "--home", str(home)]) == 2
    assert "did you mean repeat?" in capsys.readouterr().err


def test_a_diverged_run_ends_with_1_and_names_its_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = words(pretrain__lr=1e30, runtime__snapshot_seconds=0)
    assert call([*args, "--home", str(tmp_path / "home"), "--json", "--quiet"]) == 1
    out, err = capsys.readouterr()
    answer = last_json(out)
    assert (answer["state"], answer["ok"], len(err.splitlines())) == ("FAIL", False, 1)
    assert "pretrain" in err and "Traceback" not in err
    assert "NonFiniteLoss" in Path(answer["paths"]["trace"]).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGINT, signal.SIGUSR1))],
    ids=lambda number: number.name,
)
def test_who_is_told_to_end_ends_with_130_and_resume_goes_on_to_the_same_weights(
    number: signal.Signals, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By Ctrl-C, or by what a scheduler sends before it takes the machine away."""
    args = [*words(adversarial__epochs=9), "--home", str(tmp_path / "cut"), "--json"]
    command = [sys.executable, "-u", "-m", "sage_ray", *args]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as run:
        assert run.stdout is not None and run.stderr is not None
        deadline = time.monotonic() + 240
        for line in run.stdout:
            if line.startswith("epoch 3/") or time.monotonic() > deadline:
                break
        run.send_signal(number)
        out, err = run.communicate(timeout=120)
    assert run.returncode == 130, err
    assert len(err.splitlines()) == 1 and "sage-ray resume tiny_sage_gan-" in err
    (again,) = last_json(out)["next"]
    run_id = again.split()[2]
    assert call(["status", run_id, "--home", str(tmp_path / "cut"), "--json"]) == 0
    cut = last_json(capsys.readouterr().out)
    assert cut["state"] == "INTERRUPTED" and 3 <= cut["epoch"] < 10

    assert call(["resume", run_id, "--home", str(tmp_path / "cut"), "--json"]) == 0
    out = capsys.readouterr().out
    resumed = last_json(out)
    assert resumed["state"] == "COMPLETE"
    # No epoch that was reported before the interruption is computed again.
    assert resumed["reused_epochs"] >= cut["epoch"]
    assert f"epochs 1 to {resumed['reused_epochs']} of 10" in out
    assert call([*words(adversarial__epochs=9), "--home", str(tmp_path / "whole"), "--json", "--quiet"]) == 0
    assert last_json(capsys.readouterr().out)["weights_sha"] == resumed["weights_sha"]
