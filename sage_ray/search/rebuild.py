"""A study's Optuna storage made anew from what its runs recorded: it was lost or damaged, or the study was changed.

The storage is the truth about the trials of a study while it runs, and yet nothing in it is beyond recovery: each run's
folder has its config, its reports and how it ended. A study that gets more seeds, arms, choices or dimensions is made
anew the same way under its new file, with the trials that it had.
"""

from __future__ import annotations

import contextlib
import json
import re
import statistics
import time
from calendar import timegm
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from sage_ray.config import ExperimentConfig, flatten, stable_hash
from sage_ray.errors import UserError
from sage_ray.record.optuna_store import OptunaStore
from sage_ray.record.overview import FAILED_ATTR
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunRecord
from sage_ray.search.objectives import run_objectives
from sage_ray.search.sampling import POINT, directions_of, distribution, stored_params
from sage_ray.search.storage import DIVERGED, TrialRow, is_divergence
from sage_ray.search.study_fault import is_study_fault
from sage_ray.search.study_folder import StudyFolder
from sage_ray.study.dimension import Sample
from sage_ray.study.objective import reduce_reports
from sage_ray.study.spec import StudySpec

FILE_HASH = "file_hash"
"""User attribute of an Optuna study: hash of the file that its trials were drawn and stored under."""


def is_sound(folder: StudyFolder, *, thorough: bool = False) -> bool:
    """Whether the study's storage is there and can be read; `thorough` reads all of it.

    Raises:
        UserError: the server that has it cannot be used.
    """
    return folder.store().is_sound(thorough=thorough)


def is_of(folder: StudyFolder, file_hash: str) -> bool:
    """Whether the study's storage, which is sound, was made under the file of that hash.

    Storages of earlier releases do not say it; they are of the file that their study began with.
    """
    with _study_of(folder) as study:
        return study.user_attrs.get(FILE_HASH) in (None, file_hash)


def stamp(folder: StudyFolder, file_hash: str) -> None:
    """Note in the study's storage the file that it is of, unless it says so already."""
    with _study_of(folder) as study:
        if FILE_HASH not in study.user_attrs:
            study.set_user_attr(FILE_HASH, file_hash)


@contextlib.contextmanager
def _study_of(folder: StudyFolder) -> Iterator[optuna.Study]:
    store = folder.store()
    store.mend_tail()
    with store.opened() as storage:
        yield optuna.load_study(study_name=store.study_name, storage=storage)


def rebuild(
    folder: StudyFolder,
    spec: StudySpec,
    *,
    known: Sequence[TrialRow] = (),
    again: Collection[str] = (),
    store: OptunaStore | None = None,
) -> int:
    """Make the study's storage anew from its runs; the old one stays beside it. Returns the number of trials.

    Args:
        folder: the study, locked by the caller.
        spec: what its file says by now.
        known: rows of the storage before, if it could be read: what they know and no run does is kept.
        again: first runs of the failed trials that shall be taken up again.
        store: where it is made; default: where it is.
    """
    with (store or folder.store()).replaced() as (storage, name):
        study = optuna.create_study(storage=storage, study_name=name, directions=directions_of(spec))
        study.set_user_attr(FILE_HASH, spec.hash)
        trials = recover(folder, spec, known=known, again=again)
        for trial in trials:
            if trial.state == TrialState.RUNNING and spec.run_grid(trial.number)[0].run_id in again:
                _take_up_failed(folder.run_folders(spec, trial.number))
        study.add_trials(trials)
    return sum(trial.state != TrialState.WAITING for trial in trials)


def recover(
    folder: StudyFolder, spec: StudySpec, *, known: Sequence[TrialRow] = (), again: Collection[str] = ()
) -> list[FrozenTrial]:
    """The trials of a study as its runs tell them, by number; changes nothing. Arguments as `rebuild`."""
    rows = {row.number: row for row in known}
    numbers = _numbers(folder, spec, rows)
    points = {stable_hash(sample.params): index for index, sample in reversed(list(enumerate(spec.fixed)))}
    trials = []
    for number in range(max(numbers, default=-1) + 1):
        named = spec.run_grid(number)[0].run_id in again
        trial = _trial(folder, spec, number, rows.get(number), points, again=named)
        trial.number = number
        trials.append(trial)
    return trials


def _numbers(folder: StudyFolder, spec: StudySpec, rows: Mapping[int, TrialRow]) -> set[int]:
    if spec.kind == "ablation":
        return {number for number in range(spec.trials) if folder.run_folders(spec, number)}
    pattern = re.compile(rf"{re.escape(folder.name)}-t(\d{{4,}})-s\d+(-f\d+)?")
    found = (pattern.fullmatch(run_id) for run_id in folder.home.run_ids())
    return {int(match[1]) for match in found if match} | set(rows)


