"""Writing trials to Optuna's storage: all that is new of some of them in one transaction, where it is a database.

Each of Optuna's own calls writes one parameter, attribute or state in a transaction of its own, and looks the trial up
before and after it: a trial takes a dozen of them. What is written here is the same rows of the same tables. A storage
that is no database, or whose tables are not those that are known here, is written by Optuna's calls.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Delete, Insert, Table, bindparam, delete, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from sage_ray.record.patient_storage import PatientStorage

TRIALS = "trials"
PARAMS, VALUES, REPORTS = "trial_params", "trial_values", "trial_intermediate_values"
USER_ATTRS, SYSTEM_ATTRS = "trial_user_attributes", "trial_system_attributes"
KNOWN: dict[str, set[str]] = {
    TRIALS: {"trial_id", "number", "study_id", "state", "datetime_start", "datetime_complete"},
    PARAMS: {"param_id", "trial_id", "param_name", "param_value", "distribution_json"},
    VALUES: {"trial_value_id", "trial_id", "objective", "value", "value_type"},
    REPORTS: {
        *("trial_intermediate_value_id", "trial_id", "step"),
        *("intermediate_value", "intermediate_value_type"),
    },
    USER_ATTRS: {"trial_user_attribute_id", "trial_id", "key", "value_json"},
    SYSTEM_ATTRS: {"trial_system_attribute_id", "trial_id", "key", "value_json"},
}
"""Optuna's tables of trials, and their columns, as they are written here."""
_KEYS = {PARAMS: "param_name", VALUES: "objective", REPORTS: "step", USER_ATTRS: "key", SYSTEM_ATTRS: "key"}
"""Column that tells the rows of a trial apart."""
Rows = dict[str, list[dict[str, Any]]]
"""Rows to be written, by table."""


@dataclass(frozen=True)
class TrialWrite:
    """A trial that is to be written.

    Attributes:
        study_id: the storage's id of its study.
        before: the trial as the storage has it; None: it is to be made.
        after: the trial as the storage shall have it.
    """

    study_id: int
    before: FrozenTrial | None
    after: FrozenTrial


def write_trials(storage: BaseStorage, writes: Sequence[TrialWrite]) -> list[FrozenTrial]:
    """Write trials; returns each of them as the storage has it then, with its id there.

    Args:
        storage: of a study whose only writer the caller is.
        writes: of different trials; those that are to be made in the order of their numbers.

    Raises:
        StorageInternalError: the database has refused them, or another program has made trials of the study.
        UpdateFinishedTrialError: a trial has ended in the storage.
        KeyError: a trial is not in the storage.
    """
    if not isinstance(storage, RDBStorage) or not tables_are_known():
        return [_by_calls(storage, write) for write in writes]
    database = storage
    if isinstance(storage, PatientStorage):
        ids = storage.patience.call(lambda repeated: _in_one_transaction(database, writes, repeated=repeated))
    else:
        ids = _in_one_transaction(database, writes, repeated=False)
    for write, trial_id in zip(writes, ids, strict=True):
        write.after._trial_id = trial_id
    return [write.after for write in writes]


@cache
def tables_are_known() -> bool:
    """Whether the installed Optuna has its trials in the tables of `KNOWN`."""
    try:
        tables = _tables()
    except (ImportError, AttributeError):
        return False
    return all(name in tables and set(tables[name].columns.keys()) == columns for name, columns in KNOWN.items())


def _tables() -> Mapping[str, Table]:
    from optuna.storages._rdb import models

    return models.BaseModel.metadata.tables  # type: ignore[no-any-return]


def _by_calls(storage: BaseStorage, write: TrialWrite) -> FrozenTrial:
    """Write one trial by Optuna's calls."""
    before, after = write.before, write.after
    if before is None:
        stored = storage.get_trial(storage.create_new_trial(write.study_id, after))
        if stored.number != after.number:
            raise _overtaken(after.number, stored.number)
        return stored
    trial_id, begins = after._trial_id, after.state == TrialState.RUNNING
    if begins and before.state != after.state:
        storage.set_trial_state_values(trial_id, after.state)
    for step, value in _changed(before.intermediate_values, after.intermediate_values).items():
        storage.set_trial_intermediate_value(trial_id, step, value)
    for name in _changed(before.params, after.params):
        distribution = after.distributions[name]
        internal = distribution.to_internal_repr(after.params[name])
        storage.set_trial_param(trial_id, name, internal, distribution)
    for key, value in _changed(before.user_attrs, after.user_attrs).items():
        storage.set_trial_user_attr(trial_id, key, value)
    for key, value in _changed(before.system_attrs, after.system_attrs).items():
        storage.set_trial_system_attr(trial_id, key, value)
    if not begins and before.state != after.state:
        storage.set_trial_state_values(trial_id, after.state, after.values)
    return storage.get_trial(trial_id)


def _in_one_transaction(storage: RDBStorage, writes: Sequence[TrialWrite], *, repeated: bool) -> list[int]:
    """Write trials; their ids. `repeated`: an attempt before this one broke off, and may have been carried out."""
    new: Rows = defaultdict(list)
    changed: Rows = defaultdict(list)
    ids = []
    try:
        with storage.engine.begin() as connection:
            for write in writes:
                if write.before is not None:
                    trial_id = write.after._trial_id
                    _update(connection, storage, write, changed, repeated=repeated)
                else:
                    made = _find(connection, write) if repeated else None
                    trial_id = made if made is not None else _make(connection, write)
                    if made is None:
                        _add_rows(new, trial_id, None, write.after)
                ids.append(trial_id)
            _put_rows(connection, changed, replace=True)
            _put_rows(connection, new, replace=False)
    except SQLAlchemyError as error:
        raise optuna.exceptions.StorageInternalError("the database did not take what is new of trials") from error
    return ids


