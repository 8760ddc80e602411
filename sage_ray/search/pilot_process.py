"""One of several processes that train the real steps of a config at the same time: what `shared_device` starts.

It gets a request as a line of JSON on stdin, then the words `go` and `stop` for each kind of epoch, and answers on
stdout in lines of JSON. It ends by itself once stdin is closed, so that it never outlives the process that started it.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import torch

from sage_ray.config import ExperimentConfig
from sage_ray.data.prepare import PreparedData, prepare
from sage_ray.search.device_memory import device_memory, process_memory
from sage_ray.search.epoch_cost import PHASE_OF, kinds_of
from sage_ray.search.pilot import middle_epoch, pilot_recipe
from sage_ray.startup import start_quickly
from sage_ray.training.batches import Pictures, training_batches
from sage_ray.training.build import build_state
from sage_ray.training.context import LocalContext
from sage_ray.training.generated_loss import validate_state
from sage_ray.training.loop import STEPS
from sage_ray.training.memory import is_out_of_memory
from sage_ray.training.precision import resolve_precision, use_precision
from sage_ray.training.recipe import Recipe
from sage_ray.training.state import TrainState

WARM_UP_STEPS = 3
"""Steps of each kind of epoch that do not count: in them the device chooses kernels, and memory grows to its peak."""
PROBLEM_CHARACTERS = 200
"""Of an error's text that are told."""


def main() -> int:
    """Train as the parent says; the exit status is 1 if the training has failed, which an answer says too."""
    # What libraries print must not mix with the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    request = json.loads(sys.stdin.readline())
    orders = _orders()
    try:
        _train(request, orders, answers)
    except Exception as error:
        no_memory = is_out_of_memory(error)
        text = "a process had no memory left" if no_memory else " ".join(f"{type(error).__name__}: {error}".split())
        _answer(answers, event="failed", problem=text[:PROBLEM_CHARACTERS], out_of_memory=no_memory)
        return 1
    return 0


def _orders() -> queue.Queue[str]:
    """The lines of stdin as they come, read by a thread that ends the process where they end."""
    orders: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            orders.put(line.strip())
        os._exit(1)  # whoever started this process has gone, or has heard all that was asked for

    threading.Thread(target=read, daemon=True).start()
    return orders


def _answer(answers: TextIO, **fields: Any) -> None:
    answers.write(json.dumps(fields) + "\n")
    answers.flush()


def _train(request: dict[str, Any], orders: queue.Queue[str], answers: TextIO) -> None:
    config, cache = ExperimentConfig.model_validate(request["config"]), Path(request["cache"])
    data = prepare(config.data, cache)
    ctx = LocalContext(config.runtime)
    precision = resolve_precision(config.runtime.precision, ctx.device)
    use_precision(precision, ctx.device, deterministic=config.runtime.deterministic)
    recipe = pilot_recipe(config, ctx, cache)
    # As in a run, all images lie on the device, and what phase 1 has trained stays there during phase 2.
    train = Pictures(data, data.split.train, ctx.device)
    validation = Pictures(data, data.split.validation, ctx.device)
    states: dict[str, TrainState] = {}
    for kind in kinds_of(config):
        phase = PHASE_OF[kind]
        if phase not in states:
            states[phase] = build_state(config, phase, ctx)
        state = states[phase]
        state.phase_epoch = middle_epoch(kind, config)
        steps = _steps(phase, config, train, state, ctx, recipe)
        for _ in range(WARM_UP_STEPS):
            next(steps)
        _score(config, data, state, recipe, ctx)
        state.remember_best(0.0)
        _synchronise(ctx.device)
        _answer(answers, event="ready", kind=kind)
        assert orders.get() == "go"
        _answer(answers, event="measured", kind=kind, **_measured(steps, request["window_s"], ctx.device))
        # Until all processes have measured, each goes on, so that all of them were measured beside the others.
        while orders.empty():
            next(steps)
        assert orders.get() == "stop"
    del validation  # nothing reads it: it was there for the memory that it takes


def _steps(
    phase: str, config: ExperimentConfig, train: Pictures, state: TrainState, ctx: LocalContext, recipe: Recipe
) -> Iterator[None]:
    """One step after another, without end."""
    while True:
        for batch, draws in training_batches(train, config, ctx, phase, state.phase_epoch):
            STEPS[phase](state, batch, draws, recipe)
            yield


def _measured(steps: Iterator[None], window_s: float, device: torch.device) -> dict[str, Any]:
    """Steps in at least `window_s` seconds, at least one, and the memory that this process has taken by then.

    As in an epoch, the host reads the device at the end alone: steps are launched while earlier ones are computed.
    """
    count, started = 0, time.perf_counter()
    while not count or time.perf_counter() - started < window_s:
        next(steps)
        count += 1
    _synchronise(device)
    seconds = time.perf_counter() - started
    memory = process_memory(device)
    return {
        "steps": count,
        "seconds": seconds,
        "peak_bytes": memory.peak_bytes,
        "held_bytes": memory.held_bytes,
        "device_taken_bytes": device_memory(device).taken_bytes,
    }


def _score(config: ExperimentConfig, data: PreparedData, state: TrainState, recipe: Recipe, ctx: LocalContext) -> None:
    """Score a batch of validation images, which may take more memory than a step."""
    some = data.split.validation[: config.evaluation.batch_size]
    if len(some):
        validate_state(state, Pictures(data, some, ctx.device), config.evaluation, recipe, ctx)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    start_quickly()
    sys.exit(main())
