"""A study that has finished leaves the ends of its stages; what others start from stays."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from study_cases import Study
from sweep_cases import write_space

from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.runtime.launch import run
from sage_ray.search.reconcile import take_up
from sage_ray.stages.lease import stage_lease
from sage_ray.stages.store import StageStore
from sage_ray.study.space import Space, load_space
from sage_ray.upkeep.finished_study import tidy_finished
from sage_ray.upkeep.garbage import collect_garbage

BASE = {"pretrain.epochs": 2, "adversarial.epochs": 3, "runtime.snapshot_seconds": 0}


def space_of(folder: Path, trials: int) -> Space:
    points = [{}, {"adversarial.lambda_cycle": 2.0}][:trials]
    return load_space(write_space(folder, base=BASE, trials=trials, points=points))


@pytest.fixture
def finished(home: Home, tmp_path: Path) -> tuple[Home, Study, dict[str, str]]:
    """A study of one trial that is complete, and the keys of its stages."""
    study = Study(home, space_of(tmp_path, 1), running=1)
    folder = study.train(0)
    assert take_up(study.storage, study.folder, study.space) == []
    return home, study, folder.read().stage_keys


def epochs(home: Home, keys: dict[str, str]) -> list[list[int]]:
    store = StageStore(home.stages)
    return [store.epochs(keys["pretrain"]), store.epochs(keys["adversarial"])]


def size(home: Home) -> int:
    return sum(path.stat().st_size for path in home.stages.rglob("*") if path.is_file())


def test_ends_stay_and_a_longer_run_starts_from_them(finished: tuple[Home, Study, dict[str, str]]) -> None:
    home, study, keys = finished
    assert epochs(home, keys) == [[1, 2], [2, 3]]
    before = size(home)
    freed = tidy_finished(home, "tiny")
    assert freed == pytest.approx((before - size(home)) / 1e9) and freed > 0
    assert epochs(home, keys) == [[2], [3]] and tidy_finished(home, "tiny") == 0
    assert not collect_garbage(home).items
    longer = study.space.config({}, 0).with_values({"adversarial.epochs": 4})
    assert run(longer, home, "longer", mirror=False).reused_epochs == 5


def test_a_study_that_is_not_finished_keeps_all(home: Home, tmp_path: Path) -> None:
    study = Study(home, space_of(tmp_path, 2), running=1)
    keys = study.train(0).read().stage_keys
    take_up(study.storage, study.folder, study.space)
    assert tidy_finished(home, "tiny") == 0 and epochs(home, keys) == [[1, 2], [2, 3]]
    assert tidy_finished(home, "nothing") == 0


def test_what_unfinished_work_may_start_from_stays(
    finished: tuple[Home, Study, dict[str, str]], tmp_path: Path
) -> None:
    home, study, keys = finished
    # An open study that begins with one epoch of this phase 1, which nobody had named when it was trained.
    shorter = {**BASE, "pretrain.epochs": 1}
    Study(home, load_space(write_space(tmp_path, base=shorter, name="open")), running=0)
    tidy_finished(home, "tiny")
    assert epochs(home, keys) == [[1, 2], [3]]
    shutil.rmtree(home.studies / "open")
    # A run that was cut off in the same stage.
    run(study.space.config({}, 0), home, "cut", mirror=False)
    RunFolder(home.runs / "cut").set_state("INTERRUPTED")
    assert tidy_finished(home, "tiny") == 0 and epochs(home, keys) == [[1, 2], [3]]
    RunFolder(home.runs / "cut").set_state("COMPLETE")
    assert tidy_finished(home, "tiny") > 0 and epochs(home, keys) == [[2], [3]]


def test_what_is_computed_and_what_cannot_be_told_is_left_to_gc(finished: tuple[Home, Study, dict[str, str]]) -> None:
    home, study, keys = finished
    with stage_lease(StageStore(home.stages), keys["pretrain"], lambda: False):
        tidy_finished(home, "tiny")
    assert epochs(home, keys) == [[1, 2], [3]]
    (home.runs / "damaged").mkdir()
    (home.runs / "damaged" / "record.json").write_text("{")
    assert tidy_finished(home, "tiny") == 0 and epochs(home, keys) == [[1, 2], [3]]
    with study.folder.driver_lock():
        shutil.rmtree(home.runs / "damaged")
        assert tidy_finished(home, "tiny") == 0


def test_a_pruned_trial_keeps_its_newest_snapshot(home: Home, tmp_path: Path) -> None:
    study = Study(home, space_of(tmp_path, 1), running=1)

    def at_4() -> bool:
        return bool(folder().metrics()) and folder().metrics()[-1]["epoch"] == 4

    def folder() -> RunFolder:
        return RunFolder(home.runs / "tiny-t0000-s0")

    given: dict[str, Any] = {"should_stop": at_4}
    keys = study.train(0, **given).update(parent="tiny").stage_keys
    study.storage.report(0, 4, 0.5)
    study.storage.tell_pruned(0)
    assert epochs(home, keys) == [[1, 2], [1, 2]]
    tidy_finished(home, "tiny")
    assert epochs(home, keys) == [[2], [2]]
