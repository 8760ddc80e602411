"""What `auto` means on a machine, what is said of it, and that a run keeps what it began with. GPUs are pretended."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_cases import SMALLEST, as_sets

from sage_ray.config import ExperimentConfig, resolve
from sage_ray.errors import RunStopped, UserError
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.runtime import launch
from sage_ray.runtime.devices import (
    Machines,
    Node,
    crossing,
    describe_device,
    gpus_held,
    resolve_runtime,
    this_machine,
)
from sage_ray.runtime.launch import run
from sage_ray.sections import RuntimeConfig

NONE = Machines((Node(4),))
H100 = Machines((Node(16, 2),), gpu="NVIDIA H100", bf16=True)
T4 = Machines((Node(8, 1),), gpu="Tesla T4", bf16=False)
UNUSABLE = Machines((Node(8, 2),), "the Ray cluster", gpu=None)


def runtime(**values: Any) -> RuntimeConfig:
    return RuntimeConfig.model_validate({"threads": 1, **values})


def tiny(*sets: str) -> ExperimentConfig:
    return resolve(
        "tiny_sage_gan", sets=[*as_sets(SMALLEST), "pretrain.epochs=2", "adversarial.epochs=0", *sets]
    ).config


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


# Of a run


def pretend(monkeypatch: pytest.MonkeyPatch, machines: Machines) -> None:
    monkeypatch.setattr(launch, "this_machine", lambda: machines)


def test_a_run_stores_what_it_was_settled_to_and_says_it(home: Home) -> None:
    said: list[str] = []
    run(tiny("runtime.device=cpu"), home, "r", mirror=False, say=said.append)
    stored = RunFolder.open(home.runs, "r").config().runtime
    assert (stored.device, stored.gpus_per_worker, stored.precision) == ("cpu", 0, "fp32")
    assert "computing on CPU, 1 thread, fp32" in said


def test_an_unfinished_run_goes_on_as_it_began(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: Any) -> None:
        raise RunStopped("enough")

    config = tiny("runtime.precision=bf16")
    pretend(monkeypatch, NONE)
    begun = run(config, home, "r", mirror=False, on_report=stop)
    assert begun.state == "PRUNED" and begun.computed_on == [f"CPU, torch {torch.__version__}"]
    # Later the machine has a GPU, and the command no precision.
    pretend(monkeypatch, H100)
    record = run(tiny(), home, "r", mirror=False)
    assert record.state == "COMPLETE" and record.numerics["device"] == "cpu" and record.numerics["precision"] == "bf16"
    assert record.reused_epochs == 1
    assert record.computed_on == [f"CPU, torch {torch.__version__}"]


def test_a_run_that_began_on_a_gpu_is_refused_without_one(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    config = tiny()
    began = config.model_copy(update={"runtime": resolve_runtime(config.runtime, lambda: H100)})
    RunFolder.create(home.runs, "r", began, launch.RunLabels())
    for asked in (config, began):
        with pytest.raises(UserError, match="no GPU here, and the run began on one, in bf16: r: go on with it"):
            run(asked, home, "r", mirror=False)


def test_a_gpu_that_stands_idle_is_said(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    pretend(monkeypatch, H100)
    lines = launch._device_lines(
        tiny("runtime.device=cpu", "runtime.gpus_per_worker=0", "runtime.precision=fp32"), None
    )
    assert lines[0] == "computing on CPU, 1 thread, fp32"
    assert len(lines) == 2 and lines[1].startswith("warning: 2 GPUs stand idle")
    one_of_two = tiny("runtime.device=cuda", "runtime.gpus_per_worker=1", "runtime.precision=bf16")
    assert launch._device_lines(one_of_two, H100) == [
        "computing on NVIDIA H100, bf16",
        "warning: 1 of 2 GPUs stands idle: runtime.workers is 1",
    ]


def test_stages_computed_elsewhere_are_said_where_they_are_used(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from sage_ray.training import loop

    here = f"CPU, torch {torch.__version__}"
    monkeypatch.setattr(loop, "computed_on", lambda device: "CPU, torch 2.11.0")
    first = run(tiny(), home, "first", mirror=False)
    assert first.computed_on == ["CPU, torch 2.11.0"]
    monkeypatch.undo()
    said: list[str] = []
    second = run(tiny("pretrain.epochs=3"), home, "second", mirror=False, say=said.append)
    assert second.reused_epochs == 2 and second.computed_on == ["CPU, torch 2.11.0", here]
    crossed = [line for line in said if "were computed on" in line]
    assert crossed == [f"pretrain: 2 stored epochs were computed on CPU, torch 2.11.0, and are used on {here}"]
    said.clear()
    run(tiny("pretrain.epochs=4"), home, "third", mirror=False, say=said.append)
    assert any("were computed on CPU, torch 2.11.0" in line for line in said)
