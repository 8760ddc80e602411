"""The runs of a study before it runs: their configs, their stages, and what their epochs will take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sage_ray.config import ExperimentConfig, stable_hash
from sage_ray.data.prepare import prepare
from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.record.model_reference import located_pairs
from sage_ray.runtime.devices import gpus_held
from sage_ray.search.epoch_cost import EpochSeconds, Images, Measured, kinds_to_time, likeness_of, seconds_of
from sage_ray.search.placement import Placement
from sage_ray.search.recorded_epochs import comparable_place
from sage_ray.search.sampling import drawn_blindly
from sage_ray.search.schedule import RunOfPlan, StageOfRun, schedule
from sage_ray.sections import DataConfig
from sage_ray.stages.keys import stage_keys
from sage_ray.stages.pair_stages import PairStages, ends_of, pair_stages
from sage_ray.stages.store import StageStore
from sage_ray.study.dimension import Sample
from sage_ray.study.spec import StudySpec
from sage_ray.training.context import choose_device, numerics

FILES_IN_KEYS = ("pretrain.checkpoint", "render.sizes_table", "segmenter.encoder_weights")
"""Settings that name a file whose content is part of a stage's key."""
START_S = 10.0
"""Seconds from a driver's start to the first step of its trials: Ray, and what its workers import."""


def trial_numerics(config: ExperimentConfig) -> dict[str, Any]:
    """The numerics that a worker of a trial will have, computed on a machine that need not have its GPU."""
    runtime = config.runtime
    # A study that was never begun, or not by a driver, has not settled its device: then it is that of this machine.
    device = choose_device("auto") if runtime.device == "auto" else torch.device(runtime.device)
    numbers = numerics(runtime, device, runtime.workers)
    return numbers | ({"threads": runtime.threads} if "threads" in numbers and device.type == "cpu" else {})


def trial_place(config: ExperimentConfig, placement: Placement) -> dict[str, Any]:
    """Where the trials of a placed study compute, as measured seconds are compared."""
    return comparable_place(trial_numerics(config), placement.gpu, gpus_held(config.runtime))


@contextmanager
def _files_named(config: ExperimentConfig) -> Iterator[None]:
    """Turn the fault of a file that a key is made of into one line that names the setting behind it."""
    try:
        yield
    except OSError as error:
        lost = str(error.filename or "")
        named = {path: str(config.get(path)) for path in FILES_IN_KEYS if config.get(path)}
        where = next((f"{path}={text}" for path, text in named.items() if Path(text) == Path(lost)), lost)
        if where == lost and config.data.extra_pairs:
            where = f"data.extra_pairs={config.data.extra_pairs}" + (f", {lost}" if lost else "")
        raise UserError("cannot be read", where, f"give a file that is there ({error.strerror or error})") from None


