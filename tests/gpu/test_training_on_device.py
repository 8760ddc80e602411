"""Training on a device: both phases, resume to the bit, precision. The same bodies run on the CPU and on a GPU."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_cases import SMALLEST, as_sets

from benchmarks.gpu_sections import costliest_kernels
from benchmarks.gpu_steps import KINDS, Sizes, Training, time_kind
from sage_ray.config import ExperimentConfig, resolve
from sage_ray.data.prepare import prepare
from sage_ray.errors import RunStopped, UserError
from sage_ray.stages.store import StageStore
from sage_ray.training.context import LocalContext
from sage_ray.training.loop import TrainResult, run_training
from sage_ray.training.precision import resolve_precision, tf32_allowed

SCHEDULE = ("pretrain.epochs=2", "adversarial.epochs=3", "adversarial.freeze_epochs=1", "adversarial.mix_start=0.5")


@pytest.fixture(autouse=True)
def _torch_settings() -> Iterator[None]:
    """A deterministic run leaves no later test deterministic."""
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = torch.backends.cudnn.benchmark = False


def tiny(device: torch.device, *sets: str) -> ExperimentConfig:
    words = [*as_sets(SMALLEST), *SCHEDULE, f"runtime.device={device.type}", *sets]
    return resolve(preset="tiny_sage_gan", sets=words).config


def train(config: ExperimentConfig, folder: Path, stop_after: int | None = None) -> TrainResult:
    reports: list[dict[str, Any]] = []
    ctx = LocalContext(
        config.runtime,
        on_report=reports.append,
        should_stop=lambda: stop_after is not None and len(reports) >= stop_after,
    )
    return run_training(config, prepare(config.data, folder), ctx, StageStore(folder / "stages"), cache_dir=folder)


def test_both_phases_train(device: torch.device, tmp_path: Path) -> None:
    result = train(tiny(device), tmp_path)
    assert [report["phase"] for report in result.history] == ["pretrain"] * 2 + ["adversarial"] * 3
    losses = [report["train/loss"] for report in result.history]
    assert all(math.isfinite(loss) for loss in losses) and losses[1] < losses[0]
    assert result.generator_updates > 0 and result.synthetic_steps > 0
    assert result.numerics["device"] == device.type
    assert result.numerics["precision"] == resolve_precision("auto", device)
    assert all(p.device.type == "cpu" for p in result.segmenter.parameters())


@pytest.mark.parametrize("after", [1, 2, 4])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_deterministic_run_resumes_to_the_bit(
    device: torch.device, tmp_path: Path, precision: str, after: int
) -> None:
    config = tiny(device, "runtime.deterministic=true", f"runtime.precision={precision}")
    whole = train(config, tmp_path / "whole")
    with pytest.raises(RunStopped):
        train(config, tmp_path / "stopped", stop_after=after)
    resumed = train(config, tmp_path / "stopped")
    assert resumed.reused_epochs == after
    assert resumed.weights_sha == whole.weights_sha


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_precision_modes(device: torch.device, tmp_path: Path, precision: str) -> None:
    config = tiny(device, "adversarial.epochs=1", "adversarial.freeze_epochs=0", f"runtime.precision={precision}")
    if precision == "tf32" and device.type == "cpu":
        with pytest.raises(UserError, match="no TF32 on a CPU"):
            train(config, tmp_path)
        return
    result = train(config, tmp_path)
    assert result.numerics["precision"] == precision
    assert all(math.isfinite(report["train/loss"]) for report in result.history)
    if device.type == "cuda":
        assert tf32_allowed() == (precision == "tf32") == result.numerics["tf32"]


def test_precisions_are_different_numbers(device: torch.device, tmp_path: Path) -> None:
    shas = {p: train(tiny(device, f"runtime.precision={p}"), tmp_path / p).weights_sha for p in ("fp32", "bf16")}
    assert shas["fp32"] != shas["bf16"]


def test_steps_are_timed_and_profiled(device: torch.device) -> None:
    sizes = Sizes(rows=32, columns=48, width=4, batch=2, steps=2, warm_up=1, device=device.type, backend="aot_eager")
    training = Training(sizes, "pretrain", "fp32")
    row = time_kind(training, KINDS[0], sizes, until=math.inf)
    assert 0 < row["s"]["min"] <= row["s"]["max"] and row["timed_steps"] == 2
    assert (row["peak_memory_gb"] is not None) == (device.type == "cuda")
    found = costliest_kernels(training, KINDS[0])
    assert found["kernels"] and sum(kernel["share"] for kernel in found["kernels"]) <= 1.0001
