"""All studies of a home as one storage of Optuna's that can be read and not written."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from sage_ray.dashboards.study_copies import NotReadable, StudyCopy, StudySource, renumbered
from sage_ray.dashboards.trial_pictures import TrialRuns
from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.record.optuna_store import store_of_study
from sage_ray.search.study_note import NOTE_VERSION, note_attributes

LOOK_S = 1.5
"""What is in a home is looked at no more often."""
SETTLE_S = 30.0
"""How long after a trial's end its records and pictures may still change."""
OF_DRIVER = ("sample", "starts", "point")
"""Attributes by which the driver keeps its books, too long for a page; what they say of a trial is shown elsewhere."""
AWAY_S = 20.0
"""How long a server that cannot be asked is left alone."""
TRIALS_OF_STUDY = 1_000_000
"""Ids of trials: that of the study times this, plus the number."""


class _Told(NamedTuple):
    """What the dashboard is told of a trial beside what Optuna knows: descriptions of pictures, and a note."""

    pictures: dict[str, str]
    note: str


@dataclass
class _Shown:
    """One study: where it is read from, and what was found when it was last looked at."""

    id: int
    name: str
    source: StudySource
    looked: float = 0.0
    study: FrozenStudy | None = None
    trials: tuple[FrozenTrial, ...] = ()
    missing: str | None = None
    copy: StudyCopy | None = None
    """As it was taken last, at `taken`."""
    taken: float = float("-inf")
    settled: dict[tuple[int, datetime | None], _Told] = field(default_factory=dict)
    """By number and time of the end, what is told of trials that ended a while ago: nothing of it changes any more."""


