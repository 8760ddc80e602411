"""run_training: a whole training on one page, from top to bottom.

A run is a chain of stages: phase 1 (`pretrain.py`) and phase 2 (`system_step.py`), or one of them; a stage of rendering
(`render_stage.py`) may come first and make the pairs that phase 1 learns from. Extra pairs, and what makes them, are
provided before all of it (`extra_pairs.py`). The run starts from the longest stored prefix of its chain, tells the
stored reports again, and goes on (`resume.py`). An epoch is trained, scored, remembered if it is the best, kept on disk
if it is time (`snapshots.py`), and reported. The context (`RunContext`) hides whether one worker trains or many, and
who listens.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from sage_ray.config import ExperimentConfig
from sage_ray.data.prepare import PreparedData
from sage_ray.errors import NonFiniteLoss, SnapshotFailed
from sage_ray.stages.keys import stage_keys
from sage_ray.stages.store import Snapshot, StageStore
from sage_ray.training.attention_share import watch_attention
from sage_ray.training.averaging import estimate_statistics
from sage_ray.training.batches import Pictures, judged_pictures, steps_in_epoch, training_batches
from sage_ray.training.build import build_product, build_state
from sage_ray.training.context import RunContext, computed_on, numerics
from sage_ray.training.encoder_weights import load_encoder, needs_encoder
from sage_ray.training.extra_pairs import ExtraPairs, provide_pairs
from sage_ray.training.generated_loss import validate_state
from sage_ray.training.interrupts import Interrupts
from sage_ray.training.means import EpochMeans
from sage_ray.training.memory import memory_of
from sage_ray.training.precision import resolve_precision, use_precision
from sage_ray.training.pretrain import pretrain_step
from sage_ray.training.recipe import Recipe, build_recipe
from sage_ray.training.render_parts import check_renderer
from sage_ray.training.render_stage import RenderedStage, render_stage
from sage_ray.training.report import EpochReport, Report
from sage_ray.training.resume import Phase, Reports, chain, first_to_run, leased, newest_snapshot, take_up
from sage_ray.training.scoring import check_scores, per_image_rows, validate
from sage_ray.training.snapshots import Snapshots
from sage_ray.training.state import TrainState, weights_sha
from sage_ray.training.system_step import system_step

STEPS = {"pretrain": pretrain_step, "adversarial": system_step}


@dataclass
class TrainResult:
    """What a finished training hands on.

    Attributes:
        epoch: the last one, on the counter that runs on over all stages.
        phase: the last one.
        selected_epoch: whose weights were kept.
        metrics: the last epoch's report.
        history: one report per epoch.
        segmenter: on the CPU in eval mode with the selected weights; None in a system without one.
        generator: likewise; None without phase 2.
        weights_sha: sha256 over the selected weights.
        stage_keys: of the phases.
        numerics: what rounding depended on.
        synthetic_steps: of phase 2.
        generator_updates: of phase 2.
        per_image: validation scores of the selected weights, one row per image and score.
        lr_drops: epochs of each phase after which its learning rate dropped.
        reused_epochs: how many epochs came from the stage store.
        computed_on: where the epochs were computed, stored ones too.
        extra_pairs: that phase 1 was trained on beside real ones; None if there were none.
    """

    epoch: int
    phase: str
    selected_epoch: int
    metrics: Report
    history: list[Report]
    segmenter: nn.Module | None
    generator: nn.Module | None
    weights_sha: str
    stage_keys: dict[str, str]
    numerics: dict[str, Any]
    synthetic_steps: int
    generator_updates: int
    per_image: list[dict[str, Any]]
    lr_drops: dict[str, list[int]]
    reused_epochs: int
    computed_on: list[str]
    extra_pairs: ExtraPairs | None = None


@dataclass
class _Run:
    """What all epochs of a run share."""

    config: ExperimentConfig
    ctx: RunContext
    store: StageStore
    recipe: Recipe
    train: Pictures
    judged: Pictures | None
    validation: Pictures
    shas: list[str]
    snapshots: Snapshots
    interrupts: Interrupts
    reports: Reports
    cache_dir: Path
    extra_pairs: ExtraPairs | None = None
    reused: int = 0
    rendered: RenderedStage | None = None

    def __post_init__(self) -> None:
        self.extra = self.extra_pairs.pictures(self.ctx.device) if self.extra_pairs else None


def run_training(
    config: ExperimentConfig,
    data: PreparedData,
    ctx: RunContext,
    store: StageStore,
    *,
    cache_dir: Path,
    named: Mapping[str, Collection[int]] | None = None,
) -> TrainResult:
    """Train a config on prepared data under a context; every worker calls it with the same arguments.

    Args:
        config: the run.
        data: pictures and split; the test part is not touched.
        ctx: place among workers, reductions, reports, wish to stop.
        store: where stage snapshots are found and kept.
        cache_dir: where downloaded weights are kept.
        named: epochs of each phase, beside its end, that other trials start from: they are kept on the way.

    Raises:
        UserError: something the config asks for cannot be had; nothing was trained.
        NonFiniteLoss: loss became NaN or infinite; names phase, epoch and step.
        OutOfMemory: of the GPU, or of the machine.
        SnapshotFailed: a snapshot could not be written; the one before it is valid.
        RunStopped: the context asked to stop; the run resumes from its last snapshot.
    """
    check_scores(config)
    check_renderer(config, ctx.device.type)
    precision = resolve_precision(config.runtime.precision, ctx.device)
    use_precision(precision, ctx.device, deterministic=config.runtime.deterministic)
    numbers = numerics(config.runtime, ctx.device, ctx.world_size)
    keys = stage_keys(config, data.fingerprint, data.split.split_id, numbers)
    phases = chain(config, keys)
    for phase in phases:
        steps_in_epoch(phase.settings, config.render.pairs if "render" in keys else len(data.split.train))
    if needs_encoder(config) and not any(store.latest(phase.key, phase.epochs) for phase in phases):
        load_encoder(config, cache_dir)  # before anything is trained or made, which may take hours
    run = _run_of(config, data, ctx, store, cache_dir, named or {})
    try:
        if "render" in keys:
            _learn_from_rendered(run, data, keys["render"])
        state: TrainState | None = None
        first, read = first_to_run(phases, store, ctx)
        for phase in phases[first:]:
            with leased(phase, store, ctx), memory_of(config, phase.name, ctx.device):
                state, read = _run_phase(run, phase, state, read), None
        assert state is not None
        return _result(run, state, phases[-1], keys, numbers, data)
    finally:
        run.snapshots.close()


def _run_of(
    config: ExperimentConfig,
    data: PreparedData,
    ctx: RunContext,
    store: StageStore,
    cache_dir: Path,
    named: Mapping[str, Collection[int]],
) -> _Run:
    """What all epochs of a run share; weights that others have trained, and extra pairs, are had first."""
    recipe = build_recipe(config, ctx, cache_dir)
    pairs = provide_pairs(config, data, ctx, store, cache_dir, run_training)
    return _Run(
        config=config,
        ctx=ctx,
        store=store,
        snapshots=Snapshots(store, ctx, config.runtime.snapshot_seconds, named),
        interrupts=Interrupts(ctx.say),
        recipe=recipe,
        train=Pictures(data, data.split.train, ctx.device),
        judged=judged_pictures(data, config, ctx.device),
        validation=Pictures(data, data.split.validation, ctx.device),
        shas=[data.shas[i] for i in data.split.validation],
        reports=Reports(ctx),
        cache_dir=cache_dir,
        extra_pairs=pairs,
    )


def _learn_from_rendered(run: _Run, data: PreparedData, key: str) -> None:
    """Let the run learn from the pairs of its stage of rendering, which is trained now if the store lacks it."""
    run.rendered = render_stage(run.config, data, run.ctx, run.store, key, reports=run.reports)
    pairs = run.rendered.pairs
    run.train = Pictures(pairs, np.arange(len(pairs.images)), run.ctx.device)
    run.reused = run.rendered.reused


def _run_phase(run: _Run, phase: Phase, earlier: TrainState | None, read: Snapshot | None) -> TrainState:
    """Train a phase to its end, from its newest snapshot or from what the earlier phase hands over."""
    snapshot = newest_snapshot(phase, run.store, run.ctx, read)
    handed = earlier.product_weights(run.config.pretrain.handoff) if earlier and snapshot is None else None
    anew = snapshot is None and handed is None
    encoder = load_encoder(run.config, run.cache_dir) if anew else None
    state = build_state(run.config, phase.name, run.ctx, handed=handed, encoder=encoder)
    if earlier is not None:
        state.follow(earlier)
    elif run.rendered is not None and snapshot is None:
        state.history, state.computed_on = run.rendered.history, list(run.rendered.computed_on)
    if snapshot is not None:
        take_up(state, snapshot, phase, run.store, run.ctx)
        before = len(run.rendered.history) if run.rendered else 0
        run.reused += snapshot.epoch + (phase.offset - before if earlier is None else 0)
    run.reports.replay(state.history)

    here = computed_on(run.ctx.device)
    run.snapshots.enter(phase.key, phase.epochs, state)
    with run.interrupts.taken():
        while state.phase_epoch < phase.epochs:
            if here not in state.computed_on:
                state.computed_on.append(here)
            run.interrupts.hold(run.snapshots.unsaved(state))
            report = _run_epoch(run, state, phase)
            run.interrupts.hold(True)
            try:
                run.snapshots.after_epoch(state)
                run.reports.tell(report)
                run.interrupts.check()
                run.reports.stop_if_asked(report)
            except SnapshotFailed:
                raise
            except BaseException:  # Tune stops a trial by SystemExit, a user by KeyboardInterrupt
                run.snapshots.at_stop(state)
                raise
    return state


def _run_epoch(run: _Run, state: TrainState, phase: Phase) -> EpochReport:
    """Train and score one epoch; its report is the newest of the state's history."""
    started, lr = time.perf_counter(), state.learning_rate.lr
    scores = _train_epoch(run, state, phase)
    epoch = phase.offset + state.phase_epoch
    if len(run.validation):
        settings = run.config.evaluation
        scores |= _validation(run, state, epoch, ends_phase=state.phase_epoch == phase.epochs)
        # Of a loss the lowest is best.
        score = scores[settings.metric]
        state.remember_best(-score if settings.metric == "val/loss" else score)
    state.learning_rate.after_epoch(state.phase_epoch, scores)
    report = EpochReport(
        epoch=epoch,
        phase=phase.name,
        phase_epoch=state.phase_epoch,
        lr=lr,
        scores=scores,
        synthetic_steps=state.synthetic_steps,
        generator_updates=state.generator_updates,
        seconds=time.perf_counter() - started,
    )
    state.history.append(report)
    return report


