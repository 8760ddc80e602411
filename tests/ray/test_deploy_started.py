"""The scripts of deploy/ at work: started, ended in the middle, started again until a small study is finished.

Ray, sage-ray, its training and the signals are real. `srun` and `scontrol` stand in for the scheduler: they start the
steps here, as nodes with addresses and temporary folders of their own, and write down what they are asked.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sweep_cases import epochs_on_disk, kill, wait_until, write_space

from sage_ray.record.home import Home
from sage_ray.search.study_status import status

# Under a minute each on 2 idle cores; on a machine that others use, starting Ray twice takes minutes.
pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.timeout(900)]

REPO = Path(__file__).resolve().parents[2]
DEPLOY = REPO / "deploy"
BIN = Path(sys.executable).parent
EPOCHS = 20
PATIENCE_S = 400
SRUN = """\
#!/usr/bin/env bash
while [[ ${1:-} == --* ]]; do
    [[ $1 == --nodelist=* ]] && node=${1#*=}
    shift
done
export SLURMD_NODENAME=$node TMPDIR=$FAKE_SLURM/${node##*.}
mkdir -p "$TMPDIR"
exec "$@"
"""
SCONTROL = """\
#!/usr/bin/env bash
case $1 in
show) tr , '\\n' <<<"$3" ;;
*) echo "$*" >>"$FAKE_SLURM/asked" ;;
esac
"""
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def slurm() -> Iterator[Path]:
    """Folder of the scheduler's stand-ins. Its path is short, since names of sockets under it have a limit."""
    folder = Path(tempfile.mkdtemp(prefix="sl", dir="/tmp"))
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / "bin").mkdir(exist_ok=True)
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a script of deploy/ on a small study, as a session of its own; what is left of it ends with the test."""
    dimensions = {"adversarial.lambda_cycle": {"float": [0.5, 2]}, "adversarial.lr": {"float": [1e-4, 2e-3]}}
    base = {"adversarial.epochs": EPOCHS - 2, "runtime.snapshot_seconds": 0}
    space = write_space(tmp_path, base=base, space=dimensions, trials=4, concurrency="auto")
    begun: list[subprocess.Popen[str]] = []

    def run(script: str, **more: str) -> subprocess.Popen[str]:
        kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "TMPDIR")}
        own = {"SAGE_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
        path = f"{BIN}:{kept['PATH']}"
        process = subprocess.Popen(
            ["bash", str(DEPLOY / script), "sweep", str(space), "first", "--set", "trials=3"],
            cwd=tmp_path,
            env={**kept, "PATH": path, **own, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        begun.append(process)
        return process

    yield run
    for process in begun:
        for left in _session(process.pid):
            left.kill()
        process.wait(timeout=30)


def _session(leader: int) -> list[psutil.Process]:
    """Processes of a session that live."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def job(slurm: Path, nodes: str, **more: str) -> dict[str, str]:
    """What Slurm gives to a job."""
    path = f"{slurm / 'bin'}:{os.environ['PATH']}"
    facts = {"SLURM_JOB_ID": "71", "SLURM_JOB_NODELIST": nodes, "SLURM_CPUS_PER_TASK": "1"}
    places = {"SLURM_SUBMIT_DIR": str(REPO), "SAGE_VENV": str(BIN.parent), "FAKE_SLURM": str(slurm)}
    return {"PATH": path, "TMPDIR": str(slurm), **facts, **places, **more}


def longest(home: Home) -> int:
    """Epochs of the run that has most of them."""
    return max((len(epochs_on_disk(home, run_id)) for run_id in home.run_ids()), default=0)


def assert_finished(home: Home, before: dict[str, list[dict[str, Any]]]) -> None:
    """Every trial ended once, every epoch is there once, and those from before are untouched."""
    state = status("first", home)
    assert state.state == "finished" and [trial.state for trial in state.trials] == ["COMPLETE"] * 3
    for run_id in home.run_ids():
        lines = epochs_on_disk(home, run_id)
        assert [line["epoch"] for line in lines] == list(range(1, EPOCHS + 1))
        known = before.get(run_id, [])
        assert lines[: len(known)] == known


