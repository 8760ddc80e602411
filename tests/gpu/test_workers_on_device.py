"""One worker over torch.distributed: NCCL on a GPU, gloo on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
import torch.distributed as dist
from tiny_cases import SMALLEST, as_sets

from sage_ray.config import ExperimentConfig, resolve

if TYPE_CHECKING:
    from sage_ray.record.home import Home


@pytest.fixture
def group(device: torch.device, tmp_path: Path) -> Iterator[torch.device]:
    """The device, with a process group of this process alone."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group(backend, store=store, rank=0, world_size=1)
    yield device
    dist.destroy_process_group()


def test_collectives_of_one_worker(group: torch.device) -> None:
    ray_context = pytest.importorskip("sage_ray.runtime.ray_context")
    value = torch.tensor([1.5, -2.0], device=group, requires_grad=True)
    total = ray_context._SumOverWorkers.apply(value * value)
    (total * torch.tensor([1.0, 10.0], device=group)).sum().backward()
    assert torch.equal(total.detach(), torch.tensor([2.25, 4.0], device=group))
    assert value.grad is not None and torch.equal(value.grad, torch.tensor([3.0, -40.0], device=group))
    weight = torch.arange(12.0, device=group).reshape(3, 4).t()  # not contiguous
    before = weight.clone()
    ray_context._broadcast(weight)
    assert torch.equal(weight, before)


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_worker_of_ray_train_trains_what_this_process_trains(device: torch.device, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from sage_ray.record.home import Home
    from sage_ray.runtime.launch import run

    config = tiny(device)
    shas = {}
    for launcher in ("inline", "ray"):
        home = Home(tmp_path / launcher)
        record = run(config, home, "one", mirror=False, launcher=launcher)
        assert record.state == "COMPLETE", (home.runs / "one" / "error.txt").read_text()
        shas[launcher] = weights(home)
    assert shas["ray"] == shas["inline"]


def tiny(device: torch.device) -> ExperimentConfig:
    gpus = 1 if device.type == "cuda" else 0
    words = ["pretrain.epochs=1", "adversarial.epochs=1", "adversarial.freeze_epochs=0", "runtime.pictures=false"]
    words += [f"runtime.device={device.type}", f"runtime.gpus_per_worker={gpus}", "runtime.deterministic=true"]
    return resolve(preset="tiny_sage_gan", sets=[*as_sets(SMALLEST), *words]).config


def weights(home: Home) -> bytes:
    return (home.runs / "one" / "artifacts" / "model" / "segmenter.safetensors").read_bytes()