def _validation(run: _Run, state: TrainState, epoch: int, *, ends_phase: bool) -> dict[str, float]:
    """Scores of the validation part as `val/NAME`: of the segmenter, or of what a system has in its place."""
    config, ctx = run.config, run.ctx
    found = validate_state(state, run.validation, config.evaluation, run.recipe, ctx)
    scores = {f"val/{name}": value for name, value in found.items()}
    if "segmenter" not in state.networks:
        return scores
    return scores | watch_attention(
        state.evaluated, run.validation, run.shas, config, ctx, epoch=epoch, ends_phase=ends_phase
    )


def _train_epoch(run: _Run, state: TrainState, phase: Phase) -> dict[str, float]:
    """Take the steps of one epoch; returns the means of their scalars as `train/NAME`.

    The host reads the device once, at the end.
    """
    means = EpochMeans(run.ctx.device)
    pictures, epoch = (run.train, run.config, run.ctx, phase.name), state.phase_epoch
    for batch, draws in training_batches(*pictures, epoch, extra=run.extra, judged=run.judged):
        means.add(STEPS[phase.name](state, batch, draws, run.recipe))
    again = training_batches(*pictures, epoch, extra=run.extra)
    estimate_statistics(state, again, run.recipe)
    state.phase_epoch += 1
    found, bad_step = means.read(run.ctx)
    if bad_step is not None:
        raise NonFiniteLoss(
            f"non-finite loss in {phase.name}, epoch {state.phase_epoch} of the phase, step {bad_step}: "
            f"lower {phase.name}.lr or the weight of the largest term"
        )
    return {f"train/{name}": value for name, value in found.items()}


