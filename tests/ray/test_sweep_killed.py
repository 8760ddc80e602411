"""A sweep that is killed, interrupted or stopped goes on: nothing lost, nothing doubled.

An orderly stop trains no epoch twice. A kill costs what was trained since the last snapshot: with one per epoch
nothing, and with the default time between two a trial of seconds repeats its phase, to the same lines.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from sweep_cases import (
    EPOCHS,
    answer,
    assert_whole,
    epochs_on_disk,
    kill,
    long_space,
    record,
    start,
    wait_until,
    write_space,
)

from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.search.driver import resume
from sage_ray.search.study_folder import StudyFolder
from sage_ray.search.study_status import status, stop
from sage_ray.stages.store import StageStore

pytestmark = pytest.mark.ray

DIES_AT_ITS_THIRD_EPOCH = """
import json
import os
import sys

if any("default_worker.py" in word for word in sys.orig_argv):
    dumps = json.dumps

    def dying(value, *rest, **more):
        if isinstance(value, dict) and value.get("epoch") == 3 and "seconds" in value:
            os._exit(1)
        return dumps(value, *rest, **more)

    json.dumps = dying
"""
"""What a trial's interpreter runs first that ends, like one out of memory, before it can write down its third epoch."""


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes of a command's own, itself first."""
    parent = psutil.Process(process.pid)
    return [parent, *parent.children(recursive=True)]


