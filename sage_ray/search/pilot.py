"""A pilot: a few seconds of real steps of each kind of epoch of a config, to know what its epochs will take.

Nothing of it is kept. The data are prepared in the home's own cache, where the study will find them; all else happens
in memory and in a temporary folder.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sage_ray.config import ExperimentConfig
from sage_ray.data.prepare import PreparedData, prepare
from sage_ray.errors import UserError
from sage_ray.losses.perceptual import VGG19Loss, random_vgg19
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.runtime.launch import run, with_checkpoint
from sage_ray.search.epoch_cost import PHASE_OF, RENDER, Images, Measured, kinds_of, likeness, likeness_of
from sage_ray.sections import PHASES
from sage_ray.stages.store import StageStore
from sage_ray.training.batches import Pictures, judged_rows, steps_in_epoch, training_batches
from sage_ray.training.build import build_state, needs_perceptual
from sage_ray.training.context import LocalContext, RunContext, computed_on
from sage_ray.training.generated_loss import validate_state
from sage_ray.training.loop import STEPS
from sage_ray.training.memory import memory_of
from sage_ray.training.precision import resolve_precision, use_precision
from sage_ray.training.recipe import Recipe, build_recipe
from sage_ray.training.render_stage import render_steps
from sage_ray.training.state import TrainState

PILOT_S = 3.0
"""Seconds of steps of each kind of epoch. One step is taken at least, and beside it a first one that does not count,
unless that alone took longer than this."""
STEP_S = 6.0
"""Longest time that a step on a larger part of an image may be expected to take, for it to be tried."""
SHRINKS, LEAST_SIDE = (8, 4, 2, 1), 64
"""By how much the sides of an image are shortened, and how short a side may become, in pixels."""
SHORT_RUN_S = 20.0
"""Longest time that a run of a few epochs may take, from which the seconds of a run beside its epochs are read."""


def pilot(
    config: ExperimentConfig,
    home: Home,
    place: Mapping[str, Any],
    say: Callable[[str], None],
    *,
    name: str = "a pilot",
    rest: bool = True,
) -> list[Measured]:
    """Measured seconds of each kind of epoch of a config whose runtime is resolved, on this machine.

    A perceptual term is computed with drawn weights: they take the time of the published ones, which need not be here.
    Of rendering see `pilot_of_rendering`.

    Args:
        config: what is measured.
        home: its cache has the data.
        place: where it is compared with others.
        say: told what is measured.
        name: of the measurement.
        rest: whether a short run tells what a run takes beside its epochs.

    Raises:
        UserError: the config asks for a GPU that is not here, or for several workers, or for data that cannot be read;
            or the trials compute on another GPU than this machine has.
        OutOfMemory: one trial alone does not fit.
    """
    config, data, ctx = _begun(config, home, place)
    images = Images(len(data.split.train), len(data.split.validation))
    recipe = pilot_recipe(config, ctx, home.cache)
    found: list[Measured] = []
    for kind in kinds_of(config):
        say(f"pilot: a few steps of {kind}" + ("" if name == "a pilot" else f" ({name})"))
        with memory_of(config, PHASE_OF[kind], ctx.device):
            timed = _epoch_seconds(kind, config, data, ctx, recipe)
        source = name if timed.share == 1 else f"{name} on 1/{1 / timed.share:.0f} of the area of each image"
        found.append(Measured(kind, timed.seconds, 0, source, likeness(config, PHASE_OF[kind], images, place)))
    beside = _rest(config, home, found) if rest else None
    return [replace(measured, rest_s=beside) for measured in found]


def pilot_of_rendering(
    config: ExperimentConfig, home: Home, place: Mapping[str, Any], say: Callable[[str], None], name: str
) -> Measured:
    """Measured seconds of an epoch of a config's stage of rendering; Args and Raises as `pilot`.

    Raises:
        UserError: beside what `pilot` raises, the engine cannot be used here.
    """
    config, data, ctx = _begun(config, home, place)
    say(f"pilot: a few steps of {RENDER} ({name})")
    steps = render_steps(config, data, ctx, StageStore(home.stage_store))
    taken: list[float] = []
    while not taken or not _enough(taken, compiled=False):
        taken.append(_timed(functools.partial(next, steps), ctx))
    counted = taken[1:] or taken
    images = Images(len(data.split.train), len(data.split.validation))
    seconds = len(judged_rows(data, config)) * sum(counted) / len(counted)
    return Measured(RENDER, seconds, 0, name, likeness_of(config, RENDER, images, place))


def _begun(
    config: ExperimentConfig, home: Home, place: Mapping[str, Any]
) -> tuple[ExperimentConfig, PreparedData, LocalContext]:
    """What a pilot measures, its data and its device."""
    if config.runtime.workers > 1:
        mend = "measure with a recorded run: train one of a few epochs, then plan"
        raise UserError("a pilot is one worker", f"resources.workers={config.runtime.workers}", mend)
    if config.runtime.device == "cuda" and not torch.cuda.is_available():
        mend = "leave it out here; on a machine with a GPU it measures epochs and trials per GPU"
        raise UserError("no GPU here, and the trials compute on one", "--pilot", mend)
    config = with_checkpoint(config, home)
    data = prepare(config.data, home.cache)
    ctx = LocalContext(config.runtime)
    here = computed_on(ctx.device)
    if place["gpu"] is not None and place["gpu"] not in here:
        mend = "ask for it on a machine that the trials run on"
        raise UserError(f"the pilot would run on {here}, the trials on {place['gpu']}", "--pilot", mend)
    use_precision(
        resolve_precision(config.runtime.precision, ctx.device), ctx.device, deterministic=config.runtime.deterministic
    )
    return config, data, ctx


def pilot_recipe(config: ExperimentConfig, ctx: RunContext, cache_dir: Path) -> Recipe:
    """The recipe of a config, its perceptual term with drawn weights."""
    if not needs_perceptual(config):
        return build_recipe(config, ctx, cache_dir)
    bare = config.with_sections(adversarial=config.adversarial.model_copy(update={"perceptual": "none"}))
    loss = VGG19Loss(random_vgg19(), normalise=config.adversarial.perceptual_normalise)
    ctx.prepare(loss)
    return replace(build_recipe(bare, ctx, cache_dir), perceptual=loss, adversarial=config.adversarial)


def middle_epoch(kind: str, config: ExperimentConfig) -> int:
    """The epoch of its phase, from 0, in the middle of the epochs of a kind.

    There the share of steps with generated images is that of most of them.
    """
    epochs, freeze = config.phase(PHASE_OF[kind]).num_epochs, config.adversarial.freeze_epochs
    return {"pretrain": 0, "frozen": min(freeze, epochs) // 2, "adversarial": (freeze + epochs) // 2}[kind]


@dataclass(frozen=True)
class _Timed:
    """Seconds of an epoch, and the share of each image's area that it was measured on."""

    seconds: float
    share: float


