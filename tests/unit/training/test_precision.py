"""Which precision a name stands for, and what torch is told of it. No GPU is needed: the sensors are replaced."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from sage_ray.config import resolve
from sage_ray.errors import UserError
from sage_ray.stages.keys import stage_keys
from sage_ray.training import precision
from sage_ray.training.build import autocast
from sage_ray.training.context import numerics
from sage_ray.training.precision import computing_in, resolve_precision, tf32_allowed, use_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
RELEASED = {"device": "cuda", "compile": False, "workers": 1, "threads": 0, "channels_last": True}


def gpu(monkeypatch: pytest.MonkeyPatch, *, native: bool, emulated: bool = True, capability: int = 8) -> None:
    """A GPU as torch would report it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or (emulated and including_emulation)
    )
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (capability, 0))


@pytest.fixture
def torch_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch's settings of before, put back afterwards."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    before = (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
    torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = False
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_on_a_gpu_that_has_it_natively(
    monkeypatch: pytest.MonkeyPatch, native: bool, expected: str
) -> None:
    gpu(monkeypatch, native=native)
    assert resolve_precision("auto", CUDA) == expected
    assert resolve_precision("auto", CPU) == "fp32"
    assert resolve_precision("bf16", CUDA) == "bf16"  # by name an emulated one is taken
    assert resolve_precision("fp32", "cuda") == "fp32"


def test_tf32_is_refused_where_it_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no TF32 on a CPU"):
        resolve_precision("tf32", CPU)
    gpu(monkeypatch, native=False, capability=7)
    with pytest.raises(UserError, match="no TF32 on this GPU"):
        resolve_precision("tf32", CUDA)
    gpu(monkeypatch, native=True)
    assert resolve_precision("tf32", CUDA) == "tf32"


def test_bf16_by_name_is_allowed_on_a_cpu_and_refused_on_a_gpu_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_precision("bf16", CPU) == "bf16"
    gpu(monkeypatch, native=False, emulated=False)
    with pytest.raises(UserError, match="no bf16 on this GPU"):
        resolve_precision("bf16", CUDA)


def test_a_machine_without_a_gpu_can_say_what_a_gpu_will_compute_in() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert [resolve_precision(name, CUDA) for name in ("auto", "bf16", "tf32", "fp32")] == [
        "bf16",
        "bf16",
        "tf32",
        "fp32",
    ]


@pytest.mark.parametrize("name", ["fp32", "bf16", "tf32"])
def test_tf32_is_on_only_when_it_is_asked_for(torch_settings: None, name: precision.Precision) -> None:
    torch.backends.cudnn.allow_tf32 = True  # torch's own default
    use_precision(name, CUDA)
    wanted = name == "tf32"
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (wanted, wanted)
    assert torch.backends.cuda.matmul.fp32_precision == ("tf32" if wanted else "ieee")
    assert torch.backends.cudnn.benchmark
    with computing_in("fp32", CUDA):
        assert not tf32_allowed()
    assert tf32_allowed() == wanted


def test_deterministic_asks_for_kernels_of_fixed_order_and_leaves_again(torch_settings: None) -> None:
    use_precision("fp32", CUDA, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == precision.CUBLAS_WORKSPACE
    use_precision("fp32", CUDA)  # the next trial of a process
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark and not torch.backends.cudnn.deterministic


def test_a_cpu_run_changes_nothing_of_torch(torch_settings: None) -> None:
    use_precision("fp32", CPU, deterministic=True)
    with computing_in("fp32", CPU):
        assert torch.backends.cudnn.allow_tf32
    assert not torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark


def test_autocast_follows_the_resolved_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    def inside(name: str, device: torch.device) -> bool:
        config = resolve("tiny_unet", sets=[f"runtime.precision={name}"]).config
        with autocast(config, device)():
            return torch.is_autocast_enabled(device.type)

    assert not inside("auto", CPU) and inside("bf16", CPU)
    gpu(monkeypatch, native=True)
    assert inside("auto", CUDA) and not inside("tf32", CUDA) and not inside("fp32", CUDA)


def test_stage_keys_of_a_gpu_tell_precisions_and_the_first_release_apart() -> None:
    config = resolve("tiny_unet").config

    def key(numbers: dict[str, object]) -> str:
        return stage_keys(config, "f", "s", numbers)["pretrain"]

    def now(**runtime: object) -> dict[str, object]:
        values = {f"runtime.{name}": value for name, value in runtime.items()}
        return numerics(config.with_values(values).runtime, CUDA, 1)

    keys = [key(now(precision=name)) for name in ("fp32", "tf32", "bf16")] + [
        key(now(precision="fp32", deterministic=True)),
        # Its convolutions were TF32 ones, whatever it said.
        key({**RELEASED, "precision": "fp32"}),
        key({**RELEASED, "precision": "bf16"}),
    ]
    assert len(set(keys)) == len(keys)
    assert key(now(precision="auto")) == key(now(precision="bf16"))


def test_numerics_of_a_cpu_are_those_of_the_first_release() -> None:
    runtime = resolve("tiny_unet").config.runtime
    numbers = numerics(runtime, CPU, 1)
    assert set(numbers) == {"device", "precision", "compile", "workers", "threads", "channels_last"}
    assert numbers["precision"] == "fp32"
    assert numbers == numerics(runtime.model_copy(update={"deterministic": True}), CPU, 1)
