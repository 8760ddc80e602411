"""Processes that train side by side: real ones on the CPU, where the memory of a process is its resident size.

What two of them measure is in tests/gpu, whose test runs on the CPU too.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from study_cases import tiny_space
from tiny_cases import tiny_config

from sage_ray.config import ExperimentConfig
from sage_ray.data.prepare import prepare
from sage_ray.record.home import Home
from sage_ray.runtime.devices import Machines, Node
from sage_ray.runtime.disk_space import GB
from sage_ray.search import pilot as pilot_module
from sage_ray.search import planned_sharing, ray_session, shared_device
from sage_ray.search.device_memory import DeviceMemory
from sage_ray.search.plan import plan
from sage_ray.search.shared_device import measure_side_by_side

EPOCHS = ("pretrain.epochs=1", "adversarial.epochs=4", "adversarial.freeze_epochs=2", "runtime.device=cpu")


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "pilot_process" in " ".join(child.cmdline())]


def tiny(cache: Path, *sets: str) -> ExperimentConfig:
    config = tiny_config(*EPOCHS, *sets)
    prepare(config.data, cache)
    return config


def test_processes_that_take_too_long_are_ended(tmp_path: Path) -> None:
    started = time.monotonic()
    found = measure_side_by_side(tiny(tmp_path), 2, tmp_path, limit_s=1.5, window_s=1000)
    assert found.problem == "not done within 2 s, and ended" and not found.out_of_memory
    assert time.monotonic() - started < 20 and not children()


def test_what_a_process_fails_of_is_told(tmp_path: Path) -> None:
    config = tiny_config(*EPOCHS, f"data.path={tmp_path / 'nowhere'}")
    found = measure_side_by_side(config, 1, tmp_path, limit_s=200, window_s=0.1)
    assert found.problem is not None and found.problem.startswith("UserError: ") and "nowhere" in found.problem
    assert not found.out_of_memory and not found.steps_per_s and not children()


# The address space of the processes ends 1 GB above what this one has, and one layer's output takes twice that.
NO_MEMORY = """
import json, resource, sys
from pathlib import Path
import psutil
from tiny_cases import tiny_config
from sage_ray.data.prepare import prepare
from sage_ray.search.shared_device import measure_side_by_side

sets = ["data.image_size=[256,256]", "data.path=synthetic://ordered?num=16&size=256", "segmenter.width=2048"]
config = tiny_config(*sets, "pretrain.epochs=1", "adversarial.epochs=0", "pretrain.batch_size=4", "runtime.device=cpu")
cache = Path(sys.argv[1])
prepare(config.data, cache)
taken = psutil.Process().memory_info().vms
resource.setrlimit(resource.RLIMIT_AS, (taken + 1_000_000_000, resource.RLIM_INFINITY))
found = measure_side_by_side(config, 1, cache, limit_s=200, window_s=0.1)
print(json.dumps([found.problem, found.out_of_memory]))
"""


def test_a_process_without_memory_is_told_from_others(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_MEMORY, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=250,
        env=surroundings(),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.strip().splitlines()[-1]) == ["a process had no memory left", True]


LONG = """
import sys
from pathlib import Path
from tiny_cases import tiny_config
from sage_ray.data.prepare import prepare
from sage_ray.search.shared_device import measure_side_by_side

config = tiny_config("pretrain.epochs=1", "adversarial.epochs=0", "runtime.device=cpu")
prepare(config.data, Path(sys.argv[1]))
measure_side_by_side(config, 2, Path(sys.argv[1]), limit_s=1000, window_s=1000)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill"])
def test_none_outlives_the_process_that_started_them(tmp_path: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LONG, str(tmp_path)], stderr=subprocess.PIPE, env=surroundings()
    ) as one:
        family: list[psutil.Process] = []
        deadline = time.monotonic() + 100
        # What is imported by then takes memory; a process that has just been started is ended as well.
        while len(family) < 2 or min(child.memory_info().rss for child in family) < 0.1 * GB:
            assert one.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
            family = psutil.Process(one.pid).children()
        one.send_signal(number)
        _, errors = one.communicate(timeout=60)
    assert number == signal.SIGKILL or b"KeyboardInterrupt" in errors
    _, left = psutil.wait_procs(family, timeout=60)
    assert not left


def surroundings() -> dict[str, str]:
    """Variables of a process that finds this package and the helpers of its tests, and has one thread."""
    paths = [str(Path(__file__).parents[2]), str(Path(__file__).parents[3])]
    return {"PYTHONPATH": ":".join(paths), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}


def test_a_plan_measures_numbers_of_trials_until_one_does_not_fit(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole of it on the CPU: that there is a GPU, and how much memory it has, is all that is pretended."""
    monkeypatch.setattr(pilot_module, "PILOT_S", 0.1)
    monkeypatch.setattr(planned_sharing, "WINDOW_S", 0.3)
    monkeypatch.setattr(planned_sharing, "on_gpu", lambda placement: True)
    monkeypatch.setattr(ray_session, "this_machine", lambda: Machines((Node(2, 1),), gpu="CPU"))
    measured: list[int] = []

    def card(device: object) -> DeviceMemory:
        measured.append(1)
        return DeviceMemory(total_bytes=int(1.4 * GB), taken_bytes=psutil.Process().memory_info().rss)

    monkeypatch.setattr(shared_device, "device_memory", card)
    said: list[str] = []
    space = tiny_space(tmp_path, resources={"gpu": 0})
    found = plan(space, home, pilot=True, say=said.append)
    sharing = found.pilot
    assert sharing is not None and not children()
    first, *rest = sharing.per_gpu
    # A process of torch takes .4 to .6 GB: one fits in 1.4 GB, of which a tenth stays free, and three never do.
    assert first.fits and first.relative_epochs_per_hour == 1 and first.epochs_per_hour is not None
    last = rest[-1]
    assert last.verdict == "does_not_fit" and last.reason is not None and f"{last.trials_per_gpu} x 0." in last.reason
    assert len(measured) == sum(row.epochs_per_hour is not None for row in sharing.per_gpu)
    assert all(0.2 < row.relative_epochs_per_hour < 2.5 for row in sharing.per_gpu if row.relative_epochs_per_hour)
    assert sharing.fastest is not None and sharing.fastest.wall_hours is not None
    assert any("one trial alone" in line for line in said)
