"""Timed training steps for `benchmarks/gpu.py`: the trainer's own steps and batches, on drawn pictures.

The perceptual network has random weights in the shapes of VGG19, as nothing can be downloaded; a step costs the same.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from benchmarks.training_steps import endless, wait
from sage_ray.config import ExperimentConfig
from sage_ray.losses.perceptual import VGG19Loss, random_vgg19
from sage_ray.models.dropout import number_dropouts
from sage_ray.training.adversarial import adversarial_step
from sage_ray.training.batches import Batch, Pictures
from sage_ray.training.build import build_state
from sage_ray.training.context import LocalContext
from sage_ray.training.draws import StepDraws
from sage_ray.training.precision import Precision, resolve_precision, use_precision
from sage_ray.training.pretrain import pretrain_step
from sage_ray.training.recipe import Recipe, build_recipe
from sage_ray.training.state import TrainState

MIN_STEPS = 2


@dataclass(frozen=True)
class Sizes:
    """What is trained, where, and how long it is timed.

    Attributes:
        rows, columns: of an image, in pixels.
        width: channels of the first level of all networks.
        batch: images of a step.
        steps: timed steps of a kind, after `warm_up` steps more.
        device: cuda or cpu.
        backend: of torch.compile.
    """

    rows: int
    columns: int
    width: int
    batch: int
    steps: int
    warm_up: int
    device: str
    backend: str


@dataclass(frozen=True)
class Kind:
    """A kind of step: its phase, whether the generator is frozen, whether synthetic images are mixed in."""

    name: str
    phase: str
    frozen: bool = False
    synthetic: bool = False


# The dearest of phase 2 first: what comes last is left out where time runs out.
KINDS = (
    Kind("phase 1", "pretrain"),
    Kind("phase 2, synthetic", "adversarial", synthetic=True),
    Kind("phase 2, real", "adversarial"),
    Kind("phase 2 frozen, synthetic", "adversarial", frozen=True, synthetic=True),
    Kind("phase 2 frozen, real", "adversarial", frozen=True),
)


class Training:
    """Networks, optimizers and batches of one phase, which take steps of every kind of that phase.

    Args:
        sizes, phase: as above.
        precision: resolved; torch is set up for it.
        compiled: whether the networks are compiled with the backend of the sizes.
    """

    def __init__(self, sizes: Sizes, phase: str, precision: Precision, *, compiled: bool = False) -> None:
        self.config = config_of(sizes, precision)
        self.context = LocalContext(self.config.runtime)
        self.device = self.context.device
        use_precision(precision, self.device)
        self.state: TrainState = build_state(self.config, phase, self.context)
        if compiled:
            for network in self.state.networks.values():
                number_dropouts(network)
                network.compile(backend=sizes.backend)
        perceptual = None
        if phase == "adversarial":
            perceptual = VGG19Loss(random_vgg19())
            self.context.prepare(perceptual)
        self._recipe = replace(build_recipe(self.config, self.context, Path()), perceptual=perceptual)
        pictures = Pictures(cast(Any, drawn(sizes)), np.arange(4 * sizes.batch), self.device)
        self.batches: Iterator[tuple[Batch, StepDraws]] = endless(pictures, self.config, self.context, phase)
        self._step: Callable[..., dict[str, Tensor]] = pretrain_step if phase == "pretrain" else adversarial_step

    def recipe(self, kind: Kind) -> Recipe:
        """The recipe under which every step is of this kind."""
        chance = float(kind.synthetic)
        freeze = self.state.phase_epoch + 1 if kind.frozen else 0
        settings = {"mix_start": chance, "mix_max": chance, "mix_step": 0.0, "freeze_epochs": freeze}
        return replace(self._recipe, adversarial=self._recipe.adversarial.model_copy(update=settings))

    def step(self, recipe: Recipe) -> dict[str, Tensor]:
        """One batch and one step, as in training."""
        batch, draws = next(self.batches)
        return self._step(self.state, batch, draws, recipe)


def config_of(sizes: Sizes, precision: Precision) -> ExperimentConfig:
    """The paper's configuration (the defaults are those of preset `sage_gan_paper`) at these sizes."""
    width = {f"{part}.width": sizes.width for part in ("segmenter", "generator", "discriminators")}
    batch = {f"{phase}.batch_size": sizes.batch for phase in ("pretrain", "adversarial")}
    fixed = {
        "data.image_size": [sizes.rows, sizes.columns],
        "adversarial.perceptual": "none",  # random weights are put in its place
        "runtime.device": sizes.device,
        "runtime.precision": precision,
        "runtime.threads": 1,  # of a CPU, which shows that all works: threads would wait for each other
    }
    return ExperimentConfig().with_values(width | batch | fixed)


