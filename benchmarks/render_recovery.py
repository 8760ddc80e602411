"""Whether materials are found again: target images rendered with known ones, the learning begun with wrong ones.

    python benchmarks/render_recovery.py --engine shader --seeds 0 1 2

The score is the distance of grey histograms (mean difference of sorted grey values, in [0,1]) between images of scenes
that nobody learnt on, rendered with what was learnt and with what is known; `fall` is the share of it that has gone
since the start. One JSON line per seed.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sage_ray.config import ExperimentConfig, resolve
from sage_ray.models import DISCRIMINATORS
from sage_ray.rendering.fitted_sizes import given_sizes
from sage_ray.rendering.grey_values import RealGreys
from sage_ray.rendering.materials import wasserstein
from sage_ray.rendering.render_gan import RenderRecipe, render_step, rendered
from sage_ray.rendering.scenes import Scene, SceneLaw, draw_scene
from sage_ray.training.build import network_kwargs
from sage_ray.training.draws import KeyedDraws, keyed_seed
from sage_ray.training.render_parts import Engine, build_engine, build_regressor
from sage_ray.training.render_stage import initialise_adversary

KNOWN = {
    "mitsuba": {
        "particle_base_color": 0.9,
        "particle_roughness": 0.6,
        "particle_sheen": 0.3,
        "stage_base_color": 0.08,
        "stage_roughness": 0.6,
        "noise": 0.03,
    },
    "shader": {
        "particle_base_color": 0.35,
        "particle_tilt": 0.3,
        "particle_edge": 0.5,
        "stage_base_color": 0.12,
        "stage_shade": 0.5,
        "noise": 0.03,
    },
}
SHOWN = 16


def main() -> None:
    """Parse the command line, run every seed and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=sorted(KNOWN), default="shader")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--samples", type=int, default=8, help="per pixel (mitsuba)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the config")
    parser.add_argument("--save", metavar="NAME", help="write the rows to benchmarks/results/NAME.md and .json")
    options = parser.parse_args()
    rows = []
    for seed in options.seeds:
        rows.append(recover(options, seed))
        print(json.dumps(rows[-1]), flush=True)
    if options.save:
        import record  # beside this file, which tests import from elsewhere

        known = ", ".join(f"{name} {value:g}" for name, value in KNOWN[options.engine].items())
        title = f"Materials found again by the engine {options.engine}, {options.size}x{options.size}"
        record.save(options.save, title, [row | {"learnt": _told(row["learnt"])} for row in rows], [f"Known: {known}."])


def _told(materials: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in materials.items())


def recover(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One run from wrong materials; its distances before and after, seconds, and the learnt materials."""
    sets = [
        f"data.image_size=[{options.size}, {options.size}]",
        f"render.engine={options.engine}",
        f"render.samples={options.samples}",
        f"seed={seed}",
    ]
    config = resolve(preset="tiny_diffrender", sets=[*sets, *options.set]).config
    engine = build_engine(config, torch.device("cpu"))
    settings = config.render
    sizes = given_sizes("lognormal", settings.diameter, settings.spread)
    law = SceneLaw(settings.particles, settings.agglomerates, settings.piled, settings.shapes, sizes)
    recipe = RenderRecipe(engine.renderer, engine.ranges, settings.adversarial_weight, settings.histogram_weight)
    known = torch.tensor([KNOWN[options.engine].get(name, 0.1) for name in engine.ranges.names])
    shown = _scenes(law, engine, seed, "target", 32)
    target = [_render(known, scene, recipe, seed, number) for number, scene in enumerate(shown)]
    fresh = _scenes(law, engine, seed, "fresh", SHOWN)
    networks = _networks(config, engine)
    scenes = _scenes(law, engine, seed, "learn", settings.scenes)
    greys = RealGreys(map(_as_in_a_file, target), scenes.__getitem__, len(scenes), engine.view)
    learning = replace(recipe, real_greys=greys if settings.histogram == "set" else None)
    before = _distance(networks["regressor"], fresh, known, recipe, seed)
    started, worked = time.perf_counter(), time.process_time()
    _learn(networks, config, scenes, target, learning, options.steps)
    seconds, busy = time.perf_counter() - started, time.process_time() - worked
    after = _distance(networks["regressor"], fresh, known, recipe, seed)
    learnt = networks["regressor"](torch.as_tensor(fresh[0].table, dtype=torch.float32)).tolist()
    return {
        "engine": options.engine,
        "seed": seed,
        "before": round(before, 4),
        "after": round(after, 4),
        "fall": round(1 - after / before, 3),
        "steps": options.steps,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(busy, 1),
        "learnt": dict(zip(engine.ranges.names, (round(value, 3) for value in learnt), strict=True)),
    }


def _learn(
    networks: dict[str, nn.Module],
    config: ExperimentConfig,
    scenes: list[Scene],
    target: list[Tensor],
    recipe: RenderRecipe,
    steps: int,
) -> None:
    settings = config.render
    rates = {"regressor": settings.lr, "disc_image": settings.disc_lr}
    optimizers = {n: torch.optim.Adam(net.parameters(), rates[n], betas=settings.betas) for n, net in networks.items()}
    for network in networks.values():
        network.train()
    for step in range(steps):
        draws = KeyedDraws(config.seed, "recovery", 0, step, [step])
        number = int(draws.batch_uniform("scene", 1)[0] * len(scenes))
        real = target[int(draws.batch_uniform("real", 1)[0] * len(target))]
        render_step(networks, optimizers, scenes[number], real, draws, recipe, seed=step, number=number)


def _networks(config: ExperimentConfig, engine: Engine) -> dict[str, nn.Module]:
    disc = DISCRIMINATORS[config.discriminators.name](**network_kwargs(config)["discriminators"])
    initialise_adversary(disc, config.seed)
    return {"regressor": build_regressor(config, engine.ranges), "disc_image": disc}


@torch.no_grad()
def _distance(regressor: nn.Module, scenes: list[Scene], known: Tensor, recipe: RenderRecipe, seed: int) -> float:
    """Between the images of the same scenes with what was learnt and with what is known, other samples and noise."""
    regressor.eval()
    learnt, wanted = [], []
    for number, scene in enumerate(scenes):
        values = regressor(torch.as_tensor(scene.table, dtype=torch.float32))
        learnt.append(_render(values, scene, recipe, seed, 1000 + number))
        wanted.append(_render(known, scene, recipe, seed, 2000 + number))
    return float(wasserstein(torch.cat(learnt), torch.cat(wanted)))


@torch.no_grad()
def _render(values: Tensor, scene: Scene, recipe: RenderRecipe, seed: int, number: int) -> Tensor:
    draws = KeyedDraws(seed, "recovery target", 0, 0, [number])
    return rendered(values, scene, draws, recipe, seed=number)[0]


def _as_in_a_file(image: Tensor) -> np.ndarray:
    found: np.ndarray = (image * 255).round().to(torch.uint8).numpy()
    return found


def _scenes(law: SceneLaw, engine: Engine, seed: int, what: str, count: int) -> list[Scene]:
    return [draw_scene(law, engine.view, np.random.default_rng(keyed_seed(seed, what, i))) for i in range(count)]


if __name__ == "__main__":
    main()
