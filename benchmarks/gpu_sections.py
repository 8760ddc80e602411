"""What `benchmarks/gpu.py` measures, section by section. A section yields its result whenever there is more of it.

What has been yielded is kept, whatever happens afterwards: an exception, a time limit, a process that is killed.
"""

from __future__ import annotations

import gc
import logging
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_parity import run_checks
from benchmarks.gpu_steps import KINDS, Kind, Sizes, Training, time_batches, time_kind, unavailable
from benchmarks.training_steps import wait
from sage_ray.training.precision import Precision, resolve_precision, use_precision

Result = dict[str, Any]
Section = Callable[[Sizes, float], Iterator[Result]]

COSTLIEST = 20
PROFILED_STEPS = 2
GRAPHS_AT = {"rows": 32, "columns": 48, "width": 4, "batch": 2}
LONGEST_REASON = 160  # characters


class NotApplicable(Exception):
    """The device cannot do what a section measures; says why."""


def device_facts(sizes: Sizes, until: float) -> Iterator[Result]:
    """Device, versions, and what each precision stands for here."""
    device = torch.device(sizes.device)
    facts: Result = {"type": device.type, "torch": torch.__version__, "cuda": torch.version.cuda}
    facts |= {"cudnn": torch.backends.cudnn.version(), "python": platform.python_version()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        capability = f"{properties.major}.{properties.minor}"
        facts |= {"name": properties.name, "memory_gb": properties.total_memory / 1e9, "capability": capability}
        facts["multiprocessors"] = properties.multi_processor_count
    else:
        facts |= {"name": "CPU", "threads": torch.get_num_threads()}
    facts["auto_precision"] = resolve_precision("auto", device)
    facts["unavailable"] = {name: why for name in ("fp32", "tf32", "bf16") if (why := unavailable(name, device))}
    yield facts


def parity(sizes: Sizes, until: float) -> Iterator[Result]:
    """The golden checks on the device, in float32 without TF32 and in float64; the slow one not on a CPU."""
    from placing import Place  # beside the golden tests, where `gpu_parity` looks

    device = torch.device(sizes.device)
    on_gpu = device.type == "cuda"
    use_precision("fp32", device)
    # On a CPU tests/golden runs them in both; a GPU's float64 shows that formulas are right where rounding is not.
    dtypes = [torch.float32, torch.float64] if on_gpu else [torch.float32]
    rows: list[Result] = []
    for row in run_checks([Place(dtype, device) for dtype in dtypes], with_slow=on_gpu):
        rows.append(row)
        passed = sum(row["passed"] for row in rows)
        yield {"passed": passed, "failed": len(rows) - passed, "with_slow_check": on_gpu, "checks": rows}
        if time.monotonic() > until:
            raise TimeoutError(f"stopped after {len(rows)} checks")


def steps(precision: str, *, compiled: bool) -> Section:
    """The section that times every kind of step in a precision, eager or compiled."""

    def section(sizes: Sizes, until: float) -> Iterator[Result]:
        if why := unavailable(precision, torch.device(sizes.device)):
            raise NotApplicable(why)
        result: Result = {"precision": precision, "mode": "compiled" if compiled else "eager", "steps": []}
        if compiled:
            result["backend"] = sizes.backend
        for phase in ("pretrain", "adversarial"):
            kinds = [kind for kind in KINDS if kind.phase == phase][: 1 if compiled and _is_small(sizes) else None]
            watch = GraphWatch()
            try:
                training = Training(sizes, phase, cast(Precision, precision), compiled=compiled)
                for kind in kinds:
                    if time.monotonic() > until:
                        result["steps"].append({"kind": kind.name, "error": "left out: no time"})
                        continue
                    result["steps"].append(time_kind(training, kind, sizes, until))
                    if compiled:
                        result.setdefault("graphs", {})[phase] = watch.counts()
                    yield result
                if phase == "pretrain" and not compiled:
                    result["batch_s"] = time_batches(training, sizes)
                del training
            except Exception as error:  # torch.compile breaks, memory runs out: the other phase is still timed
                result["steps"].append({"kind": phase, "error": said(error)})
            finally:
                watch.close()
            yield result
            _forget()

    return section


def kernels(sizes: Sizes, until: float) -> Iterator[Result]:
    """The costliest kernels of a step of each phase in the precision that `auto` stands for."""
    precision = resolve_precision("auto", sizes.device)
    result: Result = {"precision": precision, "phases": {}}
    for kind in KINDS[:2]:
        training = Training(sizes, kind.phase, precision)
        result["phases"][kind.name] = costliest_kernels(training, kind)
        yield result
        del training
        _forget()


def costliest_kernels(training: Training, kind: Kind) -> Result:
    """Kernels of a step by their own time: of the GPU, or on a CPU operators by the processor's."""
    on_gpu = training.device.type == "cuda"
    recipe = training.recipe(kind)
    for _ in range(2):
        training.step(recipe)
    wait(training.device)
    started = time.perf_counter()
    with profile(activities=[ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]) as profiler:
        for _ in range(PROFILED_STEPS):
            training.step(recipe)
        wait(training.device)
    wall = time.perf_counter() - started
    found: dict[str, list[float]] = {}
    for event in profiler.key_averages():
        own = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if own > 0 and not event.key.startswith(("ProfilerStep", "cuda")):
            entry = found.setdefault(event.key, [0.0, 0.0])
            entry[0] += own / 1e3 / PROFILED_STEPS
            entry[1] += event.count / PROFILED_STEPS
    total = sum(ms for ms, _ in found.values())
    ordered = sorted(found.items(), key=lambda item: -item[1][0])[:COSTLIEST]
    return {
        "what": "GPU kernels" if on_gpu else "operators on the CPU",
        "kernels": [
            {"name": name, "ms_per_step": ms, "share": ms / total, "calls_per_step": calls}
            for name, (ms, calls) in ordered
        ],
        "all_ms_per_step": total,
        "all_calls_per_step": sum(calls for _, calls in found.values()),
        "wall_ms_per_step_profiled": wall * 1e3 / PROFILED_STEPS,
    }


def graphs(sizes: Sizes, until: float) -> Iterator[Result]:
    """How torch.compile cuts the networks into graphs; traced alone, at small sizes, as sizes do not matter to it."""
    small = replace(sizes, **GRAPHS_AT, backend="eager")
    result: Result = {"at": GRAPHS_AT}
    for phase in ("pretrain", "adversarial"):
        torch._dynamo.reset()
        watch = GraphWatch()
        training = Training(small, phase, "fp32", compiled=True)
        for kind in (kind for kind in KINDS if kind.phase == phase):
            for _ in range(2):
                training.step(training.recipe(kind))
            result[phase] = watch.counts()
            yield result
        watch.close()
        _forget()


class GraphWatch(logging.Handler):
    """Counts graphs, breaks and recompilations of torch.compile from now on, and sees whether it gave up."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        from torch._dynamo.utils import counters

        self._counters = counters
        self._counters.clear()
        self.gave_up = False
        self._loggers = [logging.getLogger(f"torch._dynamo{part}") for part in ("", ".convert_frame")]
        for logger in self._loggers:
            logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Note that a limit of recompilations was reached: from there on the code runs eagerly, without a word."""
        self.gave_up |= "recompile_limit" in record.getMessage()

    def counts(self) -> Result:
        """Graphs, breaks with their reasons, and whether the limit of recompilations was reached."""
        reasons = {" ".join(str(k).split())[:LONGEST_REASON]: n for k, n in self._counters["graph_break"].items()}
        return {
            "graphs": self._counters["stats"]["unique_graphs"],
            "graph_breaks": sum(reasons.values()),
            "reasons": reasons,
            "recompile_limit_hit": self.gave_up,
        }

    def close(self) -> None:
        """Stop listening."""
        for logger in self._loggers:
            logger.removeHandler(self)
        super().close()


def said(error: BaseException) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"


def _is_small(sizes: Sizes) -> bool:
    return sizes.device == "cpu"


def _forget() -> None:
    """Give back the memory of networks that are gone, on the device too, and forget compiled graphs."""
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


SECTIONS: dict[str, Section] = {
    "device": device_facts,
    "graphs": graphs,
    "parity": parity,
    **{f"eager_{name}": steps(name, compiled=False) for name in ("bf16", "tf32", "fp32")},
    "kernels": kernels,
    **{f"compiled_{name}": steps(name, compiled=True) for name in ("bf16", "tf32", "fp32")},
}