def test_the_entrypoint_begins_a_study_goes_on_with_it_and_says_that_it_is_finished(
    start: Start, tmp_path: Path
) -> None:
    home = Home(tmp_path / "home")
    first = start("entrypoint.sh")
    wait_until(lambda: longest(home) >= 4, first)
    # Its trial is held, so that it does not finish while the second one starts; its driver gives signs of life.
    for child in psutil.Process(first.pid).children(recursive=True):
        if "ImplicitFunc" in " ".join(child.cmdline()):
            child.suspend()
    second = start("entrypoint.sh", SAGE_WAIT_S="1")
    out, _ = second.communicate(timeout=PATIENCE_S)
    assert second.returncode == 2 and "is being run by another driver: waiting, 1 s at most" in out
    assert "study is being run" in out.splitlines()[-1]
    kill(first)
    before = {run_id: epochs_on_disk(home, run_id) for run_id in home.run_ids()}
    deadline = time.monotonic() + 60
    while status("first", home).state != "interrupted":
        assert time.monotonic() < deadline
        time.sleep(0.5)

    again = start("entrypoint.sh")
    out, _ = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0 and "study first is interrupted: sage-ray resume first" in out, out
    assert_finished(home, before)
    attempts = sorted(path.read_text() for path in home.runs.glob("*/record.json"))

    third = start("entrypoint.sh")
    out, _ = third.communicate(timeout=PATIENCE_S)
    assert third.returncode == 0 and "study first is finished" in out and "3 of 3" in out, out
    assert sorted(path.read_text() for path in home.runs.glob("*/record.json")) == attempts


def test_a_job_on_two_nodes_goes_back_into_the_queue_and_its_next_start_finishes_the_study(
    start: Start, slurm: Path, tmp_path: Path
) -> None:
    home = Home(tmp_path / "home")
    nodes = "127.0.0.2,127.0.0.3"
    first = start("slurm/sweep.sbatch", **job(slurm, nodes))
    wait_until(lambda: longest(home) >= 3, first)
    # To the batch script alone, as --signal=B:TERM@180 does.
    os.kill(first.pid, signal.SIGTERM)
    out, _ = first.communicate(timeout=PATIENCE_S)
    assert first.returncode == 130, out
    assert "2 of 2 nodes have joined" in out and "2 trials at once" in out, out
    assert "the driver ended with 130" in out and (slurm / "asked").read_text() == "requeue 71\n"
    assert status("first", home).state == "interrupted"
    assert _session(first.pid) == [] and not list(slurm.glob("*/ray-71"))
    before = {run_id: epochs_on_disk(home, run_id) for run_id in home.run_ids()}

    second = start("slurm/sweep.sbatch", **job(slurm, nodes, SLURM_RESTART_COUNT="1"))
    out, _ = second.communicate(timeout=PATIENCE_S)
    assert second.returncode == 0 and "start 2" in out and "study first is interrupted" in out, out
    assert (slurm / "asked").read_text() == "requeue 71\n"
    assert_finished(home, before)
    assert _session(second.pid) == [] and not list(slurm.glob("*/ray-71"))


def test_a_job_on_one_node_ends_cleanly_and_goes_back_into_the_queue(start: Start, slurm: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    process = start("slurm/one_node.sbatch", **job(slurm, "127.0.0.2"))
    wait_until(lambda: longest(home) >= 3, process)
    os.kill(process.pid, signal.SIGTERM)
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130 and "go on with: sage-ray resume first" in out, out
    assert (slurm / "asked").read_text() == "requeue 71\n" and not list(slurm.glob("ray-71"))
    assert status("first", home).state == "interrupted" and status("first", home).failed == 0


def test_a_head_that_cannot_start_ends_the_job_at_once(start: Start, slurm: Path) -> None:
    process = start("slurm/sweep.sbatch", **job(slurm, "127.0.0.2", SLURM_CPUS_PER_TASK="none"))
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1 and "Ray does not start on 127.0.0.2" in out, out
    assert not (slurm / "asked").exists()
