"""Which precision a run computes in, and torch's settings for it.

`auto` is bf16 where the GPU computes in it natively, else fp32. TF32 keeps the range of fp32 with 10 bits of mantissa;
cuDNN convolves fp32 tensors in it unless told otherwise, so every run on a GPU tells it: TF32 is on under
`runtime.precision: tf32` alone.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, cast

import torch

from sage_ray.errors import UserError

Precision = Literal["fp32", "tf32", "bf16"]

CUBLAS_WORKSPACE = ":4096:8"
"""Buffers with which cuBLAS adds up in a fixed order; it reads them once per process."""
_LEGACY = ".*new API settings to control TF32.*"


def resolve_precision(name: str, device: torch.device | str) -> Precision:
    """The precision that `runtime.precision` stands for on a device.

    A name other than `auto` is itself. A GPU that this machine does not have (a plan is made on a login node) is taken
    for one with bf16 and TF32, as those of data centres have been since 2020.

    Args:
        name: auto, fp32, tf32 or bf16.
        device: of the run, or its type.

    Raises:
        UserError: the device cannot compute in it.
    """
    on_gpu = torch.device(device).type == "cuda"
    if name == "auto":
        return "bf16" if on_gpu and native_bf16() else "fp32"
    if name == "tf32" and not (on_gpu and _has_tf32()):
        where = "this GPU" if on_gpu else "a CPU"
        raise UserError(f"no TF32 on {where}", "runtime.precision=tf32", "set runtime.precision to auto or fp32")
    if name == "bf16" and on_gpu and torch.cuda.is_available() and not torch.cuda.is_bf16_supported():
        raise UserError("no bf16 on this GPU", "runtime.precision=bf16", "set runtime.precision to auto or fp32")
    return cast(Precision, name)


def use_precision(precision: Precision, device: torch.device, *, deterministic: bool = False) -> None:
    """Set torch up for a training of this process: TF32 on or off, cuDNN's choice of kernels, determinism.

    cuDNN measures its kernels once a size, as sizes are fixed in training; with `deterministic` it takes those that
    add up in a fixed order, and torch refuses operations that have none. On a CPU nothing is set: torch adds up in a
    fixed order there anyway.

    Args:
        precision: resolved.
        device: of the run.
        deterministic: `runtime.deterministic`.
    """
    if device.type != "cuda":
        return
    # For every run, as a process may train a deterministic one after others: cuBLAS would not read it again.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
    _allow_tf32(precision == "tf32")
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.deterministic = deterministic
    torch.use_deterministic_algorithms(deterministic)


@contextmanager
def computing_in(precision: Precision, device: torch.device) -> Iterator[None]:
    """TF32 as `precision` has it within the body, and afterwards as it was; scores are computed in fp32 with it.

    For forward passes of fp32 tensors outside autocast; nothing happens on a CPU.
    """
    if device.type != "cuda":
        yield
        return
    before = tf32_allowed()
    _allow_tf32(precision == "tf32")
    try:
        yield
    finally:
        _allow_tf32(before)


def tf32_allowed() -> bool:
    """Whether torch may use TF32 now, in convolutions or matrix products of CUDA tensors."""
    with _old_names():
        return bool(torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)


def native_bf16() -> bool:
    """Whether the GPU here computes in bf16 natively; true where there is none, see `resolve_precision`."""
    return not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)


def _has_tf32() -> bool:
    return not torch.cuda.is_available() or torch.cuda.get_device_capability() >= (8, 0)


def _allow_tf32(allowed: bool) -> None:
    # The names of before torch 2.9: they set the new ones too, while torch.compile (to 2.11 at least) and
    # torch.backends.cudnn.flags read the old ones and raise where only the new ones were set.
    with _old_names():
        torch.backends.cudnn.allow_tf32 = allowed
        torch.backends.cuda.matmul.allow_tf32 = allowed


@contextmanager
def _old_names() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_LEGACY)
        yield
