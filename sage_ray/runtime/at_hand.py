"""Whether all that a run needs beside its data is at hand, asked before it trains anything."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from sage_ray.config import ExperimentConfig
from sage_ray.data.prepare import prepare
from sage_ray.errors import UserError
from sage_ray.losses.perceptual import load_vgg19
from sage_ray.record.home import Home
from sage_ray.record.model_reference import located_pairs
from sage_ray.stages.pair_keys import origin_config
from sage_ray.stages.store import StageStore
from sage_ray.training.build import needs_perceptual
from sage_ray.training.context import choose_device
from sage_ray.training.encoder_weights import load_encoder, needs_encoder
from sage_ray.training.extra_pairs import check_source
from sage_ray.training.render_parts import check_can_render

RENDERER = "renderer"
Looks = Mapping[str, Callable[[], None]]
"""What is needed, by a name that is the same wherever the same is; a look raises UserError if it is not there."""


def computes_here() -> bool:
    """Whether what this process begins under Ray is computed on this machine, and not on a cluster's nodes."""
    return not os.environ.get("RAY_ADDRESS")


def needs(config: ExperimentConfig, home: Home, *, here: bool) -> Looks:
    """What a run, or what makes its extra pairs, needs that may not be there.

    That is the VGG19 of perceptual terms and the encoder of `segmenter.encoder_weights`, which are fetched, and an
    engine that renders.

    Args:
        config: of the run.
        home: its cache keeps what is fetched.
        here: whether this machine computes it; the nodes of a cluster look for an engine themselves.

    Raises:
        UserError: the extra pairs are those of a preset that does not exist, or that cannot be.
    """
    found = _of(config, home, here)
    origin = origin_config(config)
    if origin is not None:
        where = f"data.extra_pairs={config.data.extra_pairs}"
        made = _of(origin, home, here)
        if origin.render.train_on_pairs:  # what its preset would train on the pairs is not needed
            made = {name: look for name, look in made.items() if name.startswith(RENDERER)}
        found |= {f"{where}, {name}": partial(_within, where, look) for name, look in made.items()}
    return found


def check_run(config: ExperimentConfig, home: Home, *, here: bool) -> None:
    """Raise UserError if a run needs what cannot be had; arguments as of `needs`."""
    for look in needs(config, home, here=here).values():
        look()


def check_pairs(config: ExperimentConfig, home: Home) -> None:
    """Raise UserError if what `data.extra_pairs` names is not there, or knows images that the run must not see.

    Nothing is made: of a preset it is looked at whether it makes pairs at all.
    """
    located = located_pairs(config, home)
    if located.pretrain.synthetic_share:
        store = StageStore(config.runtime.stage_store or home.stage_store)
        check_source(located, prepare(config.data, home.cache), store, home.cache)


def _of(config: ExperimentConfig, home: Home, here: bool) -> dict[str, Callable[[], None]]:
    found: dict[str, Callable[[], None]] = {}
    settings, chosen = config.render, config.segmenter
    if settings.train_on_pairs and here:
        table = settings.sizes_table if settings.sizes == "fitted" else None
        found[f"{RENDERER} {settings.engine} {table}"] = partial(_engine, config)
    if needs_perceptual(config):
        path = config.adversarial.perceptual_weights
        found[f"VGG19 {path}"] = partial(_weights, load_vgg19, path, home.cache)
    if needs_encoder(config):
        # What of a file is wanted depends on the layout; whether there is one does not.
        name = f"encoder {chosen.encoder_weights}"
        shapes = f" {chosen.name} {chosen.width} {chosen.depth}" if Path(chosen.encoder_weights).is_file() else ""
        found[name + shapes] = partial(_weights, load_encoder, config, home.cache)
    return found


def _weights(load: Callable[..., object], *given: object) -> None:
    load(*given)


def _engine(config: ExperimentConfig) -> None:
    check_can_render(config, choose_device(config.runtime.device).type)


def _within(where: str, look: Callable[[], None]) -> None:
    try:
        look()
    except UserError as error:
        raise UserError(error.what, f"{where}, {error.where}", error.mend) from None
