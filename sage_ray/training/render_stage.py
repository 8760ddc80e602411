"""The stage of rendering (DiffRenderGAN): materials learn from real images without masks, then pairs are rendered.

A stage of its own, resumable as any: `rendered_pairs` takes up what is stored, trains what is missing, and writes the
pairs into the stage store, where `read_pairs` finds them. Every worker does the same work; rank 0's is kept, and is
what all of them go on with.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sage_ray.config import ExperimentConfig
from sage_ray.data.lineage import RENDERER
from sage_ray.data.prepare import PreparedData
from sage_ray.errors import NonFiniteLoss, SnapshotFailed
from sage_ray.models import DISCRIMINATORS
from sage_ray.models.init import initialise, normal
from sage_ray.rendering.grey_values import RealGreys
from sage_ray.rendering.index_pass import visible
from sage_ray.rendering.kept_within import KeptWithin
from sage_ray.rendering.render_gan import RenderRecipe, render_step, rendered
from sage_ray.rendering.scenes import Scene, draw_scene
from sage_ray.sections import ScheduleConfig
from sage_ray.stages.made_pairs import WHOLE, MadePairs, read_pairs, write_pairs
from sage_ray.stages.render_keys import render_stage_key, rendered_pairs_key
from sage_ray.stages.store import StageStore
from sage_ray.training.batches import judged_rows
from sage_ray.training.build import build_optimizer, network_kwargs
from sage_ray.training.context import RunContext, computed_on, numerics
from sage_ray.training.draws import KeyedDraws, epoch_order, keyed_seed
from sage_ray.training.interrupts import Interrupts
from sage_ray.training.learning_rate import LearningRate
from sage_ray.training.means import EpochMeans
from sage_ray.training.memory import memory_of
from sage_ray.training.render_parts import Engine, build_engine, build_regressor, scene_law
from sage_ray.training.report import EpochReport
from sage_ray.training.resume import Phase, Reports, from_rank_0, leased, newest_snapshot, take_up
from sage_ray.training.snapshots import Snapshots
from sage_ray.training.state import TrainState

STAGE = "render"
KEPT_BYTES = 1 << 30
"""Of scenes that are kept for the next step on them; those beyond are drawn each time."""
SEED_BITS = (1 << 31) - 1
"""Largest seed of an engine's samples."""


@dataclass
class RenderedStage:
    """What a run takes over from its stage of rendering: the pairs, the reports of its epochs, and where it computed.

    `reused` counts the epochs that came from the store, `making_s` is in how many seconds the pairs were rendered now.
    """

    pairs: MadePairs
    history: list[EpochReport] = field(default_factory=list)
    computed_on: list[str] = field(default_factory=list)
    reused: int = 0
    making_s: float = 0.0


def rendered_pairs(config: ExperimentConfig, data: PreparedData, ctx: RunContext, store: StageStore) -> MadePairs:
    """The pairs of a config's stage of rendering, trained and rendered now unless the store has them.

    It does not matter whether `render.train_on_pairs` is set; epochs are told by `ctx.say`, none is reported.

    Args:
        config: the settings `render`, `discriminators`, `data` and `seed` are looked at.
        data: prepared by `config.data`; images of the training part are learnt from, the test part is not touched.
        ctx: place among workers, device, wish to stop.
        store: where snapshots and pairs are found and kept.

    Raises:
        UserError: the engine cannot be used here, or no sizes can be fitted.
        RunStopped, NonFiniteLoss, SnapshotFailed: as `loop.run_training`.
    """
    numbers = numerics(config.runtime, ctx.device, ctx.world_size)
    key = render_stage_key(config, data.fingerprint, data.split.split_id, numbers)
    return render_stage(config, data, ctx, store, key, reports=None).pairs


