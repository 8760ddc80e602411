"""What Optuna's storage holds of a study, the only truth about its trials."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from sage_ray.config import ExperimentConfig
from sage_ray.errors import NonFiniteLoss, UserError
from sage_ray.record.optuna_store import OptunaStore, close
from sage_ray.record.overview import FAILED_ATTR
from sage_ray.record.patient_storage import Patience, StorageAway
from sage_ray.record.sole_writer import SoleWriterStorage
from sage_ray.search.sampling import POINT, KeyedSampler, directions_of, draw_sample, queue
from sage_ray.search.study_note import NOTE_VERSION, OURS, note_attributes
from sage_ray.search.trial_counts import TrialCounts
from sage_ray.study.dimension import Sample
from sage_ray.study.spec import StudySpec

DIVERGED = "diverged"
"""Constraint of Optuna's that a diverged trial violates: a sampler then keeps away, and no score is invented for it."""
METRIC_NAMES = "study:metric_names"
"""Optuna's own attribute behind `Study.set_metric_names` (Optuna 5.0), which warns that it is experimental."""
_DIVERGENCE = re.compile(rf"(^|: ){NonFiniteLoss.state}\b")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """What a trial has on disk: epochs over all its runs, and how often one of them began to train."""

    epochs: int = 0
    begun: int = 0


@dataclass(frozen=True)
class TrialRow:
    """One trial as the storage has it.

    `state` is RUNNING, COMPLETE, PRUNED or FAIL; `value` the first of `objectives`. `reports` are by epoch; `attempts`
    counts starts, and `stalls` those that `MAX_STALLS` counts; `seen` is what was on
    disk when it was started last (None: that start does not count).
    """

    number: int
    state: str
    params: dict[str, Any]
    values: dict[str, Any] | None
    value: float | None
    objectives: tuple[float, ...]
    reports: dict[int, float]
    error: str | None
    attempts: int
    stalls: int
    seen: Progress | None
    seconds: float | None


class Drawn(NamedTuple):
    """A trial that is to begin: its number, what was drawn for it, and the config of each of its runs.

    `stalls` says how many starts before this one were stalls, where the start was counted.
    """

    number: int
    sample: Sample
    configs: tuple[ExperimentConfig, ...]
    stalls: int = 0


