"""The Optuna side of a study: storage, sampler, and the searcher through which Ray Tune asks and tells.

The storage is the truth about what was tried. A trial that was running when its driver died is taken up again under its
own number; it fails only if it took the driver down several times without getting any further.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState
from ray.tune.search import Searcher

from sage_ray.errors import UserError
from sage_ray.runtime.driver_side import DriverSide
from sage_ray.runtime.overview import STORAGE_FILE
from sage_ray.search.dimension import Dimension, Sample
from sage_ray.search.spec import StudySpec

LOCK_TIMEOUT_S = 60
DEFAULT_STARTUP = 10

logger = logging.getLogger(__name__)
optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


MAX_STALLS = 5
"""Starts in a row that began to train, got no epoch further and ended with the driver, after which a trial fails."""


@dataclass(frozen=True)
class Progress:
    """What a trial has on disk: epochs over all its runs, and how often one of them began to train."""

    epochs: int = 0
    begun: int = 0


@dataclass(frozen=True)
class TrialRow:
    """One trial as the storage has it: `reports` by epoch, `attempts` starts, `stalls` as MAX_STALLS counts them, and
    `seen`, what was on disk when it was started last (None: it does not count)."""

    number: int
    state: str
    params: dict[str, Any]
    values: dict[str, Any] | None
    value: float | None
    reports: dict[int, float]
    error: str | None
    attempts: int
    stalls: int
    seen: Progress | None
    seconds: float | None


class StudyStorage:
    """The trials of one study in `folder`/optuna.db. One driver writes (it holds the study's lock), anybody reads."""

    def __init__(self, folder: Path, name: str, spec: StudySpec) -> None:
        self._storage = optuna.storages.RDBStorage(
            f"sqlite:///{folder / STORAGE_FILE}", engine_kwargs={"connect_args": {"timeout": LOCK_TIMEOUT_S}}
        )
        self.study = optuna.create_study(
            storage=self._storage,
            study_name=name,
            pruner=optuna.pruners.NopPruner(),
            direction="maximize" if spec.objective.maximize else "minimize",
            load_if_exists=True,
        )
        self.study.sampler = make_sampler(spec, done=len(self.rows()))
        self._ids: dict[int, int] = {}

    def rows(self) -> list[TrialRow]:
        """All trials that were started, by number."""
        waiting = TrialState.WAITING
        return [_row(trial) for trial in self.study.get_trials(deepcopy=False) if trial.state != waiting]

    def row(self, number: int) -> TrialRow:
        return _row(self._storage.get_trial(self._id(number)))

    def enqueue(self, samples: tuple[Sample, ...], spec: StudySpec) -> None:
        """Queue the fixed configurations that are not there yet, in order."""
        there = {trial.user_attrs.get("point") for trial in self.study.get_trials(deepcopy=False)}
        by_path = {dimension.path: dimension for dimension in spec.dimensions}
        for index, sample in enumerate(samples):
            if index not in there:
                stored = {path: by_path[path].encode(value) for path, value in sample.drawn.items()}
                self.study.enqueue_trial(stored, user_attrs={"point": index})

    def draw(self, number: int | None, spec: StudySpec) -> tuple[int, Sample]:
        """(number, sample) of a new trial, or of the running trial `number` that is taken up again.

        Raises:
            UserError: the values cannot be combined; the trial is told as failed.
        """
        trial = self.study.ask() if number is None else Trial(self.study, self._id(number))
        stored = trial.user_attrs
        if "sample" in stored:
            known = json.loads(stored["sample"])
            return trial.number, Sample(known["params"], known["values"], {})
        try:
            sample = _sample(trial, spec)
            spec.config(sample.values)
        except UserError as error:
            self.tell_failed(trial.number, f"values cannot be combined: {error}")
            raise
        trial.set_user_attr("sample", json.dumps({"params": sample.params, "values": sample.values}))
        return trial.number, sample

    def note_attempt(self, number: int, now: Progress) -> int:
        """Count a start of a trial that has `now` on disk; returns how many starts before it were stalls."""
        before = self.row(number)
        stalls = before.stalls
        if before.seen is not None and now.epochs > before.seen.epochs:
            stalls = 0
        elif before.seen is not None and now.begun > before.seen.begun:
            stalls += 1
        self._note_starts(number, before.attempts + 1, stalls, now)
        return stalls

    def forgive(self, number: int) -> None:
        """Do not count the current attempt as a stall: it was ended on purpose, not by a crash."""
        row = self.row(number)
        self._note_starts(number, row.attempts, row.stalls, None)

    def _note_starts(self, number: int, attempts: int, stalls: int, seen: Progress | None) -> None:
        starts = {"attempts": attempts, "stalls": stalls, "seen": seen and [seen.epochs, seen.begun]}
        self._storage.set_trial_user_attr(self._id(number), "starts", starts)

    def report(self, number: int, epoch: int, value: float) -> None:
        """Note the running objective after `epoch` epochs; non-finite values are left out."""
        if not math.isfinite(value):
            return
        # A trial that was told already takes no more reports, and must not end the sweep by one.
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self._storage.set_trial_intermediate_value(self._id(number), epoch, value)

    def tell_complete(self, number: int, value: float) -> None:
        """COMPLETE with its objective, or FAIL if that is not finite."""
        if math.isfinite(value):
            self._tell(number, TrialState.COMPLETE, value)
        else:
            self.tell_failed(number, f"the objective is not finite ({value})")

    def tell_pruned(self, number: int) -> None:
        """PRUNED at the last reported epoch."""
        self._tell(number, TrialState.PRUNED, None)

    def tell_failed(self, number: int, error: str) -> None:
        """FAIL with one line that says why."""
        if self.row(number).state == "RUNNING":
            self._storage.set_trial_user_attr(self._id(number), "error", " ".join(error.split())[:500])
            self._tell(number, TrialState.FAIL, None)

    def _tell(self, number: int, state: TrialState, value: float | None) -> None:
        # A second telling (Tune may repeat a completion) must never end the sweep.
        if self.row(number).state != "RUNNING":
            logger.info("trial %d was told before", number)
            return
        self.study.tell(number, value, state=state)

    def _id(self, number: int) -> int:
        if number not in self._ids:
            study_id = self._storage.get_study_id_from_name(self.study.study_name)
            self._ids[number] = self._storage.get_trial_id_from_study_id_trial_number(study_id, number)
        return self._ids[number]


def read_rows(folder: Path, name: str) -> list[TrialRow]:
    """Trials of a study whose database exists, by number; [] if there is none yet."""
    if not (folder / STORAGE_FILE).is_file():
        return []
    storage = optuna.storages.RDBStorage(
        f"sqlite:///{folder / STORAGE_FILE}", engine_kwargs={"connect_args": {"timeout": LOCK_TIMEOUT_S}}
    )
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        return []
    trials = study.get_trials(deepcopy=False, states=None)
    return [_row(trial) for trial in trials if trial.state != TrialState.WAITING]


def make_sampler(spec: StudySpec, done: int) -> optuna.samplers.BaseSampler:
    """The study's sampler; its seed moves with the trials done, so that a restart does not repeat its draws."""
    part = spec.sampler
    seed = part.seed + done
    startup = part.startup or DEFAULT_STARTUP
    match part.name:
        case "tpe":
            conditional = any(dimension.when for dimension in spec.dimensions)
            return optuna.samplers.TPESampler(
                seed=seed,
                multivariate=True,
                group=conditional,
                constant_liar=spec.file.concurrency != 1,
                n_startup_trials=startup,
            )
        case "gp":
            return optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False, n_startup_trials=startup)
        case "qmc":
            # The sequence goes on by itself: its position is the number of trials in the storage.
            return optuna.samplers.QMCSampler(scramble=True, seed=part.seed, warn_independent_sampling=False)
        case "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)


