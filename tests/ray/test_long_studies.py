"""What a study of months meets: workers without the package, faults of all trials, hung processes, limits, growth."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from sweep_cases import TOO_MUCH, ended, epochs_on_disk, kill, record, start, wait_until, write_space

from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.search.best import best
from sage_ray.search.driver import resume, sweep
from sage_ray.search.study_status import StudyStatus, status
from sage_ray.study.space import load_space
from sage_ray.watch import SilentWatch

pytestmark = pytest.mark.ray

QUICK = {"adversarial.epochs": 1, "pretrain.epochs": 1}


class Lines(SilentWatch):
    """Keeps the lines of a study, and the most trials that it showed running at a time."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.running = 0

    def line(self, text: str) -> None:
        self.lines.append(text)

    def update(self, state: StudyStatus) -> None:
        self.running = max(self.running, state.running)


@contextmanager
def cluster(python_path: Path | None) -> Iterator[str]:
    """Address of a Ray cluster of one node, whose workers look for packages in `python_path` first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["start", "--head", f"--port={port}", "--num-cpus=1", "--block"]
    words += ["--include-dashboard=false", "--disable-usage-stats"]
    environment = {**os.environ, **({"PYTHONPATH": str(python_path)} if python_path else {})}
    ray = Path(sys.executable).with_name("ray")
    process = subprocess.Popen(
        [str(ray), *words], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(port, process)
        yield f"127.0.0.1:{port}"
    finally:
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        for child in psutil.wait_procs(family, timeout=20)[1]:
            child.kill()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    pytest.fail("the cluster did not start")


ELSEWHERE = """
import importlib.util
import sys


class AnotherMachine:
    \"\"\"Ray hands the driver's own sys.path to its workers, which on another machine leads nowhere.\"\"\"

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] != "sage_ray":
            return None
        if VERSION is None:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return importlib.util.spec_from_loader(name, self, is_package=True)

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        module.__version__ = VERSION
        module.__file__ = "/elsewhere/" + module.__name__


sys.meta_path.insert(0, AnotherMachine())
"""
"""What a worker's interpreter runs first: it has another version of the package, or none."""


@pytest.mark.parametrize(
    ("version", "words"),
    [("0.0.1", "has sage_ray 0.0.1"), pytest.param(None, "cannot import sage_ray", marks=pytest.mark.slow)],
)
def test_workers_without_this_package_are_named_before_the_first_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str | None, words: str
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "sitecustomize.py").write_text(f"VERSION = {version!r}\n{ELSEWHERE}")
    home = Home(tmp_path / "home")
    path = write_space(tmp_path, QUICK, trials=2)
    # As on a private network; both sides read it when they start.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with cluster(other) as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        code, _, said = ended(start("sweep", str(path), "--home", str(home.path), "--json"))
        assert code == 2 and f"a worker {words}" in said and "install sage_ray" in said.strip().splitlines()[-1]
    assert not home.run_ids() and status("tiny", home).trials == ()
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.delenv("RAY_AUTH_MODE")
    assert resume("tiny", home).done == 2, "nothing was lost by it"


BROKEN_DISK = """
import os
import sys

if any("default_worker.py" in word for word in sys.orig_argv):

    def fsync(descriptor):
        raise OSError(ERRNO, os.strerror(ERRNO))

    os.fsync = fsync
"""
"""What a worker's interpreter runs first where the disk takes nothing that has to stay."""


@pytest.mark.parametrize(
    ("errno", "words"),
    [
        (27, ["trials in a row ended before their first epoch", "File too large"]),  # nobody's own, and no node's
        # A machine's, and there is no other.
        pytest.param(5, ["no node is left for trials", "Input/output error"], marks=pytest.mark.slow),
    ],
)
def test_a_fault_of_all_trials_stops_the_study_and_costs_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, errno: int, words: list[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "sitecustomize.py").write_text(BROKEN_DISK.replace("ERRNO", str(errno)))
    home = Home(tmp_path / "home")
    path = write_space(tmp_path, QUICK, trials=4, points=[], space={"adversarial.lr": {"float": [1e-5, 1e-3]}})
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with cluster(other) as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        code, _, said = ended(start("sweep", str(path), "--home", str(home.path), "--json"))
    last = said.strip().splitlines()[-1]
    assert code == 1 and all(word in last for word in words), last
    found = status("tiny", home)
    assert (found.failed, found.done) == (0, 0) and found.trials, [trial.error for trial in found.trials]
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.delenv("RAY_AUTH_MODE")
    again = resume("tiny", home)
    assert (again.done, again.failed) == (4, 0), "every trial is trained once the fault is mended"
    assert [trial.params for trial in again.trials[: len(found.trials)]] == [trial.params for trial in found.trials]


