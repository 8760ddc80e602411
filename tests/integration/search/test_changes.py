"""A study outlives its storage and its owner's changes of mind: what may change, and what becomes of its trials."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial
from study_cases import Study, tiny_space
from watch_cases import Heard

from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.record.overview import overview
from sage_ray.record.run_folder import RunFolder
from sage_ray.search.changes import changed_spec, check_changes
from sage_ray.search.earlier import begun_from, earlier_trials, with_earlier
from sage_ray.search.opening import failed_trials, open_storage, write_study
from sage_ray.search.rebuild import is_sound, rebuild
from sage_ray.search.reconcile import settle, take_up
from sage_ray.search.sampling import simulate
from sage_ray.search.storage import StudyStorage, TrialRow
from sage_ray.search.study_folder import StudyFolder
from sage_ray.search.study_status import status, study_rows
from sage_ray.study.space import Space, load_space

POINTS: list[dict[str, Any]] = [{}, {"adversarial.lambda_cycle": 2.0}]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    """Four trials in two seeds: complete, complete, crashed, diverged; and a fifth in the middle of its first seed."""
    folder = tmp_path_factory.mktemp("made")
    space = tiny_space(folder, points=POINTS, trials=6, seeds=[0, 1], concurrency=1)
    study = Study(Home(folder / "home"), space, running=5)
    study.folder.write_meta({**study.folder.meta(), "data_fingerprint": "f", "starts": 1, "trials": 6})
    for number in (0, 1):
        for seed in (0, 1):
            study.train(number, seed)
    for number, error in ((2, "crashed: RuntimeError: no luck"), (3, "diverged: non-finite loss in adversarial")):
        run = study.train(number, pause_path=_exists(folder))
        run.set_state("FAIL", error=error)
        study.storage.report(number, 1, run.metrics()[0]["val/dice"])
        study.storage.tell_failed(number, f"tiny-t{number:04d}-s0: {error}")
    run = study.train(4, pause_path=_exists(folder))
    study.storage.report(4, 1, run.metrics()[0]["val/dice"])
    study.storage.write_reports(at_once=True)
    take_up(study.storage, study.folder, space)
    settle(study.storage, study.folder, space)
    assert study.states() == ["COMPLETE", "COMPLETE", "FAIL", "FAIL", "RUNNING"]
    yield study


def _exists(folder: Path) -> Path:
    path = folder / "pause"
    path.touch()
    return path


@pytest.fixture
def study(made: Study, tmp_path: Path) -> StudyFolder:
    """A copy of the study that a test may spoil."""
    shutil.copytree(made.home.path, tmp_path / "home")
    return StudyFolder(Home(tmp_path / "home"), "tiny")


def facts(rows: list[TrialRow]) -> list[tuple[Any, ...]]:
    return [(r.number, r.state, r.params, r.values, r.value, r.reports, r.error) for r in rows]


def opened(folder: StudyFolder, again: set[str] | None = None) -> tuple[StudyStorage, list[str]]:
    heard = Heard()
    return open_storage(folder, folder.spec(), "f", heard, again or set()), heard.lines


@pytest.mark.parametrize("how", ["lost", "damaged", "emptied", "cut short"])
def test_a_storage_that_is_gone_is_made_anew_from_the_runs(made: Study, study: StudyFolder, how: str) -> None:
    path = study.path / "optuna.db"
    before = facts(study_rows(study, study.spec()))
    assert before == facts(made.storage.rows())
    content = path.read_bytes()
    path.unlink()
    if how != "lost":
        spoilt = {"damaged": b"\x07" * len(content), "emptied": b"", "cut short": content[: len(content) // 2]}
        path.write_bytes(spoilt[how])
    assert not is_sound(study, thorough=True)
    if how != "cut short":  # whose first pages are there
        assert facts(study_rows(study, study.spec())) == before, "what only reads needs no storage"
    storage, lines = opened(study)
    assert facts(storage.rows()) == before and "made anew from the records of 5 trials" in lines[0]
    # What is drawn next is what would have been drawn.
    storage.enqueue(study.spec().fixed, study.spec())
    assert storage.draw(None, study.spec()).sample.values == next_values(made)


def next_values(made: Study) -> dict[str, Any]:
    """What the study draws next, in a copy of its storage."""
    copy = made.home.path.parent / "next"
    if not copy.exists():
        shutil.copytree(made.folder.path, copy)
    storage = StudyStorage(copy, "tiny", made.space)
    drawn = storage.draw(5 if len(storage.rows()) > 5 else None, made.space)
    assert drawn.number == 5
    return drawn.sample.values


def test_a_sound_storage_is_left_alone(study: StudyFolder) -> None:
    before = study_rows(study, study.spec())
    storage, lines = opened(study)
    assert storage.rows() == before and not lines and not list(study.path.glob("optuna.before-*"))


def test_list_names_a_study_without_storage_and_lists_the_others(study: StudyFolder, tmp_path: Path) -> None:
    other = StudyFolder(study.home, "other")
    shutil.copytree(study.path, other.path)
    (study.path / "optuna.db").write_bytes(b"no database")
    listed = {found.study: found.state for found in overview(study.home).studies}
    assert listed["tiny"] == "damaged" and set(listed) == {"tiny", "other"}
    found = status("tiny", study.home)
    assert (found.done, found.failed, found.interrupted) == (2, 2, 1)


def test_more_seeds_reopen_trials_and_keep_their_runs(study: StudyFolder) -> None:
    old = study.spec()
    new = changed_spec(study, ["seeds=[0, 1, 2]", "trials=8"])
    changes = check_changes(old, new, study_rows(study, old), study)
    assert {str(change) for change in changes} == {"seeds was [0, 1], is [0, 1, 2]", "trials was 6, is 8"}
    write_study(study, new, "f", changes)
    storage, _ = opened(study)
    states = {row.number: row.state for row in storage.rows()}
    assert states == {0: "RUNNING", 1: "RUNNING", 2: "FAIL", 3: "FAIL", 4: "RUNNING"}
    assert take_up(storage, study, study.spec()) == [0, 1, 4]
    made = study.meta()["changes"]
    assert made[0]["keys"]["seeds"] == [[0, 1], [0, 1, 2]] and study.meta()["space_hash"] == new.hash
    assert list(study.path.glob("optuna.before-*.db")), "the storage before is kept"


def test_a_kill_between_the_file_and_the_storage_is_noticed(study: StudyFolder) -> None:
    old = study.spec()
    new = changed_spec(study, {"seeds": [0, 1, 2]})
    write_study(study, new, "f", check_changes(old, new, study_rows(study, old), study))
    again = changed_spec(study, {})
    assert again.hash == new.hash
    storage, _ = opened(study)
    assert storage.row(0).state == "RUNNING"


def test_wider_ranges_one_more_choice_and_one_more_dimension(study: StudyFolder) -> None:
    old = study.spec()
    wider = ["space.adversarial.lr.float=[1e-6, 1e-2]", "space.adversarial.mask_path={categorical: [soft, argmax]}"]
    choice = "space.adversarial.lambda_cycle={categorical: [1.0, 0.5, 2.0, 4.0]}"
    new = changed_spec(study, [*wider, choice])
    assert {dimension.path for dimension in new.dimensions} == {
        "adversarial.lambda_cycle",
        "adversarial.lr",
        "adversarial.mask_path",
    }
    changes = check_changes(old, new, study_rows(study, old), study)
    before = facts(study_rows(study, old))
    write_study(study, new, "f", changes)
    storage, _ = opened(study)
    rows = storage.rows()
    assert [(r.number, r.state, r.value) for r in rows] == [(n, state, value) for n, state, _, _, value, *_ in before]
    stored = storage.study.trials
    assert stored[0].distributions["adversarial.lr"].high == 1e-2  # type: ignore[attr-defined]
    # The base's straight_through is no choice of the new dimension: the trials count where they fit.
    assert (
        "adversarial.mask_path" not in stored[0].params
        and rows[0].params["adversarial.mask_path"] == "straight_through"
    )
    storage.enqueue(new.fixed, new)
    assert storage.draw(None, new).sample.values["adversarial.mask_path"] in ("soft", "argmax")


def test_a_dimension_that_is_removed_stays_to_be_seen_and_is_told_to_no_sampler(study: StudyFolder) -> None:
    old = study.spec()
    new = changed_spec(study, ["space.adversarial.lambda_cycle=null", "points=[{}]"])
    write_study(study, new, "f", check_changes(old, new, study_rows(study, old), study))
    storage, _ = opened(study)
    params = [row.params.get("adversarial.lambda_cycle") for row in storage.rows()]
    assert params[0] is None and params[1] == 2.0, "the base's own value is no parameter any more, another one is"
    assert all("adversarial.lambda_cycle" not in trial.params for trial in storage.study.trials)
    assert new.config(storage.row(1).values or {}).adversarial.lambda_cycle == 2.0


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["objective.metric=val/iou"], "objective.metric cannot change in a study that exists.*trials, seeds"),
        (["data.image_size=[64, 64]"], "data.image_size cannot change"),
        (["trails=9"], "did you mean trials"),
        (["trials=4"], "4 trials, but 5 have begun"),
        (["seeds=[1, 2]"], r"seeds \[0\] would be left out.*keep \[0, 1\]"),
        (["folds=[0, 1]"], "fold 0 does not exist"),
        (["trials=none"], "trials"),
    ],
)
def test_what_must_not_change_is_refused_by_name(study: StudyFolder, sets: list[str], words: str) -> None:
    old = study.spec()
    with pytest.raises(UserError, match=words):
        check_changes(old, changed_spec(study, sets), study_rows(study, old), study)


def test_an_edited_file_is_a_change_like_any_other(made: Study, study: StudyFolder, tmp_path: Path) -> None:
    path = tmp_path / "edited"
    path.mkdir()
    old = study.spec()
    rows = study_rows(study, old)
    same = tiny_space(path, points=POINTS, trials=6, seeds=[0, 1], concurrency=1)
    assert check_changes(old, same, rows, study) == []
    more = tiny_space(path, points=POINTS, trials=9, seeds=[0, 1], concurrency=2, sampler={"name": "tpe", "seed": 5})
    assert {c.key for c in check_changes(old, more, rows, study)} == {
        "trials",
        "concurrency",
        "sampler.name",
        "sampler.seed",
    }
    text = "study exists with another space: tiny: base.adversarial.epochs was 1, is 3"
    with pytest.raises(UserError, match=text):
        check_changes(old, load_space(path / "tiny.yaml", ["adversarial.epochs=3"]), rows, study)


def test_failed_trials_are_taken_up_again_diverged_ones_by_name(study: StudyFolder) -> None:
    assert failed_trials(study, all_crashed=True, named=()) == {"tiny-t0002-s0"}
    assert failed_trials(study, all_crashed=False, named=[3]) == {"tiny-t0003-s0"}
    with pytest.raises(UserError, match="trial 0 has not failed.*failed trials: 2, 3"):
        failed_trials(study, all_crashed=True, named=[0])
    again = failed_trials(study, all_crashed=True, named=[3])
    storage, _ = opened(study, again)
    assert [row.state for row in storage.rows()] == ["COMPLETE", "COMPLETE", "RUNNING", "RUNNING", "RUNNING"]
    assert take_up(storage, study, study.spec()) == [2, 3, 4]
    assert {RunFolder(study.home.runs / run).read().state for run in again} == {"INTERRUPTED"}
    # A later start does not reopen anything, and keeps what ended.
    storage, _ = opened(study)
    storage.tell_failed(2, "tiny-t0002-s0: crashed: again")
    assert opened(study)[0].row(2).state == "FAIL"


def test_a_new_study_knows_the_trials_of_an_earlier_one(study: StudyFolder, tmp_path: Path) -> None:
    new = tiny_space(tmp_path, name="next", trials=5, points=[{}], seeds=[0])
    with_points = with_earlier(new, ["tiny"], study.home, "f")
    # Of the two complete trials one is the base, which is the first point anyway.
    assert with_points.file.points == ({}, {"adversarial.lambda_cycle": 2.0, "adversarial.lr": 0.001})
    assert with_points.file.earlier == ("tiny",)
    said: list[str] = []
    known = earlier_trials(with_points, study.home, "f", said.append)
    assert [trial.state.name for trial in known] == ["COMPLETE", "COMPLETE", "PRUNED"]
    assert known[2].constraints == {"diverged": 1.0} and said == ["the sampler knows 3 trials of tiny"]
    folder = StudyFolder(study.home, "next")
    folder.path.mkdir()
    storage = StudyStorage(folder.path, "next", with_points, known)
    storage.enqueue(with_points.fixed, with_points)
    assert [storage.draw(None, with_points).number for _ in range(5)] == [0, 1, 2, 3, 4], "their numbers stay theirs"
    assert len(storage.rows()) == 5
    again = load_space(_written(tmp_path, with_points))
    assert again.file.earlier == ("tiny",) and again.file.points == with_points.file.points


def test_a_new_study_does_not_repeat_the_draws_of_an_earlier_one(study: StudyFolder, tmp_path: Path) -> None:
    """The same sampler and seed draw the same trial n: known as it is, it is drawn anew."""
    new = tiny_space(tmp_path, name="next", trials=5, points=[{}, {}], seeds=[0])
    known = earlier_trials(with_earlier(new, ["tiny"], study.home, "f"), study.home, "f", lambda _: None)
    theirs = [trial.params for trial in known]

    def drawn(earlier: list[FrozenTrial], name: str) -> list[dict[str, Any]]:
        folder = StudyFolder(study.home, name)
        folder.path.mkdir()
        storage = StudyStorage(folder.path, name, new, earlier)
        storage.enqueue(new.fixed, new)
        for _ in range(5):
            storage.draw(None, new)
        return [trial.params for trial in storage.study.get_trials()][len(new.fixed) :]

    assert any(params in theirs for params in drawn([], "alone"))
    assert not any(params in theirs for params in drawn(known, "next"))
    assert [s.drawn for s in simulate(new, 5, known)][len(new.fixed) :] == drawn(known, "once more"), "as planned"


def test_a_file_may_name_earlier_studies_as_the_option_does(study: StudyFolder, tmp_path: Path) -> None:
    named = tiny_space(tmp_path, name="next", trials=5, points=[{}], seeds=[0], **{"from": ["tiny"]})
    plain = tiny_space(tmp_path, name="next", trials=5, points=[{}], seeds=[0])
    by_file = begun_from(named, [], study.home, "f")
    assert by_file.to_yaml("base.yaml") == begun_from(plain, ["tiny"], study.home, "f").to_yaml("base.yaml")
    assert len(by_file.fixed) == 2 and begun_from(plain, [], study.home, "f") is plain
    with pytest.raises(UserError, match="no such study"):
        begun_from(tiny_space(tmp_path, **{"from": ["tinny"]}), [], study.home, "f")


def _written(folder: Path, space: Space) -> Path:
    from sage_ray.config import dump

    (folder / "base.yaml").write_text(dump(space.base))
    path = folder / "again.yaml"
    path.write_text(space.to_yaml("base.yaml"))
    return path


def test_earlier_trials_that_do_not_fit_or_compare_are_left_out(study: StudyFolder, tmp_path: Path) -> None:
    narrow = tiny_space(
        tmp_path, name="narrow", trials=4, points=[], space={"adversarial.lr": {"float": [1e-5, 1e-3], "log": True}}
    )
    known = earlier_trials(with_earlier(narrow, ["tiny"], study.home, "f"), study.home, "f", lambda _: None)
    assert len(known) == 1, "only the base has its lambda_cycle"
    with pytest.raises(UserError, match="on other data"):
        with_earlier(narrow, ["tiny"], study.home, "other")
    with pytest.raises(UserError, match="did you mean tiny"):
        with_earlier(narrow, ["tinny"], study.home, "f")
    judged = tiny_space(tmp_path, name="judged", objective={"metric": "val/iou"})
    with pytest.raises(UserError, match=r"tiny is judged by val/dice .*, the new one by val/iou"):
        with_earlier(judged, ["tiny"], study.home, "f")


def test_rebuild_counts_and_keeps_the_file_before(study: StudyFolder) -> None:
    assert rebuild(study, study.spec(), known=study_rows(study, study.spec())) == 5
    assert rebuild(study, study.spec()) == 5
    assert len(list(study.path.glob("optuna.before-*.db"))) >= 1
    assert json.loads((study.path / "study.json").read_text())["starts"] == 1
