"""run_training: the whole two-phase training as one linear page; all machinery is behind the context and the store.

A run is a chain of stages. It starts from the longest stored prefix of its own chain, whoever computed it, replays
the stored reports, and goes on. Snapshots go by time (`training.snapshots`): an orderly stop loses no finished epoch, a
kill costs at most the epochs since the last snapshot that reached the disk.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sage_ray.config import ExperimentConfig
from sage_ray.data.prepare import PreparedData
from sage_ray.errors import NonFiniteLoss, RunStopped, SnapshotFailed, UserError
from sage_ray.metrics.definitions import VALIDATION_SCORES
from sage_ray.models import GENERATORS, SEGMENTERS
from sage_ray.stages.keys import stage_keys
from sage_ray.stages.lease import stage_lease
from sage_ray.stages.store import Snapshot, StageStore
from sage_ray.training import build
from sage_ray.training.adversarial import adversarial_step
from sage_ray.training.attention_share import watch_attention
from sage_ray.training.averaging import estimate_statistics
from sage_ray.training.batches import Pictures, steps_per_epoch, training_batches
from sage_ray.training.context import Report, RunContext, computed_on, numerics
from sage_ray.training.interrupts import Interrupts
from sage_ray.training.learning_rate import LearningRate
from sage_ray.training.precision import resolve_precision, use_precision
from sage_ray.training.pretrain import pretrain_step
from sage_ray.training.recipe import Recipe, build_recipe
from sage_ray.training.scoring import evaluate, per_image_rows
from sage_ray.training.snapshots import Snapshots
from sage_ray.training.state import TrainState, weights_sha

STEPS = {"pretrain": pretrain_step, "adversarial": adversarial_step}


@dataclass(frozen=True)
class Phase:
    """One stage of the chain: `epochs` of it are wanted, its first epoch is `offset + 1` on the run's monotone
    counter."""

    name: str
    epochs: int
    key: str
    offset: int


@dataclass
class TrainResult:
    """What a finished training hands on.

    `segmenter` and `generator` are on the CPU in eval mode with the selected weights; `history` holds one report an
    epoch; `per_image` the selected weights' validation scores, one row an image and score; `lr_drops` the phase
    epochs after which a learning rate dropped; `reused_epochs` how many epochs came from the stage store;
    `computed_on` where the epochs were computed, stored ones too.
    """

    epoch: int
    phase: str
    selected_epoch: int
    metrics: Report
    history: list[Report]
    segmenter: nn.Module
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


@dataclass
class _Session:
    config: ExperimentConfig
    ctx: RunContext
    store: StageStore
    snapshots: Snapshots
    interrupts: Interrupts
    recipe: Recipe
    train: Pictures
    validation: Pictures
    shas: list[str]
    groups: list[str] | None
    reported: int = 0
    reused: int = 0
    keys: dict[str, str] = field(default_factory=dict)


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
        cache_dir: where downloaded VGG19 weights are kept.
        named: epochs of each phase, beside its end, that other trials start from: they are kept on the way.

    Raises:
        UserError: something the config asks for cannot be had; nothing was trained.
        NonFiniteLoss: loss became NaN or infinite; names phase, epoch and step.
        SnapshotFailed: a snapshot could not be written; the one before it is valid.
        RunStopped: the context asked to stop; the run resumes from its last snapshot.
    """
    check_scores(config)
    precision = resolve_precision(config.runtime.precision, ctx.device)
    use_precision(precision, ctx.device, deterministic=config.runtime.deterministic)
    numbers = numerics(config.runtime, ctx.device, ctx.world_size)
    keys = stage_keys(config, data.fingerprint, data.split.split_id, numbers)
    phases = chain(config, keys)
    session = _Session(
        config=config,
        ctx=ctx,
        store=store,
        snapshots=Snapshots(store, ctx, config.runtime.snapshot_seconds, named or {}),
        interrupts=Interrupts(ctx.say),
        recipe=build_recipe(config, ctx, cache_dir),
        train=Pictures(data, data.split.train, ctx.device),
        validation=Pictures(data, data.split.validation, ctx.device),
        shas=[data.shas[i] for i in data.split.validation],
        groups=[data.groups[i] for i in data.split.validation] if data.groups else None,
        keys=keys,
    )
    for phase in phases:
        steps_per_epoch(len(session.train), getattr(config, phase.name).batch_size)
    try:
        state: TrainState | None = None
        for phase in phases[_first_phase(session, phases) :]:
            with _lease(session, phase):
                state = _run_phase(session, phase, state)
        assert state is not None
        return _result(session, state, phases[-1], numbers)
    finally:
        session.snapshots.close()


