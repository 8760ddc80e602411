"""Optuna's storage on a database server, which waits for a server that is away, and does nothing twice for it.

A call that breaks off may have been carried out: the answer is what got lost. One driver writes to a study, so what it
finds in the storage when it asks again is its own doing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any, TypeVar

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from sage_ray.errors import RunFailed

Answer = TypeVar("Answer")

PATIENCE_S = 120.0
"""How long a driver waits for a server that is away, before its study stops."""
HURRIED_S = 10.0
"""The same, where the study is being ended anyway."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0
_READ_ONLY = "25006"
"""SQLSTATE of a server that takes no writes, such as a standby that is about to take over."""


class StorageAway(RunFailed):
    """The server that keeps a study's trials has not answered for as long as a driver waits."""

    state = "storage_away"


class Patience:
    """How long calls to one server are repeated. Once it is over, every further call fails at once.

    Args:
        where: names the server, without a password.
        seconds: to wait for it in all, from the first call that it does not answer; 0 gives every error on at once.
        say: told one line when it is away, and one when it is back.
        hurried: whether the study is being ended, so that only `HURRIED_S` are waited.
    """

    def __init__(
        self,
        where: str,
        seconds: float = 0.0,
        say: Callable[[str], None] = lambda line: None,
        hurried: Callable[[], bool] = lambda: False,
    ) -> None:
        self._where, self._seconds, self._say = where, seconds, say
        self.hurried = hurried
        self.over: str | None = None

    def call(self, attempt: Callable[[bool], Answer]) -> Answer:
        """What `attempt` returns, which is told whether an attempt before it broke off.

        Raises:
            StorageAway: the server was away for too long.
        """
        if self.over is not None:
            raise StorageAway(self.over)
        since, pause = time.monotonic(), FIRST_PAUSE_S
        failures = 0
        while True:
            try:
                answer = attempt(failures > 0)
            except (optuna.exceptions.StorageInternalError, DBAPIError) as error:
                if self._seconds <= 0 or not is_away(error):
                    raise
                failures += 1
                self._wait(failures, since, pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
                continue
            if failures > 1:
                self._say(f"{self._where} answers again after {time.monotonic() - since:.0f} s: going on")
            return answer

    def _wait(self, failures: int, since: float, pause: float) -> None:
        """Sleep before the next attempt, or raise StorageAway if there is to be none."""
        if failures == 2:  # a connection that broke is replaced by the first, and nobody need know
            self._say(f"{self._where} does not answer: trials wait, asking again for {self._seconds:.0f} s")
        until = time.monotonic() + pause
        while True:
            waited = time.monotonic() - since
            if waited >= (min(HURRIED_S, self._seconds) if self.hurried() else self._seconds):
                self.over = f"{self._where} has not answered for {waited:.0f} s"
                raise StorageAway(self.over) from None
            if time.monotonic() >= until:
                return
            time.sleep(0.1)


def is_away(error: BaseException) -> bool:
    """Whether an error of a call says that the server, or the way to it, is gone for now; it may be asked again."""
    return any(
        isinstance(cause, OperationalError | InterfaceError)
        or (isinstance(cause, DBAPIError) and (cause.connection_invalidated or _state_of(cause) == _READ_ONLY))
        for cause in _causes(error)
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _state_of(error: DBAPIError) -> str | None:
    state: str | None = getattr(error.orig, "sqlstate", None)
    return state


class PatientStorage(RDBStorage):
    """Optuna's storage on a database server whose calls are repeated while it is away.

    Args:
        url: of the database, as SQLAlchemy has it.
        patience: how long calls are repeated; that which makes this object is not.
        engine_kwargs: of SQLAlchemy's engine.
    """

    def __init__(self, url: str, patience: Patience, engine_kwargs: dict[str, Any]) -> None:
        self.patience = patience
        self._promised: Any = None
        super().__init__(url, engine_kwargs)

    def create_new_study(self, directions: Sequence[Any], study_name: str | None = None) -> int:
        """Make a study; one that an attempt before had made is that study. Returns its id."""

        def attempt(repeated: bool) -> int:
            try:
                return super(PatientStorage, self).create_new_study(directions, study_name)
            except optuna.exceptions.DuplicatedStudyError:
                if not repeated or study_name is None:
                    raise
                return super(PatientStorage, self).get_study_id_from_name(study_name)

        return self.patience.call(attempt)

    def delete_study(self, study_id: int) -> None:
        """Remove a study and its trials."""

        def attempt(repeated: bool) -> None:
            try:
                super(PatientStorage, self).delete_study(study_id)
            except KeyError:
                if not repeated:
                    raise

        self.patience.call(attempt)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Set state and values of a trial; False if it was RUNNING already and shall be."""

        def attempt(repeated: bool) -> bool:
            if repeated and super(PatientStorage, self).get_trial(trial_id).state == state:
                return True
            return super(PatientStorage, self).set_trial_state_values(trial_id, state, values)

        return self.patience.call(attempt)

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        self._promised = None
        return self.patience.call(lambda _: super(PatientStorage, self)._create_new_trial(study_id, template_trial))

    def _get_prepared_new_trial(self, study_id: int, template_trial: FrozenTrial | None, session: Any) -> Any:
        # Optuna repeats this by itself too, under a lock on the study. A trial of the number that was promised before
        # is the one that was to be made.
        if self._promised is not None:
            made = self._numbered(study_id, self._promised, session)
            if made is not None:
                return made
        trial = super()._get_prepared_new_trial(study_id, template_trial, session)
        self._promised = trial.number
        return trial

    @staticmethod
    def _numbered(study_id: int, number: int, session: Any) -> Any:
        from optuna.storages._rdb.models import TrialModel

        found = session.query(TrialModel).filter(TrialModel.study_id == study_id, TrialModel.number == number)
        return found.one_or_none()


def _patient(method: Callable[..., Answer]) -> Callable[..., Answer]:
    """A method of Optuna's storage that may be repeated as it is: it reads, or sets what it sets again."""

    @wraps(method)
    def repeated(self: PatientStorage, *args: Any, **kwargs: Any) -> Answer:
        return self.patience.call(lambda _: method(self, *args, **kwargs))

    return repeated


REPEATABLE = (
    *("set_study_user_attr", "set_study_system_attr", "get_study_id_from_name", "get_study_name_from_id"),
    *("get_study_directions", "get_study_user_attrs", "get_study_system_attrs", "get_all_studies"),
    *("_set_trial_param", "set_trial_intermediate_value", "set_trial_user_attr", "set_trial_system_attr"),
    *("get_trial_param", "get_trial_user_attrs", "get_trial_system_attrs", "get_trial", "_get_trials"),
    *("get_trial_id_from_study_id_trial_number", "_get_best_trial_id"),
)
for _name in REPEATABLE:
    setattr(PatientStorage, _name, _patient(getattr(RDBStorage, _name)))
