"""Claim: seconds of one step of each phase and of an evaluation, with the trainer's own steps at full width.

Default: 128x192 pixels, batch 2, `sage_gan_paper`, fp32 beside bf16 in one run. The perceptual network gets random
weights of the published shapes, so that nothing is downloaded; the time is the same. Only on an idle machine do the
numbers mean anything: two busy processes on two cores slow torch's threads down many times over.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import psutil
import torch
from safetensors.torch import save_file

from benchmarks.record import save
from benchmarks.training_steps import endless, wait
from sage_ray.config import ExperimentConfig, resolve
from sage_ray.data.prepare import PreparedData, prepare
from sage_ray.losses import perceptual
from sage_ray.training.adversarial import adversarial_step
from sage_ray.training.batches import Pictures
from sage_ray.training.build import build_state
from sage_ray.training.context import LocalContext
from sage_ray.training.pretrain import pretrain_step
from sage_ray.training.recipe import Recipe, build_recipe
from sage_ray.training.scoring import validate


def main() -> None:
    """Time every precision and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 192), metavar=("ROWS", "COLUMNS"))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=5, help="timed steps, after --warm-up")
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--name", default="step", help="name of the result files")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        weights = random_vgg19(Path(folder))
        for precision in options.precision:
            rows += measure(options, precision, weights, Path(folder))
    first = {row["what"]: row["s"] for row in rows if row["precision"] == options.precision[0]}
    for row in rows:
        row[f"{options.precision[0]} / this"] = first[row["what"]] / row["s"]
    where = f"{options.size[0]}x{options.size[1]}, width {options.width}, batch {options.batch}"
    note = (
        "For orientation: the public code took 0.84-0.92 s, 4.1-5.3 s and 0.5 s an image on 2 cores in fp32 at 128x192."
    )
    save(options.name, f"Seconds of a step: {where}", rows, [note])


def random_vgg19(folder: Path) -> Path:
    """A file of random convolution weights in the shapes of VGG19 up to conv5_1."""
    save_file(perceptual.random_vgg19(), folder / "vgg19.safetensors")
    return folder / "vgg19.safetensors"


def measure(options: argparse.Namespace, precision: str, weights: Path, cache: Path) -> list[dict[str, Any]]:
    """Rows of one precision: phase 1, phase 2 on real pairs, phase 2 with synthetic images, evaluation."""
    rows, columns = options.size
    config = resolve(
        "sage_gan_paper",
        sets={
            "data.path": f"synthetic://ordered?num=24&size={max(rows, columns)}&seed=0",
            "data.image_size": [rows, columns],
            "segmenter.width": options.width,
            "generator.width": options.width,
            "discriminators.width": options.width,
            "pretrain.batch_size": options.batch,
            "adversarial.batch_size": options.batch,
            "adversarial.freeze_epochs": 0,
            "adversarial.perceptual_weights": str(weights),
            "runtime.precision": precision,
            "runtime.device": options.device,
            "runtime.compile": options.compile,
        },
    ).config
    context = LocalContext(config.runtime)
    data = prepare(config.data, cache)
    cases = [
        ("phase 1 step", "pretrain", config),
        ("phase 2 step, real pairs", "adversarial", config.with_values({"adversarial.mix_max": 0})),
        (
            "phase 2 step, with synthetic",
            "adversarial",
            config.with_values({"adversarial.mix_start": 1, "adversarial.mix_max": 1}),
        ),
    ]
    found = []
    for what, phase, case in cases:
        found.append({"what": what, "precision": precision, **time_phase(options, case, phase, data, context, cache)})
    found.append(
        {
            "what": "evaluation, per image",
            "precision": precision,
            **time_evaluation(options, config, data, context, cache),
        }
    )
    return found


def time_phase(
    options: argparse.Namespace,
    config: ExperimentConfig,
    phase: str,
    data: PreparedData,
    context: LocalContext,
    cache: Path,
) -> dict[str, float]:
    """Median seconds of a step, batch making included, and the memory it needed."""
    recipe = build_recipe(config, context, cache)
    state = build_state(config, phase, context)
    pictures = Pictures(data, data.split.train, context.device)
    step = pretrain_step if phase == "pretrain" else adversarial_step
    _start_memory(context)
    seconds = []
    batches = endless(pictures, config, context, phase)
    wait(context.device)
    for _ in range(options.warm_up + options.steps):
        start = time.perf_counter()
        batch, draws = next(batches)
        step(state, batch, draws, recipe)
        wait(context.device)
        seconds.append(time.perf_counter() - start)
    timed = list(islice(seconds, options.warm_up, None))
    return {"s": statistics.median(timed), "fastest s": min(timed), "GB": _memory(context)}


def time_evaluation(
    options: argparse.Namespace, config: ExperimentConfig, data: PreparedData, context: LocalContext, cache: Path
) -> dict[str, float]:
    """Median seconds per image of a scored evaluation pass: prediction, all scores, loss."""
    recipe: Recipe = build_recipe(config, context, cache)
    state = build_state(config, "pretrain", context)
    indices = np.resize(data.split.validation, 8)
    pictures = Pictures(data, indices, context.device)
    _start_memory(context)
    seconds = []
    for _ in range(1 + min(options.steps, 3)):
        start = time.perf_counter()
        validate(state.evaluated, pictures, config.evaluation, recipe, context)
        wait(context.device)
        seconds.append((time.perf_counter() - start) / len(indices))
    return {"s": statistics.median(seconds[1:]), "fastest s": min(seconds[1:]), "GB": _memory(context)}


def _start_memory(context: LocalContext) -> None:
    if context.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(context.device)


def _memory(context: LocalContext) -> float:
    """GB: the GPU's peak since `_start_memory`, or what this process holds now."""
    if context.device.type == "cuda":
        return torch.cuda.max_memory_allocated(context.device) / 1e9
    return psutil.Process().memory_info().rss / 1e9


if __name__ == "__main__":
    main()
