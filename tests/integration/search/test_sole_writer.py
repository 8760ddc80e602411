"""What the driver has in memory of its trials is what the storage has, whatever was written and in which order."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from sage_ray.record import sole_writer
from sage_ray.record.sole_writer import SoleWriterStorage

KINDS: dict[str, Callable[[Path], BaseStorage]] = {
    "sqlite": lambda folder: RDBStorage(f"sqlite:///{folder}/optuna.db"),
    "journal": lambda folder: JournalStorage(JournalFileBackend(f"{folder}/optuna.journal")),
}
DISTRIBUTIONS = {"lr": FloatDistribution(1e-5, 1.0, log=True), "norm": CategoricalDistribution(["batch", "group"])}


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def facts(trials: list[FrozenTrial]) -> list[Any]:
    return [
        (t.number, t.state, t.values, t.params, t.distributions, t.intermediate_values, t.user_attrs, t.system_attrs)
        + (t.datetime_start, t.datetime_complete)
        for t in trials
    ]


def act(study: optuna.Study, storage: SoleWriterStorage, draw: random.Random) -> None:
    """One thing that a driver does."""
    trials = study.get_trials(deepcopy=False)
    live = [trial for trial in trials if trial.state == TrialState.RUNNING]
    what = draw.choice(["enqueue", "ask", "report", "report", "report", "attr", "constrain", "end", "prune", "look"])
    if what == "enqueue":
        study.enqueue_trial({"lr": draw.choice([0.1, 0.01])}, user_attrs={"point": len(trials)})
    elif what == "ask" or not live:
        study.ask(DISTRIBUTIONS)
    elif what == "look":
        storage.write_reports()
    else:
        trial = draw.choice(live)
        trial_id = trial._trial_id
        if what == "report":
            storage.set_trial_intermediate_value(trial_id, draw.randrange(4), draw.random())
        elif what == "attr":
            storage.set_trial_user_attr(trial_id, "starts", {"attempts": draw.randrange(9), "seen": (1, 2)})
        elif what == "constrain":
            Trial(study, trial_id).set_constraint("diverged", draw.random())
        elif what == "end":
            study.tell(trial.number, draw.random())
        else:
            study.tell(trial.number, state=TrialState.PRUNED)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("reports_s", [0.0, 1e9])
def test_memory_and_storage_agree(
    tmp_path: Path, kind: str, seed: int, reports_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sole_writer, "REPORTS_S", reports_s)
    draw = random.Random(seed)
    before = optuna.create_study(storage=KINDS[kind](tmp_path), study_name="s")
    before.tell(before.ask(DISTRIBUTIONS), 0.5)
    before.ask(DISTRIBUTIONS)
    storage = SoleWriterStorage(KINDS[kind](tmp_path))
    study = optuna.create_study(storage=storage, study_name="s", load_if_exists=True)
    for _ in range(60):
        act(study, storage, draw)
        ended = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
        stored = optuna.load_study(storage=KINDS[kind](tmp_path), study_name="s").get_trials()
        assert facts(ended) == facts([trial for trial in stored if trial.state.is_finished()]), "an end is stored whole"
    storage.write_reports(at_once=True)
    stored = optuna.load_study(storage=KINDS[kind](tmp_path), study_name="s").get_trials()
    assert len(stored) > 5 and facts(study.get_trials()) == facts(stored)


def test_a_trial_that_has_ended_takes_no_report(tmp_path: Path, kind: str) -> None:
    storage = SoleWriterStorage(KINDS[kind](tmp_path))
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    study.tell(trial, 0.5)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        storage.set_trial_intermediate_value(trial._trial_id, 1, 0.5)
    with pytest.raises(KeyError):
        storage.get_trial_id_from_study_id_trial_number(study._study_id, 7)


def test_what_cannot_be_written_is_not_in_memory(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = KINDS[kind](tmp_path)
    storage = SoleWriterStorage(backend)
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    before = facts(study.get_trials())

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backend, "set_trial_user_attr", refuse)
    monkeypatch.setattr(backend, "set_trial_state_values", refuse)
    with pytest.raises(OSError, match="No space"):
        storage.set_trial_user_attr(trial._trial_id, "a", 1)
    with pytest.raises(OSError, match="No space"):
        study.tell(trial, 0.5)
    assert facts(study.get_trials()) == before


def test_who_holds_a_trial_keeps_it_as_it_was(tmp_path: Path, kind: str) -> None:
    storage = SoleWriterStorage(KINDS[kind](tmp_path))
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    (held,) = study.get_trials(deepcopy=False)
    storage.set_trial_intermediate_value(trial._trial_id, 1, 0.5)
    assert held.intermediate_values == {} and study.get_trials()[0].intermediate_values == {1: 0.5}


def test_the_end_of_one_trial_takes_the_reports_of_all_along(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sole_writer, "REPORTS_S", 1e9)
    storage = SoleWriterStorage(KINDS[kind](tmp_path))
    study = optuna.create_study(storage=storage, study_name="s")
    long, short = study.ask(), study.ask()
    storage.set_trial_intermediate_value(long._trial_id, 1, 0.25)
    study.tell(short, 0.5)
    stored = optuna.load_study(storage=KINDS[kind](tmp_path), study_name="s").get_trials()
    assert stored[0].intermediate_values == {1: 0.25}, "trials that end often never keep it back"
