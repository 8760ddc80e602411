"""Optuna's storage as the driver of a study has it: nobody else writes, so what was written need not be read.

Optuna reads every unfinished trial anew whenever anybody looks at the trials, and writes each parameter, attribute and
report of a trial in a transaction of its own: that took more of a driver's time than all else.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState, create_trial

from sage_ray.record.trial_writes import TrialWrite, write_trials

REPORTS_S = 5.0
"""How long reports are in memory alone at most. A driver that is killed loses none for good: a trial that is taken up
reports its epochs again."""
_OPEN = (TrialState.WAITING, TrialState.RUNNING)
_ENDED = tuple(state for state in TrialState if state not in _OPEN)
_Place = tuple[int, int]
"""The storage's id of a study, and the number of a trial in it."""


class SoleWriterStorage(BaseStorage):
    """Writes to a storage and reads from memory; what fails to be written is not in memory either.

    What is written to trials in the body of `together` is in memory at once, and written in one transaction when the
    body is left; outside of it, each call is written before it returns. Reports alone may wait for `REPORTS_S`: they
    are written with whatever is written next. Trials are read from the storage once, when the study is first asked for
    them. Whoever reads them must leave them as they are, as from any storage of Optuna's that is asked without
    `deepcopy`.

    Args:
        backend: keeps everything.
    """

    def __init__(self, backend: BaseStorage) -> None:
        self._backend = backend
        self._trials: dict[int, dict[int, FrozenTrial]] = {}
        """By study and number."""
        self._open: dict[int, dict[TrialState, set[int]]] = {}
        """By study and state: the numbers of trials that have not ended."""
        self._places: dict[int, _Place] = {}
        """By the storage's own id of a trial; one that is not written yet has a negative one."""
        self._unwritten: dict[_Place, FrozenTrial | None] = {}
        """Trials that are other ones than in the storage, as they are there; None: they are not."""
        self._before: dict[_Place, FrozenTrial | None] | None = None
        """In the body of `together`: trials that have changed in it, as they were before."""
        self._wrote = time.monotonic()
        self._drafts = 0
        self._distributions: dict[tuple[int, str], BaseDistribution] = {}
        """The first one of each parameter of a study, which those of later trials must be like."""
        self._directions: dict[int, list[StudyDirection]] = {}

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Make a study; its id."""
        return self._backend.create_new_study(directions, study_name)

    def delete_study(self, study_id: int) -> None:
        """Remove a study and its trials."""
        self._backend.delete_study(study_id)
        self._trials.pop(study_id, None)
        self._open.pop(study_id, None)
        self._places = {trial: place for trial, place in self._places.items() if place[0] != study_id}
        self._unwritten = {place: trial for place, trial in self._unwritten.items() if place[0] != study_id}
        self._distributions = {key: kind for key, kind in self._distributions.items() if key[0] != study_id}

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

    @contextmanager
    def together(self) -> Iterator[None]:
        """A context in which writes to trials wait for its end, where all of them are done, or, if any fails, none.

        If the body raises, none is done either. A trial that is made in the body gets its final id at the end. Of a
        context within another one, the writes are done at the end of the outer one. A journal that fails half way keeps
        what it had taken by then.
        """
        if self._before is not None:
            yield
            return
        self._before = {}
        try:
            yield
            if self._before:
                self._write()
        except BaseException:
            self._restore(self._before)
            raise
        finally:
            self._before = None

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Make a trial; its id."""
        known = self._of(study_id)
        trial = create_trial(state=TrialState.RUNNING) if template_trial is None else copy.deepcopy(template_trial)
        trial.user_attrs, trial.system_attrs = _as_stored(trial.user_attrs), _as_stored(trial.system_attrs)
        self._drafts -= 1
        trial.number, trial._trial_id = len(known), self._drafts
        for name, distribution in trial.distributions.items():
            self._check_distribution(study_id, name, distribution)
        with self.together():
            self._put(study_id, trial)
        return known[trial.number]._trial_id

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Set a parameter of a trial.

        Raises:
            ValueError: the parameter had a distribution of another kind in an earlier trial.
        """
        trial = self._updatable(trial_id)
        self._check_distribution(self._places[trial_id][0], param_name, distribution)
        value = distribution.to_external_repr(param_value_internal)
        params, distributions = {**trial.params, param_name: value}, {**trial.distributions, param_name: distribution}
        self._change(trial_id, params=params, distributions=distributions)

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        """The id of a trial. Raises KeyError if there is none of that number."""
        trial = self._of(study_id).get(trial_number)
        if trial is None:
            raise KeyError(f"study {study_id} has no trial {trial_number}")
        return trial._trial_id

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Set state and values of a trial; False if it was RUNNING already and shall be.

        Raises:
            UpdateFinishedTrialError: the trial has ended.
        """
        trial = self._updatable(trial_id)
        if state == TrialState.RUNNING and trial.state != TrialState.WAITING:
            return False
        fields: dict[str, Any] = {"state": state}
        if values is not None:
            fields["values"] = list(values)
        if state == TrialState.RUNNING:
            fields["datetime_start"] = datetime.now()
        if state.is_finished():
            fields["datetime_complete"] = datetime.now()
        self._change(trial_id, **fields)
        return True

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Set the value that a trial reported at a step.

        Raises:
            UpdateFinishedTrialError: the trial has ended.
        """
        trial = self._updatable(trial_id)
        if trial.intermediate_values.get(step) == intermediate_value:
            return
        reports = {**trial.intermediate_values, step: intermediate_value}
        self._put(self._places[trial_id][0], _with(trial, intermediate_values=reports))
        self.write_reports()

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set an attribute of a trial."""
        trial = self._updatable(trial_id)
        self._change(trial_id, user_attrs={**trial.user_attrs, key: _as_stored(value)})

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set an attribute of a trial that is Optuna's own."""
        trial = self._updatable(trial_id)
        self._change(trial_id, system_attrs={**trial.system_attrs, key: _as_stored(value)})

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """A trial by its id. Optuna writes into what it gets here, so it is the caller's own."""
        if trial_id not in self._places:
            return self._backend.get_trial(trial_id)
        trial = self._known(trial_id)
        own = {"params": dict(trial.params), "distributions": dict(trial.distributions)}
        attrs = {"user_attrs": dict(trial.user_attrs), "system_attrs": dict(trial.system_attrs)}
        return _with(trial, **own, **attrs, intermediate_values=dict(trial.intermediate_values))

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """The trials of a study by number."""
        known = self._of(study_id)
        if states is None:
            found = list(known.values())
        elif any(state in states for state in _ENDED):
            found = [trial for trial in known.values() if trial.state in states]
        else:
            numbers = [number for state, some in self._open[study_id].items() if state in states for number in some]
            found = [known[number] for number in sorted(numbers)]
        return copy.deepcopy(found) if deepcopy else found

    def remove_session(self) -> None:
        """Give the connection of this thread back."""
        self._backend.remove_session()

    def write_reports(self, *, at_once: bool = False) -> None:
        """Write the reports that are in memory alone, if some have been for `REPORTS_S`, or `at_once`."""
        if self._before is None and (at_once or time.monotonic() - self._wrote >= REPORTS_S):
            self._write()

    def _write(self) -> None:
        """Write all that is in memory alone."""
        places = list(self._unwritten)
        after = [self._trials[study_id][number] for study_id, number in places]
        writes = [
            TrialWrite(place[0], self._unwritten[place], trial) for place, trial in zip(places, after, strict=True)
        ]
        drafts = [trial._trial_id for trial in after if trial._trial_id < 0]
        stored = write_trials(self._backend, writes) if writes else []
        for (study_id, number), trial in zip(places, stored, strict=True):
            self._trials[study_id][number] = trial
            self._places[trial._trial_id] = (study_id, number)
        for trial_id in drafts:
            del self._places[trial_id]
        self._unwritten = {}
        self._wrote = time.monotonic()

    def _of(self, study_id: int) -> dict[int, FrozenTrial]:
        """The trials of a study by number, in order of it: new ones have the highest."""
        if study_id not in self._trials:
            found = sorted(self._backend.get_all_trials(study_id, deepcopy=False), key=lambda trial: trial.number)
            self._trials[study_id] = {trial.number: trial for trial in found}
            self._open[study_id] = {state: {t.number for t in found if t.state == state} for state in _OPEN}
            self._places.update({trial._trial_id: (study_id, trial.number) for trial in found})
            for trial in found:
                for name, distribution in trial.distributions.items():
                    self._distributions.setdefault((study_id, name), distribution)
        return self._trials[study_id]

    def _known(self, trial_id: int) -> FrozenTrial:
        study_id, number = self._places[trial_id]
        return self._trials[study_id][number]

    def _updatable(self, trial_id: int) -> FrozenTrial:
        """A trial that may change. Raises UpdateFinishedTrialError if it has ended."""
        trial = self._known(trial_id)
        self.check_trial_is_updatable(trial_id, trial.state)
        return trial

    def _check_distribution(self, study_id: int, name: str, distribution: BaseDistribution) -> None:
        """Raise ValueError if a parameter had a distribution of another kind, which no storage takes."""
        check_distribution_compatibility(self._distributions.setdefault((study_id, name), distribution), distribution)

    def _change(self, trial_id: int, **fields: Any) -> None:
        """Change fields of a trial: who holds the trial keeps it as it was."""
        with self.together():
            self._put(self._places[trial_id][0], _with(self._known(trial_id), **fields))

    def _put(self, study_id: int, trial: FrozenTrial) -> None:
        """Put a trial, new or changed, in its place in memory; it is to be written."""
        place, before = (study_id, trial.number), self._trials[study_id].get(trial.number)
        self._unwritten.setdefault(place, before)
        if self._before is not None:
            self._before.setdefault(place, before)
        self._set(study_id, trial)

    def _set(self, study_id: int, trial: FrozenTrial) -> None:
        self._trials[study_id][trial.number] = trial
        self._places[trial._trial_id] = (study_id, trial.number)
        for state, numbers in self._open[study_id].items():
            (numbers.add if trial.state == state else numbers.discard)(trial.number)

    def _restore(self, before: dict[_Place, FrozenTrial | None]) -> None:
        """Make trials what they were; those that were not there are gone."""
        for (study_id, number), trial in before.items():
            if trial is not None:
                self._set(study_id, trial)
                continue
            gone = self._trials[study_id].pop(number)
            del self._places[gone._trial_id], self._unwritten[study_id, number]
            for numbers in self._open[study_id].values():
                numbers.discard(number)


def _with(trial: FrozenTrial, **fields: Any) -> FrozenTrial:
    """A copy of a trial with other fields."""
    changed = copy.copy(trial)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _as_stored(value: Any) -> Any:
    """A value as it comes back from a storage, which keeps it as JSON."""
    return json.loads(json.dumps(value))
