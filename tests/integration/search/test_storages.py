"""What every storage of a study's trials does: sqlite, a journal, a real Postgres."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from postgres_cases import PostgresServer
from storage_cases import POINTS, facts, opened
from study_cases import Study, tiny_space

from sage_ray.analysis.setting_importance import stored_trials
from sage_ray.record.home import Home
from sage_ray.record.overview import ListedStudy, overview
from sage_ray.search.best import read_trials
from sage_ray.search.changes import changed_spec, check_changes
from sage_ray.search.earlier import begun_from, earlier_trials
from sage_ray.search.opening import write_study
from sage_ray.search.rebuild import is_of, is_sound, rebuild
from sage_ray.search.storage import Progress, read_rows
from sage_ray.search.study_status import study_rows
from sage_ray.search.study_tables import export

NAMES = ("sqlite", "journal", "postgres")


@pytest.fixture(params=NAMES)
def address(request: pytest.FixtureRequest, addresses: dict[str, str]) -> str:
    return addresses[request.param]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, addresses: dict[str, str]) -> dict[str, Study]:
    """A study in each storage with one trial that is complete, one that diverged and one that is open."""
    made = {}
    for name in NAMES:
        folder = tmp_path_factory.mktemp(name)
        space = tiny_space(folder, storage=addresses[name], trials=5, **POINTS)
        study = Study(Home(folder / "home"), space, running=3)
        study.train(0)
        study.storage.report(0, 1, 0.25)
        study.storage.tell_complete(0, [0.5])
        study.storage.tell_failed(1, "tiny-t0001-s0: diverged: loss is inf")
        study.storage.report(2, 1, 0.125)
        study.storage.write_reports(at_once=True)
        made[name] = study
    return made


@pytest.fixture(params=NAMES)
def study(request: pytest.FixtureRequest, trained: dict[str, Study]) -> Study:
    return trained[request.param]


def test_rows_are_what_was_told(study: Study) -> None:
    rows = study.storage.rows()
    assert [(row.number, row.state, row.value) for row in rows] == [
        (0, "COMPLETE", 0.5),
        (1, "FAIL", None),
        (2, "RUNNING", None),
    ]
    assert [row.reports for row in rows] == [{1: 0.25}, {}, {1: 0.125}]
    assert rows[1].error == "tiny-t0001-s0: diverged: loss is inf" and study.storage.row(2) == rows[2]
    assert facts(study_rows(study.folder, study.space)) == facts(rows)
    assert is_sound(study.folder, thorough=True) and is_of(study.folder, study.space.hash)


def test_readers_find_the_study(study: Study, tmp_path: Path) -> None:
    trials, maximize = stored_trials(study.home, "tiny")
    assert len(trials) == 2 and maximize
    best = read_trials("tiny", study.home)
    assert [candidate.trial for candidate in best.candidates] == [0]
    study.folder.write_meta({**study.folder.meta(), "data_fingerprint": "f"})
    follower = begun_from(study.space.renamed("next"), ["tiny"], study.home, "f")
    known = earlier_trials(follower, study.home, "f", lambda line: None)
    assert [(trial.state.name, trial.values) for trial in known] == [("COMPLETE", [0.5]), ("PRUNED", None)]
    assert len(export("tiny", tmp_path / "table.csv", study.home).read_text().splitlines()) == 4
    assert overview(study.home).studies == (ListedStudy("tiny", "sweep", "interrupted", 1, 0, 1, 0, 5, 1),)


def test_all_draw_the_same(trained: dict[str, Study]) -> None:
    drawn = {name: [sample.values for sample in study.samples] for name, study in trained.items()}
    assert drawn["sqlite"] == drawn["journal"] == drawn["postgres"]


def test_a_second_driver_takes_up_what_the_first_left(address: str, tmp_path: Path) -> None:
    space = tiny_space(tmp_path, storage=address, trials=4, **POINTS)
    study = Study(Home(tmp_path / "home"), space, running=2)
    assert study.storage.draw(0, space, lambda number: Progress()).stalls == 0
    study.storage.close()
    storage, lines = opened(study.folder)
    assert [row.state for row in storage.rows()] == ["RUNNING", "RUNNING"] and not lines
    assert storage.draw(1, space).sample.values == study.samples[1].values, "a trial keeps number and values"
    assert storage.draw(0, space, lambda number: Progress(0, 1)).stalls == 1
    storage.forgive(0)
    assert storage.draw(0, space, lambda number: Progress(0, 2)).stalls == 1
    assert storage.draw(None, space).number == 2
    storage.tell_pruned(2)
    storage.tell_complete(2, [0.5])
    assert [row.state for row in storage.rows()] == ["RUNNING", "RUNNING", "PRUNED"], "the first end counts"
    assert storage.row(0).attempts == 3
    storage.close()


def test_a_change_makes_the_storage_anew_with_the_trials_it_had(address: str, tmp_path: Path) -> None:
    space = tiny_space(tmp_path, storage=address, trials=3, **POINTS)
    study = Study(Home(tmp_path / "home"), space, running=2)
    study.storage.tell_failed(1, "tiny-t0001-s0: crashed")
    study.train(0)
    study.storage.tell_complete(0, [0.5])
    study.storage.close()
    new = changed_spec(study.folder, ["trials=6", "space.adversarial.lr.float=[1e-6, 1e-2]"])
    study.folder.write_meta({**study.folder.meta(), "data_fingerprint": "f", "starts": 1})
    write_study(study.folder, new, "f", check_changes(space, new, study.storage.rows(), study.folder))
    assert not is_of(study.folder, new.hash), "a kill here is noticed"
    storage, _ = opened(study.folder)
    assert [row.state for row in storage.rows()] == ["COMPLETE", "FAIL"]
    assert storage.rows()[1].error == "tiny-t0001-s0: crashed"
    assert is_of(study.folder, new.hash)
    storage.enqueue(new.fixed, new)
    assert [storage.draw(None, new).number for _ in range(2)] == [2, 3]
    storage.close()


def test_a_lost_storage_is_made_anew_from_the_runs(address: str, postgres: PostgresServer, tmp_path: Path) -> None:
    address = address if address in ("auto", "journal") else postgres.database("lost")
    space = tiny_space(tmp_path, storage=address, trials=3, **POINTS)
    study = Study(Home(tmp_path / "home"), space, running=1)
    study.train(0)
    study.storage.tell_complete(0, [0.5])
    study.storage.close()
    store = study.folder.store()
    if store.is_server:
        postgres.execute("TRUNCATE studies CASCADE", "lost")
    else:
        store.file.unlink()
    assert not is_sound(study.folder)
    assert [row.state for row in study_rows(study.folder, space)] == ["COMPLETE"], "what only reads needs no storage"
    storage, lines = opened(study.folder)
    assert [row.state for row in storage.rows()] == ["COMPLETE"]
    assert lines == [f"{store.where} was lost or damaged: made anew from the records of 1 trials"]
    storage.close()


@pytest.mark.parametrize("moment", ["while it is made", "before it takes the place"])
def test_a_kill_while_the_storage_is_made_anew_loses_nothing(address: str, tmp_path: Path, moment: str) -> None:
    space = tiny_space(tmp_path, storage=address, trials=3, **POINTS)
    study = Study(Home(tmp_path / "home"), space, running=2)
    before = facts(study.storage.rows())
    study.storage.close()
    replacing = study.folder.store().replaced()
    fresh, name = replacing.__enter__()
    if moment != "while it is made":
        from sage_ray.search.sampling import directions_of

        fresh.create_new_study(directions_of(space), name)
    # The driver dies here: nobody leaves the block.
    assert facts(read_rows(study.folder.path, "tiny", study.folder.store())) == before
    assert rebuild(study.folder, space, known=read_rows(study.folder.path, "tiny", study.folder.store())) == 2
    storage, lines = opened(study.folder)
    assert [row.state for row in storage.rows()] == ["RUNNING", "RUNNING"] and not lines
    assert [row.values for row in storage.rows()] == [sample.values for sample in study.samples]
    storage.close()


@pytest.mark.parametrize("after", NAMES)
def test_a_study_moves_to_another_storage(address: str, addresses: dict[str, str], after: str, tmp_path: Path) -> None:
    space = tiny_space(tmp_path, storage=address, trials=4, **POINTS)
    study = Study(Home(tmp_path / "home"), space, running=3)
    study.train(0)
    study.storage.tell_complete(0, [0.5])
    study.storage.tell_failed(1, "tiny-t0001-s0: crashed")
    wanted = "sqlite" if after == "sqlite" else addresses[after]
    new = changed_spec(study.folder, {"storage": wanted})
    storage, lines = opened(study.folder, spec=new)
    assert [row.state for row in storage.rows()][:2] == ["COMPLETE", "FAIL"]
    where = study.folder.store().where
    moved = (address == "auto" and after != "sqlite") or (address != "auto" and wanted != address)
    assert len(lines) == moved and all(f"are in {where} now" in line for line in lines)
    assert study.folder.meta().get("storage", "sqlite") == (wanted if after != "postgres" else where)
    storage.close()


def test_the_end_of_a_journal_that_a_kill_cut_off_is_mended(tmp_path: Path) -> None:
    space = tiny_space(tmp_path, storage="journal", trials=4, **POINTS)
    study = Study(Home(tmp_path / "home"), space, running=2)
    journal = study.folder.path / "optuna.journal"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 4, "worker')
    before = facts(study.storage.rows())
    assert facts(study_rows(study.folder, space)) == before, "a reader needs no mending"
    storage, lines = opened(study.folder)
    assert facts(storage.rows()) == before and not lines
    assert storage.draw(None, space).number == 2
    assert all(json.loads(line) for line in journal.read_text().splitlines())
    journal.write_bytes(b"{no journal\n" + whole)
    assert not is_sound(study.folder)
    study.train(0)
    storage, lines = opened(study.folder)
    assert lines == ["optuna.journal was lost or damaged: made anew from the records of 1 trials"]
