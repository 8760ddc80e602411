"""What a study will cost before it runs: trials, runs, distinct stages, epochs with and without reuse, and disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from sage_ray.config import ExperimentConfig, stable_hash
from sage_ray.data.prepare import headline, prepare
from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.runtime.disk_space import DATABASE_BYTES, GB, free_bytes, kept_bytes, result_bytes
from sage_ray.search.placement import placed
from sage_ray.sections import DataConfig
from sage_ray.stages.keys import stage_keys
from sage_ray.stages.store import StageStore
from sage_ray.study.spec import Kind, StudySpec
from sage_ray.training.context import choose_device, numerics
from sage_ray.training.footprint import StageFootprint, footprints


@dataclass(frozen=True)
class Plan:
    """Cost of a study if every trial runs to its end.

    Attributes:
        trials: configurations, points included.
        runs: trials times seeds (times folds).
        stages: distinct stages over all runs.
        epochs_without_reuse: epochs if every run trained all its own stages.
        epochs_with_reuse: epochs if each distinct stage is trained once.
        epochs_stored: of those, what the stage store of this home holds already.
        exact: whether the configurations are known beforehand.
        note: what the numbers rest on.
        kind: sweep, or ablation, whose trials are its runs.
        not_run: arms of an ablation that are declared but not trained, with the reason.
        details: arms, and what a fraction confuses.
        data: what the data are, how many images, and how they are split.
        device: cpu or cuda, of the trials.
        gpu: model of it, if it is known.
        precision: fp32, tf32 or bf16.
        trials_at_once: how many run at a time; None if the GPUs are on machines that cannot be seen from here.
        placement: the same in words, with a warning if a GPU stands idle.
        disk_gb: what the study will at most hold on disk beside what is stored already, in 10^9 bytes: `disk_parts` has
            its snapshots, its runs' results, and the decoded data.
        disk_free_gb: free where the snapshots go; None: an object store, which cannot tell.
    """

    study: str
    trials: int
    runs: int
    stages: int
    epochs_without_reuse: int
    epochs_with_reuse: int
    epochs_stored: int
    exact: bool
    note: str
    kind: Kind = "sweep"
    not_run: dict[str, str] = field(default_factory=dict)
    details: list[str] = field(default_factory=list)
    data: str = ""
    device: str = "cpu"
    gpu: str | None = None
    precision: str = "fp32"
    trials_at_once: int | None = None
    placement: list[str] = field(default_factory=list)
    disk_gb: float = 0.0
    disk_parts: dict[str, float] = field(default_factory=dict)
    disk_free_gb: float | None = None


def plan(spec: StudySpec, home: Home) -> Plan:
    """The cost of a search space or of an ablation design under `home`; trains nothing.

    Stage keys are those of the device that the trials will have: `auto` looks at the cluster of `RAY_ADDRESS`, or at
    this machine; on a login node without either, `resources.gpu` or `runtime.device: cuda` says that it will be a GPU.

    Raises:
        UserError: a problem of the data, no room for a trial, or a cluster that does not answer.
    """
    from sage_ray.search.ray_session import seen_machines
    from sage_ray.search.sampling import simulate

    with seen_machines() as machines:
        spec, placement = placed(spec, machines, elsewhere=True)
    samples = simulate(spec, spec.trials)
    identity = StudyData(home)
    ends: dict[str, set[int]] = {}
    sizes: dict[str, StageFootprint] = {}
    total = runs = results = 0
    for number, sample in enumerate(samples):
        for place in spec.run_grid(number):
            config = spec.config(sample.values, place.seed, place.fold)
            runs += 1
            results += result_bytes(config, home)
            for phase, key in identity.keys(config).items():
                epochs = config.phase(phase).epochs
                total += epochs
                ends.setdefault(key, set()).add(epochs)
                if key not in sizes:
                    sizes[key] = footprints(config)[phase]
    longest = {key: max(epochs) for key, epochs in ends.items()}
    store = StageStore(spec.base.runtime.stage_store or home.stages)
    stored = sum(store.latest(key, epochs) for key, epochs in longest.items())
    missing = [key for key, epochs in longest.items() if store.latest(key, epochs) < epochs]
    snapshots = sum(kept_bytes(sizes[key], longest[key], ends[key]) for key in missing)
    disk = {"snapshots": snapshots / GB, "results": (results + DATABASE_BYTES) / GB, "cache": identity.cache_bytes / GB}
    exact = len(spec.fixed) >= len(samples)
    return Plan(
        study=spec.name,
        trials=len(samples),
        runs=runs,
        stages=len(longest),
        epochs_without_reuse=total,
        epochs_with_reuse=sum(longest.values()),
        epochs_stored=stored,
        exact=exact,
        note=_note(spec, exact),
        kind=spec.kind,
        not_run=spec.not_run(),
        details=spec.details(),
        data=headline(prepare(spec.base.data, home.cache), spec.base.data),
        device=placement.device,
        gpu=placement.gpu,
        precision=placement.precision,
        trials_at_once=placement.trials_at_once,
        placement=placement.lines(),
        disk_gb=round(sum(disk.values()), 6),
        disk_parts={part: round(size, 6) for part, size in disk.items()},
        disk_free_gb=None if store.local_root is None else round(free_bytes(store.local_root) / GB, 3),
    )


def trial_numerics(config: ExperimentConfig) -> dict[str, Any]:
    """The numerics that a worker of a trial will have, computed on a machine that need not have its GPU."""
    runtime = config.runtime
    # A study that was never begun, or not by a driver, has not settled its device: then it is that of this machine.
    device = choose_device("auto") if runtime.device == "auto" else torch.device(runtime.device)
    numbers = numerics(runtime, device, runtime.workers)
    return numbers | ({"threads": runtime.threads} if "threads" in numbers and device.type == "cpu" else {})


class StudyData:
    """Stage keys of configs; the data of each distinct data section are prepared once."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._seen: dict[str, tuple[str, str]] = {}
        self.cache_bytes = 0
        """Bytes of the decoded images and masks of all data sections so far."""

    def keys(self, config: ExperimentConfig) -> dict[str, str]:
        """Stage keys of a config on its data, by phase."""
        fingerprint, split_id = self._data(config.data)
        try:
            return stage_keys(config, fingerprint, split_id, trial_numerics(config))
        except OSError as error:
            where = f"pretrain.checkpoint={config.pretrain.checkpoint}"
            raise UserError("cannot be read", where, f"give a safetensors file ({error.strerror})") from None

    def _data(self, data: DataConfig) -> tuple[str, str]:
        name = stable_hash(data.model_dump(mode="json", exclude={"augment"}))
        if name not in self._seen:
            prepared = prepare(data, self._home.cache)
            self.cache_bytes += prepared.images.nbytes + prepared.masks.nbytes
            self._seen[name] = (prepared.fingerprint, prepared.split.split_id)
        return self._seen[name]


def _note(spec: StudySpec, exact: bool) -> str:
    if exact:
        text = "exact: every configuration is known beforehand"
    else:
        drawn = spec.trials - len(spec.fixed)
        name, seed = spec.sampler.name, spec.sampler.seed
        text = f"an expectation: {drawn} of {spec.trials} trials as a simulated draw with seed {seed}"
        if name not in ("random", "qmc"):
            text += f"; {name} will choose others once it has seen scores"
    if spec.scheduler.name == "asha":
        text += "; asha stops trials early, so fewer epochs will be trained"
    return text