def actors(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes of a command that train, or start in order to."""
    found = []
    for one in family(process):
        with contextlib.suppress(psutil.Error):  # it has just ended
            if "ImplicitFunc" in " ".join(one.cmdline()):
                found.append(one)
    return found


def test_killed_driver_resumes_with_nothing_lost_or_doubled(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    process = start("sweep", str(long_space(tmp_path, 0)), "--home", str(home.path), "--quiet")
    wait_until(lambda: len(epochs_on_disk(home, "tiny-t0001-s0")) >= 8, process)
    kill(process)
    before = {run_id: epochs_on_disk(home, run_id) for run_id in home.run_ids()}
    sha = record(home, "tiny-t0000-s0")["weights_sha"]
    dead = status("tiny", home)
    assert (dead.state, dead.died, dead.running, dead.interrupted) == ("interrupted", True, 0, 1)
    assert dead.trials[1].state == "INTERRUPTED" and dead.trials[1].epoch > 0
    again, errors = answer(start("resume", "tiny", "--home", str(home.path), "--json"))
    assert again["ok"] and again["done"] == 3, errors
    assert_whole(home, before)
    first, second = record(home, "tiny-t0000-s0"), record(home, "tiny-t0001-s0")
    assert (first["attempt"], first["weights_sha"]) == (1, sha)
    # Phase 2 alone is counted: its first snapshot stands for phase 1.
    assert second["attempt"] == 2 and second["reused_epochs"] >= len(before["tiny-t0001-s0"]) - 2


def test_ctrl_c_stop_and_resume(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    # Long enough to be stopped twice on a busy machine, where a signal may take as long as ten epochs.
    process = start("sweep", str(long_space(tmp_path, epochs=2 * EPOCHS)), "--home", str(home.path))
    wait_until(lambda: len(epochs_on_disk(home, "tiny-t0000-s0")) >= 5, process)
    with pytest.raises(UserError, match="study is being run"):
        resume("tiny", home)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and "sage-ray resume tiny" in errors.strip().splitlines()[-1]
    assert len(errors.strip().splitlines()) == 1, errors
    before = {run_id: epochs_on_disk(home, run_id) for run_id in home.run_ids()}
    assert record(home, "tiny-t0000-s0")["state"] == "INTERRUPTED"
    ended = status("tiny", home)
    assert ended.trials[0].state == "INTERRUPTED" and not ended.died, "it was ended in an orderly way"

    process = start("resume", "tiny", "--home", str(home.path), "--json")
    wait_until(lambda: len(epochs_on_disk(home, "tiny-t0000-s0")) >= len(before["tiny-t0000-s0"]) + 2, process)
    assert stop("tiny", home).state == "running"
    stopped, errors = answer(process)
    assert not stopped["ok"] and stopped["state"] == "interrupted" and process.returncode == 130, errors
    lines = {run_id: epochs_on_disk(home, run_id) for run_id in home.run_ids()}
    assert record(home, "tiny-t0000-s0")["state"] == "INTERRUPTED"
    assert lines["tiny-t0000-s0"][: len(before["tiny-t0000-s0"])] == before["tiny-t0000-s0"]

    assert resume("tiny", home).state == "finished"
    assert_whole(home, lines, 2 * EPOCHS)
    # Stopped at the end of an epoch, long before a snapshot by time was due.
    assert record(home, "tiny-t0000-s0")["reused_epochs"] == len(lines["tiny-t0000-s0"])
    assert not StudyFolder(home, "tiny").stop_path.exists()


def test_a_stop_in_mid_epoch_loses_no_finished_epoch(tmp_path: Path) -> None:
    """Epochs of seconds, two trials at once and no snapshot by time: Tune alone would drop both in their epochs."""
    home = Home(tmp_path / "home")
    longer = {"data.path": "synthetic://ordered?num=240&size=48&seed=0", "data.image_size": [48, 48]}
    path = long_space(tmp_path, snapshot_seconds=100, concurrency=2, more=longer)
    process = start("sweep", str(path), "--home", str(home.path))
    runs = [RunFolder(home.runs / f"tiny-t{number:04d}-s0") for number in (0, 1)]
    wait_until(lambda: min(run.count_epochs() for run in runs) >= 3, process)
    os.kill(process.pid, signal.SIGINT)
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and "end at their epoch, or after 130 s" in said, errors
    for run in runs:
        assert run.read().state == "INTERRUPTED"
        key, shared = (run.read().stage_keys or {})["adversarial"], 2
        assert StageStore(home.stages).latest(key, EPOCHS) == run.count_epochs() - shared > 0
        assert float(run.metrics()[-1]["seconds"]) > 0.5, "epochs were too short to be cut off"


@pytest.mark.slow
def test_killed_worker_goes_on_in_another_actor(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    process = start("sweep", str(long_space(tmp_path)), "--home", str(home.path), "--json", "--quiet")
    wait_until(lambda: len(epochs_on_disk(home, "tiny-t0000-s0")) >= 8, process)
    (actor,) = actors(process)
    actor.kill()
    before = {"tiny-t0000-s0": epochs_on_disk(home, "tiny-t0000-s0")}
    done, errors = answer(process)
    assert done["done"] == 3, errors
    assert_whole(home, before)
    again = record(home, "tiny-t0000-s0")
    assert (again["attempt"], again["reused_epochs"]) == (2, 2)


def test_a_trial_that_gets_further_after_each_kill_is_never_given_up(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    # With no retry at all Tune gives the trial up at each of the kills, and it goes on as another one of Tune's.
    retries = {"runtime.max_retries": 0, "runtime.snapshot_seconds": 0.0, "adversarial.epochs": EPOCHS - 2}
    path = write_space(tmp_path, base=retries, trials=1, points=[])
    process = start("sweep", str(path), "--home", str(home.path), "--json", "--quiet")
    for epochs in (4, 9):
        wait_until(lambda least=epochs: len(epochs_on_disk(home, "tiny-t0000-s0")) >= least, process)
        (actor,) = actors(process)
        actor.kill()
    done, errors = answer(process)
    assert (done["done"], done["failed"]) == (1, 0), errors
    assert record(home, "tiny-t0000-s0")["attempt"] == 3
    assert [line["epoch"] for line in epochs_on_disk(home, "tiny-t0000-s0")] == list(range(1, EPOCHS + 1))


def test_a_trial_that_is_killed_while_it_starts_is_tried_again(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    path = write_space(tmp_path, base={"runtime.max_retries": 1}, trials=1, points=[])
    process = start("sweep", str(path), "--home", str(home.path), "--json", "--quiet")
    wait_until(lambda: actors(process), process)
    actors(process)[0].kill()
    done, errors = answer(process)
    assert (done["done"], done["failed"]) == (1, 0), errors


@pytest.mark.slow
def test_a_trial_that_gets_no_further_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path / "home")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "other"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "sitecustomize.py").write_text(DIES_AT_ITS_THIRD_EPOCH)
    path = write_space(tmp_path, base={"runtime.max_retries": 1, "runtime.snapshot_seconds": 0.0}, trials=1, points=[])
    done, errors = answer(start("sweep", str(path), "--home", str(home.path), "--json", "--quiet"))
    assert (done["done"], done["failed"]) == (0, 1), errors
    assert record(home, "tiny-t0000-s0")["attempt"] == 3, "the first crash came after progress"


@pytest.mark.slow
def test_time_budget_leaves_the_study_resumable(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    path = long_space(tmp_path, max_hours=0.0001)
    process = start("sweep", str(path), "--home", str(home.path), "--json")
    state, errors = answer(process)
    assert process.returncode == 130 and state["state"] == "interrupted", errors
    assert state["done"] == 0 and "out of time" not in errors