def _epoch_seconds(kind: str, config: ExperimentConfig, data: PreparedData, ctx: RunContext, recipe: Recipe) -> _Timed:
    """An epoch of a kind: its steps, and the scoring of the validation part.

    Steps are tried on a small part of each image first, then on larger ones for as long as one may be expected to take
    at most `STEP_S`. Where whole images take longer, seconds grow with the area: all networks are convolutions, and
    attention that is linear in pixels.
    """
    phase = PHASE_OF[kind]
    state = build_state(config, phase, ctx)
    state.phase_epoch = middle_epoch(kind, config)
    parts = _parts(config)
    taken: list[float] = []
    for size, larger in zip(parts, [*parts[1:], None], strict=True):
        part = _cut(data, size)
        steps = _steps(phase, config, Pictures(part, part.split.train, ctx.device), state, ctx, recipe)
        taken = [next(steps)]
        if larger is not None and taken[0] * _area(larger) / _area(size) <= STEP_S:
            continue
        while not _enough(taken, compiled=config.runtime.compile):
            taken.append(next(steps))
        break
    share = _area(size) / _area(config.data.image_size)
    counted = taken[1:] or taken
    pairs = config.render.pairs if config.render.train_on_pairs else len(data.split.train)
    per_epoch = steps_in_epoch(config.phase(phase), pairs)
    seconds = per_epoch * sum(counted) / len(counted) + _scoring_seconds(config, part, state, recipe, ctx)
    return _Timed(seconds / share, share)