def render_stage(
    config: ExperimentConfig,
    data: PreparedData,
    ctx: RunContext,
    store: StageStore,
    key: str,
    *,
    reports: Reports | None,
) -> RenderedStage:
    """As `rendered_pairs`, of the stage `key`, with its epochs told to `reports`, stored ones too."""
    pairs_key = rendered_pairs_key(config, key)
    phase = Phase(STAGE, config.pretrain, config.render.epochs, key, 0)
    found = stored_pairs(store, pairs_key, ctx)
    if found is None:
        # Whoever holds the lease renders the pairs too: materials that have learnt are not all there is to wait for.
        with leased(phase, store, ctx, done=lambda: store.latest(pairs_key, WHOLE) == WHOLE):
            found = stored_pairs(store, pairs_key, ctx)
            if found is None:
                with memory_of(config, STAGE, ctx.device):
                    return _RenderRun(config, data, ctx, store, phase, reports).to_its_end(pairs_key)
    history = [EpochReport.from_dict(plain) for plain in found.origin["history"]]
    if reports is not None:
        reports.replay(history)
    return RenderedStage(found, history, list(found.origin["computed_on"]), reused=len(history))


def render_steps(config: ExperimentConfig, data: PreparedData, ctx: RunContext, store: StageStore) -> Iterator[None]:
    """Steps of a fresh stage of rendering without end, each taken as it is asked for: for who measures them.

    Nothing is kept. Args and Raises: as `rendered_pairs`.
    """
    run = _RenderRun(config, data, ctx, store, Phase(STAGE, config.pretrain, config.render.epochs, "", 0), None)
    state = run.fresh_state()
    for network in state.networks.values():
        network.train()
    while True:
        for _ in run.steps(state):
            yield
        state.phase_epoch += 1


def stored_pairs(store: StageStore, key: str, ctx: RunContext) -> MadePairs | None:
    """What the store has of the pairs of a stage: rank 0's answer, on every worker."""
    here = read_pairs(store, key)
    there = from_rank_0(ctx, int(here is not None))
    if there and here is None:  # written between this worker's look and rank 0's
        here = read_pairs(store, key)
    assert not there or here is not None, "workers see different stage stores"
    return here if there else None