def _trial(
    folder: StudyFolder,
    spec: StudySpec,
    number: int,
    row: TrialRow | None,
    points: dict[str, int],
    *,
    again: bool,
) -> FrozenTrial:
    runs = [run for run in folder.run_folders(spec, number) if run.read().study == folder.name]
    sample = _sample(spec, number, runs, row)
    if sample is None:
        if row is not None and row.state == "FAIL" and not again:
            return create_trial(state=TrialState.FAIL, user_attrs={"error": row.error or "failed"})
        return _waiting(spec, number, points)
    records = [run.read() for run in runs]
    state, error = _state(spec, records, row, again=again)
    attrs: dict[str, Any] = {"sample": json.dumps({"params": sample.params, "values": sample.values})}
    index_of = points.pop(stable_hash(sample.params), None) if spec.kind == "sweep" else number
    if index_of is not None:
        attrs[POINT] = index_of
    constraints = spec.missed_constraints(sample.values)
    if error is not None:
        attrs["error"] = error
    if error is not None and is_divergence(error):
        state, attrs[FAILED_ATTR], constraints = TrialState.PRUNED, 1, {**constraints, DIVERGED: 1.0}
    complete = state == TrialState.COMPLETE
    stored = stored_params(spec, sample)
    trial = create_trial(
        state=state,
        values=_objectives(spec, runs) if complete else None,
        params=stored,
        distributions={d.path: distribution(d) for d in spec.dimensions if d.path in stored},
        user_attrs=attrs,
        intermediate_values=_reports(spec, runs),
        constraints=constraints or None,
    )
    _set_times(trial, records)
    return trial


def _waiting(spec: StudySpec, number: int, points: dict[str, int]) -> FrozenTrial:
    """A trial of which nothing is left. It is drawn again, and as draws are keyed by number, to what it was."""
    if number >= len(spec.fixed) or points.pop(stable_hash(spec.fixed[number].params), None) is None:
        return create_trial(state=TrialState.WAITING)
    return create_trial(
        state=TrialState.WAITING,
        user_attrs={POINT: number},
        system_attrs={"fixed_params": stored_params(spec, spec.fixed[number])},
    )


def _sample(spec: StudySpec, number: int, runs: Sequence[RunFolder], row: TrialRow | None) -> Sample | None:
    """What the trial is a configuration of, from the config of a run; else what the storage before knew."""
    if spec.kind == "ablation":
        return spec.fixed[number] if runs else None
    if runs:
        return sample_of(spec, runs[0].config())
    if row is not None and row.values is not None and row.state != "FAIL":
        return sample_of(spec, spec.config(row.values))
    return None


def sample_of(spec: StudySpec, config: ExperimentConfig) -> Sample:
    """A config as a sample of a space: the values of its dimensions, and whatever else differs from the base.

    The latter comes from a dimension that the space has no more; it stays to be seen, and is told to no sampler.
    """
    mine, base = (flatten(tree.identity()) for tree in (config, spec.base))
    differing = {path: value for path, value in mine.items() if value != base.get(path, ...)}
    for path in ("seed", "data.split.fold"):
        differing.pop(path, None)
    sample = spec.sample(lambda dimension: config.get(dimension.path))
    params = {path: config.get(path) for path in sample.params} | differing
    return Sample(params, params if differing else {}, sample.drawn)


def _state(
    spec: StudySpec, records: Sequence[RunRecord], row: TrialRow | None, *, again: bool
) -> tuple[TrialState, str | None]:
    """How a trial ended, by its runs, and why it failed."""
    failed = [record for record in records if record.state == "FAIL" and not is_study_fault(record)]
    if again:
        return TrialState.RUNNING, None
    if failed:
        return TrialState.FAIL, f"{failed[0].run_id}: {failed[0].error or 'failed'}"
    if row is not None and row.state == "FAIL":
        return TrialState.FAIL, row.error or "failed"
    if any(record.state == "PRUNED" for record in records):
        return TrialState.PRUNED, None
    whole = len(records) == len(spec.seeds_and_folds()) if spec.kind == "sweep" else bool(records)
    return (TrialState.COMPLETE if whole and all(r.finished for r in records) else TrialState.RUNNING), None


def _take_up_failed(runs: Sequence[RunFolder]) -> None:
    for run in runs:
        if run.read().state == "FAIL":
            run.set_state("INTERRUPTED", error="failed before; taken up again")


def _objectives(spec: StudySpec, runs: Sequence[RunFolder]) -> list[float]:
    """The objectives of a complete trial, each a mean over its runs."""
    each = [run_objectives(run.metrics(), run.config(), spec.objectives, run.read().pair_seconds) for run in runs]
    return [statistics.fmean(values) for values in zip(*each, strict=True)]


def _reports(spec: StudySpec, runs: Sequence[RunFolder]) -> dict[int, float] | None:
    """The running objective by epoch of the trial's first run; none of a study with two objectives."""
    if not runs or len(spec.objectives) > 1:
        return None
    lines = runs[0].metrics()
    values = {int(line["epoch"]): reduce_reports(lines[:end], spec.objective) for end, line in enumerate(lines, 1)}
    return {epoch: value for epoch, value in values.items() if value == value} or None


def _set_times(trial: FrozenTrial, records: Sequence[RunRecord]) -> None:
    stamps = [timegm(time.strptime(record.created, "%Y-%m-%dT%H:%M:%SZ")) for record in records if record.created]
    if stamps:
        trial.datetime_start = datetime.fromtimestamp(min(stamps))
        if trial.state.is_finished():
            trial.datetime_complete = trial.datetime_start + timedelta(seconds=sum(r.seconds for r in records))


def relabel(folder: StudyFolder, spec: StudySpec) -> None:
    """Give the runs of an ablation the number that their trial has by now: more seeds or arms move them."""
    for number in range(spec.trials):
        for run in folder.run_folders(spec, number):
            with contextlib.suppress(UserError):
                if run.read().trial != number:
                    run.update(trial=number)
