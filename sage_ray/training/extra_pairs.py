"""Extra pairs of a run: read, drawn, or made by a generator that may be trained first, and kept as a stage.

What is trained for them are stages of their own in the stage store, found and shared as all stages are; its epochs are
none of the run's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from sage_ray.config import ExperimentConfig
from sage_ray.data.extra_folder import check_proportion, draw_pairs, read_folder, resized
from sage_ray.data.lineage import Lineage, check_contents, check_lineage, lineage_of_model, read_lineage
from sage_ray.data.prepare import PreparedData
from sage_ray.errors import UserError
from sage_ray.imaging.model import Model, load_model_folder, model_spec
from sage_ray.pair_source import PairSource
from sage_ray.stages.keys import extra_pairs_key
from sage_ray.stages.lease import stage_lease
from sage_ray.stages.made_pairs import WHOLE, MadePairs, read_pairs, write_pairs
from sage_ray.stages.pair_keys import RENDER, source_of
from sage_ray.stages.pair_stages import PairStages, ends_of, pair_stages
from sage_ray.stages.store import StageStore
from sage_ray.training.batches import Pictures, judged_rows
from sage_ray.training.build import network_kwargs
from sage_ray.training.context import RunContext, numerics
from sage_ray.training.draws import keyed_seed
from sage_ray.training.origin_context import OriginContext
from sage_ray.training.render_parts import check_renderer, named_after
from sage_ray.training.render_stage import render_stage, stored_pairs
from sage_ray.training.resume import Reports

TrainOrigin = Callable[..., Any]
"""`run_training`, which trains what makes the pairs on the run's own data."""


@dataclass(frozen=True)
class ExtraPairs:
    """The extra pairs of a run, at its training size, and what its record says of them.

    Attributes:
        pairs: images, masks, and their origin.
        lineage: what they were made from.
        facts: source, key, pairs, share, maker, lineage ("known" or "unknown"), epochs of what was trained for them:
            `trained_epochs` in this run, `stored_epochs` taken from the stage store; and `seconds` that all these
            epochs and the making of the pairs took, whoever did it (None: nobody knows).
        images: sha256 of those images that are files.
    """

    pairs: MadePairs
    lineage: Lineage
    facts: dict[str, Any]
    images: tuple[str, ...] = ()

    def pictures(self, device: torch.device) -> Pictures:
        """The pairs on a device, as batches take them."""
        return Pictures(self.pairs, np.arange(len(self.pairs.images)), device)


def provide_pairs(
    config: ExperimentConfig,
    data: PreparedData,
    ctx: RunContext,
    store: StageStore,
    cache_dir: Path,
    train: TrainOrigin,
) -> ExtraPairs | None:
    """The extra pairs of a run, the same on every worker; None if it trains on none.

    Raises:
        UserError: they cannot be had, are of another size, or come from images that the run must not see.
        RunStopped: the context asked to stop; what was trained goes on from its last snapshot.
        StageBusy: another run makes them.
    """
    source = source_of(config)
    if source is None:
        return None
    numbers = numerics(config.runtime, ctx.device, ctx.world_size)
    key = extra_pairs_key(config, data.fingerprint, data.split.split_id, numbers)
    assert key is not None
    job = _Job(config, data, ctx, store, cache_dir, train, source, key)
    pairs, lineage, shas = job.found()
    where = f"data.extra_pairs={source}"
    check_lineage(lineage, data, where)
    check_contents(pairs.masks, shas, data, where)
    known = "known" if lineage.known else "unknown"
    if not lineage.known:
        ctx.say(
            f"warning: extra pairs: nobody tells what {source} was made from: it may know images of the locked test"
        )
    share = config.pretrain.synthetic_share
    ctx.say(f"extra pairs: {len(pairs.images)} from {source}, {share:.0%} of each batch of phase 1")
    facts = {"source": str(source), "key": key, "pairs": len(pairs.images), "share": share, "maker": lineage.maker}
    facts["seconds"] = pairs.origin.get("seconds")
    images = tuple(sorted(image for image, _ in shas))
    return ExtraPairs(pairs, lineage, {**facts, "lineage": known, **job.epochs}, images)


def check_source(config: ExperimentConfig, data: PreparedData, store: StageStore, cache_dir: Path) -> None:
    """Raise UserError, as `provide_pairs` would, for what can be told of a run's extra pairs before any are made.

    Args: as there.
    """
    source = source_of(config)
    if source is None:
        return
    where = f"data.extra_pairs={source}"
    pair_stages(config, data.fingerprint, data.split.split_id, {})
    if source.kind == "model":
        check_lineage(lineage_of_model(Path(source.name)), data, where)
    if source.kind in ("place", "stage"):
        pairs, lineage, shas = _had(source, config, data, store, cache_dir)
        check_lineage(lineage, data, where)
        check_contents(pairs.masks, shas, data, where)


