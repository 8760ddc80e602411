"""What a study will cost before it runs: trials, runs, distinct stages, epochs with and without reuse, disk, hours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sage_ray.config import ExperimentConfig
from sage_ray.data.prepare import headline, prepare
from sage_ray.notebook_view import NotebookView
from sage_ray.record.home import Home
from sage_ray.runtime.disk_space import (
    DATABASE_BYTES,
    GB,
    free_bytes,
    kept_bytes,
    pair_bytes,
    rendered_bytes,
    result_bytes,
)
from sage_ray.search.budget import Trim, trimmed
from sage_ray.search.earlier import begun_from, earlier_trials
from sage_ray.search.epoch_cost import Measured
from sage_ray.search.placement import Placement, placed
from sage_ray.search.planned_runs import (
    Clock,
    Epochs,
    Hours,
    PlannedRun,
    StudyData,
    count_epochs,
    planned_runs,
    trial_place,
)
from sage_ray.search.planned_sharing import GpuSharing, StudyPilot
from sage_ray.search.recorded_epochs import recorded_epochs
from sage_ray.search.sampling import LEARNING, simulate
from sage_ray.search.stage_tree import StageNode, stage_tree
from sage_ray.stages.made_pairs import WHOLE
from sage_ray.stages.render_keys import rendered_pairs_key
from sage_ray.stages.store import StageStore
from sage_ray.study.dimension import Sample
from sage_ray.study.space import Space
from sage_ray.study.spec import Kind, StudySpec
from sage_ray.training.footprint import footprints

if TYPE_CHECKING:
    import pandas as pd

FIRST = 5
"""Trials whose configurations are shown."""


@dataclass(frozen=True)
class Plan(NotebookView):
    """Cost of a study if every trial runs to its end.

    Attributes:
        trials: configurations, points included.
        runs: trials times seeds (times folds).
        stages: distinct stages over all runs.
        epochs_without_reuse: epochs if every run trained all its own stages.
        epochs_with_reuse: epochs if each distinct stage is trained once.
        epochs_stored: of those, what the stage store of this home holds already.
        exact: whether the configurations are known beforehand: fixed ones, and draws that look at no scores.
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
        gpu_hours: hours that GPUs are held; 0 on a CPU; None: not known.
        worker_hours: hours that workers are held, likewise.
        waiting_hours: beside `worker_hours`, those in which places of workers stand empty because a trial waits for a
            stage that another one computes.
        wall_hours: from the start of the driver to its end; None: not known.
        price: of all of it; None without a price per hour, or where the time is not known.
        price_per: the hour that the price is for.
        time_basis: what the hours rest on, in words.
        not_in_hours: what the hours leave out, as nothing like it was measured.
        pilot: what a pilot on a GPU found of several trials per GPU; None without a pilot, and on a CPU.
        upper_bound: whether trials may be stopped early, so that less is computed.
        tree: the distinct stages, each with what goes on from it.
        first: parameters of the first trials.
        trim: what fits into a budget of hours, if one was given.
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
    gpu_hours: float | None = None
    worker_hours: float | None = None
    waiting_hours: float | None = None
    wall_hours: float | None = None
    price: float | None = None
    price_per: str = ""
    time_basis: list[str] = field(default_factory=list)
    not_in_hours: list[str] = field(default_factory=list)
    pilot: GpuSharing | None = None
    upper_bound: bool = False
    tree: list[StageNode] = field(default_factory=list)
    first: list[dict[str, Any]] = field(default_factory=list)
    trim: Trim | None = None

    def frame(self) -> pd.DataFrame:
        """What the study takes, one row per number: what, amount."""
        import pandas as pd

        amounts = {
            "trials": self.trials,
            "runs": self.runs,
            "distinct stages": self.stages,
            "epochs without reuse": self.epochs_without_reuse,
            "epochs with reuse": self.epochs_with_reuse,
            "epochs stored already": self.epochs_stored,
            "wall hours": self.wall_hours,
            "GPU-hours" if self.device == "cuda" else "worker-hours": (
                self.gpu_hours if self.device == "cuda" else self.worker_hours
            ),
            "price": self.price,
            "disk, GB": self.disk_gb,
        }
        rows = [(what, amount) for what, amount in amounts.items() if amount is not None]
        return pd.DataFrame(rows, columns=["what", "amount"])

    def headline(self) -> str:
        """Name of the study, and how much is shared."""
        saved = 1 - self.epochs_with_reuse / max(self.epochs_without_reuse, 1)
        return f"{self.study}: {self.trials} trials, {saved:.0%} of the epochs saved by shared stages"

    def remarks(self) -> list[str]:
        """The data, where the trials run, and what the numbers rest on."""
        hours = [] if self.worker_hours is not None else ["Hours are not known here: pilot=True measures a few steps."]
        return [self.data, *self.details, *self.placement, *hours, *self.time_basis, self.note]