def chain(config: ExperimentConfig, keys: dict[str, str]) -> list[Phase]:
    """The stages that a config trains, in order."""
    phases: list[Phase] = []
    offset = 0
    for name, key in keys.items():
        epochs = getattr(config, name).epochs
        phases.append(Phase(name, epochs, key, offset))
        offset += epochs
    return phases


def check_scores(config: ExperimentConfig) -> None:
    """Raise UserError if the config names a score that is not computed, or an unregistered network."""
    build.check_names(config)
    named = {"evaluation.metric": config.evaluation.metric}
    for phase in ("pretrain", "adversarial"):
        schedule = getattr(config, phase).schedule
        if schedule.rule == "plateau":
            named[f"{phase}.schedule.metric"] = schedule.metric
    for path, metric in named.items():
        if metric not in VALIDATION_SCORES:
            raise UserError("no such score", f"{path}={metric}", "choose one of " + ", ".join(VALIDATION_SCORES))


def _first_phase(session: _Session, phases: list[Phase]) -> int:
    """Index of the last phase that has a sound snapshot at or below its wanted epoch; 0 if none has."""
    found = 0
    if session.ctx.rank == 0:
        for index in range(len(phases) - 1, 0, -1):
            if session.store.load_latest(phases[index].key, phases[index].epochs) is not None:
                found = index
                break
    return _from_rank_0(session.ctx, found)


def _lease(session: _Session, phase: Phase) -> AbstractContextManager[None]:
    if session.ctx.rank:
        return nullcontext()
    return stage_lease(
        session.store,
        phase.key,
        lambda: session.store.latest(phase.key, phase.epochs) == phase.epochs,
        should_stop=session.ctx.should_stop if session.ctx.world_size == 1 else lambda: False,
        say=session.ctx.say,
    )


def _run_phase(session: _Session, phase: Phase, earlier: TrainState | None) -> TrainState:
    snapshot = _newest_snapshot(session, phase)
    state = _enter(session, phase, earlier, fresh=snapshot is None)
    if snapshot is not None:
        state.load(snapshot.tensors, snapshot.meta)
        skipped = phase.offset if earlier is None else 0
        session.reused += skipped + snapshot.epoch
        _say_crossing(session, state, phase, snapshot.epoch)
        if snapshot.epoch == phase.epochs and session.ctx.rank == 0:
            session.store.keep(phase.key, snapshot.epoch)
    _replay(session, state)
    here = computed_on(session.ctx.device)
    session.snapshots.enter(phase.key, phase.epochs, state)
    while state.phase_epoch < phase.epochs:
        if here not in state.computed_on:
            state.computed_on.append(here)
        with session.interrupts.held(session.snapshots.unsaved(state)):
            report = _train_epoch(session, state, phase)
        try:
            session.snapshots.after_epoch(state)
            session.ctx.report(report)
            session.reported += 1
            session.interrupts.check()
            if session.ctx.should_stop():
                raise RunStopped(f"stopped at epoch {report['epoch']}")
        except SnapshotFailed:
            raise
        except BaseException:  # Tune stops a trial by SystemExit, a user by KeyboardInterrupt
            session.snapshots.at_stop(state)
            raise
    return state


