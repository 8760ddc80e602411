"""Optuna's storage as the driver of a study has it: nobody else writes, so what was written need not be read.

Optuna reads every unfinished trial anew whenever anybody looks at the trials, which with 64 trials at a time takes more
than all else that a driver does, and writes each report in a transaction of its own.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import delete, insert

from sage_ray.record.patient_storage import PatientStorage

REPORTS_S = 5.0
"""How long reports are in memory alone at most. A driver that is killed loses none for good: a trial that is taken up
reports its epochs again."""
Reports = Mapping[tuple[int, int], float]
"""Values by the storage's id of a trial and the step."""


class SoleWriterStorage(BaseStorage):
    """Writes to a storage and reads from memory; what fails to be written is not in memory either.

    Reports are written together: before a trial changes its state, and else every `REPORTS_S`. Trials are read
    from the storage once, when the study is first asked for them. Whoever reads them must leave them as they are, as
    from any storage of Optuna's that is asked without `deepcopy`.

    Args:
        backend: keeps everything.
    """

    def __init__(self, backend: BaseStorage) -> None:
        self._raw, self._backend = backend, optuna.storages.get_storage(backend)
        self._reports: dict[tuple[int, int], float] = {}
        """What is not written yet."""
        self._wrote = time.monotonic()
        self._trials: dict[int, dict[int, FrozenTrial]] = {}
        """By study and number."""
        self._places: dict[int, tuple[int, int]] = {}
        """Study and number by the storage's own id of a trial."""
        self._directions: dict[int, list[StudyDirection]] = {}

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Make a study; its id."""
        return self._backend.create_new_study(directions, study_name)

    def delete_study(self, study_id: int) -> None:
        """Remove a study and its trials."""
        self._backend.delete_study(study_id)
        self._trials.pop(study_id, None)
        self._places = {trial: place for trial, place in self._places.items() if place[0] != study_id}

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Set an attribute of a study."""
        self._backend.set_study_user_attr(study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Set an attribute of a study that is Optuna's own."""
        self._backend.set_study_system_attr(study_id, key, value)

    def get_study_id_from_name(self, study_name: str) -> int:
        """The id of a study. Raises KeyError if there is none of that name."""
        return self._backend.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        """The name of a study."""
        return self._backend.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """The directions of a study, which never change."""
        if study_id not in self._directions:
            self._directions[study_id] = list(self._backend.get_study_directions(study_id))
        return self._directions[study_id]

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """The attributes of a study."""
        return self._backend.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Optuna's own attributes of a study."""
        return self._backend.get_study_system_attrs(study_id)

    def get_all_studies(self) -> list[FrozenStudy]:
        """All studies of the storage."""
        return self._backend.get_all_studies()

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Make a trial; its id."""
        known = self._of(study_id)
        trial_id = self._backend.create_new_trial(study_id, template_trial)
        trial = self._backend.get_trial(trial_id)
        known[trial.number] = trial
        self._places[trial_id] = (study_id, trial.number)
        return trial_id

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Set a parameter of a trial."""
        self._backend.set_trial_param(trial_id, param_name, param_value_internal, distribution)

        def change(trial: FrozenTrial) -> None:
            trial.params = {**trial.params, param_name: distribution.to_external_repr(param_value_internal)}
            trial.distributions = {**trial.distributions, param_name: distribution}

        self._change(trial_id, change)

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        """The id of a trial. Raises KeyError if there is none of that number."""
        trial = self._of(study_id).get(trial_number)
        if trial is None:
            raise KeyError(f"study {study_id} has no trial {trial_number}")
        return trial._trial_id

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Set state and values of a trial; False if it was RUNNING already and shall be."""
        self.write_reports(at_once=True)
        done = self._backend.set_trial_state_values(trial_id, state, values)
        if done and trial_id in self._places:
            study_id, number = self._places[trial_id]
            self._trials[study_id][number] = self._backend.get_trial(trial_id)  # with the times that it has there
        return done

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Set the value that a trial reported at a step.

        Raises:
            UpdateFinishedTrialError: the trial has ended.
        """
        trial = self.get_trial(trial_id)
        self.check_trial_is_updatable(trial_id, trial.state)
        if trial.intermediate_values.get(step) == intermediate_value:
            return
        self._reports[trial_id, step] = intermediate_value

        def change(trial: FrozenTrial) -> None:
            trial.intermediate_values = {**trial.intermediate_values, step: intermediate_value}

        self._change(trial_id, change)
        self.write_reports()

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set an attribute of a trial."""
        self._backend.set_trial_user_attr(trial_id, key, value)

        def change(trial: FrozenTrial) -> None:
            trial.user_attrs = {**trial.user_attrs, key: _as_stored(value)}

        self._change(trial_id, change)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set an attribute of a trial that is Optuna's own."""
        self._backend.set_trial_system_attr(trial_id, key, value)

        def change(trial: FrozenTrial) -> None:
            trial.system_attrs = {**trial.system_attrs, key: _as_stored(value)}

        self._change(trial_id, change)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """A trial by its id."""
        if trial_id not in self._places:
            return self._backend.get_trial(trial_id)
        study_id, number = self._places[trial_id]
        return self._trials[study_id][number]

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """The trials of a study by number."""
        found = [trial for trial in self._of(study_id).values() if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    def remove_session(self) -> None:
        """Give the connection of this thread back."""
        self._backend.remove_session()

    def write_reports(self, *, at_once: bool = False) -> None:
        """Write the reports that are in memory alone, if some have been for `REPORTS_S`, or `at_once`."""
        if not at_once and time.monotonic() - self._wrote < REPORTS_S:
            return
        if self._reports:
            _write_together(self._raw, self._reports)
            self._reports = {}
        self._wrote = time.monotonic()

    def _of(self, study_id: int) -> dict[int, FrozenTrial]:
        """The trials of a study by number, in order of it: new ones have the highest."""
        if study_id not in self._trials:
            found = self._backend.get_all_trials(study_id, deepcopy=False)
            self._trials[study_id] = {trial.number: trial for trial in sorted(found, key=lambda trial: trial.number)}
            self._places.update({trial._trial_id: (study_id, trial.number) for trial in found})
        return self._trials[study_id]

    def _change(self, trial_id: int, change: Callable[[FrozenTrial], None]) -> None:
        """Put a changed copy in a trial's place: who holds the old one keeps it as it was."""
        if trial_id in self._places:
            study_id, number = self._places[trial_id]
            trial = copy.copy(self._trials[study_id][number])
            change(trial)
            self._trials[study_id][number] = trial


def _write_together(storage: BaseStorage, reports: Reports) -> None:
    """Write reports, in one transaction where the storage is a database."""
    if isinstance(storage, PatientStorage):
        storage.patience.call(lambda _: _in_one_transaction(storage, reports))
    elif isinstance(storage, RDBStorage):
        _in_one_transaction(storage, reports)
    else:
        for (trial_id, step), value in reports.items():
            storage.set_trial_intermediate_value(trial_id, step, value)


def _in_one_transaction(storage: RDBStorage, reports: Reports) -> None:
    """Insert reports, or replace those of the same steps: so that it may be repeated."""
    from optuna.storages._rdb.models import TrialIntermediateValueModel as Model
    from optuna.storages._rdb.storage import _create_scoped_session

    rows = []
    for (trial_id, step), value in reports.items():
        stored, kind = Model.intermediate_value_to_stored_repr(value)
        place = {"trial_id": trial_id, "step": step}
        rows.append({**place, "intermediate_value": stored, "intermediate_value_type": kind})
    with _create_scoped_session(storage.scoped_session) as session:
        for trial_id in {trial_id for trial_id, _ in reports}:
            steps = [step for other, step in reports if other == trial_id]
            session.execute(delete(Model).where(Model.trial_id == trial_id, Model.step.in_(steps)))
        session.execute(insert(Model), rows)


def _as_stored(value: Any) -> Any:
    """A value as it comes back from a storage, which keeps it as JSON."""
    return json.loads(json.dumps(value))