def _steps(
    phase: str, config: ExperimentConfig, train: Pictures, state: TrainState, ctx: RunContext, recipe: Recipe
) -> Iterator[float]:
    """Seconds of one step after another, without end."""
    while True:
        for batch, draws in training_batches(train, config, ctx, phase, state.phase_epoch):
            yield _timed(functools.partial(STEPS[phase], state, batch, draws, recipe), ctx)


def _parts(config: ExperimentConfig) -> list[tuple[int, int]]:
    """Sizes of parts of an image that steps are tried on, the whole image last; it alone where they are compiled."""
    rows, columns = config.data.image_size
    shrinks = (1,) if config.runtime.compile else SHRINKS
    sizes = [(max(rows // s, min(rows, LEAST_SIDE)), max(columns // s, min(columns, LEAST_SIDE))) for s in shrinks]
    return list(dict.fromkeys(sizes))


def _cut(data: PreparedData, size: tuple[int, int]) -> PreparedData:
    rows, columns = size
    return replace(data, images=data.images[:, :rows, :columns], masks=data.masks[:, :rows, :columns])


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _enough(taken: list[float], *, compiled: bool) -> bool:
    if len(taken) == 1:
        return taken[0] > PILOT_S and not compiled
    return sum(taken[1:]) >= PILOT_S


def _scoring_seconds(
    config: ExperimentConfig, data: PreparedData, state: TrainState, recipe: Recipe, ctx: RunContext
) -> float:
    """Seconds in which the validation part is scored, from one batch of it, scored twice where that is short."""
    settings, part = config.evaluation, data.split.validation
    if not len(part):
        return 0.0
    some = Pictures(data, part[: settings.batch_size], ctx.device)
    score = functools.partial(validate_state, state, some, settings, recipe, ctx)
    seconds = _timed(score, ctx)
    if seconds < PILOT_S:
        seconds = _timed(score, ctx)
    return seconds * len(part) / len(some)


def _rest(config: ExperimentConfig, home: Home, found: list[Measured]) -> float | None:
    """Seconds of a run beside its epochs: begun, its weights and pictures written; None where a run takes too long.

    It makes no pairs: what trains them is counted as what it is.
    """
    few: dict[str, Any] = {
        name: config.phase(name).model_copy(update={"epochs": min(config.phase(name).num_epochs, 1), "steps": 0})
        for name in PHASES
    }
    if sum(measured.seconds for measured in found) > SHORT_RUN_S:
        return None
    few["adversarial"] = few["adversarial"].model_copy(update={"perceptual": "none"})
    # What makes pairs would be trained first, for all its epochs; real ones take as long in a step.
    few["pretrain"] = few["pretrain"].model_copy(update={"synthetic_share": 0.0})
    few["data"] = config.data.model_copy(update={"extra_pairs": ""})
    few["render"] = config.render.model_copy(update={"train_on_pairs": False})
    runtime = config.runtime.model_copy(update={"stage_store": None})
    with tempfile.TemporaryDirectory(prefix="sage-pilot-") as folder:
        away = Home(folder)
        away.cache.symlink_to(home.cache)
        short = config.with_sections(runtime=runtime, **few)
        record = run(short, away, "pilot", mirror=False, launcher="inline")
        reports = RunFolder(away.runs / record.run_id).metrics()
    return max(record.seconds - sum(float(report["seconds"]) for report in reports), 0.0)


def _timed(work: Callable[[], object], ctx: RunContext) -> float:
    started = time.perf_counter()
    work()
    if ctx.device.type == "cuda":
        torch.cuda.synchronize(ctx.device)
    return time.perf_counter() - started
