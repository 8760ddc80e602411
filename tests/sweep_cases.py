"""A search space small enough for tests, and a driver in a process of its own that may be killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml
from tiny_cases import SMALLEST

from sage_ray.leases import lease_s
from sage_ray.record.home import Home
from sage_ray.search.study_status import status

BASE = SMALLEST | {
    "pretrain.epochs": 2,
    "adversarial.epochs": 3,
    "adversarial.freeze_epochs": 0,
    "adversarial.mix_start": 0.5,
    "runtime.pictures": False,
}
TOO_MUCH = 1.0e38
"""A lambda_cycle that float32 cannot hold once it is multiplied by a term's weight: the loss is infinite at once."""

SPACE: dict[str, Any] = {
    "name": "tiny",
    "space": {
        "adversarial.lambda_cycle": {"categorical": [1.0, 0.5, 2.0, TOO_MUCH]},
        "adversarial.lr": {"float": [1e-5, 1e-3], "log": True},
    },
    "sampler": {"name": "random", "seed": 2},
    "trials": 4,
    "concurrency": 2,
}


EPOCHS = 20
"""Of each trial of `long_space`."""


def write_space(folder: Path, base: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A space file of the tiny config with keys replaced."""
    tree = {**SPACE, "base": {"preset": "tiny_sage_gan", "set": {**BASE, **(base or {})}}, **changes}
    path = folder / f"{tree['name']}.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def start(*arguments: str) -> subprocess.Popen[str]:
    """A `sage-ray` command in a session of its own, output captured."""
    command = [sys.executable, "-m", "sage_ray", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def wait_until(condition: Callable[[], Any], process: subprocess.Popen[str], timeout_s: float = 200) -> None:
    """Return when `condition()` holds; fail if the process ends or the time is over first."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, f"ended early: {process.communicate()}"
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a driver; returns when its Ray and all that trained for it have ended by themselves, and it shows."""
    family = psutil.Process(process.pid).children(recursive=True)
    # Ray's agents train nothing, and end only half a minute after their driver. They get their titles as they start.
    agents = [child for child in family if child.is_running() and "agent" in " ".join(child.cmdline()).lower()]
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    _, left = psutil.wait_procs([child for child in family if child not in agents], timeout=30)
    assert not left, left
    for agent in agents:
        with contextlib.suppress(psutil.NoSuchProcess):
            agent.kill()
    time.sleep(1.1 * lease_s())


def ended(process: subprocess.Popen[str], timeout_s: float = 400) -> tuple[int, dict[str, Any], str]:
    """Exit code and JSON of a command, and all lines that it printed, those of stderr last."""
    try:
        output, errors = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        kill(process)
        raise
    lines = output.strip().splitlines()
    return process.returncode, json.loads(lines[-1]) if lines else {}, "\n".join([*lines[:-1], errors])


def epochs_on_disk(home: Home, run_id: str) -> list[dict[str, Any]]:
    """Complete lines of a run's metrics.jsonl."""
    path = home.runs / run_id / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def record(home: Home, run_id: str) -> dict[str, Any]:
    """record.json of a run."""
    value: dict[str, Any] = json.loads((home.runs / run_id / "record.json").read_text())
    return value


def long_space(
    folder: Path,
    snapshot_seconds: float | None = None,
    epochs: int = EPOCHS,
    concurrency: int = 1,
    more: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """Three trials of `epochs` epochs, one at a time: time enough to be killed in."""
    dimensions = {"adversarial.lambda_cycle": {"float": [0.5, 2]}, "adversarial.lr": {"float": [1e-4, 2e-3]}}
    base: dict[str, Any] = {"adversarial.epochs": epochs - 2, **(more or {})}
    if snapshot_seconds is not None:
        base["runtime.snapshot_seconds"] = snapshot_seconds
    return write_space(folder, base=base, space=dimensions, trials=3, concurrency=concurrency, **changes)


def answer(process: subprocess.Popen[str], timeout_s: float = 240) -> tuple[dict[str, Any], str]:
    """The JSON on the last line of stdout, and stderr, of a command that ends by itself."""
    output, errors = process.communicate(timeout=timeout_s)
    return json.loads(output.strip().splitlines()[-1]), errors


def assert_whole(home: Home, lines_before: dict[str, list[dict[str, Any]]], epochs: int = EPOCHS) -> None:
    """Every trial ended once, every epoch is there once, and those from before the interruption are untouched."""
    state = status("tiny", home)
    assert [t.number for t in state.trials] == [0, 1, 2]
    assert [t.state for t in state.trials] == ["COMPLETE"] * 3
    assert sorted(home.run_ids()) == [f"tiny-t{n:04d}-s0" for n in range(3)]
    for run_id in home.run_ids():
        lines = epochs_on_disk(home, run_id)
        assert [line["epoch"] for line in lines] == list(range(1, epochs + 1))
        known = lines_before.get(run_id, [])
        assert lines[: len(known)] == known
        assert record(home, run_id)["state"] == "COMPLETE"