def plan(
    spec: StudySpec,
    home: Home,
    *,
    price: float | None = None,
    pilot: bool = False,
    budget_hours: float | None = None,
    earlier: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Plan:
    """The cost of a search space or of an ablation design under `home`; trains nothing unless a pilot is asked for.

    Stage keys are those of the device that the trials will have: `auto` looks at the cluster of `RAY_ADDRESS`, or at
    this machine; on a login node without either, `resources.gpu` or `runtime.device: cuda` says that it will be a GPU.

    Args:
        spec: the study.
        home: its recorded runs say what an epoch takes; its stage store, what is trained already.
        price: of a GPU for an hour; on a CPU, of a worker with its CPUs.
        pilot: take some steps of each phase of the study's base, and of what its runs train that is unlike it, to
            measure what an epoch takes, and on a GPU how many trials to train on one.
        budget_hours: hours of GPUs (on a CPU, of workers) that the study is to be trimmed to.
        earlier: studies of the home that it begins with, as `sweep` takes them.
        say: told what a pilot does.

    Raises:
        UserError: bad data, no room for a trial, no cluster, a pilot elsewhere, or a budget below the first trial.
    """
    from sage_ray.search.ray_session import seen_machines

    data = prepare(spec.base.data, home.cache)
    with seen_machines() as machines:
        spec, placement = placed(begun_from(spec, earlier, home, data.fingerprint), machines, elsewhere=True)
    samples = simulate(spec, spec.trials, earlier_trials(spec, home, data.fingerprint, say))
    identity = StudyData(home)
    planned = list(planned_runs(spec, samples, identity))
    runs = [each.run for each in planned]
    store = StageStore(spec.base.runtime.stage_store or home.stage_store)
    epochs = count_epochs(runs, store)
    taken = StudyPilot(spec, placement, machines, planned, home, say) if pilot else None
    measured = recorded_epochs(home, trial_place(spec.base, placement)) if taken is None else taken.measured
    clock = Clock(spec, placement, measured, store)
    timed = clock.timed(planned)
    return Plan(
        study=spec.name,
        trials=len(samples),
        runs=len(planned),
        **_epochs(epochs),
        **_asked(spec),
        data=headline(data, spec.base.data),
        **_placement(placement),
        **_disk(planned, epochs.stages, identity, store, home),
        **_hours(spec, clock.hours(timed) if timed else None, price),
        time_basis=time_basis(clock.used, clock.notes, 1 if taken is None else taken.beside) if timed else [],
        not_in_hours=clock.missing if timed else [],
        pilot=None if taken is None else taken.sharing(planned, store),
        tree=stage_tree(runs),
        first=_first(spec, samples),
        trim=None if budget_hours is None else trimmed(spec, clock, timed, budget_hours),
    )


def time_basis(used: Sequence[Measured], notes: Sequence[str], beside: int = 1) -> list[str]:
    """What hours rest on: how many measured epochs of which runs, or a pilot, and what is not alike.

    Args:
        used: measurements.
        notes: where they are not alike.
        beside: trials on one GPU that a pilot's seconds are those of.
    """
    runs = list(dict.fromkeys(m.source for m in used if m.epochs))
    lines = []
    if runs:
        named = ", ".join(runs[:3]) + (f" and {len(runs) - 3} more" if len(runs) > 3 else "")
        lines.append(f"{sum(m.epochs for m in used)} epochs of {named}")
    pilots = list(dict.fromkeys(m.source for m in used if not m.epochs))
    if pilots:
        trials = "one trial alone" if beside == 1 else f"{beside} trials side by side on one GPU"
        further = "" if all(" of " not in name.split(" on ")[0] for name in pilots) else ", and of what is unlike it"
        lines.append(f"{' and '.join(pilots)}: a few steps of each phase of the base{further}, {trials}")
    return [*lines, *notes]


def _hours(spec: StudySpec, hours: Hours | None, price: float | None) -> dict[str, Any]:
    on_gpu = spec.base.runtime.device == "cuda"
    cpus = spec.file.resources.cpu
    per = "GPU-hour" if on_gpu else f"hour of a worker ({cpus:g} CPU{'s' if cpus != 1 else ''})"
    if hours is None:
        return {"price_per": per}
    paid = hours.gpu if on_gpu else hours.worker
    return {
        "gpu_hours": round(hours.gpu, 6),
        "worker_hours": round(hours.worker, 6),
        "waiting_hours": round(hours.waiting, 6),
        "wall_hours": None if hours.wall is None else round(hours.wall, 6),
        "price": None if price is None else round(price * paid, 6),
        "price_per": per,
    }


def _asked(spec: StudySpec) -> dict[str, Any]:
    return {
        "kind": spec.kind,
        "exact": _is_exact(spec),
        "note": _note(spec),
        "not_run": spec.not_run(),
        "details": spec.details(),
        "upper_bound": spec.scheduler.name == "asha",
    }


def _epochs(epochs: Epochs) -> dict[str, Any]:
    counted = {"without_reuse": epochs.without_reuse, "with_reuse": epochs.with_reuse, "stored": epochs.stored}
    return {"stages": len(epochs.stages)} | {f"epochs_{name}": count for name, count in counted.items()}


def _placement(placement: Placement) -> dict[str, Any]:
    names = ("device", "gpu", "precision", "trials_at_once")
    return {name: getattr(placement, name) for name in names} | {"placement": placement.lines()}


def _disk(
    planned: Sequence[PlannedRun], longest: dict[str, int], identity: StudyData, store: StageStore, home: Home
) -> dict[str, Any]:
    """What a study will hold on disk, in 10^9 bytes: snapshots, results, decoded data; and how much is free."""
    ends: dict[str, set[int]] = {}
    snapshots = results = 0
    first: dict[str, ExperimentConfig] = {}
    phases: dict[str, str] = {}
    made: dict[str, int] = {}
    for each in planned:
        results += result_bytes(each.config, home)
        if each.pairs is not None:
            made.setdefault(each.pairs, pair_bytes(each.config, each.images.train))
        for stage in each.run.stages:
            if stage.phase == "render":
                of = each.config_of(stage)
                made.setdefault(rendered_pairs_key(of, stage.key), rendered_bytes(of))
            ends.setdefault(stage.key, set()).add(stage.epochs)
            first.setdefault(stage.key, each.config_of(stage))
            phases[stage.key] = stage.phase
    for key, epochs in longest.items():
        if store.latest(key, epochs) < epochs:
            snapshots += kept_bytes(footprints(first[key])[phases[key]], epochs, ends[key])
    snapshots += sum(size for key, size in made.items() if store.latest(key, WHOLE) < WHOLE)
    parts = {"snapshots": snapshots, "results": results + DATABASE_BYTES, "cache": identity.cache_bytes}
    return {
        "disk_gb": round(sum(parts.values()) / GB, 6),
        "disk_parts": {part: round(size / GB, 6) for part, size in parts.items()},
        "disk_free_gb": None if store.local_root is None else round(free_bytes(store.local_root) / GB, 3),
    }


def _first(spec: StudySpec, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    return [{"number": number, "params": sample.params} for number, sample in enumerate(samples[:FIRST])]


def _is_exact(spec: StudySpec) -> bool:
    """Whether the study will draw what a plan of it draws: then it looks neither at scores nor at earlier studies."""
    learns = spec.sampler.name in LEARNING or (isinstance(spec, Space) and bool(spec.file.earlier))
    return len(spec.fixed) >= spec.trials or not learns


def _note(spec: StudySpec) -> str:
    drawn = spec.trials - len(spec.fixed)
    name, seed = spec.sampler.name, spec.sampler.seed
    if drawn <= 0:
        text = "exact: every configuration is known beforehand"
    elif _is_exact(spec):
        text = f"exact: {drawn} of {spec.trials} trials are drawn by {name} with seed {seed}, whatever the scores are"
    else:
        text = f"an expectation: {drawn} of {spec.trials} trials as a simulated draw with seed {seed}"
        text += f"; {name} will choose others once it has seen scores" if name in LEARNING else ""
    if spec.scheduler.name == "asha":
        text += "; asha stops trials early, so fewer epochs will be trained"
    return text
