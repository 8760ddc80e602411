"""A driver that is killed between any two writes to its storage loses no trial, doubles none and draws the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from sqlalchemy import Engine, event
from sqlalchemy.engine.default import DefaultDialect

from sage_ray.addresses import StoreAddress
from sage_ray.record.optuna_store import OptunaStore, close
from sage_ray.search.storage import Progress, StudyStorage, TrialRow, read_rows, rows_of
from sage_ray.study.space import Space, load_space

SPACE: dict[str, Any] = {
    "name": "unit",
    "base": {"preset": "tiny_sage_gan"},
    "space": {
        "adversarial.lambda_cycle": {"float": [0.1, 10], "log": True},
        "adversarial.mask_path": {"categorical": ["soft", "argmax", "straight_through"]},
    },
    "points": [{}],
    "sampler": {"name": "random", "seed": 5},
    "trials": 3,
}
ENDS = {0: "COMPLETE", 1: "FAIL", 2: "PRUNED"}


class Killed(BaseException):
    """The driver dies here: nothing of it handles this."""


class Moments:
    """Moments at which a driver can be killed: before and after each statement, commit or line of a journal.

    Attributes:
        passed: how many there have been.
        deadly: which of them is the last; None: none is.
    """

    def __init__(self) -> None:
        self.passed = 0
        self.deadly: int | None = None

    def pass_one(self) -> None:
        self.passed += 1
        if self.passed == self.deadly:
            raise Killed


@pytest.fixture
def moments(monkeypatch: pytest.MonkeyPatch) -> Iterator[Moments]:
    made = Moments()
    commit, append = DefaultDialect.do_commit, JournalFileBackend.append_logs

    def around(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            made.pass_one()
            answer = call(*args, **kwargs)
            made.pass_one()
            return answer

        return called

    monkeypatch.setattr(DefaultDialect, "do_commit", around(commit))
    monkeypatch.setattr(JournalFileBackend, "append_logs", around(append))

    def before_statement(*args: Any) -> None:
        made.pass_one()

    event.listen(Engine, "before_cursor_execute", before_statement)
    yield made
    event.remove(Engine, "before_cursor_execute", before_statement)


def make_space(folder: Path) -> Space:
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(SPACE))
    return load_space(path)


@contextmanager
def storage_of(store: OptunaStore, space: Space) -> Iterator[StudyStorage]:
    """A study's storage, whose connections are given back as by the end of a process: nothing more is written."""
    storage = StudyStorage(store.folder, "unit", space, store=store)
    try:
        yield storage
    finally:
        close(storage._backend)


def drive(storage: StudyStorage, space: Space, told: dict[int, str], drawn: dict[int, dict[str, Any]]) -> None:
    """Run what is left of the study, two trials at a time; `told` and `drawn` get what is known to be stored."""
    storage.enqueue(space.fixed, space)
    rows = storage.rows()
    waiting = [row.number for row in rows if row.state == "RUNNING"]
    begun, live = len(rows), []
    while waiting or begun < space.trials or live:
        while len(live) < 2 and (waiting or begun < space.trials):
            number = waiting.pop(0) if waiting else None
            begun += number is None
            got = storage.draw(number, space, lambda number: Progress(0, 0))
            assert drawn.setdefault(got.number, got.sample.values) == got.sample.values, "a number keeps its values"
            live.append(got.number)
        number = live.pop(0)
        for epoch in (1, 2):
            storage.report(number, epoch, 0.5 / (number + epoch))
        if ENDS[number] == "COMPLETE":
            storage.tell_complete(number, [0.25 * number])
        elif ENDS[number] == "PRUNED":
            storage.tell_pruned(number)
        else:
            storage.tell_failed(number, "unit-t0001-s0: diverged: loss is inf")
        told[number] = ENDS[number]
    storage.close()


def facts(rows: list[TrialRow]) -> list[tuple[Any, ...]]:
    return [(r.number, r.state, r.params, r.values, r.value, r.reports, r.error, r.stalls) for r in rows]


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_a_driver_that_is_killed_between_two_writes_goes_on_as_if_nothing_was(
    tmp_path: Path, kind: str, moments: Moments
) -> None:
    space = make_space(tmp_path)
    empty, whole = tmp_path / "empty", OptunaStore(tmp_path / "whole", "unit", StoreAddress(kind))
    empty.mkdir()
    with storage_of(OptunaStore(empty, "unit", StoreAddress(kind)), space):
        pass
    shutil.copytree(empty, whole.folder)
    drawn: dict[int, dict[str, Any]] = {}
    with storage_of(whole, space) as storage:
        moments.passed = 0
        drive(storage, space, {}, drawn)
        last = moments.passed
    expected = facts(read_rows(whole.folder, "unit", whole))
    assert {number: state for number, state, *_ in expected} == ENDS and last > 20
    for deadly in range(1, last + 1):
        folder = tmp_path / str(deadly)
        shutil.copytree(empty, folder)
        store = OptunaStore(folder, "unit", StoreAddress(kind))
        told: dict[int, str] = {}
        known: dict[int, dict[str, Any]] = {}
        with pytest.raises(Killed), storage_of(store, space) as storage:
            moments.passed, moments.deadly = 0, deadly
            drive(storage, space, told, known)
        moments.deadly = None
        check_left(store, told, known)
        with storage_of(store, space) as storage:
            drive(storage, space, told, known)
        assert facts(read_rows(folder, "unit", store)) == expected and known == drawn, deadly


def check_left(store: OptunaStore, told: dict[int, str], known: dict[int, dict[str, Any]]) -> None:
    """What a killed driver leaves, as Optuna reads it: all that it had been told is stored, in whole trials."""
    with store.opened() as storage:
        trials = optuna.load_study(study_name="unit", storage=storage).get_trials()
    rows = {row.number: row for row in rows_of(trials)}
    assert [trial.number for trial in trials] == list(range(len(trials)))
    assert {number: rows[number].state for number in told} == told
    for number, values in known.items():
        assert rows[number].values == values and rows[number].attempts == 1, "what was given to Tune is noted"
    assert len(rows) <= len(known) + 1, "at most one trial was being drawn"
    for row in rows.values():
        assert row.reports or row.state == "RUNNING", "an end is never stored without the reports before it"
        assert row.error or row.state != "FAIL", "nor without its reason"
    assert all(trial.state != TrialState.PRUNED or rows[trial.number].state == ENDS[trial.number] for trial in trials)