@dataclass
class _Job:
    """One call of `provide_pairs`."""

    config: ExperimentConfig
    data: PreparedData
    ctx: RunContext
    store: StageStore
    cache_dir: Path
    train: TrainOrigin
    source: PairSource
    key: str

    def __post_init__(self) -> None:
        self.epochs = {"trained_epochs": 0, "stored_epochs": 0}

    def found(self) -> tuple[MadePairs, Lineage, tuple[tuple[str, str], ...]]:
        """The pairs, what they were made from, and the check sums of those that are files."""
        given = (self.source, self.config, self.data)
        if self.source.kind in ("place", "stage"):
            return _had(*given, self.store, self.cache_dir)
        return _fitted(*given, self._kept())

    def _kept(self) -> MadePairs:
        """The pairs of a stage of the store, which is computed if it is not there."""
        data, numbers = self.data, numerics(self.config.runtime, self.ctx.device, self.ctx.world_size)
        stages = pair_stages(self.config, data.fingerprint, data.split.split_id, numbers)
        if self.source.kind == "model":
            check_lineage(self._lineage(), self.data, f"data.extra_pairs={self.source}")  # before anything is made
        pairs = self._stored()
        if pairs is not None:
            ends = ends_of(self.config, stages.trained).values()
            self.epochs["stored_epochs"] = sum(end for _, end in ends)
        if pairs is None:
            # A stage that is itself a set of pairs is leased by the run that computes it.
            with nullcontext() if stages.by_the_run else self._leased():
                pairs = self._stored()
                if pairs is None:
                    self._make(stages)
                    self.ctx.barrier()
                    pairs = self._stored()
        if pairs is None:
            raise UserError("extra pairs were not made", f"stage {self.key}", "look at the run's log, then resume it")
        return pairs

    def _stored(self) -> MadePairs | None:
        return stored_pairs(self.store, self.key, self.ctx)

    def _leased(self) -> AbstractContextManager[None]:
        ctx = self.ctx
        if ctx.rank:
            return nullcontext()
        return stage_lease(
            self.store,
            self.key,
            lambda: self.store.latest(self.key, WHOLE) == WHOLE,
            should_stop=ctx.should_stop if ctx.world_size == 1 else lambda: False,
            waiting=ctx.waiting,
            say=ctx.say,
            patience_s=ctx.stage_patience_s,
        )

    def _make(self, stages: PairStages) -> None:
        if stages.by_the_run:
            self._rendered(stages)
            return
        context = self._context(0 if stages.origin is None else stages.origin.num_epochs)
        model = None if stages.origin is None else self._trained(stages.origin, context)
        if self.ctx.rank:
            return
        context.makes()
        started = perf_counter()
        if self.source.kind == "model":
            model = load_model_folder(Path(self.source.name))
        if self.source.kind == "drawn":
            drawn = draw_pairs(self.source.name, self.config.data, self.ctx.waiting)
            made = MadePairs(np.array(drawn.images), np.array(drawn.masks), None, self._lineage().plain())
        else:
            made = self._generated(model)
        making_s = perf_counter() - started
        made.origin["seconds"] = round(context.seconds + making_s, 3)
        context.makes(making_s)
        write_pairs(self.store, self.key, made)
        self.ctx.say(f"extra pairs: {len(made.images)} made from {self.source}, kept as stage {self.key}")

    def _rendered(self, stages: PairStages) -> None:
        """Let the stage of rendering of another run learn, and write its pairs."""
        origin, key = stages.origin, stages.trained[RENDER]
        assert origin is not None
        context = self._context(origin.render.epochs)
        with named_after(self.config):
            check_renderer(origin, self.ctx.device.type)
            rendered = render_stage(origin, self.data, context, self.store, key, reports=Reports(context))
        context.makes(rendered.making_s)
        self._say_trained(context)

    def _trained(self, origin: ExperimentConfig, context: OriginContext) -> Model | None:
        """The model of a run that is trained, or taken from the store, for what it makes."""
        with named_after(self.config):
            result = self.train(origin, self.data, context, self.store, cache_dir=self.cache_dir)
        self._say_trained(context)
        if result.generator is None:
            return None
        kwargs = network_kwargs(origin)
        spec = model_spec(
            (origin.segmenter.name, kwargs["segmenter"]),
            (origin.generator.name, kwargs["generator"]),
            image_size=origin.data.image_size,
        )
        return Model(result.segmenter, result.generator, spec)

    def _context(self, epochs: int) -> OriginContext:
        """The context of what makes the pairs; `epochs` is 0 if nothing is trained for them."""
        name = f"{self.source.kind} {self.source.name}"
        if epochs:
            self.ctx.say(f"extra pairs: {name} is trained first, {epochs} epochs that are not counted as the run's own")
        return OriginContext(self.ctx, name, epochs)

    def _say_trained(self, context: OriginContext) -> None:
        self.epochs = {"trained_epochs": context.computed, "stored_epochs": context.taken}
        taken = f", {context.taken} taken from the stage store" if context.taken else ""
        self.ctx.say(f"extra pairs: preset {self.source.name}: {context.computed} epochs trained{taken}")

    def _generated(self, model: Model | None) -> MadePairs:
        """Pairs drawn from the masks of the run's training part in order, again with other codes for the next round."""
        if model is None or model.generator is None:
            mend = "name one that was trained with adversarial.epochs above 0"
            raise UserError("model without generator", f"data.extra_pairs={self.source}", mend)
        data, train = self.data, self.data.split.train
        count = self.source.pairs or len(train)
        images, masks = [], []
        with _on_device(model, self.ctx):
            for index in range(count):
                self.ctx.waiting()
                row, copy = int(train[index % len(train)]), index // len(train)
                mask = np.array(data.masks[row])
                images.append(model.generate(mask, keyed_seed("extra pairs", data.shas[row], copy)))
                masks.append(mask)
        return MadePairs(np.stack(images), np.stack(masks), None, self._lineage().plain())

    def _lineage(self) -> Lineage:
        """What pairs that are made here come from."""
        if self.source.kind == "drawn":
            return Lineage("drawn")
        data, train = self.data, self.data.split.train
        own = tuple(data.shas[i] for i in train)
        if self.source.kind == "preset":
            chosen = tuple(data.shas[i] for i in data.split.validation)
            seen = tuple(data.shas[i] for i in np.setdiff1d(judged_rows(data, self.config), train))
            return Lineage("generator", trained_on=own, chosen_on=chosen, source_masks=own, unlabelled=seen)
        return replace(lineage_of_model(Path(self.source.name)), source_masks=own)


