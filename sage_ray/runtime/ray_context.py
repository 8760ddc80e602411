"""RayContext: the trainer's view of the world inside a Ray Train worker, over torch.distributed (gloo or NCCL)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sage_ray.sections import RuntimeConfig
from sage_ray.training.context import Arrays, Report, choose_device, place
from sage_ray.training.report import EpochReport, MakerProgress

logger = logging.getLogger(__name__)

BUCKET_BYTES = 32 * 2**20


class RayContext:
    """One of several workers; must be made inside a training function of Ray Train, after the process group stands.

    Args:
        runtime: device, threads and memory layout.
        say: told lines about the run, on rank 0.
    """

    def __init__(self, runtime: RuntimeConfig, say: Callable[[str], None] | None = None) -> None:
        import ray.train
        import ray.train.torch

        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.world_size: int = context.get_world_size()
        self.device = ray.train.torch.get_device()
        if runtime.device != "auto" and self.device.type != runtime.device:
            self.device = choose_device(runtime.device)
        self._channels_last = runtime.channels_last
        self._on_report: Callable[[Report], None] | None = None
        self._on_maker: Callable[[Report], None] | None = None
        self._on_arrays: Callable[[str, Arrays], None] | None = None
        self._should_stop: Callable[[], bool] | None = None
        self._on_waiting: Callable[[], None] | None = None
        self.stage_patience_s: float | None = None
        self._say: Callable[[str], None] = say or logger.info
        # Ray gives a worker its CPUs on paper only; torch would take all of the machine's.
        torch.set_num_threads(runtime.threads or max(1, int(runtime.cpus_per_worker)))

    def listen(
        self,
        *,
        on_report: Callable[[Report], None],
        on_maker: Callable[[Report], None] | None = None,
        on_arrays: Callable[[str, Arrays], None] | None = None,
        should_stop: Callable[[], bool],
        on_waiting: Callable[[], None] | None = None,
        stage_patience_s: float | None = None,
    ) -> None:
        """On rank 0: who hears reports (of epochs, before Ray), keeps arrays, is asked to stop, hears of waiting."""
        self.stage_patience_s = stage_patience_s
        self._on_report, self._on_maker, self._on_arrays = on_report, on_maker, on_arrays
        self._should_stop, self._on_waiting = should_stop, on_waiting

    def prepare(self, module: nn.Module) -> nn.Module:
        """The module on this worker's device with rank 0's weights and buffers."""
        module = module.to(self.device)
        if self.world_size > 1:
            for tensor in (*module.parameters(), *module.buffers()):
                _broadcast(tensor)
        return place(module, self.device, self._channels_last)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum over workers; the backward sums the gradients over workers."""
        if self.world_size == 1:
            return tensor
        summed: Tensor = _SumOverWorkers.apply(tensor)  # type: ignore[no-untyped-call]
        return summed

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over workers, in few large messages."""
        if self.world_size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for bucket in buckets(gradients, BUCKET_BYTES):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            dist.all_reduce(flat)
            flat /= self.world_size
            for gradient, mean in zip(bucket, torch.split(flat, [g.numel() for g in bucket]), strict=True):
                gradient.copy_(mean.view_as(gradient))

    def barrier(self) -> None:
        """Return when every worker has arrived."""
        if self.world_size > 1:
            ready = torch.ones((), device=self.device)
            dist.all_reduce(ready)
            ready.item()  # NCCL returns before the others have arrived; the value does not

    def report(self, report: EpochReport) -> None:
        """Write the local record (rank 0), then tell Ray; Ray waits here for all workers."""
        import ray.train

        metrics = report.as_dict()
        if self.rank == 0 and self._on_report is not None:
            self._on_report(metrics)
        ray.train.report(_plain(metrics))

    def report_maker(self, progress: MakerProgress) -> None:
        """Write the local record (rank 0); Ray is told of the run's own epochs alone."""
        if self.rank == 0 and self._on_maker is not None:
            self._on_maker(progress.as_dict())

    def keep(self, name: str, arrays: Arrays) -> None:
        """Keep arrays beside the record (rank 0's)."""
        if self.rank == 0 and self._on_arrays is not None:
            self._on_arrays(name, arrays)

    def should_stop(self) -> bool:
        """Rank 0's answer, equal on all workers."""
        wish = self.rank == 0 and self._should_stop is not None and self._should_stop()
        if self.world_size == 1:
            return wish
        flag = torch.tensor(float(wish), device=self.device)
        dist.all_reduce(flag)
        return bool(flag.item() > 0)

    def waiting(self) -> None:
        """Tell who listens on rank 0."""
        if self.rank == 0 and self._on_waiting is not None:
            self._on_waiting()

    def say(self, line: str) -> None:
        """Tell the user one line (rank 0 only)."""
        if self.rank == 0:
            self._say(line)


def buckets(tensors: list[Tensor], limit_bytes: int) -> list[list[Tensor]]:
    """Tensors in order, grouped by dtype and to about `limit_bytes` a group; equal on workers with equal tensors."""
    groups: list[list[Tensor]] = []
    open_groups: dict[torch.dtype, tuple[list[Tensor], int]] = {}
    for tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        group, filled = open_groups.get(tensor.dtype, ([], 0))
        if not group or filled + size > limit_bytes:
            group, filled = [], 0
            groups.append(group)
        group.append(tensor)
        open_groups[tensor.dtype] = (group, filled + size)
    return groups


class _SumOverWorkers(torch.autograd.Function):
    """y = sum over workers of x. The whole loss is the sum of all workers' losses, so dx = sum over workers of dy.

    By hand, since `torch.distributed.nn.functional.all_reduce` (the same) is deprecated as of torch 2.13 and names a
    private module as what to use instead.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _summed(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _summed(gradients[0])


def _summed(tensor: Tensor) -> Tensor:
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def _broadcast(tensor: Tensor) -> None:
    if tensor.is_contiguous():
        dist.broadcast(tensor.data, src=0)
        return
    dense = tensor.data.contiguous()
    dist.broadcast(dense, src=0)
    tensor.data.copy_(dense)


def _plain(metrics: Report) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if isinstance(value, str | int | float | bool)}
