"""What the trials of a study compute on, in which precision, and how many of them at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

from sage_ray.errors import UserError
from sage_ray.runtime.devices import (
    Machines,
    Node,
    count_gpus,
    describe_device,
    gpus_of_worker,
    idle_gpus,
    resolve_runtime,
    take_up_runtime,
)
from sage_ray.runtime.ray_cluster import ADD_A_NODE, too_big_for_a_node
from sage_ray.runtime.room import await_room, in_words
from sage_ray.sections import RuntimeConfig
from sage_ray.study.file_schema import ResourcesPart
from sage_ray.study.spec import StudySpec

Spec = TypeVar("Spec", bound=StudySpec)

SHARE_AT_MOST = 4
"""Most trials on one GPU under `gpu: share` with `concurrency: auto`. Each has its own weights and CUDA context,
and more of them only wait for each other."""
_RAY_STEPS = 10_000
"""Ray counts GPUs in steps of 1/10000."""


class NoRoom(UserError):
    """Not even one trial fits on the machines that are there now."""


@dataclass(frozen=True)
class Placement:
    """Where the trials of a study go.

    Attributes:
        device: cpu or cuda.
        gpu: model of the GPU; None on a CPU, or where it is not known.
        precision: fp32, tf32 or bf16.
        trials_at_once: as many as run at a time now; None if the GPUs are on machines that cannot be seen from here.
        warnings: GPUs that stand idle, and what was taken for granted.
        awaited: what has to be waited for before the first trial can begin; None: nothing.
    """

    device: str
    gpu: str | None
    precision: str
    trials_at_once: int | None
    text: str
    warnings: tuple[str, ...] = ()
    awaited: str | None = None

    def lines(self) -> list[str]:
        """For a person."""
        return [self.text, *(f"warning: {warning}" for warning in self.warnings)]


def placed(
    spec: Spec, machines: Machines, *, begun: RuntimeConfig | None = None, elsewhere: bool = False
) -> tuple[Spec, Placement]:
    """The study with device, precision and share of a GPU in place of `auto`, and where its trials go.

    Args:
        spec: the study.
        machines: what there is.
        begun: the runtime that the study began with; it stays on that device and in that precision.
        elsewhere: it may be run on other machines than these (a plan): GPUs that are not here are taken for granted.

    Raises:
        UserError: not even one trial fits and none can be waited for, or the study began on another device or in
            another precision.
    """
    runtime = spec.base.runtime
    if begun is not None:
        _refuse_another(spec, runtime, begun)
        runtime = take_up_runtime(runtime, begun.model_copy(update={"gpus_per_worker": "auto"}))
    runtime = resolve_runtime(runtime, lambda: machines)
    if runtime.device == "cuda" and spec.file.resources.gpu == "share":
        share = _share(spec, machines)
        runtime = runtime.model_copy(update={"gpus_per_worker": share})
    spec = spec.on(runtime)
    away = elsewhere and runtime.device == "cuda" and not machines.gpus
    awaited = None
    if not away:
        try:
            check_fits(spec, machines, begun=begun is not None)
        except NoRoom:
            awaited = _awaited(spec, machines, asking=not elsewhere)
            if awaited is None:
                raise
    at_once = None if away or awaited is not None else trials_at_once(spec, machines.nodes)
    gpu = machines.gpu if runtime.device == "cuda" else None
    count = f"none fits now, {awaited} is awaited" if awaited is not None else _count(at_once)
    text = f"trials on {describe_device(runtime, gpu)}; {count}"
    warnings = (
        [] if awaited is not None else _away(runtime) if away else _idle(spec, machines, at_once or 0, bool(begun))
    )
    return spec, Placement(runtime.device, gpu, runtime.precision, at_once, text, tuple(warnings), awaited)


def _awaited(spec: StudySpec, machines: Machines, *, asking: bool) -> str | None:
    """What a study may wait for that fits on no machine now, in words; None: it would wait for ever.

    Args:
        spec: placed.
        machines: that are there.
        asking: ask the cluster's autoscaler, which may begin to start nodes; else it is taken for granted.
    """
    if not machines.grows:
        return None
    bundle, workers = worker_resources(spec), spec.file.resources.workers
    if not asking:
        return in_words(bundle, workers)
    awaited = await_room(bundle, workers)
    return None if awaited is None else awaited.what


def usual(machines: Machines) -> Placement:
    """Where the trials of a study go whose file says nothing of it."""
    resources = ResourcesPart()
    runtime = resolve_runtime(RuntimeConfig(threads=int(resources.cpu)), lambda: machines)
    at_once = max(machines.fit(resources.cpu, gpus_of_worker(runtime), resources.workers), 1)
    gpu = machines.gpu if runtime.device == "cuda" else None
    text = f"trials on {describe_device(runtime, gpu)}; {_count(at_once)}"
    warnings = (_unusable(machines),) if machines.gpus and machines.gpu is None else ()
    return Placement(runtime.device, gpu, runtime.precision, at_once, text, warnings)


def trials_at_once(spec: StudySpec, nodes: tuple[Node, ...]) -> int:
    """How many trials of a placed study run at a time on these machines: as many as fit, or fewer if asked, least 1."""
    fits = max(_fit(spec, Machines(nodes)), 1)
    wanted = spec.file.concurrency
    return fits if wanted == "auto" else min(wanted, fits)


def worker_resources(spec: StudySpec) -> dict[str, float]:
    """What Ray gives one worker of a placed study."""
    gpu = gpus_of_worker(spec.base.runtime)
    return {"CPU": spec.file.resources.cpu, **({"GPU": gpu} if gpu else {})}


def check_fits(spec: StudySpec, machines: Machines, *, begun: bool = False) -> None:
    """Refuse a placed study of which not even one trial fits on these machines.

    Raises:
        NoRoom: they have too little of what it takes. UserError: what they have cannot be used.
    """
    resources, where = spec.file.resources, machines.where
    gpu, workers = gpus_of_worker(spec.base.runtime), resources.workers
    if gpu and not machines.gpus:
        if begun:
            mend = "resume it where Ray has a GPU, or begin another study, on the CPU with resources.gpu 0"
            raise NoRoom(f"no GPU on {where}, and the study began on one", spec.name, mend)
        mend = "set resources.gpu to 0, or use a machine with a GPU"
        raise NoRoom("no GPU", f"{_asked(resources, spec)} on {where}", mend)
    if gpu and machines.gpu is None:
        mend = "install a torch for CUDA there, or set resources.gpu to 0"
        raise UserError(_unusable(machines), _asked(resources, spec), mend)
    for kind, share, have in (("GPU", gpu, machines.gpus), ("CPU", resources.cpu, machines.cpus)):
        if share * workers > have + 1e-6:
            mend = f"{where} has {have:g}: lower resources.{kind.lower()} or resources.workers"
            mend += f", {ADD_A_NODE}" if machines.grows else ""
            raise NoRoom(f"too few {kind}s", f"{workers} workers of {share:g} {kind}s", mend)
    if not _fit(spec, machines) and machines.grows:
        what = too_big_for_a_node("trial", worker_resources(spec), machines.nodes)
        asked = f"resources.cpu={resources.cpu:g}, resources.gpu={gpu:g}, resources.workers={workers}"
        raise NoRoom(what, asked, f"lower them, {ADD_A_NODE}")
    if not _fit(spec, machines):
        mend = f"no machine of {where} has both for one worker: lower resources.cpu or resources.gpu"
        raise NoRoom("no room for a trial", f"{workers} workers of {resources.cpu:g} CPUs and {gpu:g} GPUs", mend)


def _fit(spec: StudySpec, machines: Machines) -> int:
    resources = spec.file.resources
    return machines.fit(resources.cpu, gpus_of_worker(spec.base.runtime), resources.workers)


def _asked(resources: ResourcesPart, spec: StudySpec) -> str:
    return "runtime.device=cuda" if isinstance(resources.gpu, str) else f"resources.gpu={resources.gpu:g}"


def _share(spec: StudySpec, machines: Machines) -> float:
    """The share of a GPU that a worker gets under `gpu: share`, rounded down to what Ray counts."""
    resources, gpus = spec.file.resources, machines.gpus or 1.0
    if spec.file.concurrency == "auto":
        cpus = sum(node.cpus for node in machines.nodes if node.gpus) or machines.cpus
        together = min(int(cpus / (resources.cpu * gpus)), SHARE_AT_MOST)
    else:
        together = math.ceil(spec.file.concurrency * resources.workers / gpus)
    return math.floor(_RAY_STEPS / max(together, 1)) / _RAY_STEPS


def _refuse_another(spec: StudySpec, runtime: RuntimeConfig, begun: RuntimeConfig) -> None:
    """Trials of one study are compared with each other: all of them have its device and its precision."""
    for name in ("device", "precision"):
        now, then = getattr(runtime, name), getattr(begun, name)
        if "auto" not in (now, then) and now != then:
            mend = f"go on with it as it is, or choose another --name for {now}"
            raise UserError(f"study began with runtime.{name} {then}, not {now}", spec.name, mend)


def _count(at_once: int | None) -> str:
    if at_once is None:
        return "as many at once as there are GPUs"
    return f"{at_once} trial{'s' if at_once != 1 else ''} at once"


def _unusable(machines: Machines) -> str:
    return f"{count_gpus(machines.gpus)} of {machines.where} cannot be used by the torch that is installed there"


def _away(runtime: RuntimeConfig) -> list[str]:
    return [f"no GPU is seen from here: keys are those of a GPU that computes in {runtime.precision}"]


def _idle(spec: StudySpec, machines: Machines, at_once: int, begun: bool) -> list[str]:
    """Why GPUs stand idle, and trials that have to wait for room."""
    runtime, file = spec.base.runtime, spec.file
    found = []
    if runtime.device == "cpu":
        if machines.gpus and machines.gpu is None:
            found.append(_unusable(machines))
        elif machines.gpus:
            why = "the study began on the CPU" if begun else "resources.gpu is 0 or runtime.device is cpu"
            found.append(f"{idle_gpus(machines.gpus)}: {why}")
    else:
        idle = machines.gpus - math.ceil(at_once * file.resources.workers * gpus_of_worker(runtime) - 1e-3)
        if idle >= 1:
            fits = _fit(spec, machines)
            why = f"concurrency is {at_once}" if at_once < fits else "the CPUs allow no more trials (resources.cpu)"
            found.append(f"{idle_gpus(idle, machines.gpus)}: {why}")
    if file.concurrency != "auto" and file.concurrency > at_once:
        found.append(f"concurrency is {file.concurrency}, of which {at_once} fit; others begin when there is room")
    return found
