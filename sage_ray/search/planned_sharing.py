"""What sharing a GPU does to a study: hours with as many trials per GPU as it has, and as train fastest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from sage_ray.config import ExperimentConfig
from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.runtime.devices import Machines, gpus_of_worker
from sage_ray.runtime.disk_space import GB
from sage_ray.search.epoch_cost import RENDER, Measured, kinds_to_time, likeness_of, seconds_of
from sage_ray.search.pilot import pilot, pilot_of_rendering
from sage_ray.search.placement import Placement, placed
from sage_ray.search.planned_runs import Clock, Hours, PlannedRun, trial_place
from sage_ray.search.shared_device import START_LIMIT_S, WINDOW_S, SideBySide, measure_side_by_side
from sage_ray.search.trials_per_gpu import (
    MEMORY_MARGIN,
    NOISE,
    TRIED_AT_MOST,
    TrialsOnGpu,
    fastest,
    share_of_gpu,
    trials_on_gpu,
)
from sage_ray.stages.store import StageStore
from sage_ray.study.spec import StudySpec

FURTHER = 8
"""Configs that a pilot measures at most beside the base."""


@dataclass(frozen=True)
class FastestShare:
    """As many trials per GPU as train most epochs an hour, and what the study takes with it.

    Attributes:
        trials_per_gpu: the number.
        resources_gpu: what `resources.gpu` has to be for it.
        trials_at_once: of the study, on all GPUs; None: not known.
        wall_hours: of the study with it; None: not known.
        gpu_hours: likewise.
    """

    trials_per_gpu: int
    resources_gpu: float
    trials_at_once: int | None
    wall_hours: float | None
    gpu_hours: float | None


@dataclass(frozen=True)
class GpuSharing:
    """What a pilot on a GPU found of several trials per GPU.

    Attributes:
        per_gpu: each number that was tried.
        trials_per_gpu: of the study as it is.
        fastest: None if nothing fits or could be measured.
        held_back: a larger number that would train faster on each GPU, if the CPUs and `concurrency` allowed as many
            trials at a time; None: there is none.
        gpu_memory_gb: of the GPU, in 10^9 bytes; None: not measured.
        gpu_memory_others_gb: of that, what other programs had taken.
        memory_margin: share of it that has to stay free.
        warnings: for a person.
    """

    per_gpu: list[TrialsOnGpu]
    trials_per_gpu: int
    fastest: FastestShare | None
    held_back: int | None
    gpu_memory_gb: float | None
    gpu_memory_others_gb: float | None
    memory_margin: float
    warnings: list[str]


class StudyPilot:
    """The pilot of a placed study: seconds of epochs, and on a GPU what several trials do on it.

    Args:
        spec: placed.
        placement: of it.
        machines: it is placed on.
        planned: its runs; what they train that is unlike the base, such as a GAN for extra pairs, is measured too.
        home: has the data.
        say: told what the pilot does.
    """

    def __init__(
        self,
        spec: StudySpec,
        placement: Placement,
        machines: Machines,
        planned: Sequence[PlannedRun],
        home: Home,
        say: Callable[[str], None],
    ) -> None:
        self._spec, self._placement, self._machines = spec, placement, machines
        self.own = _own_number(spec, placement)
        self._rows: list[TrialsOnGpu] = []
        self._first: SideBySide | None = None
        started = time.monotonic()
        self._alone = pilot(spec.base, home, trial_place(spec.base, placement), say)
        self._others = list(self._unlike_the_base(planned, home, say))
        if on_gpu(placement):
            self._measure(home, say, time.monotonic() - started)

    @property
    def measured(self) -> list[Measured]:
        """Seconds of epochs with as many trials per GPU as the study has."""
        return self._slowed(self.own, self._spec, self._placement)

    @property
    def beside(self) -> int:
        """How many trials per GPU the seconds of `measured` are those of; 1: of a trial alone."""
        row = self._row(self.own)
        return self.own if row is not None and row.slowdown else 1

    def sharing(self, planned: Sequence[PlannedRun], store: StageStore) -> GpuSharing | None:
        """What the pilot found of several trials per GPU; None on a CPU.

        Args:
            planned: the runs of the study.
            store: has stages that need not be trained again.
        """
        if not self._rows:
            return None
        options = {row.trials_per_gpu: self._placed_with(row.trials_per_gpu) for row in self._rows if row.fits}
        at_once = {count: placement.trials_at_once or count for count, (_, placement) in options.items()}
        best = fastest(self._rows, at_once)
        per_gpu_alone = fastest(self._rows, {count: count for count in options})
        measured = self._first is not None and self._first.problem is None
        return GpuSharing(
            per_gpu=self._rows,
            trials_per_gpu=self.own,
            fastest=None if best is None else self._fastest(best, *options[best], planned, store),
            held_back=per_gpu_alone if best is not None and per_gpu_alone and per_gpu_alone > best else None,
            gpu_memory_gb=round(self._first.device_bytes / GB, 3) if self._first and measured else None,
            gpu_memory_others_gb=round(self._first.others_bytes / GB, 3) if self._first and measured else None,
            memory_margin=MEMORY_MARGIN,
            warnings=self._warnings(),
        )

    def _measure(self, home: Home, say: Callable[[str], None], pilot_s: float) -> None:
        config = self._spec.base

        def measure(count: int) -> SideBySide:
            many = f"{count} trials side by side, each" if count > 1 else "one trial alone,"
            say(f"pilot: on one GPU {many} in a process of its own")
            # Each process takes at most about `count` times as long as one alone; the factor 3 is to be safe.
            limit_s = START_LIMIT_S + 3 * count * max(pilot_s, 10.0)
            found = measure_side_by_side(config, count, home.cache, limit_s=limit_s, window_s=WINDOW_S)
            self._first = self._first or found
            return found

        self._rows = list(trials_on_gpu(config, self._alone, self.own, measure))

    def _row(self, count: int) -> TrialsOnGpu | None:
        return next((row for row in self._rows if row.trials_per_gpu == count), None)

    def _slowed(self, count: int, spec: StudySpec, placement: Placement) -> list[Measured]:
        """Seconds of epochs of trials that are `count` on each GPU, for a placed study; as alone, if not measured."""
        row, place = self._row(count), trial_place(spec.base, placement)
        times = row.slowdown if row is not None else {}
        most = max(times.values(), default=1.0)  # for what the base has no epochs of
        return [
            replace(m, seconds=m.seconds * times.get(m.kind, most), likeness=replace(m.likeness, place=place))
            for m in (*self._alone, *self._others)
        ]

    def _unlike_the_base(
        self, planned: Sequence[PlannedRun], home: Home, say: Callable[[str], None]
    ) -> Iterator[Measured]:
        """Seconds of what the runs train of which the base tells nothing, alone; at most `FURTHER` configs of it."""
        place, known = trial_place(self._spec.base, self._placement), list(self._alone)
        measured = 0
        for each, config, for_pairs, name in _trained(planned):
            cost = seconds_of(config, each.images, place, known, for_pairs=for_pairs)
            if measured == FURTHER or (cost is not None and not cost.missing):
                continue
            fresh: list[Measured] = []
            if cost is None:
                fresh += pilot(config, home, place, say, name=name, rest=False)
            if RENDER in kinds_to_time(config, for_pairs=for_pairs):
                try:
                    fresh.append(pilot_of_rendering(config, home, place, say, name))
                except UserError as error:  # the plan says that it is not in the hours
                    say(f"pilot: {name}: {error}")
            measured += 1
            # What a run takes beside its epochs is taken to be what the base does.
            fresh = [replace(m, rest_s=self._alone[0].rest_s) for m in fresh]
            known += fresh
            yield from fresh

    def _placed_with(self, count: int) -> tuple[StudySpec, Placement]:
        """The study with so many trials per GPU, and where they go."""
        if count == self.own:
            return self._spec, self._placement
        return placed(_with_share(self._spec, share_of_gpu(count)), self._machines, elsewhere=True)

    def _fastest(
        self, count: int, spec: StudySpec, placement: Placement, planned: Sequence[PlannedRun], store: StageStore
    ) -> FastestShare:
        together = _own_number(spec, placement)
        clock = Clock(spec, placement, self._slowed(together, spec, placement), store)
        timed = clock.timed(planned)
        hours: Hours | None = clock.hours(timed) if timed else None
        share = gpus_of_worker(spec.base.runtime) if count == self.own else share_of_gpu(count)
        return FastestShare(
            trials_per_gpu=count,
            resources_gpu=share,
            trials_at_once=placement.trials_at_once,
            wall_hours=None if hours is None or hours.wall is None else round(hours.wall, 6),
            gpu_hours=None if hours is None else round(hours.gpu, 6),
        )

    def _warnings(self) -> list[str]:
        """Where the study has more trials per GPU than fit or were measured, and where something else was measured."""
        relative = {row.trials_per_gpu: row.relative_epochs_per_hour or 0.0 for row in self._rows}
        odd = [count for count, times in relative.items() if times > (1 + NOISE) * count]
        warnings = [f"{count} trials per GPU seem more than {count} times as fast as one" for count in odd[:1]]
        return [*self._too_many(), *(f"{text}: another program disturbed the pilot; repeat it" for text in warnings)]

    def _too_many(self) -> list[str]:
        last, own = self._rows[-1], self.own
        given = f"resources.gpu={gpus_of_worker(self._spec.base.runtime):g}"
        trials = f"{own} trials per GPU" if own > 1 else "one trial per GPU"
        if last.verdict == "does_not_fit" and last.trials_per_gpu <= own:
            fits = max((row.trials_per_gpu for row in self._rows if row.fits), default=None)
            mend = f"set resources.gpu={share_of_gpu(fits):g}" if fits else "lower batch_size or the networks' width"
            few = "" if last.trials_per_gpu == own else f"{last.trials_per_gpu} already: "
            return [f"{trials} ({given}) do{'' if own > 1 else 'es'} not fit: {few}{last.reason}; {mend}"]
        row = self._row(own)
        if own > 1 and (row is None or not row.slowdown):
            why = f"at most {TRIED_AT_MOST} are" if own > TRIED_AT_MOST else "see above"
            return [f"{trials} ({given}) were not measured ({why}): hours are those of trials that slow none down"]
        return []


def _trained(planned: Sequence[PlannedRun]) -> Iterator[tuple[PlannedRun, ExperimentConfig, bool, str]]:
    """(run, config, whether it makes the extra pairs of the run, name) of all that runs train, each kind of it once."""
    seen: set[str] = set()
    for each in planned:
        run = each.run
        whose = f"run {run.trial}" if run.arm is None else f"arm {run.arm}"
        for config, for_pairs in ((each.origin, True), (each.config, False)):
            if config is None:
                continue
            kinds = kinds_to_time(config, for_pairs=for_pairs)
            alike = repr([likeness_of(config, kind, each.images, {}).aspects for kind in kinds])
            if alike not in seen:
                seen.add(alike)
                name = f"a pilot of what makes the pairs of {whose}" if for_pairs else f"a pilot of {whose}"
                yield each, config, for_pairs, name


def on_gpu(placement: Placement) -> bool:
    """Whether trials compute on a GPU, which they may share."""
    return placement.device == "cuda"


def _own_number(spec: StudySpec, placement: Placement) -> int:
    """How many trials of a placed study train on one GPU at a time: Ray fills a GPU before it takes the next one."""
    share = gpus_of_worker(spec.base.runtime)
    fit = int(1 / share + 1e-6) if 0 < share < 1 else 1
    return max(min(fit, placement.trials_at_once or fit), 1)


def _with_share(spec: StudySpec, share: float) -> StudySpec:
    """The study with this share of a GPU for each worker."""
    resources = spec.file.resources.model_copy(update={"gpu": share})
    spec = replace(spec, file=spec.file.model_copy(update={"resources": resources}))
    return spec.on(spec.base.runtime.model_copy(update={"gpus_per_worker": share}))
