"""The parts of a stage of rendering, made from one ExperimentConfig: engine, ranges, regressor, and what scenes are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sage_ray.config import ExperimentConfig
from sage_ray.data.prepare import PreparedData
from sage_ray.errors import UserError
from sage_ray.render_section import ENGINE_MATERIALS
from sage_ray.rendering.fitted_sizes import (
    diameters_of_masks,
    diameters_of_table,
    fit_lognormal,
    given_sizes,
)
from sage_ray.rendering.height_shader import HeightShader
from sage_ray.rendering.materials import MaterialRanges, material_ranges
from sage_ray.rendering.path_tracer import PathTracer, check_mitsuba
from sage_ray.rendering.regressor import Regressor
from sage_ray.rendering.renderer import Renderer
from sage_ray.rendering.scenes import Diameters, SceneLaw
from sage_ray.rendering.views import View
from sage_ray.stages.pair_keys import origin_config
from sage_ray.training.draws import keyed_seed


@dataclass(frozen=True)
class Engine:
    """A renderer with its view and the ranges of its free materials."""

    renderer: Renderer
    view: View
    ranges: MaterialRanges


def check_renderer(config: ExperimentConfig, device: str) -> None:
    """Raise UserError, with what to install or set, if a run of the config cannot render on "cpu" or "cuda".

    Nothing is asked of a run that trains on no rendered pairs, neither alone nor as extra ones.
    """
    if config.render.train_on_pairs:
        check_can_render(config, device)
    origin = origin_config(config)
    if origin is not None and origin.render.train_on_pairs:
        with named_after(config):
            check_can_render(origin, device)


@contextmanager
def named_after(config: ExperimentConfig) -> Iterator[None]:
    """In the body settings are those of what makes the extra pairs of a run: a UserError says so."""
    try:
        yield
    except UserError as error:
        raise UserError(error.what, f"data.extra_pairs={config.data.extra_pairs}, {error.where}", error.mend) from None


def check_can_render(config: ExperimentConfig, device: str) -> None:
    """As `check_renderer`, whether or not the run trains on the pairs itself."""
    settings = config.render
    if settings.engine == "mitsuba":
        check_mitsuba(device, "render.engine=mitsuba")
    table = settings.sizes_table
    if settings.sizes == "fitted" and table is not None:
        if not Path(table).is_file():
            raise UserError("no such file", f"render.sizes_table={table}", "give a particles.csv of `sage-ray predict`")
        _fitted_to_table(table, config)


def build_engine(config: ExperimentConfig, device: torch.device) -> Engine:
    """The engine of a config on a device. Raises UserError if it cannot be used there."""
    settings, view = config.render, View(*config.data.image_size)
    renderer: Renderer
    if settings.engine == "shader":
        renderer = HeightShader(view, device)
    else:
        renderer = PathTracer(
            view,
            device,
            samples=settings.samples,
            path_depth=settings.path_depth,
            light_above=settings.light_above,
        )
    limits = (settings.particle_limits, settings.stage_limits, settings.noise_limits)
    return Engine(renderer, view, material_ranges(ENGINE_MATERIALS[settings.engine], settings.learnt, *limits))


def build_regressor(config: ExperimentConfig, ranges: MaterialRanges) -> Regressor:
    """The regressor of a config, initialised from its seed."""
    settings = config.render
    return Regressor(
        settings.particles[1],
        ranges.low,
        ranges.high,
        width=settings.regressor_width,
        dropout=settings.regressor_dropout,
        seed=keyed_seed(config.seed, "regressor"),
    )


def scene_law(config: ExperimentConfig, data: PreparedData) -> SceneLaw:
    """What scenes of a config are drawn from.

    Raises:
        UserError: sizes are to be fitted and there are too few particles, or no such table.
    """
    settings = config.render
    return SceneLaw(
        settings.particles, settings.agglomerates, settings.piled, settings.shapes, _diameters(config, data)
    )


def _diameters(config: ExperimentConfig, data: PreparedData) -> Diameters:
    settings = config.render
    if settings.sizes != "fitted":
        return given_sizes(
            settings.sizes, settings.diameter, settings.spread, settings.second_diameter, settings.second_share
        )
    if settings.sizes_table is not None:
        return _fitted_to_table(settings.sizes_table, config)
    found = diameters_of_masks(np.asarray(data.masks[row]) for row in data.split.train)
    where = f"render.sizes=fitted, {len(data.split.train)} training masks of {config.data.path}"
    return given_sizes("lognormal", *fit_lognormal(found, min(config.data.image_size), where))


def _fitted_to_table(table: str, config: ExperimentConfig) -> Diameters:
    found = fit_lognormal(diameters_of_table(Path(table)), min(config.data.image_size), f"render.sizes_table={table}")
    return given_sizes("lognormal", *found)