def simulate(spec: StudySpec, count: int) -> list[Sample]:
    """`count` configurations as the study may draw them: fixed ones first, then draws that know no scores.

    Exact for a grid and for points, and for random and qmc in a study of one attempt; for samplers that learn it is a
    draw from the prior with the same seed.
    """
    fixed = list(spec.fixed[:count])
    learns = spec.sampler.name in ("tpe", "gp", "nsga2")
    sampler = optuna.samplers.RandomSampler(seed=spec.sampler.seed) if learns else make_sampler(spec, 0)
    study = optuna.create_study(sampler=sampler)
    for _ in range(10 * count):
        if len(fixed) >= count:
            break
        trial = study.ask()
        try:
            sample = _sample(trial, spec)
            spec.config(sample.values)
            fixed.append(sample)
        except UserError:
            logger.debug("a draw of the simulation cannot be combined")
        study.tell(trial, 0.0)
    return fixed


class OptunaSearcher(DriverSide, Searcher):
    """Asks Optuna for Tune and tells it how each trial ended.

    Args:
        storage: the study.
        spec: what is searched or compared.
        orphans: numbers of trials to take up again, first.
        payload: what the trainable gets for (number, sample); merged with `number`.
        progress: what a trial has on disk.
        halted: whether the sweep is being ended on purpose; its trials then stay RUNNING, to be taken up again.
        limit: how many trials there may be at a time, asked anew for each: machines join and leave. Tune's own limiter
            is fixed when the sweep starts.
    """

    def __init__(
        self,
        storage: StudyStorage,
        spec: StudySpec,
        *,
        orphans: list[int],
        payload: Callable[[int, Sample], Mapping[str, Any]],
        progress: Callable[[int], Progress],
        halted: Callable[[], bool],
        limit: Callable[[], int],
    ) -> None:
        super().__init__(metric="objective", mode="max" if spec.file.objective.maximize else "min")
        self._storage, self._spec, self._orphans = storage, spec, deque(orphans)
        self._payload, self._progress, self._halted, self._limit = payload, progress, halted, limit
        self._numbers: dict[str, int] = {}
        self._live: set[str] = set()

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        while not self._halted():
            # With a trial alive, None makes Tune look after that one and ask again; without one it would wait here.
            if self._live and len(self._live) >= self._limit():
                return None
            number = self._orphans.popleft() if self._orphans else None
            if number is None and len(self._storage.rows()) >= self._spec.trials:
                return Searcher.FINISHED  # type: ignore[return-value]
            try:
                number, sample = self._storage.draw(number, self._spec)
            except UserError as error:
                logger.warning("%s", error)
                continue
            stalls = self._storage.note_attempt(number, self._progress(number))
            if stalls >= MAX_STALLS:
                self._storage.tell_failed(number, f"began to train {stalls} times without getting any further")
                continue
            self._numbers[trial_id] = number
            self._live.add(trial_id)
            return {"number": number, **self._payload(number, sample)}
        # Not None: Tune would ask again for minutes before it looked at anything else.
        return Searcher.FINISHED  # type: ignore[return-value]

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._note(self._numbers[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        number = self._numbers[trial_id]
        self._live.discard(trial_id)
        if error:
            # The driver's callback comes next, knows the trace, and tells the failure with it.
            return
        if result and result.get("trial_failed"):
            self._storage.tell_failed(number, str(result["trial_failed"]))
        elif result and result.get("trial_complete"):
            self._storage.tell_complete(number, float(result["objective"]))
        elif self._halted() or not result or result.get("trial_halted"):
            self._storage.forgive(number)
        else:
            self._note(number, result)
            self._storage.tell_pruned(number)

    def _note(self, number: int, result: Mapping[str, Any]) -> None:
        if "step" in result:
            self._storage.report(number, int(result["step"]), float(result["objective"]))

    def save(self, checkpoint_path: str) -> None:
        """Nothing of it is worth keeping: the storage has all. Tune insists on a file."""
        Path(checkpoint_path).write_text("the study's storage is the truth\n")

    def restore(self, checkpoint_path: str) -> None:
        """Never used: a resumed sweep starts anew from the storage."""


def _sample(trial: Trial, spec: StudySpec) -> Sample:
    index = trial.user_attrs.get("point")
    if index is None:
        return spec.sample(lambda dimension: _suggest(trial, dimension))
    sample: Sample = spec.fixed[index]
    for dimension in spec.dimensions:
        if dimension.path in sample.drawn and dimension.kind != "tie":
            _suggest(trial, dimension)
    return sample


def _suggest(trial: Trial, dimension: Dimension) -> Any:
    path = dimension.path
    if dimension.kind == "categorical":
        choices = [dimension.encode(choice) for choice in dimension.choices]
        return dimension.decode(trial.suggest_categorical(path, choices))
    if dimension.kind == "int":
        step = int(dimension.step or 1)
        return trial.suggest_int(path, int(dimension.low), int(dimension.high), step=step, log=dimension.log)
    return trial.suggest_float(path, dimension.low, dimension.high, step=dimension.step, log=dimension.log)


def _row(trial: FrozenTrial) -> TrialRow:
    attrs = trial.user_attrs
    sample = json.loads(attrs["sample"]) if "sample" in attrs else None
    starts: Mapping[str, Any] = attrs.get("starts", {})
    ended = trial.datetime_complete
    started = trial.datetime_start
    return TrialRow(
        number=trial.number,
        state=trial.state.name,
        params=sample["params"] if sample else dict(trial.params),
        values=sample["values"] if sample else None,
        value=trial.value if trial.state == TrialState.COMPLETE else None,
        reports=dict(trial.intermediate_values),
        error=attrs.get("error"),
        attempts=starts.get("attempts", 0),
        stalls=starts.get("stalls", 0),
        seen=Progress(*starts["seen"]) if starts.get("seen") else None,
        seconds=(ended - started).total_seconds() if ended and started else None,
    )
