"""Recipe: the fixed parts that a step works with, beside the state it changes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sage_ray.config import ExperimentConfig
from sage_ray.losses.perceptual import VGG19Loss
from sage_ray.sections import AdversarialConfig, GeneratorConfig
from sage_ray.training.build import SegLoss, autocast, build_perceptual, build_segmentation_loss
from sage_ray.training.context import RunContext

Observer = Callable[[dict[str, Tensor], dict[str, nn.Module]], None]


@dataclass(frozen=True)
class Recipe:
    """Losses, weights and reductions of a run's steps.

    `segmentation_loss` takes its ratios over the images of all workers, `local_segmentation_loss` over this worker's.

    `gather` puts the batches (B,...) of all workers together in their global order, of which this worker's is the
    `rank`-th part, without a gradient.

    `observe`, if given, sees the weighted loss terms of each update and the networks just before its backward pass; it
    may take gradients of single terms with `retain_graph=True`.
    """

    segmentation_loss: SegLoss
    local_segmentation_loss: SegLoss
    perceptual: VGG19Loss | None
    adversarial: AdversarialConfig
    generator: GeneratorConfig
    autocast: Callable[[], AbstractContextManager[Any]]
    average_gradients: Callable[[Iterable[nn.Parameter]], None]
    gather: Callable[[Tensor], Tensor]
    rank: int
    observe: Observer | None = None


def build_recipe(config: ExperimentConfig, ctx: RunContext, cache_dir: Path, observe: Observer | None = None) -> Recipe:
    """The recipe of a config under a context; loads the perceptual network if a term needs it."""
    return Recipe(
        segmentation_loss=build_segmentation_loss(config, ctx.all_reduce if ctx.world_size > 1 else None),
        local_segmentation_loss=build_segmentation_loss(config, None),
        perceptual=build_perceptual(config, ctx, cache_dir),
        adversarial=config.adversarial,
        generator=config.generator,
        autocast=autocast(config, ctx.device),
        average_gradients=ctx.average_gradients,
        gather=functools.partial(gather_batches, ctx),
        rank=ctx.rank,
        observe=observe,
    )


@torch.no_grad()
def gather_batches(ctx: RunContext, batch: Tensor) -> Tensor:
    """(workers * B, ...) of every worker's `batch` (B, ...), all of one shape; the same on all workers."""
    if ctx.world_size == 1:
        return batch
    # Every worker fills its own rows, the others are 0: the sum is the whole batch.
    rows = batch.new_zeros((ctx.world_size, *batch.shape))
    rows[ctx.rank] = batch
    return ctx.all_reduce(rows).flatten(0, 1)
