"""Parity with the published code on a GPU: the checks of tests/golden there, a few of them here on the CPU."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu_parity import run_checks
from sage_ray.training.precision import use_precision

# isort: split
from placing import Place

FEW = ("segmentation loss", "differentiable augmentation", "attention gate, train", "modulated convolution")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_parity(device: torch.device, dtype: torch.dtype) -> None:
    use_precision("fp32", device)
    # On the CPU tests/golden runs all of them already.
    rows = list(run_checks([Place(dtype, device)], only=FEW if device.type == "cpu" else None))
    assert rows
    failed = [f"{row['check']}: {row['error']}" for row in rows if not row["passed"]]
    assert not failed, "\n".join(failed)


def test_a_wrong_number_is_seen(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    import network_checks

    right = network_checks.modulated_conv
    monkeypatch.setattr(network_checks, "modulated_conv", lambda **given: right(**given) * 1.001)
    (row,) = run_checks([Place(torch.float64, device)], only=("modulated convolution",))
    assert not row["passed"] and "modulated_conv" in row["error"]