class StudyData:
    """Stage keys of configs; the data of each distinct data section are prepared once."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._seen: dict[str, tuple[str, str, Images]] = {}
        self._entries: set[str] = set()
        self.cache_bytes = 0
        """Bytes of the decoded images and masks of all data sections so far."""

    def keys(self, config: ExperimentConfig) -> dict[str, str]:
        """Stage keys of a config on its data, by phase."""
        fingerprint, split_id, _ = self._data(config.data)
        with _files_named(config):
            located = located_pairs(config, self._home)
            return stage_keys(located, fingerprint, split_id, trial_numerics(config))

    def pair_stages(self, config: ExperimentConfig) -> PairStages:
        """The stages that come before those of a config, for its extra pairs."""
        fingerprint, split_id, _ = self._data(config.data)
        with _files_named(config):
            return pair_stages(located_pairs(config, self._home), fingerprint, split_id, trial_numerics(config))

    def images(self, config: ExperimentConfig) -> Images:
        """How many images a config trains on and scores."""
        return self._data(config.data)[2]

    def _data(self, data: DataConfig) -> tuple[str, str, Images]:
        name = stable_hash(data.model_dump(mode="json", exclude={"augment", "extra_pairs"}))
        if name not in self._seen:
            prepared = prepare(data, self._home.cache)
            # Every split of the same pictures has them from one entry of the cache.
            entry = stable_hash(data.model_dump(mode="json", exclude={"augment", "split"}))
            if entry not in self._entries:
                self._entries.add(entry)
                self.cache_bytes += prepared.images.nbytes + prepared.masks.nbytes
            images = Images(len(prepared.split.train), len(prepared.split.validation))
            self._seen[name] = (prepared.fingerprint, prepared.split.split_id, images)
        return self._seen[name]


@dataclass(frozen=True)
class PlannedRun:
    """A run with its config and its stages.

    `origin` is the config of those that are trained for its extra pairs, `pairs` the key of the pairs if they are made.
    """

    config: ExperimentConfig
    images: Images
    run: RunOfPlan
    origin: ExperimentConfig | None = None
    pairs: str | None = None

    def config_of(self, stage: StageOfRun) -> ExperimentConfig:
        """The config that one of its stages is trained by."""
        return self.origin if stage.first and self.origin is not None else self.config


def planned_runs(spec: StudySpec, samples: Sequence[Sample], data: StudyData) -> Iterator[PlannedRun]:
    """The runs of a study in the order of its trials.

    Raises:
        UserError: values that cannot be combined, or a problem of the data.
    """
    for number, sample in enumerate(samples):
        for place in spec.run_grid(number):
            config = spec.config(sample.values, place.seed, place.fold)
            before = data.pair_stages(config)
            ends = ends_of(config, before.trained)
            made = [StageOfRun(key, phase, end, first=True) for phase, (key, end) in ends.items()]
            own = [StageOfRun(key, phase, config.epochs_of(phase)) for phase, key in data.keys(config).items()]
            run = RunOfPlan(number, place.seed, (*made, *own), arm=place.arm)
            yield PlannedRun(config, data.images(config), run, before.origin, before.pairs)


@dataclass(frozen=True)
class Epochs:
    """Epochs of a study.

    Attributes:
        without_reuse: if every run trained all its own stages.
        with_reuse: if each distinct stage is trained once.
        stored: of those, what the stage store holds already.
        stages: the largest number of epochs of each distinct stage, by its key.
    """

    without_reuse: int
    with_reuse: int
    stored: int
    stages: dict[str, int]


def count_epochs(runs: Sequence[RunOfPlan], store: StageStore) -> Epochs:
    """The epochs of the runs of a study."""
    stages: dict[str, int] = {}
    total = 0
    for stage in (stage for run in runs for stage in run.stages):
        total += stage.epochs
        stages[stage.key] = max(stages.get(stage.key, 0), stage.epochs)
    stored = sum(store.latest(key, epochs) for key, epochs in stages.items())
    return Epochs(total, sum(stages.values()), stored, stages)


@dataclass(frozen=True)
class Hours:
    """What the runs of a study take.

    Attributes:
        wall: hours until the last of them has ended; None: it is not known how many trials run at a time.
        worker: hours that workers are held.
        gpu: hours that GPUs are held; 0 on a CPU.
        waiting: beside `worker`, hours in which places of workers stand empty because a trial waits for a stage that
            another one computes.
    """

    wall: float | None
    worker: float
    gpu: float
    waiting: float


class Clock:
    """Hours of the runs of a placed study, from measured seconds.

    Args:
        spec: placed.
        placement: of it.
        measured: seconds of epochs.
        store: has stages that need not be trained again.
        count_flops: whether seconds may be those of other networks, scaled by FLOPs, which takes a second to count.
    """

    def __init__(
        self,
        spec: StudySpec,
        placement: Placement,
        measured: Sequence[Measured],
        store: StageStore,
        *,
        count_flops: bool = True,
    ) -> None:
        self._measured, self._store, self._count_flops = measured, store, count_flops
        self._place = trial_place(spec.base, placement)
        self._slots, self._blind = placement.trials_at_once, partial(drawn_blindly, spec)
        self._workers, self._gpus = spec.base.runtime.workers, gpus_held(spec.base.runtime)
        self._known: dict[str, EpochSeconds | None] = {}
        self._stored: dict[tuple[str, int], int] = {}

    @property
    def used(self) -> list[Measured]:
        """The measurements that hours rest on."""
        found = {(m.source, m.kind): m for cost in self._known.values() if cost for m in cost.sources}
        return list(found.values())

    @property
    def notes(self) -> list[str]:
        """Where a measurement is not alike in everything."""
        return list(dict.fromkeys(note for cost in self._known.values() if cost for note in cost.notes))

    @property
    def missing(self) -> list[str]:
        """What is not in the hours, as nothing like it was measured."""
        return list(dict.fromkeys(text for cost in self._known.values() if cost for text in cost.missing))

    def timed(self, planned: Sequence[PlannedRun]) -> list[RunOfPlan] | None:
        """The runs with their seconds; None if nothing near enough was measured for one of them."""
        found = [self._with_costs(each) for each in planned]
        return None if None in found else [run for run in found if run is not None]

    def hours(self, runs: Sequence[RunOfPlan]) -> Hours:
        """Hours of runs that `timed` gave, or of some of them."""
        for stage in (stage for run in runs for stage in run.stages):
            if (stage.key, stage.epochs) not in self._stored:
                self._stored[stage.key, stage.epochs] = self._store.latest(stage.key, stage.epochs)
        # Where the number of slots is not known, one trial after another: nobody waits, and no wall time is told.
        found = schedule(runs, self._slots or 1, self._stored, self._blind)
        wall = None if self._slots is None else (found.wall_s + START_S) / 3600
        held = found.held_s / 3600
        return Hours(wall, held * self._workers, held * self._gpus, found.waiting_s * self._workers / 3600)

    def cost(self, planned: PlannedRun, *, for_pairs: bool = False) -> EpochSeconds | None:
        """Seconds of a run's epochs, or of those that are trained for its extra pairs; None if not known."""
        config = planned.origin if for_pairs and planned.origin is not None else planned.config
        kinds = kinds_to_time(config, for_pairs=for_pairs)
        seen = [likeness_of(config, kind, planned.images, {}).aspects for kind in kinds]
        name = repr((seen, kinds, config.adversarial.freeze_epochs))
        if name not in self._known:
            given = (config, planned.images, self._place, self._measured)
            self._known[name] = seconds_of(*given, count_flops=self._count_flops, for_pairs=for_pairs)
        return self._known[name]

    def _with_costs(self, planned: PlannedRun) -> RunOfPlan | None:
        own = self.cost(planned)
        first = own if planned.origin is None else self.cost(planned, for_pairs=True)
        if own is None or first is None:
            return None
        stages = tuple(replace(stage, cost=first) if stage.first else stage for stage in planned.run.stages)
        return replace(planned.run, cost=own, stages=stages)
