"""Several trials on one device: memory and speed of real processes. The same bodies run on the CPU and on a GPU."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch
from study_cases import tiny_space
from tiny_cases import SMALLEST, as_sets

from sage_ray.config import resolve
from sage_ray.data.prepare import prepare
from sage_ray.record.home import Home
from sage_ray.runtime.disk_space import GB
from sage_ray.search.device_memory import device_memory, give_back_memory
from sage_ray.search.plan import plan
from sage_ray.search.shared_device import measure_side_by_side


def test_two_processes_on_one_device(device: torch.device, tmp_path: Path) -> None:
    words = [*as_sets(SMALLEST), "pretrain.epochs=1", "adversarial.epochs=4", "adversarial.freeze_epochs=2"]
    config = resolve(preset="tiny_sage_gan", sets=[*words, f"runtime.device={device.type}"]).config
    prepare(config.data, tmp_path)
    give_back_memory(device)
    before = device_memory(device)
    found = measure_side_by_side(config, 2, tmp_path, limit_s=250, window_s=0.5)
    assert found.problem is None and set(found.steps_per_s) == {"pretrain", "frozen", "adversarial"}
    assert all(speed > 0 for speed in found.steps_per_s.values())
    assert found.total_bytes == 2 * found.process_bytes < found.device_bytes == before.total_bytes
    assert not any("pilot_process" in " ".join(child.cmdline()) for child in psutil.Process().children())
    if device.type == "cpu":
        assert found.context_bytes == 0 and 0.1 * GB < found.process_bytes < 4 * GB
    else:
        # A context with the kernels of torch takes hundreds of megabytes, these networks next to nothing.
        assert 0.05 * GB < found.context_bytes < found.process_bytes < 5 * GB
        assert device_memory(device).taken_bytes - before.taken_bytes < found.context_bytes, "it is given back"


@pytest.mark.gpu
@pytest.mark.timeout(900)
def test_a_pilot_measures_trials_per_gpu(tmp_path: Path, home: Home) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU: torch sees no CUDA device here")
    found = plan(tiny_space(tmp_path, resources={"gpu": 0.5}, concurrency="auto"), home, pilot=True)
    assert found.device == "cuda" and found.pilot is not None
    first, second, *_ = found.pilot.per_gpu
    assert first.fits and first.relative_epochs_per_hour == 1 and set(first.slowdown.values()) == {1.0}
    assert first.memory_per_trial_gb is not None and 0.05 < first.memory_per_trial_gb < 5
    assert second.trials_per_gpu == 2 and second.fits and second.relative_epochs_per_hour is not None
    if found.trials_at_once and found.trials_at_once > 1:
        assert found.time_basis[0].endswith("2 trials side by side on one GPU")
    assert found.pilot.fastest is not None and found.pilot.fastest.gpu_hours