def drawn(sizes: Sizes) -> SimpleNamespace:
    """Discs on noise: images (N,rows,columns) uint8 and masks in {0,1}; N is four batches."""
    generator = np.random.default_rng(0)
    shape = (4 * sizes.batch, sizes.rows, sizes.columns)
    row, column = np.mgrid[: sizes.rows, : sizes.columns]
    masks = np.zeros(shape, np.uint8)
    for mask in masks:
        for _ in range(6):
            centre = generator.random(2) * shape[1:]
            mask[(row - centre[0]) ** 2 + (column - centre[1]) ** 2 < (sizes.rows / 10) ** 2] = 1
    images = np.clip(generator.normal(90 + 80 * masks, 20), 0, 255).astype(np.uint8)
    return SimpleNamespace(images=images, masks=masks)


def unavailable(name: str, device: torch.device) -> str | None:
    """Why a device does not compute in a precision; None if it does."""
    try:
        resolve_precision(name, device)
    except ValueError as error:  # UserError
        return str(error)
    return None


def time_kind(training: Training, kind: Kind, sizes: Sizes, until: float) -> dict[str, Any]:
    """Seconds of a step of one kind, batch making included, and the memory it needed.

    Steps are not waited for one by one: on a GPU the host runs ahead, as it does in training.

    Args:
        training: networks and batches of the phase.
        kind: of step.
        sizes: how many steps are timed, and how many are taken before.
        until: value of `time.monotonic()` after which no step more than `MIN_STEPS` begins.
    """
    device, recipe = training.device, training.recipe(kind)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    started = time.perf_counter()
    training.step(recipe)
    wait(device)
    first = time.perf_counter() - started
    for _ in range(sizes.warm_up - 1):
        training.step(recipe)
    clock = Clock(device)
    scalars: dict[str, Tensor] = {}
    for step in range(sizes.steps):
        if step >= MIN_STEPS and time.monotonic() > until:
            break
        scalars = training.step(recipe)
        clock.mark()
    seconds = clock.seconds()
    loss = float(scalars["loss"])
    return {
        "kind": kind.name,
        "s": {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)},
        "steps_per_s": 1 / statistics.median(seconds),
        "timed_steps": len(seconds),
        "first_step_s": first,
        "peak_memory_gb": torch.cuda.max_memory_allocated(device) / 1e9 if on_gpu else None,
        "reserved_gb": torch.cuda.max_memory_reserved(device) / 1e9 if on_gpu else None,
        "loss": loss if math.isfinite(loss) else str(loss),
    }


def time_batches(training: Training, sizes: Sizes) -> dict[str, float]:
    """Seconds of making one batch alone (it is part of every step): draws, augmentation, copies."""
    next(training.batches)
    wait(training.device)
    clock = Clock(training.device)
    for _ in range(sizes.steps):
        next(training.batches)
        clock.mark()
    seconds = clock.seconds()
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}


class Clock:
    """Seconds between marks: of the device's own events on a GPU, of the host on a CPU."""

    def __init__(self, device: torch.device) -> None:
        wait(device)
        self._device = device
        self._marks: list[Any] = []
        self.mark()

    def mark(self) -> None:
        """End one interval and begin the next."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """The intervals so far; waits for the device."""
        wait(self._device)
        pairs = zip(self._marks, self._marks[1:], strict=False)
        if self._device.type == "cuda":
            return [before.elapsed_time(after) / 1e3 for before, after in pairs]
        return [after - before for before, after in pairs]