def test_trials_that_all_fail_stop_the_study_and_exit_with_1(tmp_path: Path) -> None:
    home = tmp_path / "home"
    diverging = {"adversarial.lambda_cycle": {"categorical": [TOO_MUCH, TOO_MUCH / 2]}, "seed": None}
    diverging.pop("seed")
    lr = {"adversarial.lr": {"float": [1e-4, 2e-3]}}
    path = write_space(tmp_path, QUICK, space={**diverging, **lr}, points=[], trials=6, concurrency=1)
    stopped = start("sweep", str(path), "--home", str(home), "--json", "--set", "max_failures_in_a_row=2")
    code, answer, errors = ended(stopped)
    assert code == 1 and "2 trials in a row failed" in errors and "max_failures_in_a_row" in errors
    assert status("tiny", Home(home)).failed == 2
    code, answer, errors = ended(start("resume", "tiny", "--home", str(home), "--json", "--set", "trials=3"))
    assert code == 1 and not answer["ok"] and answer["failed"] == 3 and "every trial of tiny failed" in errors
    assert "diverged" in errors.strip().splitlines()[-1]


def test_no_more_trials_are_drawn_than_fit(connected: None, tmp_path: Path) -> None:
    watch = Lines()
    space = load_space(write_space(tmp_path, QUICK, trials=5, concurrency=64))
    assert sweep(space, Home(tmp_path / "home"), watch=watch).done == 5
    fits = len(os.sched_getaffinity(0))
    assert watch.running <= fits
    assert any("concurrency is 64, of which" in line for line in watch.lines)


def test_a_hung_trial_is_ended_recorded_and_tried_again(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    base = {"adversarial.epochs": 20, "runtime.silence_minutes": 0.3, "runtime.snapshot_seconds": 0.0}
    path = write_space(tmp_path, base, trials=1, concurrency=1, points=[{}])
    process = start("sweep", str(path), "--home", str(home.path), "--json")
    wait_until(lambda: len(epochs_on_disk(home, "tiny-t0000-s0")) >= 6, process)
    found = status("tiny", home).trials[0]
    assert found.state == "RUNNING" and found.silent_s is not None and found.silent_s < 30
    family = psutil.Process(process.pid).children(recursive=True)
    hung = [p for p in family if "ImplicitFunc" in " ".join(p.cmdline())]
    assert len(hung) == 1
    hung[0].suspend()
    before = len(epochs_on_disk(home, "tiny-t0000-s0"))
    code, answer, errors = ended(process)
    assert code == 0 and answer["done"] == 1, errors
    again = record(home, "tiny-t0000-s0")
    assert again["attempt"] == 2 and again["reused_epochs"] >= before - 1
    assert "trial 0 is ended and tried again, silent: nothing was reported for" in errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("retries", "ends"),
    [pytest.param(1, ("COMPLETE", 2), id="again"), pytest.param(0, ("FAIL", 1), id="for good")],
)
def test_a_hung_worker_of_several_is_found_though_its_trial_still_answers(
    tmp_path: Path, retries: int, ends: tuple[str, int]
) -> None:
    home = Home(tmp_path / "home")
    runtime = {"runtime.silence_minutes": 0.3, "runtime.snapshot_seconds": 0.0, "runtime.max_retries": retries}
    trials = 1 if retries else 2
    base = {"adversarial.epochs": 14, **runtime}
    path = write_space(tmp_path, base, trials=trials, points=[], resources={"workers": 2})
    process = start("sweep", str(path), "--home", str(home.path), "--json")
    wait_until(lambda: len(epochs_on_disk(home, "tiny-t0000-s0")) >= 4, process)
    family = psutil.Process(process.pid).children(recursive=True)
    workers = [p for p in family if "RayTrainWorker" in " ".join(p.cmdline())]
    assert len(workers) == 2
    workers[1].suspend()
    code, answer, errors = ended(process)
    first = record(home, "tiny-t0000-s0")
    assert (first["state"], first["attempt"]) == ends, errors
    assert code == 0 and answer["done"] == 1, "what it held was free for the next attempt, or for the other trial"
    again = "trial 0 is ended and tried again, silent" if retries else "trial 0 is ended, silent"
    assert errors.count(f"{again}: nothing was reported for") == 1
    assert not workers[1].is_running()