def _say_crossing(session: _Session, state: TrainState, phase: Phase, epochs: int) -> None:
    here = computed_on(session.ctx.device)
    elsewhere = [place for place in state.computed_on if place != here]
    if elsewhere:
        session.ctx.say(
            f"{phase.name}: {epochs} stored epochs were computed on {' and '.join(elsewhere)}, and are used on {here}"
        )


def _newest_snapshot(session: _Session, phase: Phase) -> Snapshot | None:
    """The same newest sound snapshot on every worker; rank 0 decides."""
    ctx, store = session.ctx, session.store
    snapshot = store.load_latest(phase.key, phase.epochs) if ctx.rank == 0 else None
    epoch = _from_rank_0(ctx, snapshot.epoch if snapshot else 0)
    if ctx.rank and epoch:
        snapshot = store.load_latest(phase.key, epoch)
        assert snapshot is not None and snapshot.epoch == epoch, "workers see different stage stores"
    return snapshot


def _enter(session: _Session, phase: Phase, earlier: TrainState | None, *, fresh: bool) -> TrainState:
    """A state at epoch 0 of a phase; phase 2 takes the segmenter that phase 1 hands over."""
    config, ctx = session.config, session.ctx
    settings = getattr(config, phase.name)
    networks = {"segmenter": build.build_segmenter(config, ctx)}
    betas = (0.9, 0.999)
    if phase.name == "adversarial":
        networks |= build.build_gan(config, ctx)
        betas = config.adversarial.betas
        if earlier is not None and fresh:
            handed = earlier.product_weights(config.pretrain.handoff)
            networks["segmenter"].load_state_dict({k.removeprefix("segmenter."): v for k, v in handed.items()})
    optimizers = {name: build.build_optimizer(network, settings.lr, betas) for name, network in networks.items()}
    state = TrainState(
        phase=phase.name,
        networks=networks,
        optimizers=optimizers,
        learning_rate=LearningRate(settings.schedule, optimizers, settings.lr),
        ema_decay=config.evaluation.ema_decay,
    )
    if earlier is not None:
        state.history = earlier.history
        state.computed_on = list(earlier.computed_on)
        state.earlier_drops = {**earlier.earlier_drops, earlier.phase: earlier.learning_rate.drops}
    return state


def _replay(session: _Session, state: TrainState) -> None:
    """Report the epochs that came from the store, so that schedulers compare like with like."""
    for report in state.history[session.reported :]:
        session.ctx.report({**report, "replayed": True})
        session.reported += 1
        if session.ctx.should_stop():
            raise RunStopped(f"stopped at epoch {report['epoch']}")


def _train_epoch(session: _Session, state: TrainState, phase: Phase) -> Report:
    """Train and score one epoch; the host reads the device once."""
    started = time.perf_counter()
    step_function = STEPS[phase.name]
    totals: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    first_bad = torch.full((), -1, device=session.ctx.device)
    batches = training_batches(session.train, session.config, session.ctx, phase.name, state.phase_epoch)
    for step, (batch, draws) in enumerate(batches):
        scalars = step_function(state, batch, draws, session.recipe)
        for name, value in scalars.items():
            totals[name] = totals[name] + value if name in totals else value
            counts[name] = counts.get(name, 0) + 1
        bad = ~torch.isfinite(torch.stack(list(scalars.values())).sum())
        first_bad = torch.where((first_bad < 0) & bad, step, first_bad)
    again = training_batches(session.train, session.config, session.ctx, phase.name, state.phase_epoch)
    estimate_statistics(state, again, session.recipe)
    state.phase_epoch += 1
    means = _read_epoch(session, phase, state, totals, counts, first_bad)
    report: Report = {
        "epoch": phase.offset + state.phase_epoch,
        "phase": phase.name,
        "phase_epoch": state.phase_epoch,
        "lr": state.learning_rate.lr,
        **means,
    }
    if len(session.validation):
        scores, _ = evaluate(
            state.evaluated, session.validation, session.config.evaluation, session.recipe, session.ctx
        )
        report |= {f"val/{name}": value for name, value in scores.items()}
        report |= watch_attention(
            state.evaluated, session.validation, session.shas, session.config, session.ctx,
            epoch=report["epoch"], ends_phase=state.phase_epoch == phase.epochs,
        )  # fmt: skip
        metric = session.config.evaluation.metric
        state.remember_best(-report[metric] if metric == "val/loss" else report[metric])
    state.learning_rate.after_epoch(state.phase_epoch, report)
    report["synthetic_steps"] = state.synthetic_steps
    report["generator_updates"] = state.generator_updates
    report["seconds"] = time.perf_counter() - started
    report["replayed"] = False
    state.history.append(report)
    return report


