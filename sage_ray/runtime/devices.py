"""What there is to compute on, this machine or the connected Ray, and what `auto` in `runtime` means there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sage_ray.sections import RuntimeConfig

PROBE_TIMEOUT_S = 60.0
_MODEL = "accelerator_type:"
"""Ray's resource of a node that has a GPU of this model."""
_GRAIN = 0.001


@dataclass(frozen=True)
class Node:
    """CPUs and GPUs of one machine, as Ray counts them."""

    cpus: float
    gpus: float = 0.0

    def workers(self, cpu: float, gpu: float) -> int:
        """How many workers of `cpu` CPUs and `gpu` GPUs it holds at a time."""
        return int(min(self.cpus / cpu, self.gpus / gpu if gpu else float("inf")) + 1e-6)


@dataclass(frozen=True)
class GpuFacts:
    """Model of a GPU, and whether it computes in bf16 natively."""

    gpu: str
    bf16: bool


@dataclass(frozen=True)
class Machines:
    """What there is to compute on.

    Attributes:
        nodes: the machines.
        where: in words, for messages.
        gpu: model of the GPUs (several joined by "and") that torch can compute on; None if there is none.
        bf16: whether all of them compute in bf16 natively.
        grows: whether there may be more of them later: it is a cluster, and not this process's own Ray.
    """

    nodes: tuple[Node, ...]
    where: str = "this machine"
    gpu: str | None = None
    bf16: bool = True
    grows: bool = False

    @property
    def cpus(self) -> float:
        """CPUs of all nodes together."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        """GPUs, usable by torch or not."""
        return sum(node.gpus for node in self.nodes)

    def fit(self, cpu: float, gpu: float, workers: int) -> int:
        """How many groups of `workers` workers fit at a time; a worker lies on one machine, a group on several."""
        return sum(node.workers(cpu, gpu) for node in self.nodes) // workers


def this_machine() -> Machines:
    """The CPUs and GPUs that this process may use."""
    import torch

    from sage_ray.training.context import available_cpus

    facts = gpu_facts()
    if facts is None:
        return Machines((Node(float(available_cpus())),))
    return Machines((Node(float(available_cpus()), float(torch.cuda.device_count())),), gpu=facts.gpu, bf16=facts.bf16)


def ray_machines(*, grows: bool = False) -> Machines:
    """The machines of the connected Ray; a task on each model of GPU looks whether torch computes on it.

    Args:
        grows: see `Machines`.
    """
    nodes = ray_nodes()
    if not any(node.gpus for node in nodes):
        return Machines(nodes, "the Ray cluster", grows=grows)
    models: list[str | None] = [*_models()]
    found = [facts for facts in map(_probe, models or [None]) if facts]
    names = " and ".join(dict.fromkeys(facts.gpu for facts in found))
    return Machines(nodes, "the Ray cluster", names or None, all(facts.bf16 for facts in found), grows)


def ray_nodes() -> tuple[Node, ...]:
    """CPUs and GPUs of the machines that are in the connected Ray now."""
    import ray

    listed: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    alive = [node["Resources"] for node in listed if node["Alive"]]
    return tuple(Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0)) for resources in alive)


def gpu_facts() -> GpuFacts | None:
    """The GPU here; None if torch can compute on none."""
    # Here and not above: who only reads what was recorded does not wait for torch.
    import torch

    from sage_ray.training.precision import native_bf16

    return GpuFacts(torch.cuda.get_device_name(), native_bf16()) if torch.cuda.is_available() else None


def resolve_runtime(runtime: RuntimeConfig, machines: Callable[[], Machines]) -> RuntimeConfig:
    """The runtime with device, GPUs of a worker and precision in place of `auto`.

    A worker gets one GPU where there is any that torch can compute on. `gpus_per_worker: 0` is the CPU, unless the
    device is `cuda` by name: then a worker has one, as configs of the first release mean it.

    Args:
        runtime: as configured.
        machines: looks at what there is; called only if something depends on it.
    """
    device, gpus, precision = runtime.device, runtime.gpus_per_worker, runtime.precision
    if device == "auto":
        wanted = machines().gpu is not None if gpus == "auto" else gpus > 0
        device = "cuda" if wanted else "cpu"
    if gpus == "auto" or (device == "cuda" and gpus == 0):
        gpus = 1.0 if device == "cuda" else 0.0
    if precision == "auto":
        precision = "bf16" if device == "cuda" and machines().bf16 else "fp32"
    return runtime.model_copy(update={"device": device, "gpus_per_worker": gpus, "precision": precision})


def take_up_runtime(runtime: RuntimeConfig, begun: RuntimeConfig) -> RuntimeConfig:
    """The runtime with what a run or study began with in place of `auto`: device, GPUs of a worker, precision."""
    names = ("device", "gpus_per_worker", "precision")
    return runtime.model_copy(update={name: getattr(begun, name) for name in names if getattr(runtime, name) == "auto"})


def gpus_of_worker(runtime: RuntimeConfig) -> float:
    """`gpus_per_worker` of a resolved runtime."""
    assert runtime.gpus_per_worker != "auto", "the runtime is not resolved"
    return runtime.gpus_per_worker


def gpus_held(runtime: RuntimeConfig) -> float:
    """GPUs that all workers of a resolved runtime hold together."""
    return runtime.workers * gpus_of_worker(runtime) if runtime.device == "cuda" else 0.0


def describe_device(runtime: RuntimeConfig, gpu: str | None = None, *, under_ray: bool = False) -> str:
    """What a run computes on and in, such as "NVIDIA H100, bf16" or "CPU, 1 thread, fp32".

    Args:
        runtime: resolved.
        gpu: model of the GPU; None: not known.
        under_ray: whether a single worker is one of Ray Train, which uses the CPUs that it asks for and no more.
    """
    from sage_ray.training.context import available_cpus

    if runtime.device == "cuda":
        share = runtime.gpus_per_worker
        amount = "" if share in ("auto", 0, 1) else f"{share:g} of " if float(share) < 1 else f"{share:g} x "
        unit = f"{amount}{gpu or 'GPU'}"
    else:
        default = available_cpus() if runtime.workers == 1 and not under_ray else max(1, int(runtime.cpus_per_worker))
        threads = runtime.threads or default
        unit = f"CPU, {threads} thread{'s' if threads > 1 else ''}"
    fixed = ", deterministic" if runtime.deterministic and runtime.device == "cuda" else ""
    crowd = f"{runtime.workers} workers, each " if runtime.workers > 1 else ""
    return f"{crowd}{unit}, {runtime.precision}{fixed}"


def count_gpus(number: float) -> str:
    """ "1 GPU", "2 GPUs"."""
    return f"{number:g} GPU" + ("" if number == 1 else "s")


def idle_gpus(idle: float, total: float | None = None) -> str:
    """ "1 GPU stands idle", "3 of 4 GPUs stand idle"."""
    counted = count_gpus(idle) if total is None else f"{idle:g} of {count_gpus(total)}"
    return f"{counted} stand{'s' if idle == 1 else ''} idle"


def crossing(places: Mapping[str, Sequence[str]]) -> list[str]:
    """A line if what is compared was computed on several models of GPU or versions of torch, else none.

    Args:
        places: for each run or version, where it was computed (`RunRecord.computed_on`); () where that is not known.
    """
    by_place: dict[str, list[str]] = {}
    for name, computed in places.items():
        for place in computed:
            by_place.setdefault(place, []).append(name)
    if len(by_place) < 2:
        return []
    told = "; ".join(f"{place}: {_few(names)}" for place, names in sorted(by_place.items()))
    return [f"compared across devices or versions of torch, which round differently: {told}"]


def _few(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def _models() -> list[str]:
    import ray

    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return sorted(name for name in total if name.startswith(_MODEL))


def _probe(model: str | None) -> GpuFacts | None:
    """`gpu_facts` of a node with this model of GPU; if none answers in time, what its name tells."""
    import ray

    task: Any = ray.remote(gpu_facts)
    resources = {model: _GRAIN} if model else {}
    answer = task.options(num_cpus=0, num_gpus=_GRAIN, resources=resources, max_retries=0).remote()
    try:
        facts: GpuFacts | None = ray.get(answer, timeout=PROBE_TIMEOUT_S)
    except ray.exceptions.GetTimeoutError:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.cancel(answer, force=True)
        # All of them are busy with somebody else's work, which is proof enough that they are there.
        return GpuFacts((model or "GPU").removeprefix(_MODEL), bf16=True)
    return facts