def test_limits_of_hours_leave_the_study_resumable(connected: None, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    path = write_space(tmp_path, QUICK, trials=3, concurrency=1)
    watch = Lines()
    found = sweep(load_space(path, ["max_gpu_hours=0.00001"]), home, watch=watch)
    assert found.state == "interrupted" and found.done < 3
    assert any("max_gpu_hours" in line and "are spent" in line for line in watch.lines)
    assert resume("tiny", home, sets={"max_gpu_hours": None}).done == 3


def test_a_study_grows_and_failed_trials_are_tried_again(connected: None, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    points = [{}, {"adversarial.lambda_cycle": TOO_MUCH}, {"adversarial.lambda_cycle": 2.0}]
    found = sweep(load_space(write_space(tmp_path, QUICK, points=points, trials=3)), home)
    assert [trial.state for trial in found.trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    weights = {run: RunFolder(home.runs / run).read().weights_sha for run in home.run_ids()}
    more = resume("tiny", home, sets=["seeds=[0, 1]", "trials=4", "runtime.pictures=false"])
    assert more.done == 3 and more.failed == 1 and more.state == "finished"
    assert {len(trial.runs) for trial in more.trials if trial.state == "COMPLETE"} == {2}
    kept = {run: RunFolder(home.runs / run).read().weights_sha for run in weights}
    assert kept == weights, "what was trained is not trained again"
    assert resume("tiny", home, retry_failed=True) == more, "what diverged would diverge again"
    assert "crashed" not in str(more.trials[1].error)
    again = resume("tiny", home, retry=[1])
    # A run that leaves its process to wait for a stage, as on a busy machine, begins once more.
    assert again.trials[1].state == "FAIL" and record(home, "tiny-t0001-s0")["attempt"] >= 2


def test_two_objectives_end_in_a_front_and_a_choice(connected: None, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    dimensions = {"adversarial.epochs": {"categorical": [1, 2, 4]}}
    objective = [{"metric": "val/dice"}, {"metric": "gpu_seconds"}]
    grid: dict[str, Any] = {"space": dimensions, "objective": objective, "sampler": {"name": "grid"}, "points": []}
    found = sweep(load_space(write_space(tmp_path, trials=3, concurrency=1, **grid)), home)
    assert found.done == 3
    spent = [trial.objectives["gpu_seconds"] for trial in found.trials]
    for trial, seconds in zip(found.trials, spent, strict=True):
        lines = epochs_on_disk(home, trial.runs[0].run_id)
        assert seconds == pytest.approx(sum(line["seconds"] for line in lines)) and seconds > 0
    assert record(home, found.trials[2].runs[0].run_id)["reused_epochs"] >= 2, "it counts what it took over"
    choice = best("tiny", home)
    assert choice.trial in {entry.trial for entry in choice.front}
    assert "second objective" in choice.rule and set(choice.front[0].objectives) == {"val/dice", "gpu_seconds"}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kills_at_random_moments_change_neither_points_nor_weights(connected: None, tmp_path: Path) -> None:
    """A seeded random search, killed again and again, ends as one that was left alone."""
    dimensions = {"adversarial.lambda_cycle": {"float": [0.5, 2]}, "adversarial.lr": {"float": [1e-4, 2e-3]}}
    base = {"adversarial.epochs": 6, "runtime.snapshot_seconds": 0.0}
    path = write_space(tmp_path, base, space=dimensions, trials=6, concurrency=1)
    whole = sweep(load_space(path), Home(tmp_path / "whole"))
    home = Home(tmp_path / "killed")
    moments = random.Random(0)
    verb = ("sweep", str(path))
    for _ in range(int(os.environ.get("SAGE_KILLS", "3"))):
        process = start(*verb, "--home", str(home.path), "--json", "--quiet")
        deadline = time.monotonic() + moments.uniform(4, 20)
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if process.poll() is None:
            kill(process)
    found = resume("tiny", home)
    assert [t.params for t in found.trials] == [t.params for t in whole.trials]
    assert [t.weights_sha for t in found.trials] == [t.weights_sha for t in whole.trials]
