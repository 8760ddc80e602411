"""How a run goes on from what is stored: its chain of stages, leases, the newest snapshots, and reports told again.

A run is a chain of stages. It starts from the longest stored prefix of its own chain, whoever computed it. Rank 0 alone
looks into the store, and what it finds is what all workers go on from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from sage_ray.config import ExperimentConfig
from sage_ray.errors import RunStopped
from sage_ray.sections import AdversarialConfig, PretrainConfig
from sage_ray.stages.lease import stage_lease
from sage_ray.stages.store import Snapshot, StageStore
from sage_ray.training.context import RunContext, computed_on
from sage_ray.training.report import EpochReport
from sage_ray.training.state import TrainState


@dataclass(frozen=True)
class Phase:
    """One stage of a run's chain.

    Attributes:
        name: "pretrain" or "adversarial".
        settings: the section of the config of that name.
        epochs: wanted.
        key: of the stage in the store.
        offset: the phase's first epoch is `offset + 1` on the counter that runs on over all stages.
    """

    name: str
    settings: PretrainConfig | AdversarialConfig
    epochs: int
    key: str
    offset: int


def chain(config: ExperimentConfig, keys: Mapping[str, str]) -> list[Phase]:
    """The phases that a config trains, in order; `keys` are those of `stage_keys`.

    A stage of rendering comes before them and is counted, but is no phase (`render_stage`).
    """
    phases: list[Phase] = []
    offset = 0
    for name, key in keys.items():
        if name != "render":
            phases.append(Phase(name, config.phase(name), config.epochs_of(name), key, offset))
        offset += config.epochs_of(name)
    return phases


def first_to_run(phases: list[Phase], store: StageStore, ctx: RunContext) -> tuple[int, Snapshot | None]:
    """Index of the last phase that has a sound snapshot at or below its wanted epoch, and on rank 0 what was read.

    The index is 0 if none has. The first phase is not read here, as there is nothing else to begin with.
    """
    found, snapshot = 0, None
    if ctx.rank == 0:
        for index in range(len(phases) - 1, 0, -1):
            snapshot = store.load_latest(phases[index].key, phases[index].epochs)
            if snapshot is not None:
                found = index
                break
    return from_rank_0(ctx, found), snapshot


def leased(
    phase: Phase, store: StageStore, ctx: RunContext, *, done: Callable[[], bool] | None = None
) -> AbstractContextManager[None]:
    """A context in which this run alone trains the stage; rank 0 holds the lease for all workers.

    It is not waited for once `done()`, which by default is that the stage's last wanted epoch is stored.
    """
    if ctx.rank:
        return nullcontext()
    return stage_lease(
        store,
        phase.key,
        done or (lambda: store.latest(phase.key, phase.epochs) == phase.epochs),
        should_stop=ctx.should_stop if ctx.world_size == 1 else lambda: False,
        waiting=ctx.waiting,
        say=ctx.say,
        patience_s=ctx.stage_patience_s,
    )


def newest_snapshot(phase: Phase, store: StageStore, ctx: RunContext, read: Snapshot | None = None) -> Snapshot | None:
    """The newest sound snapshot of a phase at or below its wanted epoch, the same on every worker.

    `read` is what rank 0 has read of the phase already; it is read again only if the store has a newer one by now.
    """
    snapshot = read
    if ctx.rank == 0 and (read is None or store.latest(phase.key, phase.epochs) != read.epoch):
        snapshot = store.load_latest(phase.key, phase.epochs)
    epoch = from_rank_0(ctx, snapshot.epoch if snapshot else 0)
    if ctx.rank and epoch:
        snapshot = store.load_latest(phase.key, epoch)
        assert snapshot is not None and snapshot.epoch == epoch, "workers see different stage stores"
    return snapshot


def take_up(state: TrainState, snapshot: Snapshot, phase: Phase, store: StageStore, ctx: RunContext) -> None:
    """Bring a fresh state of the phase to the snapshot; the end of a stage is kept for good from now on."""
    state.load(snapshot.tensors, snapshot.meta)
    here = computed_on(ctx.device)
    elsewhere = [place for place in state.computed_on if place != here]
    if elsewhere:
        computed = f"{snapshot.epoch} stored epochs were computed on {' and '.join(elsewhere)}"
        ctx.say(f"{phase.name}: {computed}, and are used on {here}")
    if snapshot.epoch == phase.epochs and ctx.rank == 0:
        store.keep(phase.key, snapshot.epoch)


class Reports:
    """The reports of a run: each epoch is told once, in order, whether it is trained now or came from the store."""

    def __init__(self, ctx: RunContext) -> None:
        self._ctx, self._told = ctx, 0

    def replay(self, history: list[EpochReport]) -> None:
        """Tell the epochs that came from the store, so that schedulers compare like with like.

        Raises:
            RunStopped: the context asked to stop.
        """
        for report in history[self._told :]:
            self.tell(report.as_replayed())
            self.stop_if_asked(report)

    def tell(self, report: EpochReport) -> None:
        """Hand one epoch on to the context."""
        self._ctx.report(report)
        self._told += 1

    def stop_if_asked(self, report: EpochReport) -> None:
        """Raise RunStopped, naming the epoch of the report, if the context asks to stop."""
        if self._ctx.should_stop():
            raise RunStopped(f"stopped at epoch {report.epoch}")


def from_rank_0(ctx: RunContext, value: int) -> int:
    """Rank 0's value, on every worker."""
    if ctx.world_size == 1:
        return value
    return int(ctx.all_reduce(torch.tensor(float(value if ctx.rank == 0 else 0), device=ctx.device)).item())
