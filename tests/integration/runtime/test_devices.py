"""A run keeps the device that it began with. GPUs are pretended."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_cases import tiny_config

from sage_ray.config import ExperimentConfig
from sage_ray.errors import RunStopped, UserError
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.runtime import launch
from sage_ray.runtime.devices import (
    Machines,
    Node,
    resolve_runtime,
)
from sage_ray.runtime.launch import run

NONE = Machines((Node(4),))


H100 = Machines((Node(16, 2),), gpu="NVIDIA H100", bf16=True)


def tiny(*sets: str) -> ExperimentConfig:
    return tiny_config("pretrain.epochs=2", "adversarial.epochs=0", *sets)


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
    lines: list[str] = []
    on_cpu = tiny("runtime.device=cpu", "runtime.gpus_per_worker=0", "runtime.precision=fp32")
    launch._say_device(on_cpu, None, lines.append)
    assert lines[0] == "computing on CPU, 1 thread, fp32"
    assert len(lines) == 2 and lines[1].startswith("warning: 2 GPUs stand idle")
    one_of_two = tiny("runtime.device=cuda", "runtime.gpus_per_worker=1", "runtime.precision=bf16")
    launch._say_device(one_of_two, H100, lines.append)
    assert lines[2:] == [
        "computing on NVIDIA H100, bf16",
        "warning: 1 of 2 GPUs stands idle: runtime.workers is 1",
    ]
    launch._say_device(one_of_two, H100, lines.append, under_ray=True, runs=2)
    assert lines[4:] == ["computing on NVIDIA H100, bf16"], "another run has the other one"
    many = on_cpu.with_values({"runtime.threads": 0, "runtime.cpus_per_worker": 3})
    launch._say_device(many, None, lines.append, under_ray=True)
    assert lines[5] == "computing on CPU, 3 threads, fp32", "those that a worker asks for"


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