class _RenderRun:
    """One training of the materials, from its newest snapshot to its end."""

    def __init__(
        self,
        config: ExperimentConfig,
        data: PreparedData,
        ctx: RunContext,
        store: StageStore,
        phase: Phase,
        reports: Reports | None,
    ) -> None:
        self._config, self._data, self._ctx, self._store = config, data, ctx, store
        self._phase, self._reports = phase, reports
        self._engine: Engine = build_engine(config, ctx.device)
        self._law = scene_law(config, data)
        self._scenes: KeptWithin[Scene] = KeptWithin(KEPT_BYTES)
        self._rows = judged_rows(data, config)
        """Rows of the real images that the adversary sees: their masks go nowhere."""
        settings, view = config.render, self._engine.view
        greys = None
        if settings.histogram == "set" and settings.histogram_weight:
            real_images = (data.images[row] for row in self._rows)
            greys = RealGreys(real_images, self._scene, settings.scenes, view, ctx.device)
        self._recipe = RenderRecipe(
            self._engine.renderer, self._engine.ranges, settings.adversarial_weight, settings.histogram_weight, greys
        )

    def to_its_end(self, pairs_key: str) -> RenderedStage:
        """Train what is missing, then render and write the pairs."""
        ctx, phase = self._ctx, self._phase
        state = self.fresh_state()
        snapshot = newest_snapshot(phase, self._store, ctx)
        if snapshot is not None:
            take_up(state, snapshot, phase, self._store, ctx)
        reused = state.phase_epoch
        if self._reports is not None:
            self._reports.replay(state.history)
        snapshots = Snapshots(self._store, ctx, self._config.runtime.snapshot_seconds, {})
        snapshots.enter(phase.key, phase.epochs, state)
        try:
            self._train(state, snapshots)
        finally:
            snapshots.close()
        started = time.perf_counter()
        pairs = self._render_pairs(state)
        making_s = time.perf_counter() - started
        pairs.origin["seconds"] = round(sum(report.seconds for report in state.history) + making_s, 3)
        if ctx.rank == 0:
            write_pairs(self._store, pairs_key, pairs)
        ctx.barrier()
        pairs = stored_pairs(self._store, pairs_key, ctx) or pairs
        return RenderedStage(pairs, state.history, state.computed_on, reused, making_s)

    def _train(self, state: TrainState, snapshots: Snapshots) -> None:
        here, interrupts = computed_on(self._ctx.device), Interrupts(self._ctx.say)
        with interrupts.taken():
            while state.phase_epoch < self._phase.epochs:
                if here not in state.computed_on:
                    state.computed_on.append(here)
                interrupts.hold(snapshots.unsaved(state))
                report = self._epoch(state)
                interrupts.hold(True)
                try:
                    snapshots.after_epoch(state)
                    self._tell(report)
                    interrupts.check()
                    if self._reports is not None:
                        self._reports.stop_if_asked(report)
                except SnapshotFailed:
                    raise
                except BaseException:  # Tune stops a trial by SystemExit, a user by KeyboardInterrupt
                    snapshots.at_stop(state)
                    raise

    def _tell(self, report: EpochReport) -> None:
        if self._reports is not None:
            self._reports.tell(report)
            return
        self._ctx.waiting()
        distance = report.scores["train/histogram_distance"]
        self._ctx.say(f"rendering: epoch {report.epoch} of {self._phase.epochs}, histogram distance {distance:.3f}")

    def fresh_state(self) -> TrainState:
        """The state before the first epoch."""
        config, ctx = self._config, self._ctx
        regressor = build_regressor(config, self._engine.ranges)
        disc = DISCRIMINATORS[config.discriminators.name](**network_kwargs(config)["discriminators"])
        initialise_adversary(disc, config.seed)
        networks = {"regressor": ctx.prepare(regressor), "disc_image": ctx.prepare(disc)}
        rates = {"regressor": config.render.lr, "disc_image": config.render.disc_lr}
        optimizers = {
            name: build_optimizer(network, rates[name], config.render.betas) for name, network in networks.items()
        }
        # The adversary has a rate of its own, which no rule changes.
        rate = LearningRate(ScheduleConfig(), {"regressor": optimizers["regressor"]}, config.render.lr)
        return TrainState(STAGE, networks, optimizers, rate, ema_decay=0.0)

    def _epoch(self, state: TrainState) -> EpochReport:
        """One pass over the real training images; its report is the newest of the state's history."""
        started, config = time.perf_counter(), self._config
        means = EpochMeans(self._ctx.device)
        for network in state.networks.values():
            network.train()
        for scalars in self.steps(state):
            means.add(scalars)
            self._ctx.waiting()
        state.phase_epoch += 1
        found, bad_step = means.read(self._ctx)
        if bad_step is not None:
            raise NonFiniteLoss(
                f"non-finite loss in rendering, epoch {state.phase_epoch}, step {bad_step}: lower render.lr"
            )
        report = EpochReport(
            epoch=state.phase_epoch,
            phase=STAGE,
            phase_epoch=state.phase_epoch,
            lr=config.render.lr,
            scores={f"train/{name}": value for name, value in found.items()},
            synthetic_steps=0,
            generator_updates=0,
            seconds=time.perf_counter() - started,
        )
        state.history.append(report)
        return report

    def steps(self, state: TrainState) -> Iterator[dict[str, Tensor]]:
        """The scalars of each step of the state's next epoch, which is taken as it is asked for."""
        config, epoch = self._config, state.phase_epoch
        for step, row in enumerate(epoch_order(len(self._rows), config.seed, STAGE, epoch).tolist()):
            draws = KeyedDraws(config.seed, STAGE, epoch, step, [step], self._ctx.device)
            number = min(int(draws.batch_uniform("scene", 1)[0] * config.render.scenes), config.render.scenes - 1)
            real_image = self._real_image(int(self._rows[row]), draws)
            seed = keyed_seed(config.seed, STAGE, epoch, step, "samples") & SEED_BITS
            yield render_step(
                state.networks, state.optimizers, self._scene(number), real_image, draws, self._recipe,
                seed=seed, number=number,
            )  # fmt: skip

    def _real_image(self, row: int, draws: KeyedDraws) -> Tensor:
        """An image of the data (1,1,H,W) float32 in [0,1], flipped and turned by a draw (by 180 degrees if oblong)."""
        image = np.asarray(self._data.images[row])
        flip, turn = draws.row_uniform("turns", 2)[0]
        quarters = int(4 * turn) if image.shape[0] == image.shape[1] else 2 * int(2 * turn)
        turned = np.rot90(image[:, ::-1] if flip < 0.5 else image, quarters)
        return torch.from_numpy(turned.copy()).to(self._ctx.device)[None, None].float() / 255

    def _scene(self, number: int) -> Scene:
        return self._scenes.get(number, lambda: self._drawn_scene("scene", number))

    def _drawn_scene(self, what: str, number: int) -> Scene:
        rng = np.random.default_rng(keyed_seed(self._config.seed, STAGE, what, number))
        return draw_scene(self._law, self._engine.view, rng)

    @torch.no_grad()
    def _render_pairs(self, state: TrainState) -> MadePairs:
        """`render.pairs` pairs of scenes that were not learnt on."""
        config, ctx = self._config, self._ctx
        height, width = config.data.image_size
        count = config.render.pairs
        images, instances = np.empty((count, height, width), np.uint8), np.empty((count, height, width), np.int32)
        regressor = state.networks["regressor"].eval()
        for number in range(count):
            scene = self._drawn_scene("pair", number)
            draws = KeyedDraws(config.seed, f"{STAGE} pairs", 0, 0, [number], ctx.device)
            values = regressor(torch.as_tensor(scene.table, dtype=torch.float32, device=ctx.device))
            seed = keyed_seed(config.seed, STAGE, "pair samples", number) & SEED_BITS
            image, _ = rendered(values, scene, draws, self._recipe, seed=seed)
            images[number] = (image[0, 0] * 255).round().to(torch.uint8).cpu().numpy()
            instances[number] = renumbered(visible(scene, self._engine.view).instances)
            ctx.waiting()
        return MadePairs(images, (instances > 0).astype(np.uint8), instances, self._origin(state))

    def _origin(self, state: TrainState) -> dict[str, Any]:
        from_masks = self._config.render.sizes == "fitted" and self._config.render.sizes_table is None
        shas = self._data.shas
        return {
            "maker": RENDERER,
            "engine": self._config.render.engine,
            "trained_on": [shas[row] for row in self._rows],
            "source_masks": [],
            "sizes_from_masks_of": [shas[row] for row in self._data.split.train] if from_masks else [],
            "epochs": state.phase_epoch,
            "history": [report.as_dict() for report in state.history],
            "computed_on": state.computed_on,
        }


def initialise_adversary(disc: nn.Module, seed: int) -> None:
    """Initialise the adversary of a stage of rendering: as every network, with convolutions of deviation .02.

    The scores begin near 0 so, as in the public code of PatchGAN; with larger ones a batch of one image tears at the
    materials before the adversary has seen any.
    """
    initialise(disc, keyed_seed(seed, "render disc_image"))
    generator = torch.Generator().manual_seed(keyed_seed(seed, "render disc_image", "convolutions"))
    for module in disc.modules():
        if isinstance(module, nn.Conv2d):
            normal(module.weight, generator, 0.02)


def renumbered(instances: np.ndarray) -> np.ndarray:
    """(H,W) int32 with the numbers of what can be seen made 1..n; 0 stays 0."""
    seen = np.unique(instances)
    seen = seen[seen > 0]
    table = np.zeros(int(instances.max()) + 1, np.int32)
    table[seen] = np.arange(1, len(seen) + 1)
    found: np.ndarray = table[instances]
    return found
