"""What the driver has in memory of its trials is what the storage has, whatever was written and in which order."""

from __future__ import annotations

import copy
import math
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState
from postgres_cases import PostgresServer
from sqlalchemy import event

from sage_ray.record import sole_writer, trial_writes
from sage_ray.record.patient_storage import Patience, PatientStorage
from sage_ray.record.sole_writer import SoleWriterStorage
from sage_ray.record.trial_writes import tables_are_known

KINDS = ("sqlite", "sqlite by Optuna's calls", "journal", "postgres")
DISTRIBUTIONS = {
    "lr": FloatDistribution(1e-5, 1.0, log=True),
    "norm": CategoricalDistribution(["batch", "group", 3, None]),
    "depth": IntDistribution(1, 9, step=2),
}
Open = Callable[[], BaseStorage]


@pytest.fixture(params=KINDS)
def opened(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Opens the storage of the test, as often as it is asked."""
    made: list[BaseStorage] = []
    url = ""
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        name = f"sole_{abs(hash(str(tmp_path)))}"
        url = server.database(name).replace("postgresql://", "postgresql+psycopg://", 1)
    if "calls" in request.param:
        monkeypatch.setattr(trial_writes, "tables_are_known", lambda: False)

    def open_storage() -> BaseStorage:
        if request.param == "journal":
            return JournalStorage(JournalFileBackend(f"{tmp_path}/optuna.journal"))
        if url:
            made.append(PatientStorage(url, Patience("the server"), {}))
        else:
            made.append(RDBStorage(f"sqlite:///{tmp_path}/optuna.db"))
        return made[-1]

    yield open_storage
    for storage in made:
        assert isinstance(storage, RDBStorage)
        storage.engine.dispose()


def facts(trials: list[FrozenTrial]) -> list[Any]:
    return [
        (t.number, t.state, t.values, t.params, t.distributions, t.intermediate_values, t.user_attrs, t.system_attrs)
        + (t.datetime_start, t.datetime_complete)
        for t in trials
    ]


def without_reports(trials: list[FrozenTrial]) -> list[Any]:
    """What may not wait: all of trials that have ended, and all but the reports of the others."""
    trials = copy.deepcopy(trials)
    for trial in trials:
        if not trial.state.is_finished():
            trial.intermediate_values = {}
    return facts(trials)


def stored(storage: BaseStorage) -> list[FrozenTrial]:
    """The trials as Optuna reads them."""
    return optuna.load_study(storage=storage, study_name="s").get_trials()


ACTS = (
    *("enqueue", "ask", "draw", "draw", "report", "report", "report", "report", "attr", "constrain", "end", "prune"),
    *("fail", "break", "look"),
)


def act(study: optuna.Study, storage: SoleWriterStorage, draw: random.Random) -> None:
    """One thing that a driver does."""
    trials = study.get_trials(deepcopy=False)
    live = [trial for trial in trials if trial.state == TrialState.RUNNING]
    what = draw.choice(ACTS)
    if what == "enqueue":
        study.enqueue_trial({"lr": draw.choice([0.1, 0.01])}, user_attrs={"point": len(trials)})
    elif what == "ask" or not live:
        study.ask(DISTRIBUTIONS)
    elif what == "draw":
        with storage.together():
            asked = study.ask({"lr": DISTRIBUTIONS["lr"]})
            asked.set_constraint("memory", -1.0)
            asked.set_user_attr("sample", {"values": (1, None, "x")})
    elif what == "look":
        storage.write_reports()
    else:
        trial = draw.choice(live)
        trial_id = trial._trial_id
        if what == "report":
            storage.set_trial_intermediate_value(trial_id, draw.randrange(4), draw.choice([draw.random(), math.inf]))
        elif what == "attr":
            storage.set_trial_user_attr(trial_id, "starts", {"attempts": draw.randrange(9), "seen": (1, 2)})
        elif what == "constrain":
            storage.set_trial_system_attr(trial_id, "constraints:diverged", draw.random())
        elif what == "end":
            study.tell(trial.number, draw.choice([draw.random(), -math.inf]))
        elif what == "prune":
            study.tell(trial.number, state=TrialState.PRUNED)
        elif what == "fail":
            with storage.together():
                storage.set_trial_user_attr(trial_id, "error", "crashed")
                study.tell(trial.number, state=TrialState.FAIL)
        else:
            before = facts(study.get_trials())
            with pytest.raises(ZeroDivisionError), storage.together():
                study.ask(DISTRIBUTIONS)
                storage.set_trial_intermediate_value(trial_id, 9, 0.5)
                study.tell(trial.number, 1 / len(study.get_trials(states=[TrialState.FAIL])) / 0)
            assert facts(study.get_trials()) == before


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("reports_s", [0.0, 1e9])
def test_memory_and_storage_agree(opened: Open, seed: int, reports_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sole_writer, "REPORTS_S", reports_s)
    draw = random.Random(seed)
    reader = opened()
    before = optuna.create_study(storage=reader, study_name="s")
    before.tell(before.ask(DISTRIBUTIONS), 0.5)
    before.ask(DISTRIBUTIONS)
    storage = SoleWriterStorage(opened())
    study = optuna.create_study(storage=storage, study_name="s", load_if_exists=True)
    for _ in range(50):
        act(study, storage, draw)
        assert without_reports(study.get_trials()) == without_reports(stored(reader)), "but for reports, all is stored"
        for state in TrialState:
            some = study.get_trials(deepcopy=False, states=[state])
            assert some == [trial for trial in study.get_trials(deepcopy=False) if trial.state == state]
    storage.write_reports(at_once=True)
    assert len(study.get_trials()) > 9 and facts(study.get_trials()) == facts(stored(reader))
    assert facts(SoleWriterStorage(opened()).get_all_trials(study._study_id)) == facts(study.get_trials())


def test_a_trial_that_has_ended_does_not_change(opened: Open) -> None:
    storage = SoleWriterStorage(opened())
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    study.tell(trial, 0.5)
    for change in (
        lambda: storage.set_trial_intermediate_value(trial._trial_id, 1, 0.5),
        lambda: storage.set_trial_user_attr(trial._trial_id, "a", 1),
        lambda: storage.set_trial_param(trial._trial_id, "lr", 0.5, DISTRIBUTIONS["lr"]),
        lambda: storage.set_trial_state_values(trial._trial_id, TrialState.FAIL),
    ):
        with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
            change()
    with pytest.raises(KeyError):
        storage.get_trial_id_from_study_id_trial_number(study._study_id, 7)


def test_a_parameter_keeps_its_kind_of_distribution(opened: Open) -> None:
    study = optuna.create_study(storage=SoleWriterStorage(opened()), study_name="s")
    study.ask(DISTRIBUTIONS)
    again = optuna.load_study(storage=SoleWriterStorage(opened()), study_name="s")
    for known in (study, again):
        with pytest.raises(ValueError, match="distribution"):
            known.ask({"lr": DISTRIBUTIONS["depth"]})


def test_what_cannot_be_written_is_not_in_memory(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = SoleWriterStorage(opened())
    study = optuna.create_study(storage=storage, study_name="s")
    trial = study.ask()
    storage.set_trial_intermediate_value(trial._trial_id, 1, 0.5)
    before = facts(study.get_trials())

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(sole_writer, "write_trials", refuse)
        for change in (
            lambda: storage.set_trial_user_attr(trial._trial_id, "a", 1),
            lambda: study.tell(trial, 0.5),
            lambda: study.ask(DISTRIBUTIONS),
            lambda: study.enqueue_trial({"lr": 0.5}),
        ):
            with pytest.raises(OSError, match="No space"):
                change()
            assert facts(study.get_trials()) == before
    assert [t.number for t in study.get_trials(states=[TrialState.RUNNING, TrialState.WAITING])] == [0]
    assert study.ask(DISTRIBUTIONS).number == 1
    assert facts(stored(opened())) == facts(study.get_trials()), "the reports are not lost either"


def test_who_holds_a_trial_keeps_it_as_it_was(opened: Open) -> None:
    storage = SoleWriterStorage(opened())
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    (held,) = study.get_trials(deepcopy=False)
    storage.set_trial_intermediate_value(trial._trial_id, 1, 0.5)
    assert held.intermediate_values == {} and study.get_trials()[0].intermediate_values == {1: 0.5}
    trial.suggest_float("lr", 0.0, 1.0)
    trial.set_user_attr("a", 1)
    assert held.params == {} and held.user_attrs == {}


def test_the_end_of_one_trial_takes_the_reports_of_all_along(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sole_writer, "REPORTS_S", 1e9)
    storage = SoleWriterStorage(opened())
    study = optuna.create_study(storage=storage, study_name="s")
    long, short = study.ask(), study.ask()
    storage.set_trial_intermediate_value(long._trial_id, 1, 0.25)
    study.tell(short, 0.5)
    assert stored(opened())[0].intermediate_values == {1: 0.25}, "trials that end often never keep it back"


def test_a_trial_that_another_program_made_is_noticed(opened: Open) -> None:
    study = optuna.create_study(storage=SoleWriterStorage(opened()), study_name="s")
    study.ask()
    optuna.load_study(storage=opened(), study_name="s").ask()
    with pytest.raises(optuna.exceptions.StorageInternalError, match="does another program make trials of it"):
        study.ask(DISTRIBUTIONS)
    assert len(study.get_trials()) == 1


def test_a_trial_that_is_gone_or_has_ended_elsewhere_is_not_written_to(tmp_path: Path) -> None:
    storage = SoleWriterStorage(RDBStorage(f"sqlite:///{tmp_path}/optuna.db"))
    study = optuna.create_study(storage=storage, study_name="s")
    one, other = study.ask(), study.ask()
    optuna.load_study(storage=f"sqlite:///{tmp_path}/optuna.db", study_name="s").tell(one.number, 0.5)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        study.tell(one, 0.75)
    optuna.delete_study(storage=f"sqlite:///{tmp_path}/optuna.db", study_name="s")
    with pytest.raises(KeyError):
        other.set_user_attr("a", 1)


# The rows that are written without Optuna


def test_the_tables_of_the_installed_optuna_are_those_that_are_written() -> None:
    """A canary: with other tables all is written by Optuna's own calls, which take several times as long."""
    assert tables_are_known()


def test_rows_are_those_that_optuna_writes(tmp_path: Path) -> None:
    def lived(folder: Path, storage: BaseStorage) -> dict[str, list[tuple[Any, ...]]]:
        study = optuna.create_study(storage=storage, study_name="s", sampler=optuna.samplers.RandomSampler(seed=1))
        for index in range(3):
            study.enqueue_trial({"lr": 0.5 / (index + 1)}, user_attrs={"point": index})
        trials = [study.ask(DISTRIBUTIONS) for _ in range(7)]
        for trial in trials:
            trial.set_constraint("memory", -0.5)
            trial.set_user_attr("sample", {"values": [1, None, "ä"], "number": trial.number})
            for step, value in enumerate([0.5, math.inf, -math.inf, math.nan, 1e-300, 1.0]):
                trial.report(value, step)
            trial.report(0.25, 0)
            trial.set_user_attr("starts", {"attempts": 1})
            trial.set_user_attr("starts", {"attempts": 2})
        for trial, value in zip(trials, [0.5, math.inf, -math.inf, 1 / 3], strict=False):
            study.tell(trial, value)
        study.tell(trials[4], state=TrialState.PRUNED)
        study.tell(trials[5], state=TrialState.FAIL)
        if isinstance(storage, SoleWriterStorage):
            storage.write_reports(at_once=True)
        return rows_of(folder)

    for name in ("plain", "ours"):
        (tmp_path / name).mkdir()
    plain = lived(tmp_path / "plain", RDBStorage(f"sqlite:///{tmp_path}/plain/optuna.db"))
    ours = lived(tmp_path / "ours", SoleWriterStorage(RDBStorage(f"sqlite:///{tmp_path}/ours/optuna.db")))
    assert set(plain) == set(ours) and sum(map(len, plain.values())) > 100
    for table in plain:
        assert ours[table] == plain[table], table


def rows_of(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of a database with the types of their values; of times only how long they are, and no ids of rows."""
    found = {}
    with closing(sqlite3.connect(folder / "optuna.db")) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for name in names:
            columns = [column for _, column, *_ in database.execute(f"PRAGMA table_info({name})")]
            kept = [
                column for column in columns if column not in ("param_id", "trial_value_id") and name[:-1] != column
            ]
            kept = [
                column
                for column in kept
                if not column.endswith("attribute_id") and "intermediate_value_id" not in column
            ]
            told = [f"length({c})" if c.startswith("datetime") else f"{c}, typeof({c})" for c in kept]
            found[name] = sorted(database.execute(f"SELECT {', '.join(told)} FROM {name}").fetchall(), key=repr)
    return found


def test_a_draw_and_an_end_are_one_transaction_each(tmp_path: Path) -> None:
    backend = RDBStorage(f"sqlite:///{tmp_path}/optuna.db")
    storage = SoleWriterStorage(backend)
    study = optuna.create_study(storage=storage, study_name="s")
    assert study.get_trials() == [], "the storage is read once"
    commits: list[int] = []
    event.listen(backend.engine, "commit", lambda connection: commits.append(1))
    with storage.together():
        trial = study.ask(DISTRIBUTIONS)
        trial.set_constraint("memory", -0.5)
        trial.set_user_attr("sample", {})
    assert len(commits) == 1
    (drawn,) = study.get_trials(deepcopy=False)
    for step in range(9):
        storage.set_trial_intermediate_value(drawn._trial_id, step, 0.5)
    study.tell(drawn.number, 0.5)
    assert len(commits) == 2
    assert Trial(study, drawn._trial_id).params == drawn.params and len(commits) == 2, "nothing is read"