class HomeStudies(BaseStorage):
    """The studies of a home, each read from its own storage when it is asked for, at most every `LOOK_S`.

    Args:
        home: that is shown.
        runs: of its trials; default: found in the home.
    """

    def __init__(self, home: Home, runs: TrialRuns | None = None) -> None:
        self._home, self._runs = home, runs or TrialRuns(home)
        self._shown: dict[str, _Shown] = {}
        self._ids: dict[str, int] = {}
        self._listed = float("-inf")
        self._away: dict[str, tuple[float, str]] = {}
        """Servers that could not be asked: until when they are not asked again, and what was wrong."""
        self._lock = threading.RLock()

    def get_all_studies(self) -> list[FrozenStudy]:
        """The studies that can be read, in the order in which they were found."""
        with self._lock:
            self._list()
            for shown in self._shown.values():
                self._look(shown)
            found = [shown.study for shown in self._shown.values() if shown.study is not None]
            return sorted(found, key=lambda study: study._study_id)

    def unreadable(self) -> dict[str, str]:
        """Studies that cannot be shown, each with the reason."""
        with self._lock:
            self.get_all_studies()
            return {name: shown.missing for name, shown in self._shown.items() if shown.missing is not None}

    def get_study_id_from_name(self, study_name: str) -> int:
        """The id of a study. Raises KeyError if there is none of that name."""
        for study in self.get_all_studies():
            if study.study_name == study_name:
                return study._study_id
        raise KeyError(f"no study {study_name}")

    def get_study_name_from_id(self, study_id: int) -> str:
        """The name of a study. Raises KeyError if there is none of that id."""
        return self._study(study_id).study_name

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """The directions of a study."""
        return self._study(study_id).directions

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """The attributes of a study."""
        return self._study(study_id).user_attrs

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Optuna's own attributes of a study, and notes on its trials."""
        return self._study(study_id).system_attrs

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """A trial by its id. Raises KeyError if there is none."""
        for trial in self.get_all_trials(trial_id // TRIALS_OF_STUDY, deepcopy=False):
            if trial._trial_id == trial_id:
                return trial
        raise KeyError(f"no trial {trial_id}")

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """The trials of a study by number, with descriptions of their pictures."""
        with self._lock:
            self._study(study_id)
            trials = next(shown.trials for shown in self._shown.values() if shown.id == study_id)
        found = [trial for trial in trials if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        """Raise PermissionError: studies are shown here."""
        raise PermissionError("studies are shown here, and not changed; use `sage-ray`")

    create_new_study = delete_study = set_study_user_attr = set_study_system_attr = create_new_trial = _refuse
    set_trial_param = set_trial_state_values = set_trial_intermediate_value = _refuse
    set_trial_user_attr = set_trial_system_attr = _refuse

    def _study(self, study_id: int) -> FrozenStudy:
        """A study by its id, looked at anew. Raises KeyError if it cannot be shown."""
        with self._lock:
            self._list()
            for shown in self._shown.values():
                if shown.id != study_id:
                    continue
                self._look(shown)
                if shown.study is not None:
                    return shown.study
        raise KeyError(f"no study {study_id}")

    def _list(self) -> None:
        """Bring the list of studies up to date."""
        if time.monotonic() - self._listed < LOOK_S:
            return
        self._listed = time.monotonic()
        before, self._shown = self._shown, {}
        for name in self._home.study_names():
            try:
                store = store_of_study(self._home, name)
            except UserError:
                continue  # a study in a bucket's home without a server: it has never begun
            known = before.get(name)
            if known is None or not known.source.is_of(store):
                known = _Shown(self._ids.setdefault(name, len(self._ids) + 1), name, StudySource(store))
            self._shown[name] = known
        for name, gone in before.items():
            if self._shown.get(name) is not gone:
                gone.source.close()

    def _look(self, shown: _Shown) -> None:
        """Read a study anew, unless that was just done; what cannot be read now stays what it was."""
        if time.monotonic() - shown.looked < LOOK_S:
            return
        place = shown.source.server
        until, reason = self._away.get(place, (0.0, "")) if place else (0.0, "")
        try:
            if time.monotonic() < until:
                raise NotReadable(reason)
            found = shown.source.read()
        except NotReadable as error:
            if place and time.monotonic() >= until:
                self._away[place] = (time.monotonic() + AWAY_S, str(error))
            shown.missing = None if shown.study is not None else str(error)
        else:
            shown.missing = None
            if found is not shown.copy or time.monotonic() - shown.taken >= SETTLE_S:
                self._take(shown, found)
        shown.looked = time.monotonic()

    def _take(self, shown: _Shown, found: StudyCopy) -> None:
        """Make of a copy what is shown: ids of this storage, and notes and pictures of the trials."""
        first = shown.id * TRIALS_OF_STUDY
        ids = {trial._trial_id: first + trial.number for trial in found.trials}
        attrs = renumbered(found.system_attrs, ids)
        runs = self._runs.of_study(shown.name)
        trials = []
        for trial in found.trials:
            trial_id = ids[trial._trial_id]
            told = shown.settled.get((trial.number, trial.datetime_complete))
            if told is None:
                told = self._told(trial, runs.get(trial.number, ()))
                if _has_settled(trial):
                    shown.settled[trial.number, trial.datetime_complete] = told
            trials.append(_with(trial, trial_id, told.pictures))
            prefix = f"dashboard:{trial_id}:"
            if f"{prefix}{NOTE_VERSION}" not in attrs:  # nobody has written one
                attrs |= note_attributes(told.note, prefix) if told.note else {}
        shown.trials, shown.copy, shown.taken = tuple(trials), found, time.monotonic()
        shown.study = FrozenStudy(
            study_name=shown.name,
            direction=None,
            directions=found.directions,
            user_attrs=found.user_attrs,
            system_attrs=attrs,
            study_id=shown.id,
        )

    def _told(self, trial: FrozenTrial, run_ids: Sequence[str]) -> _Told:
        return _Told(self._runs.attributes(run_ids), self._runs.note(run_ids, trial.user_attrs.get("error")))


def _has_settled(trial: FrozenTrial) -> bool:
    """Whether a trial ended so long ago that its runs have written all that they write."""
    ended = trial.datetime_complete
    return trial.state.is_finished() and ended is not None and (datetime.now() - ended).total_seconds() > SETTLE_S


def _with(trial: FrozenTrial, trial_id: int, attrs: dict[str, str]) -> FrozenTrial:
    """A copy of a trial under another id, with further attributes of Optuna's own."""
    changed = copy.copy(trial)
    changed._trial_id = trial_id
    changed.user_attrs = {key: value for key, value in trial.user_attrs.items() if key not in OF_DRIVER}
    changed._system_attrs = {**trial._system_attrs, **attrs}
    return changed