def _make(connection: Connection, write: TrialWrite) -> int:
    """Insert the row of a new trial; its id."""
    trials = _tables()[TRIALS]
    newest = select(trials.c.number).where(trials.c.study_id == write.study_id).order_by(trials.c.trial_id.desc())
    number = connection.execute(newest.limit(1)).scalar()
    if (-1 if number is None else number) != write.after.number - 1:
        raise _overtaken(write.after.number, number)
    row = {"study_id": write.study_id, "number": write.after.number, **_state_columns(write.after)}
    key = connection.execute(insert(trials), row).inserted_primary_key
    assert key is not None
    return int(key[0])


def _find(connection: Connection, write: TrialWrite) -> int | None:
    """The id of a trial that an attempt before made after all."""
    trials = _tables()[TRIALS]
    query = select(trials.c.trial_id).where(trials.c.study_id == write.study_id)
    found: int | None = connection.execute(query.where(trials.c.number == write.after.number)).scalar()
    return found


def _update(connection: Connection, storage: RDBStorage, write: TrialWrite, rows: Rows, *, repeated: bool) -> None:
    """Update the row of a trial, and add what else is new of it to `rows`."""
    before, after, trials = write.before, write.after, _tables()[TRIALS]
    assert before is not None
    trial_id = after._trial_id
    own: Rows = defaultdict(list)
    _add_rows(own, trial_id, before, after)
    for name, found in own.items():
        rows[name] += found
    if before.state == after.state and set(own) <= {REPORTS}:
        return
    query = select(trials.c.state).where(trials.c.trial_id == bindparam("id"))
    state = connection.execute(query, {"id": trial_id}).scalar()
    if state is None:
        raise KeyError(f"trial {after.number} is not in the storage")
    if not repeated:
        storage.check_trial_is_updatable(trial_id, state)
    if before.state != after.state:
        connection.execute(update(trials).where(trials.c.trial_id == trial_id), _state_columns(after))


def _put_rows(connection: Connection, rows: Rows, *, replace: bool) -> None:
    """Insert rows; `replace`: in place of those of the same trial and key, so that it may be repeated."""
    for name, found in rows.items():
        remove, add = _statements(name)
        if replace:
            connection.execute(remove, [{"trial": row["trial_id"], "of_key": row[_KEYS[name]]} for row in found])
        connection.execute(add, found)


@cache
def _statements(name: str) -> tuple[Delete, Insert]:
    """What removes the row of a trial and key from a table, and what inserts one."""
    table = _tables()[name]
    same = (table.c.trial_id == bindparam("trial"), table.c[_KEYS[name]] == bindparam("of_key"))
    return delete(table).where(*same), insert(table)


def _add_rows(rows: Rows, trial_id: int, before: FrozenTrial | None, after: FrozenTrial) -> None:
    """Add the rows in which a trial differs from what it was to `rows`."""
    for name, row in _differing_rows(before, after):
        rows[name].append({"trial_id": trial_id, **row})


def _differing_rows(before: FrozenTrial | None, after: FrozenTrial) -> Iterator[tuple[str, dict[str, Any]]]:
    """Table and row of each fact in which a trial differs from what it was."""
    for name in _changed(before.params if before else {}, after.params):
        distribution = after.distributions[name]
        internal = distribution.to_internal_repr(after.params[name])
        yield (
            PARAMS,
            {"param_name": name, "param_value": internal, "distribution_json": distribution_to_json(distribution)},
        )
    for key, value in _changed(before.user_attrs if before else {}, after.user_attrs).items():
        yield USER_ATTRS, {"key": key, "value_json": json.dumps(value)}
    for key, value in _changed(before.system_attrs if before else {}, after.system_attrs).items():
        yield SYSTEM_ATTRS, {"key": key, "value_json": json.dumps(value)}
    for step, value in _changed(before.intermediate_values if before else {}, after.intermediate_values).items():
        number, kind = _as_number(value)
        yield REPORTS, {"step": step, "intermediate_value": number, "intermediate_value_type": kind}
    if after.values is not None and (before is None or before.values != after.values):
        for objective, value in enumerate(after.values):
            number, kind = _as_number(value)
            yield VALUES, {"objective": objective, "value": number, "value_type": kind}


def _state_columns(trial: FrozenTrial) -> dict[str, Any]:
    """State and times of a trial, as the columns have them."""
    return {
        "state": trial.state,
        "datetime_start": _as_time(trial.datetime_start),
        "datetime_complete": _as_time(trial.datetime_complete),
    }


def _as_time(moment: datetime | None) -> datetime | None:
    """A local time in UTC, without a zone."""
    return None if moment is None else moment.astimezone(UTC).replace(tzinfo=None)


def _as_number(value: float) -> tuple[float | None, str]:
    """A score as two columns have it: the number if it is finite, and what kind of number it is."""
    if math.isnan(value):
        return None, "NAN"
    if math.isinf(value):
        return None, "INF_POS" if value > 0 else "INF_NEG"
    return value, "FINITE"


def _changed(before: Mapping[Any, Any], after: Mapping[Any, Any]) -> dict[Any, Any]:
    """Entries that are new or other ones."""
    if before is after:
        return {}
    return {key: value for key, value in after.items() if key not in before or before[key] != value}


def _overtaken(number: int, found: int | None) -> optuna.exceptions.StorageInternalError:
    text = f"trial {number} was to be made next, but the storage is at {found}: does another program make trials of it?"
    return optuna.exceptions.StorageInternalError(text)