def _read_epoch(
    session: _Session,
    phase: Phase,
    state: TrainState,
    totals: dict[str, Tensor],
    counts: dict[str, int],
    first_bad: Tensor,
) -> dict[str, float]:
    names = list(totals)
    flag = (first_bad >= 0).double()
    packed = torch.stack([*(totals[n].double() / counts[n] for n in names), flag, first_bad.double()])
    values = session.ctx.all_reduce(packed).tolist()
    if values[-2] > 0:
        where = int(values[-1]) if session.ctx.world_size == 1 else "(of a worker)"
        raise NonFiniteLoss(
            f"non-finite loss in {phase.name}, epoch {state.phase_epoch} of the phase, step {where}: "
            f"lower {phase.name}.lr or the weight of the largest term"
        )
    return {f"train/{n}": v / session.ctx.world_size for n, v in zip(names, values, strict=False)}


def _result(session: _Session, state: TrainState, last: Phase, numbers: dict[str, Any]) -> TrainResult:
    config, ctx = session.config, session.ctx
    choice = "best" if config.evaluation.select == "best" else "last"
    weights = {k: v.detach().cpu() for k, v in state.product_weights(choice).items()}
    kwargs = build.network_kwargs(config)
    segmenter = SEGMENTERS[config.segmenter.name](**kwargs["segmenter"])
    segmenter.load_state_dict({k[10:]: v for k, v in weights.items() if k.startswith("segmenter.")})
    generator: nn.Module | None = None
    if any(k.startswith("generator.") for k in weights):
        generator = GENERATORS[config.generator.name](**kwargs["generator"])
        generator.load_state_dict({k[10:]: v for k, v in weights.items() if k.startswith("generator.")})
        generator.eval()
    selected = state.best.phase_epoch if choice == "best" else state.phase_epoch
    return TrainResult(
        epoch=last.offset + state.phase_epoch,
        phase=state.phase,
        selected_epoch=last.offset + selected,
        metrics=state.history[-1],
        history=state.history,
        segmenter=segmenter.eval(),
        generator=generator,
        weights_sha=weights_sha(weights),
        stage_keys=session.keys,
        numerics=numbers,
        synthetic_steps=state.synthetic_steps,
        generator_updates=state.generator_updates,
        per_image=_validation_rows(session, ctx.prepare(copy.deepcopy(segmenter))),
        lr_drops={**state.earlier_drops, state.phase: state.learning_rate.drops},
        reused_epochs=session.reused,
        computed_on=state.computed_on,
    )


def _validation_rows(session: _Session, segmenter: nn.Module) -> list[dict[str, Any]]:
    if not len(session.validation):
        return []
    config = session.config
    _, rows = evaluate(segmenter, session.validation, config.evaluation, session.recipe, session.ctx)
    return per_image_rows(rows, session.shas, config, session.groups, part="val", checkpoint=config.evaluation.select)


def _from_rank_0(ctx: RunContext, value: int) -> int:
    if ctx.world_size == 1:
        return value
    return int(ctx.all_reduce(torch.tensor(float(value if ctx.rank == 0 else 0), device=ctx.device)).item())