def _had(
    source: PairSource, config: ExperimentConfig, data: PreparedData, store: StageStore, cache_dir: Path
) -> tuple[MadePairs, Lineage, tuple[tuple[str, str], ...]]:
    """Pairs that nothing has to be made for, as `_Job.found`: of a folder, or of a stage that is named."""
    if source.kind == "place":
        return _of_folder(source, config, data, cache_dir)
    pairs = read_pairs(store, source.name)
    if pairs is None:
        mend = "name a stage that holds pairs, as the record of a run that made them does (extra_pairs)"
        raise UserError("no such stage of pairs", f"data.extra_pairs={source}", mend)
    return _fitted(source, config, data, pairs)


def _of_folder(
    source: PairSource, config: ExperimentConfig, data: PreparedData, cache_dir: Path
) -> tuple[MadePairs, Lineage, tuple[tuple[str, str], ...]]:
    # A name that is no folder is a MODEL, which is looked up before: what is left is neither.
    read = read_folder(source.name, config.data, data, cache_dir)
    lineage = read_lineage(Path(source.name).expanduser())
    count = source.pairs or len(read.images)
    if len(read.images) < count:
        what = f"only {len(read.images)} extra pairs"
        raise UserError(what, f"data.extra_pairs={source}", f"lower pairs to {len(read.images)}")
    return MadePairs(read.images[:count], read.masks[:count], None, lineage.plain()), lineage, read.shas


def _fitted(
    source: PairSource, config: ExperimentConfig, data: PreparedData, pairs: MadePairs
) -> tuple[MadePairs, Lineage, tuple[tuple[str, str], ...]]:
    """Pairs that a stage holds at the training size, as many as are asked for."""
    wanted = config.data.image_size
    if pairs.images.shape[1:] != tuple(wanted):
        rows, columns = pairs.images.shape[1:]
        check_proportion((rows, columns), config.data, data, f"data.extra_pairs={source}")
    images, masks = resized(pairs.images, pairs.masks, wanted)
    count = source.pairs or len(images)
    if len(images) < count:
        mend = f"lower pairs to {len(images)}, or make more"
        raise UserError(f"only {len(images)} extra pairs", f"data.extra_pairs={source}", mend)
    return MadePairs(images[:count], masks[:count], None, pairs.origin), Lineage.of(pairs.origin), ()


@contextmanager
def _on_device(model: Model, ctx: RunContext) -> Iterator[None]:
    model.to(ctx.device)
    try:
        yield
    finally:
        model.to("cpu")
