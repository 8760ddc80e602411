"""What `auto` means on a machine, and what is said of it. GPUs are pretended."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sage_ray.runtime.devices import (
    Machines,
    Node,
    crossing,
    describe_device,
    gpus_held,
    resolve_runtime,
    this_machine,
)
from sage_ray.sections import RuntimeConfig

NONE = Machines((Node(4),))
H100 = Machines((Node(16, 2),), gpu="NVIDIA H100", bf16=True)
T4 = Machines((Node(8, 1),), gpu="Tesla T4", bf16=False)
UNUSABLE = Machines((Node(8, 2),), "the Ray cluster", gpu=None)


def runtime(**values: Any) -> RuntimeConfig:
    return RuntimeConfig.model_validate({"threads": 1, **values})


@pytest.mark.parametrize(
    ("asked", "machines", "settled", "text"),
    [
        ({}, NONE, ("cpu", 0, "fp32"), "CPU, 1 thread, fp32"),
        ({"threads": 3}, NONE, ("cpu", 0, "fp32"), "CPU, 3 threads, fp32"),
        ({}, H100, ("cuda", 1, "bf16"), "NVIDIA H100, bf16"),
        ({}, T4, ("cuda", 1, "fp32"), "Tesla T4, fp32"),
        ({}, UNUSABLE, ("cpu", 0, "fp32"), "CPU, 1 thread, fp32"),
        ({"precision": "tf32"}, H100, ("cuda", 1, "tf32"), "NVIDIA H100, tf32"),
        ({"deterministic": True}, H100, ("cuda", 1, "bf16"), "NVIDIA H100, bf16, deterministic"),
        ({"device": "cpu"}, H100, ("cpu", 0, "fp32"), "CPU, 1 thread, fp32"),
        ({"gpus_per_worker": 0}, H100, ("cpu", 0, "fp32"), "CPU, 1 thread, fp32"),
        ({"gpus_per_worker": 0.5}, H100, ("cuda", 0.5, "bf16"), "0.5 of NVIDIA H100, bf16"),
        ({"gpus_per_worker": 2}, H100, ("cuda", 2, "bf16"), "2 x NVIDIA H100, bf16"),
        ({"workers": 2}, H100, ("cuda", 1, "bf16"), "2 workers, each NVIDIA H100, bf16"),
        # A config of the first release, which had 0 wherever nothing was said.
        ({"device": "cuda", "gpus_per_worker": 0, "precision": "fp32"}, H100, ("cuda", 1, "fp32"), "NVIDIA H100, fp32"),
        ({"gpus_per_worker": 0, "precision": "fp32"}, NONE, ("cpu", 0, "fp32"), "CPU, 1 thread, fp32"),
    ],
)
def test_what_auto_stands_for(asked: dict[str, Any], machines: Machines, settled: tuple[Any, ...], text: str) -> None:
    found = resolve_runtime(runtime(**asked), lambda: machines)
    assert (found.device, found.gpus_per_worker, found.precision) == settled
    assert describe_device(found, machines.gpu) == text
    assert gpus_held(found) == found.workers * settled[1]


def test_nothing_is_looked_at_when_all_is_said() -> None:
    def look() -> Machines:
        raise AssertionError("looked")

    said = runtime(device="cuda", gpus_per_worker=1, precision="bf16")
    assert resolve_runtime(said, look) == said
    assert resolve_runtime(runtime(device="cpu"), look).precision == "fp32"


def test_a_worker_lies_on_one_machine_and_a_trial_on_several() -> None:
    three = Machines((Node(4, 1), Node(4, 1), Node(3, 0)))
    assert three.fit(1, 0, 1) == 11
    assert three.fit(1, 1, 1) == 2, "CPUs of a machine without GPU are of no use to a worker with one"
    assert three.fit(3, 0, 1) == 3, "a worker's CPUs are not gathered from several machines"
    assert three.fit(1, 1, 2) == 1
    assert three.fit(1, 0.3333, 1) == 6
    assert three.fit(5, 0, 1) == 0


def test_this_machine_without_a_gpu() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    machine = this_machine()
    assert machine.cpus >= 1 and machine.gpus == 0 and machine.gpu is None


def test_a_comparison_that_crosses_devices_says_which_runs_were_where() -> None:
    assert crossing({}) == [] and crossing({"a": ("CPU, torch 2.13",), "b": ("CPU, torch 2.13",), "c": ()}) == []
    (line,) = crossing({"a": ("A100, torch 2.13",), "b": ("H100, torch 2.13",), "c": ("H100, torch 2.13",)})
    assert "A100, torch 2.13: a;" in line and line.endswith("H100, torch 2.13: b, c")
