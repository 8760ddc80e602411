"""Claim: what a phase-2 step gains by leaving out the terms that can train nothing.

The same step with and without skipping, turn by turn in one run, on real pairs: arg-max and straight-through mask path,
generator frozen and learning, with and without the perceptual network (random weights of the published shapes, at its
own full width, so that at a small `--width` it weighs more than in the paper's run). Both train the same, to the bit.
On a CPU the seconds are those of the processor, not of the clock: other work on the machine adds to the clock's alone.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.record import save
from benchmarks.step import random_vgg19
from benchmarks.training_steps import make_state, wait
from sage_ray.config import ExperimentConfig, resolve
from sage_ray.data.prepare import PreparedData, prepare
from sage_ray.training.adversarial import adversarial_step
from sage_ray.training.batches import Batch, Pictures, training_batches
from sage_ray.training.context import LocalContext
from sage_ray.training.draws import KeyedDraws
from sage_ray.training.recipe import build_recipe
from sage_ray.training.terms import plan_step


def main() -> None:
    """Time all cases and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=2, default=(96, 128), metavar=("ROWS", "COLUMNS"))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=6, help="timed pairs of steps, after one of each")
    parser.add_argument("--name", default="dead_terms", help="name of the result files")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        weights = random_vgg19(Path(folder))
        for perceptual, path, frozen in product(("vgg19", "none"), ("argmax", "straight_through"), (True, False)):
            rows.append(measure(options, perceptual, path, frozen, weights, Path(folder)))
    where = f"{options.size[0]}x{options.size[1]}, width {options.width}, batch {options.batch}"
    note = (
        "Median seconds of a step that logs nothing (of the processor on a CPU). `gain` is their ratio; where nothing "
        "is skipped, it tells the error of such a ratio. The first step of an epoch computes all."
    )
    save(options.name, f"Steps with and without terms that can train nothing: {where}", rows, [note])


def measure(
    options: argparse.Namespace, perceptual: str, path: str, frozen: bool, weights: Path, cache: Path
) -> dict[str, Any]:
    """Row of one case."""
    rows, columns = options.size
    config = resolve(
        "sage_gan_paper",
        sets={
            "data.path": f"synthetic://ordered?num=8&size={max(rows, columns)}&seed=0",
            "data.image_size": [rows, columns],
            **{f"{network}.width": options.width for network in ("segmenter", "generator", "discriminators")},
            "adversarial.batch_size": options.batch,
            "adversarial.freeze_epochs": int(frozen),
            "adversarial.mix_max": 0,
            "adversarial.mask_path": path,
            "adversarial.perceptual": perceptual,
            "adversarial.perceptual_weights": str(weights),
            "runtime.device": options.device,
            "runtime.threads": options.threads,
        },
    ).config
    context = LocalContext(config.runtime)
    batch = one_batch(prepare(config.data, cache), config, context)
    lean = build_recipe(config, context, cache)
    recipes = {"skipping s": lean, "everything s": replace(lean, skip_dead=False)}
    state = make_state(config, "adversarial", context)
    seconds: dict[str, list[float]] = {name: [] for name in recipes}
    clock = time.perf_counter if context.device.type == "cuda" else time.process_time
    for step in range(1 + options.steps):
        # Either goes first in turn: the second finds warmer caches.
        for name, recipe in sorted(recipes.items(), reverse=bool(step % 2)):
            draws = KeyedDraws(config.seed, "adversarial", 0, 1 + step, range(options.batch), context.device)
            wait(context.device)
            start = clock()
            adversarial_step(state, batch, draws, recipe)
            wait(context.device)
            seconds[name].append(clock() - start)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    plan = plan_step(config.adversarial, frozen=frozen, synthetic=False, has_perceptual=perceptual != "none")
    dead = [term for term in plan.trains if not plan.is_live(term)]
    return {
        "perceptual": perceptual,
        "mask path": path,
        "generator": "frozen" if frozen else "learning",
        **medians,
        "gain": medians["everything s"] / medians["skipping s"],
        "skipped": " ".join(dead),
    }


def one_batch(data: PreparedData, config: ExperimentConfig, context: LocalContext) -> Batch:
    """The first batch of the training part."""
    pictures = Pictures(data, data.split.train, context.device)
    batch, _ = next(training_batches(pictures, config, context, "adversarial", 0))
    return batch


if __name__ == "__main__":
    main()
