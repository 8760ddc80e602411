"""How much memory a device has, how much of it is taken, and what this process takes of it."""

from __future__ import annotations

import gc
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes of a device's memory: all of it, and what all processes together have taken."""

    total_bytes: int
    taken_bytes: int


@dataclass(frozen=True)
class ProcessMemory:
    """Bytes that this process has taken at most so far, and that it holds now.

    On a GPU they are those of torch's allocator, without the CUDA context; on a CPU, the resident size.
    """

    peak_bytes: int
    held_bytes: int


def device_memory(device: torch.device) -> DeviceMemory:
    """Memory of a GPU with the contexts of all processes on it, or of this machine."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return DeviceMemory(total, total - free)
    memory = psutil.virtual_memory()
    return DeviceMemory(memory.total, memory.total - memory.available)


def process_memory(device: torch.device) -> ProcessMemory:
    """Memory that this process takes of a device."""
    if device.type == "cuda":
        # Reserved and not allocated bytes: what the allocator keeps for itself is there for nobody else.
        return ProcessMemory(torch.cuda.max_memory_reserved(device), torch.cuda.memory_reserved(device))
    held = psutil.Process().memory_info().rss
    return ProcessMemory(max(_peak_resident_bytes(), held), held)


def give_back_memory(device: torch.device) -> None:
    """Give a GPU back what torch's allocator holds of it and nothing needs any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _peak_resident_bytes() -> int:
    """Largest resident size of this process since it began to run its program."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss: on Linux that of a started process is at least the size of the process which started it.
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
