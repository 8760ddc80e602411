"""Normalisation layers: batch statistics shared over workers, group or instance statistics, or running ones only."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORMS = ("batch", "group", "frozen", "instance", "instance_affine")
_LARGEST_GROUP_COUNT = 32
_SMALLEST_GROUP = 4

Reduce = Callable[[Tensor], Tensor]


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation whose statistics can span workers and whose running statistics can be held.

    Attributes:
        reduce: None, or a differentiable sum over workers (its backward sums the gradients over workers too); then
            train-mode statistics are those of the global batch. With None this is `F.batch_norm`, to the bit.
        hold: true while `hold_statistics` is active: train-mode passes leave the running statistics alone.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.reduce: Reduce | None = None
        self.hold = False

    def forward(self, input: Tensor) -> Tensor:
        """Normalised `input` (N,C,H,W), same dtype."""
        if self.training and self.reduce is not None:
            return self._synchronised(input, self.reduce)
        if self.training and self.hold:
            return F.batch_norm(input, None, None, self.weight, self.bias, True, 0.0, self.eps)
        return super().forward(input)

    def _synchronised(self, x: Tensor, reduce: Reduce) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        # The running mean is equal on all workers and near the mean: subtracting it first keeps the variance, a
        # difference of two sums, exact enough in float32 with a single reduction. It is cloned as it is updated below.
        shift = _running(self.running_mean).clone().to(wide.dtype)
        shifted = wide - _per_channel(shift)
        count = wide.new_full((1,), float(x.numel() // x.shape[1]))
        sums = reduce(torch.cat([shifted.sum((0, 2, 3)), shifted.square().sum((0, 2, 3)), count]))
        total, total_of_squares, count = sums[: x.shape[1]], sums[x.shape[1] : -1], sums[-1]
        mean = total / count
        variance = (total_of_squares / count - mean.square()).clamp_min(0.0)
        if not self.hold:
            unbiased = variance * count / (count - 1).clamp_min(1.0)
            self._update(mean.detach() + shift, unbiased.detach())
        scale = self.weight.to(wide.dtype) * torch.rsqrt(variance + self.eps)
        normalised = (shifted - _per_channel(mean)) * _per_channel(scale) + _per_channel(self.bias.to(wide.dtype))
        return normalised.to(x.dtype)

    @torch.no_grad()
    def _update(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        passes = _running(self.num_batches_tracked).add_(1)
        # As in torch: no momentum is the mean over all passes.
        momentum = 1.0 / float(passes) if self.momentum is None else self.momentum
        _running(self.running_mean).lerp_(mean.to(_running(self.running_mean).dtype), momentum)
        _running(self.running_var).lerp_(unbiased_variance.to(_running(self.running_var).dtype), momentum)


class FrozenBatchNorm(BatchNorm):
    """Batch normalisation by the running statistics in train mode too; gain and shift are still learned."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalised `input` (N,C,H,W), same dtype; the running statistics never change."""
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


class ChannelNorm(nn.Module):
    """Normalises every pixel over its channels (biased variance), with a gain and a shift per channel."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.eps = eps

    def forward(self, features: Tensor) -> Tensor:
        """Normalised `features` (N,C,H,W)."""
        variance, mean = torch.var_mean(features, dim=1, correction=0, keepdim=True)
        return (features - mean) * torch.rsqrt(variance + self.eps) * self.gain + self.shift

    def initialise_own(self, _generator_for: Callable[[str], torch.Generator]) -> None:
        """Gain 1, shift 0."""
        nn.init.ones_(self.gain)
        nn.init.zeros_(self.shift)


class InstanceNorm(nn.GroupNorm):
    """Each channel of each image normalised over its own pixels (biased variance), with a gain and shift or not.

    A group norm of one channel a group, so that whoever asks for layers that average over a whole image finds it. A
    channel of a single pixel becomes its shift, where torch's own layer would refuse a batch of one.
    """

    def __init__(self, channels: int, *, affine: bool) -> None:
        super().__init__(channels, channels, affine=affine)

    def forward(self, input: Tensor) -> Tensor:
        """Normalised `input` (N,C,H,W), same dtype."""
        return torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps, torch.backends.cudnn.enabled)


def make_norm(kind: str, channels: int) -> nn.Module:
    """A normalisation layer over `channels`.

    Args:
        kind: batch (`BatchNorm`), group (at most 32 groups of at least 4 channels, one group below that), frozen,
            instance (`InstanceNorm`), or instance_affine (that, with a gain and a shift per channel).
        channels: number of channels.

    Raises:
        ValueError: unknown kind.
    """
    if kind == "batch":
        return BatchNorm(channels)
    if kind == "frozen":
        return FrozenBatchNorm(channels)
    if kind in ("instance", "instance_affine"):
        return InstanceNorm(channels, affine=kind == "instance_affine")
    if kind == "group":
        counts = range(1, _LARGEST_GROUP_COUNT + 1)
        fitting = [groups for groups in counts if channels % groups == 0 and channels // groups >= _SMALLEST_GROUP]
        return nn.GroupNorm(max(fitting, default=1), channels)
    raise ValueError(f"unknown norm {kind!r}: use one of {', '.join(NORMS)}")


@contextmanager
def hold_statistics(module: nn.Module) -> Iterator[None]:
    """Within the context, train-mode passes through `module` do not update running statistics."""
    layers = [layer for layer in module.modules() if isinstance(layer, BatchNorm)]
    with ExitStack() as restore:
        for layer in layers:
            restore.callback(setattr, layer, "hold", layer.hold)
            layer.hold = True
        yield


def has_batch_statistics(module: nn.Module) -> bool:
    """Whether train-mode passes through `module` move running statistics."""
    return bool(_moving(module))


@contextmanager
def fresh_statistics(module: nn.Module) -> Iterator[None]:
    """Within the context, running statistics begin anew and become their mean over the train-mode passes.

    Layers whose statistics never change keep them. Over workers the mean is that of the global batches.
    """
    layers = _moving(module)
    with ExitStack() as restore:
        for layer in layers:
            restore.callback(setattr, layer, "momentum", layer.momentum)
            layer.reset_running_stats()
            layer.momentum = None
        yield


def copy_network(network: nn.Module) -> nn.Module:
    """A deep copy whose batch norms share statistics over the same workers.

    `reduce` is a method of the run's context: a plain deep copy would copy the context, open files and locks included.
    """
    shared = [layer.reduce for layer in network.modules() if isinstance(layer, BatchNorm)]
    return copy.deepcopy(network, {id(reduce): reduce for reduce in shared if reduce is not None})


def _moving(module: nn.Module) -> list[BatchNorm]:
    layers = [layer for layer in module.modules() if isinstance(layer, BatchNorm)]
    return [layer for layer in layers if not isinstance(layer, FrozenBatchNorm)]


def _per_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)


def _running(buffer: Tensor | None) -> Tensor:
    assert buffer is not None, "batch norm without running statistics"
    return buffer
