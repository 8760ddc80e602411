"""Recipe: the fixed parts that a step works with, beside the state it changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

    `observe`, if given, sees the weighted loss terms of each update and the networks just before its backward pass; it
    may take gradients of single terms with `retain_graph=True`.

    `skip_dead` leaves terms that can train nothing out of the update (`training/terms.py`); what is trained is the
    same either way, to the bit, so that false is for tests, benchmarks and the doctor alone. Skipped terms are computed
    for the curves in the first step of every epoch, and in every `log_dead_every`-th from there on if that is not 0.
    """

    segmentation_loss: SegLoss
    local_segmentation_loss: SegLoss
    perceptual: VGG19Loss | None
    adversarial: AdversarialConfig
    generator: GeneratorConfig
    autocast: Callable[[], AbstractContextManager[Any]]
    average_gradients: Callable[[Iterable[nn.Parameter]], None]
    observe: Observer | None = None
    skip_dead: bool = True
    log_dead_every: int = 0

    def logs_dead(self, step: int) -> bool:
        """Whether terms that train nothing are computed for the curves in step `step` (from 0) of an epoch."""
        return step % self.log_dead_every == 0 if self.log_dead_every else step == 0


def build_recipe(
    config: ExperimentConfig,
    ctx: RunContext,
    cache_dir: Path,
    observe: Observer | None = None,
    *,
    skip_dead: bool = True,
    log_dead_every: int = 0,
) -> Recipe:
    """The recipe of a config under a context; loads the perceptual network if a term needs it."""
    return Recipe(
        segmentation_loss=build_segmentation_loss(config, ctx.all_reduce if ctx.world_size > 1 else None),
        local_segmentation_loss=build_segmentation_loss(config, None),
        perceptual=build_perceptual(config, ctx, cache_dir),
        adversarial=config.adversarial,
        generator=config.generator,
        autocast=autocast(config, ctx.device),
        average_gradients=ctx.average_gradients,
        observe=observe,
        skip_dead=skip_dead,
        log_dead_every=log_dead_every,
    )
