"""What a run says when memory runs out: which phase, what was wanted, and which settings need less."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sage_ray.config import ExperimentConfig
from sage_ray.errors import OutOfMemory
from sage_ray.system_rules import networks_of

_HOST = re.compile(r"can't allocate memory|not enough memory|Cannot allocate memory|std::bad_alloc", re.IGNORECASE)
_GPU = re.compile(r"CUDA error: out of memory|CU\w+_STATUS_ALLOC_FAILED")
"""What CUDA and its libraries say beside torch's allocator, as where there is no room for one more context."""
_WANTED = re.compile(r"tried to allocate ([\d.]+ ?[KMGT]?i?B(?:ytes)?)", re.IGNORECASE)


@contextmanager
def memory_of(config: ExperimentConfig, phase: str, device: torch.device) -> Iterator[None]:
    """In the body a phase, or the stage "render", is trained on a device.

    Raises:
        OutOfMemory: in place of what torch or numpy raise when there is none left.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch's own error of a GPU is a RuntimeError
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(_line(config, phase, device, str(error))) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU, or this machine, has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said.search(str(error)) for said in (_HOST, _GPU))


def _line(config: ExperimentConfig, phase: str, device: torch.device, message: str) -> str:
    on_gpu = device.type == "cuda"
    height, width = config.data.image_size
    found = _WANTED.search(message)
    wanted = f", {found[1]} more wanted" if found else ""
    if phase == "render":
        size = f"an image of {height} x {width}{wanted}"
        tracer = "render.samples, " if config.render.engine == "mitsuba" else ""
        less = [f"lower {tracer}render.scenes, data.image_size or discriminators.width"]
    else:
        size = f"batches of {config.phase(phase).batch_size} images of {height} x {width}{wanted}"
        network = networks_of(config.adversarial.system, phase)[0]
        less = [f"lower {phase}.batch_size, evaluation.batch_size, data.image_size or {network}.width"]
    if phase != "render" and on_gpu and config.runtime.precision in ("fp32", "tf32"):
        less.append("set runtime.precision=bf16")
    less.append(
        "let fewer trials share a GPU (resources.gpu)" if on_gpu else "run fewer trials at a time (concurrency)"
    )
    return f"no memory left on the {'GPU' if on_gpu else 'machine'} in {phase} ({size}): {', or '.join(less)}"