class StudyStorage:
    """The trials of one study. One driver writes (it holds the study's lock), anybody reads.

    Args:
        folder: of the study.
        name: of the study.
        spec: what it runs.
        earlier: trials of other studies that the sampler knows.
        store: where the trials are; default: the sqlite file of the folder.
        patience: how long calls of a server are repeated; default: not at all.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        spec: StudySpec,
        earlier: Sequence[FrozenTrial] = (),
        *,
        store: OptunaStore | None = None,
        patience: Patience | None = None,
    ) -> None:
        store = store or OptunaStore(folder, name)
        store.mend_tail()
        self._patience = patience or Patience(store.where)
        self._backend = store.open(self._patience)
        self._storage = SoleWriterStorage(self._backend)
        self.study = optuna.create_study(
            storage=self._storage,
            study_name=store.study_name,
            pruner=optuna.pruners.NopPruner(),
            directions=directions_of(spec),
            load_if_exists=True,
        )
        self._sampler = KeyedSampler(spec, earlier)
        self.study.sampler = self._sampler
        self._several = len(spec.objectives) > 1
        self._study_id = self._storage.get_study_id_from_name(store.study_name)
        self._rows: list[TrialRow | None] = []
        """By number, as `rows` has found them last; None: not started."""
        self._changing: set[int] = set()
        """Numbers of those that had not ended then."""
        self._when_away: Callable[[str], None] | None = None
        self._counts = TrialCounts(folder) if store.file_to_count is None else None
        if self._counts is not None:
            self._counts.begin({row.number: row.state for row in self.rows()})

    @property
    def away(self) -> str | None:
        """What is wrong with the storage, once its server has been away for too long; nothing is written any more."""
        return self._patience.over

    def when_away(self, tell: Callable[[str], None], ending: Callable[[], bool]) -> None:
        """From now on a server that stays away is told to `tell` instead of raised, and what is not written is left.

        The runs have it, and the next start tells it. `ending`: whether the study is being ended, so that less
        patience is due.
        """
        self._when_away, self._patience.hurried = tell, ending

    @contextmanager
    def _unless_away(self, *, needed: bool = False) -> Iterator[None]:
        """Leave the body where the server stays away, once that is told; what is `needed` raises all the same."""
        try:
            yield
        except StorageAway as error:
            if self._when_away is not None:
                self._when_away(str(error))
            if self._when_away is None or needed:
                raise

    def write_reports(self, *, at_once: bool = False) -> None:
        """Write what trials have reported if that is some seconds old, or `at_once`; an end takes its own along."""
        with self._unless_away():
            self._storage.write_reports(at_once=at_once)

    def close(self) -> None:
        """Write what is left, and give the connections back."""
        with contextlib.suppress(StorageAway):
            self._storage.write_reports(at_once=True)
        close(self._backend)

    def describe(self, names: Sequence[str], note: str) -> None:
        """Say in the storage what the objectives are called and what the study is, for who looks at it with Optuna.

        What it says already is not written again, and a note that somebody has edited is left alone.
        """
        attrs = self._storage.get_study_system_attrs(self._study_id)
        wanted = {METRIC_NAMES: list(names)}
        if attrs.get(f"dashboard:{NOTE_VERSION}", OURS) == OURS:
            wanted |= note_attributes(note)
        with self._unless_away():
            for key, value in wanted.items():
                if attrs.get(key) != value:
                    self._storage.set_study_system_attr(self._study_id, key, value)

    def rows(self) -> list[TrialRow]:
        """All trials that were started, by number. Those that ended are looked at once: they change no more."""
        trials = self._storage.get_all_trials(self._study_id, deepcopy=False)
        self._changing.update(range(len(self._rows), len(trials)))
        self._rows += [None] * (len(trials) - len(self._rows))
        for number in list(self._changing):
            trial = trials[number]
            if trial.state != TrialState.WAITING:
                self._rows[number] = row_of(trial)
            if trial.state.is_finished():
                self._changing.discard(number)
        return [row for row in self._rows if row is not None]

    def next_number(self) -> int:
        """The number that the next new trial will have: that of the first one queued, if there is any."""
        trials = self._storage.get_all_trials(self._study_id, deepcopy=False)
        return next((trial.number for trial in trials if trial.state == TrialState.WAITING), len(trials))

    def row(self, number: int) -> TrialRow:
        """One trial, by number."""
        return row_of(self._storage.get_trial(self._id(number)))

    def enqueue(self, samples: tuple[Sample, ...], spec: StudySpec) -> None:
        """Queue the fixed configurations that are not there yet, in order."""
        there = {trial.user_attrs.get(POINT) for trial in self.study.get_trials(deepcopy=False)}
        with self._storage.together():
            for index, sample in enumerate(samples):
                if index not in there:
                    queue(self.study, sample, index, spec)

    def draw(self, number: int | None, spec: StudySpec, progress: Callable[[int], Progress] | None = None) -> Drawn:
        """A new trial, or the running trial `number` that is taken up again.

        The trial is written once, with all that was drawn for it. A driver that is killed before that has drawn
        nothing: when it begins again it draws a trial of the same number, under the same key.

        Args:
            number: of the trial; None: a new one.
            spec: what is searched or compared.
            progress: what a trial has on disk; if given, this start of the trial is counted.

        Raises:
            UserError: the values cannot be combined, or nothing possible is left to draw; the trial is told as failed.
            StorageAway: the server has been away for too long.
        """
        with self._unless_away(needed=True):
            return self._draw(number, spec, progress)
        raise AssertionError("unreachable")

    def _draw(self, number: int | None, spec: StudySpec, progress: Callable[[int], Progress] | None) -> Drawn:
        refusal: UserError | None = None
        stalls = 0
        with self._storage.together():
            trial = self.study.ask() if number is None else Trial(self.study, self._id(number))
            try:
                sample, configs = self._drawn(trial, spec)
            except UserError as error:
                refusal = error
            else:
                stalls = 0 if progress is None else self._note_attempt(trial.number, progress(trial.number))
        self._count(trial.number, "RUNNING")
        if refusal is not None:
            self.tell_failed(trial.number, f"values cannot be combined: {refusal}")
            raise refusal
        return Drawn(trial.number, sample, configs, stalls)

    def _drawn(self, trial: Trial, spec: StudySpec) -> tuple[Sample, tuple[ExperimentConfig, ...]]:
        """What a trial is a configuration of, known or drawn now and noted, and the config of each of its runs."""
        stored = trial.user_attrs
        if "sample" in stored:
            known = json.loads(stored["sample"])
            sample = Sample(known["params"], known["values"], {})
        else:
            sample = draw_sample(trial, spec)
        configs = self._sampler.configs(trial.number, sample)
        missed = spec.missed_constraints(sample.values)
        if "sample" not in stored:
            for name, amount in missed.items():
                trial.set_constraint(name, amount)
            trial.set_user_attr("sample", json.dumps({"params": sample.params, "values": sample.values}))
        return sample, configs

    def _note_attempt(self, number: int, now: Progress) -> int:
        """Count a start of a trial that has `now` on disk; returns how many starts before it were stalls."""
        before = self.row(number)
        stalls = before.stalls
        if before.seen is not None and now.epochs > before.seen.epochs:
            stalls = 0
        elif before.seen is not None and now.begun > before.seen.begun:
            stalls += 1
        self._note_starts(number, before.attempts + 1, stalls, now)
        return stalls

    def forgive(self, number: int, *, begun: bool = True) -> None:
        """Do not count the current attempt as a stall, as it was no crash; unless it has `begun`, not at all."""
        with self._unless_away():
            row = self.row(number)
            self._note_starts(number, row.attempts if begun else row.attempts - 1, row.stalls, None)

    def _note_starts(self, number: int, attempts: int, stalls: int, seen: Progress | None) -> None:
        starts = {"attempts": attempts, "stalls": stalls, "seen": seen and [seen.epochs, seen.begun]}
        self._storage.set_trial_user_attr(self._id(number), "starts", starts)

    def report(self, number: int, epoch: int, value: float) -> None:
        """Note the running objective after `epoch` epochs; non-finite values are left out."""
        if not math.isfinite(value) or self._several:  # Optuna takes no reports of a study with two objectives
            return
        # A trial that was told already takes no more reports, and must not end the sweep by one.
        with self._unless_away(), contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self._storage.set_trial_intermediate_value(self._id(number), epoch, value)

    def tell_complete(self, number: int, values: Sequence[float]) -> None:
        """Tell a trial as COMPLETE with its objectives, or as FAIL if one is not finite."""
        odd = next((value for value in values if not math.isfinite(value)), None)
        if odd is None:
            self._tell(number, TrialState.COMPLETE, list(values))
        else:
            self.tell_failed(number, f"the objective is not finite ({odd})")

    def tell_pruned(self, number: int) -> None:
        """Tell a trial as PRUNED at its last reported epoch."""
        self._tell(number, TrialState.PRUNED, None)

    def tell_failed(self, number: int, error: str) -> None:
        """Tell a trial as FAIL with one line that says why.

        Samplers learn nothing of a FAIL. One that diverged is therefore kept as pruned and infeasible in the storage,
        which says where not to draw without a score that nobody has seen; its row says FAIL.
        """
        line = " ".join(error.split())[:500]
        with self._unless_away():
            if self.row(number).state == "RUNNING":
                self._fail(number, line)

    def _fail(self, number: int, line: str) -> None:
        trial_id = self._id(number)
        with self._storage.together():
            self._storage.set_trial_user_attr(trial_id, "error", line)
            if is_divergence(line):
                Trial(self.study, trial_id).set_constraint(DIVERGED, 1.0)
                self._storage.set_trial_user_attr(trial_id, FAILED_ATTR, 1)
                # Not by `Study.tell`, which would make the last report its value.
                self._storage.set_trial_state_values(trial_id, TrialState.PRUNED)
            else:
                self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
        self._count(number, "FAIL")

    def _tell(self, number: int, state: TrialState, values: list[float] | None) -> None:
        # A second telling (Tune may repeat a completion) must never end the sweep.
        with self._unless_away():
            self.study.tell(number, values, state=state, skip_if_finished=True)
            self._count(number, state.name)

    def _count(self, number: int, state: str) -> None:
        if self._counts is not None:
            self._counts.note(number, state)

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)


def read_rows(folder: Path, name: str, store: OptunaStore | None = None) -> list[TrialRow]:
    """Trials of a study, by number; [] if its storage has none, or is not there yet.

    Raises:
        UserError: the server that has them cannot be used.
    """
    store = store or OptunaStore(folder, name)
    if not store.is_server and not store.file.is_file():
        return []
    with store.opened() as storage:
        try:
            study = optuna.load_study(study_name=store.study_name, storage=storage)
        except KeyError:
            return []
        return rows_of(study.get_trials(deepcopy=False, states=None))


def is_divergence(error: str) -> bool:
    """Whether the line that says why a trial failed names a loss that was not finite."""
    return _DIVERGENCE.search(error) is not None


def rows_of(trials: Sequence[FrozenTrial]) -> list[TrialRow]:
    """Rows of the trials that were started."""
    return [row_of(trial) for trial in trials if trial.state != TrialState.WAITING]


def row_of(trial: FrozenTrial) -> TrialRow:
    """One trial of the storage."""
    attrs = trial.user_attrs
    sample = json.loads(attrs["sample"]) if "sample" in attrs else None
    starts: Mapping[str, Any] = attrs.get("starts", {})
    ended = trial.datetime_complete
    started = trial.datetime_start
    return TrialRow(
        number=trial.number,
        state="FAIL" if FAILED_ATTR in attrs and trial.state == TrialState.PRUNED else trial.state.name,
        params=sample["params"] if sample else dict(trial.params),
        values=sample["values"] if sample else None,
        value=trial.values[0] if trial.state == TrialState.COMPLETE else None,
        objectives=tuple(trial.values) if trial.state == TrialState.COMPLETE else (),
        reports=dict(trial.intermediate_values),
        error=attrs.get("error"),
        attempts=starts.get("attempts", 0),
        stalls=starts.get("stalls", 0),
        seen=Progress(*starts["seen"]) if starts.get("seen") else None,
        seconds=(ended - started).total_seconds() if ended and started else None,
    )