def _result(
    run: _Run,
    state: TrainState,
    last: Phase,
    keys: dict[str, str],
    numbers: dict[str, Any],
    data: PreparedData,
) -> TrainResult:
    """The selected weights with their validation scores, and the story of the run."""
    config, ctx = run.config, run.ctx
    choice = "best" if config.evaluation.select == "best" else "last"
    weights = {name: tensor.detach().cpu() for name, tensor in state.product_weights(choice).items()}
    segmenter, generator = build_product(config, weights)
    per_image: list[dict[str, Any]] = []
    if len(run.validation) and segmenter is not None:
        scored = ctx.prepare(copy.deepcopy(segmenter))
        groups = [data.groups[i] for i in data.split.validation] if data.groups else None
        _, rows = validate(scored, run.validation, config.evaluation, run.recipe, ctx)
        per_image = per_image_rows(rows, run.shas, config, groups, part="val", checkpoint=config.evaluation.select)
    history = [report.as_dict() for report in state.history]
    return TrainResult(
        epoch=last.offset + state.phase_epoch,
        phase=state.phase,
        selected_epoch=last.offset + (state.best.phase_epoch if choice == "best" else state.phase_epoch),
        metrics=history[-1],
        history=history,
        segmenter=segmenter,
        generator=generator,
        weights_sha=weights_sha(weights),
        stage_keys=keys,
        numerics=numbers,
        synthetic_steps=state.synthetic_steps,
        generator_updates=state.generator_updates,
        per_image=per_image,
        lr_drops={**state.earlier_drops, state.phase: state.learning_rate.drops},
        reused_epochs=run.reused,
        computed_on=state.computed_on,
        extra_pairs=run.extra_pairs,
    )
