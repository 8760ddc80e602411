"""What runs need on disk: a forecast from the shapes of their networks, and the check that it is there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from sage_ray.config import ExperimentConfig
from sage_ray.data.extra_folder import drawn_source
from sage_ray.data.prepare import PreparedData
from sage_ray.errors import NoSpace
from sage_ray.record.home import Home
from sage_ray.record.run_record import RunRecord
from sage_ray.stages.made_pairs import WHOLE
from sage_ray.stages.pair_keys import RENDER, origin_config, source_of
from sage_ray.stages.pair_stages import PAIRS
from sage_ray.stages.store import NEWEST, StageStore
from sage_ray.training.footprint import StageFootprint, footprints, product_bytes

PICTURES_BYTES = 2_500_000
"""Bytes of one run's pictures (curves, predictions, attention, generated images), whatever the size of its images."""
RECORD_BYTES, EPOCH_BYTES = 40_000, 1_300
"""Bytes of a run's record, config, environment and manifest; and bytes of one epoch in metrics.jsonl."""
DATABASE_BYTES, EPOCH_ROWS_BYTES = 1_000_000, 5_000
"""Bytes of MLflow's database in an empty home; and bytes of one epoch's metrics in it."""
RENDERED_BYTES, MADE_BYTES = 6, 2
"""Bytes of a pixel of a rendered pair: grey value, mask, and number of the particle; and of any other that is made."""
GB = 1e9


@dataclass(frozen=True)
class Need:
    """Bytes that a run adds.

    Attributes:
        stages: to the stage store at its end.
        writing: beside them while it writes a snapshot.
        results: to the home.
    """

    stages: int
    writing: int
    results: int


def kept_bytes(footprint: StageFootprint, epochs: int, starts: Collection[int] = ()) -> int:
    """Bytes that a stage of `epochs` epochs keeps at most.

    They are those of the newest snapshots and of the ones at `starts`, each with best weights of its own.
    """
    newest = {epoch for epoch in range(epochs - NEWEST + 1, epochs + 1) if epoch > 0}
    kept = newest | {epoch for epoch in starts if 0 < epoch < epochs}
    return len(kept) * (footprint.state + footprint.best + epochs * EPOCH_BYTES)


def result_bytes(config: ExperimentConfig, home: Home) -> int:
    """Bytes of a finished run in the home: selected weights, record, pictures, and their mirror in MLflow's sqlite."""
    epochs = config.num_epochs
    small = RECORD_BYTES + epochs * EPOCH_BYTES + (PICTURES_BYTES if config.runtime.pictures else 0)
    mirrored = small + epochs * EPOCH_ROWS_BYTES if home.mlflow_uri.startswith("sqlite") else 0
    return product_bytes(config) + small + mirrored


def run_need(
    config: ExperimentConfig,
    home: Home,
    done: Callable[[str, int], bool] = lambda phase, epochs: False,
    named: Mapping[str, Collection[int]] | None = None,
    *,
    made: Callable[[str, int], bool] = lambda stage, epochs: False,
    training_images: int = 0,
) -> Need:
    """What a run adds, the stages that its extra pairs need included.

    Args:
        config: of the run.
        home: where its results go.
        done: whether a phase has been stored up to that many epochs.
        named: epochs of each phase that are kept on the way.
        made: likewise whether a stage that its extra pairs need has been stored (`PairStages.keys`).
        training_images: of the run's data; so many pairs are made where their number is not set.
    """
    stages, writing = _pairs_need(config, made, training_images)
    for phase, footprint in footprints(config).items():
        epochs = config.epochs_of(phase)
        if not done(phase, epochs):
            stages += kept_bytes(footprint, epochs, (named or {}).get(phase, ()))
            writing = max(writing, footprint.state + footprint.best)
    return Need(stages + rendered_bytes(config), writing, result_bytes(config, home))


def need_of(
    record: RunRecord,
    config: ExperimentConfig,
    data: PreparedData,
    home: Home,
    store: StageStore,
    named: Mapping[str, Collection[int]],
) -> Need:
    """What a run that has begun adds to what is stored already; arguments as of `run_need`."""
    images, made = len(data.split.train), record.pairs_stored_in(store)
    return run_need(config, home, record.stored_in(store), named, made=made, training_images=images)


def rendered_bytes(config: ExperimentConfig) -> int:
    """Bytes of the pairs that a run's stage of rendering writes into the stage store."""
    height, width = config.data.image_size
    return config.render.pairs * height * width * RENDERED_BYTES if config.render.train_on_pairs else 0


def pair_bytes(config: ExperimentConfig, training_images: int) -> int:
    """Bytes of the extra pairs that are made for a run, as they lie in the stage store; 0 if it makes none."""
    source, origin = source_of(config), origin_config(config)
    if source is None or source.kind in ("place", "stage"):
        return 0
    if origin is not None and origin.render.train_on_pairs:
        return rendered_bytes(origin)
    drawn = drawn_source(source.name, config.data).num if source.kind == "drawn" else None
    height, width = config.data.image_size
    return (drawn or source.pairs or training_images) * height * width * MADE_BYTES


def _pairs_need(config: ExperimentConfig, made: Callable[[str, int], bool], training_images: int) -> tuple[int, int]:
    """Bytes that extra pairs add to the stage store, what is trained for them included, and those while it writes."""
    if made(PAIRS, WHOLE):
        return 0, 0
    origin, stages, writing = origin_config(config), pair_bytes(config, training_images), 0
    if origin is None:
        return stages, writing
    sizes = footprints(origin)
    if origin.render.train_on_pairs:  # what its preset would train on the pairs is not needed
        sizes = {RENDER: sizes[RENDER]}
    for phase, footprint in sizes.items():
        epochs = origin.epochs_of(phase)
        if not made(phase, epochs):
            stages += kept_bytes(footprint, epochs)
            writing = max(writing, footprint.state + footprint.best)
    return stages, writing


def check_space(need: Need, home: Home, store: StageStore, say: Callable[[str], None] = lambda line: None) -> None:
    """Refuse to begin what the disk cannot hold. Object stores have no free space to ask for: that is said.

    Raises:
        NoSpace: naming the folder, how much is free and how much is needed.
    """
    snapshots = need.stages + need.writing
    if store.local_root is None:
        say(f"snapshots take up to {snapshots / GB:.2f} GB of {store.root}, whose free space is not checked")
        places = {home.path: need.results}
    elif _device(store.local_root) == _device(home.path):
        places = {store.local_root: snapshots + need.results}
    else:
        places = {store.local_root: snapshots, home.path: need.results}
    for folder, needed in places.items():
        free = free_bytes(folder)
        if free < needed:
            where = f"{folder} ({free / GB:.2f} GB free, {needed / GB:.2f} GB needed)"
            mend = "free some (`sage-ray gc` shows what can go), or give another --home or runtime.stage_store"
            raise NoSpace("not enough disk space", where, mend)


def free_bytes(folder: Path) -> int:
    """Bytes that may be written at a folder, which need not exist yet."""
    return shutil.disk_usage(_existing(folder)).free


def _device(folder: Path) -> int:
    return _existing(folder).stat().st_dev


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())
