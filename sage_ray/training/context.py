"""The seam between the maths of training and the machinery around it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from sage_ray.errors import UserError
from sage_ray.sections import RuntimeConfig
from sage_ray.training.precision import resolve_precision
from sage_ray.training.report import EpochReport, MakerProgress
from sage_ray.training.report import Report as Report

Arrays = Mapping[str, np.ndarray[Any, Any] | np.generic]


class RunContext(Protocol):
    """What the trainer sees of the world: its place among workers, reductions, reports, and a wish to stop."""

    rank: int
    world_size: int
    device: torch.device
    stage_patience_s: float | None
    """How long rank 0 waits for a stage that another run computes before it ends with StageBusy; None: without end."""

    def prepare(self, module: nn.Module) -> nn.Module:
        """The module on this worker's device, with rank 0's weights and batch statistics shared by all workers."""
        ...

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum over workers, differentiable: its backward sums gradients over workers."""
        ...

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over workers."""
        ...

    def barrier(self) -> None:
        """Return when every worker has arrived."""
        ...

    def report(self, report: EpochReport) -> None:
        """Hand on one epoch's report, already equal on all workers; every worker calls it equally often."""
        ...

    def report_maker(self, progress: MakerProgress) -> None:
        """Hand on how far that is which is trained first for extra pairs (rank 0's); no epoch of the run."""
        ...

    def keep(self, name: str, arrays: Arrays) -> None:
        """Keep small arrays beside the record, as artifact `name` of the run (rank 0's; nowhere if nobody listens)."""
        ...

    def should_stop(self) -> bool:
        """Whether somebody asked this run to end after the epoch; equal on all workers."""
        ...

    def waiting(self) -> None:
        """Say that this worker is alive, though it has no epoch to report (rank 0's is heard).

        It waits for a stage that another run computes, or trains what makes its extra pairs.
        """
        ...

    def say(self, line: str) -> None:
        """Tell the user one line (rank 0 only)."""
        ...


class LocalContext:
    """One worker in this process.

    Args:
        runtime: device, threads and memory layout.
        on_report: called with each epoch's report.
        on_maker: called with each epoch of what is trained first for extra pairs (`MakerProgress.as_dict`).
        on_arrays: called with the name and the arrays of what is kept beside the record.
        should_stop: asked after each epoch.
        on_waiting: called again and again while the run has no epoch to report, but is alive.
        stage_patience_s: how long it waits so before it ends with StageBusy; None: without end.
        say: told lines for the user.
    """

    rank = 0
    world_size = 1

    def __init__(
        self,
        runtime: RuntimeConfig,
        *,
        on_report: Callable[[Report], None] | None = None,
        on_maker: Callable[[Report], None] | None = None,
        on_arrays: Callable[[str, Arrays], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        on_waiting: Callable[[], None] | None = None,
        stage_patience_s: float | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.stage_patience_s = stage_patience_s
        self.device = choose_device(runtime.device)
        self._channels_last = runtime.channels_last
        self._on_report, self._on_maker, self._on_arrays = on_report, on_maker, on_arrays
        self._should_stop, self._on_waiting, self._say = should_stop, on_waiting, say
        torch.set_num_threads(runtime.threads or available_cpus())

    def prepare(self, module: nn.Module) -> nn.Module:
        """The module on the device."""
        return place(module, self.device, self._channels_last)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The tensor itself: the sum over one worker."""
        return tensor

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Nothing: a gradient is its own mean over one worker."""

    def barrier(self) -> None:
        """Nothing: there is nobody to wait for."""

    def report(self, report: EpochReport) -> None:
        """Hand the report on as plain data."""
        if self._on_report is not None:
            self._on_report(report.as_dict())

    def report_maker(self, progress: MakerProgress) -> None:
        """Hand it on as plain data."""
        if self._on_maker is not None:
            self._on_maker(progress.as_dict())

    def keep(self, name: str, arrays: Arrays) -> None:
        """Hand the arrays on."""
        if self._on_arrays is not None:
            self._on_arrays(name, arrays)

    def should_stop(self) -> bool:
        """Whether somebody asked this run to end after the epoch."""
        return self._should_stop is not None and self._should_stop()

    def waiting(self) -> None:
        """Tell who listens."""
        if self._on_waiting is not None:
            self._on_waiting()

    def say(self, line: str) -> None:
        """Tell the user one line."""
        if self._say is not None:
            self._say(line)


def place(module: nn.Module, device: torch.device, channels_last: bool) -> nn.Module:
    """The module on the device, 4-D weights in channels-last memory order if wanted."""
    if channels_last:
        return module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
    return module.to(device)


def choose_device(name: str) -> torch.device:
    """The torch device of `runtime.device`. Raises UserError if a GPU is asked for where none is."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "no GPU here", "runtime.device=cuda", "set runtime.device to cpu or auto, or run on a GPU machine"
        )
    return torch.device(name)


def available_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def numerics(runtime: RuntimeConfig, device: torch.device, world_size: int) -> dict[str, Any]:
    """What rounding depends on: part of stage keys and of pairing, not of a config's identity.

    `precision` is the resolved one. The entries `tf32` and `deterministic` are those of a GPU alone: a CPU has neither.
    """
    precision = resolve_precision(runtime.precision, device)
    numbers = {
        "device": device.type,
        "precision": precision,
        "compile": runtime.compile,
        "workers": world_size,
        "threads": torch.get_num_threads() if device.type == "cpu" else 0,
        "channels_last": runtime.channels_last,
    }
    if device.type == "cuda":
        numbers |= {"tf32": precision == "tf32", "deterministic": runtime.deterministic}
    return numbers


def computed_on(device: torch.device) -> str:
    """What numbers may depend on beside `numerics`: model of the GPU (a CPU is just that) and version of torch."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return f"{name}, torch {torch.__version__}"
