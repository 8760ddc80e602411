"""The device that a test runs on: the CPU in every suite, a GPU where there is one (tests marked `gpu`)."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """A device with room for tiny networks; skips where it is not there."""
    name: str = request.param
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU: torch sees no CUDA device here")
    return torch.device(name)
