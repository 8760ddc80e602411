"""Budgets in GPU-seconds: epochs from planted seconds, waiting for the reference, the same after a new start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from design_cases import ARMS, changed, load

from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunLabels
from sage_ray.search.arm_seconds import ArmSeconds, Ready
from sage_ray.search.changes import changed_spec, check_changes
from sage_ray.search.opening import write_study
from sage_ray.search.storage import StudyStorage
from sage_ray.search.study_folder import BUDGETS_FILE, StudyFolder
from sage_ray.study.design import Design

FOLLOWS = {"set": {"adversarial.epochs": 0}, "budget": {"of": "full", "in": "gpu_seconds"}}
SIZES = {"pretrain.epochs": 2, "adversarial.epochs": 2}
TREE = changed(ARMS, base__set=SIZES, arms={"timed": FOLLOWS, "full": {}})


class Study:
    """A study whose runs are recorded by hand: 2 epochs of 1.5 and 2.5 s in phase 1, 2 of `slow` s in phase 2."""

    def __init__(self, folder: Path, tree: dict[str, Any] = TREE) -> None:
        self.home = Home(folder / "home")
        self.home.check_writable()
        self.design = load(tree, folder)
        self.folder = StudyFolder(self.home, "good")
        self.folder.path.mkdir(parents=True)
        write_study(self.folder, self.design, "data", [])
        self.lines: list[str] = []
        self.open()

    def open(self) -> None:
        """One start of a driver."""
        spec = self.folder.settled(self.design)
        self.storage = StudyStorage(self.folder.path, "good", spec)
        self.storage.enqueue(spec.fixed, spec)
        self.seconds = ArmSeconds(self.folder, spec, self.storage, self.lines.append)

    def begin(self) -> tuple[int, Ready]:
        ready = self.seconds.ready()
        assert ready is not None
        return self.storage.draw(None, ready.spec).number, ready

    def finish(self, number: int, slow: float, pairs_s: float = 0.0) -> None:
        place = self.design.run_grid(number)[0]
        config = self.design.config(self.design.fixed[number].values, place.seed)
        run = RunFolder.create(self.home.runs, place.run_id, config, RunLabels(study="good", trial=number))
        for epoch, (phase, took) in enumerate([("pretrain", 1.5), ("pretrain", 2.5), *[("adversarial", slow)] * 2], 1):
            run.append_metrics({"epoch": epoch, "phase": phase, "seconds": took, "replayed": False})
        run.update(extra_pairs={"source": "stage:aa", "key": "aa", "seconds": pairs_s} if pairs_s else None)
        self.storage.tell_complete(number, [0.5])


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def epochs_of(ready: Ready, number: int) -> int:
    spec = ready.spec
    assert isinstance(spec, Design)
    return spec.run_configs(number, spec.fixed[number].values)[0].pretrain.epochs


def test_a_run_waits_for_the_end_of_its_reference_and_gets_its_seconds_in_epochs(study: Study) -> None:
    first, _ = study.begin()
    second, _ = study.begin()
    assert [study.design.cells[n][1].run_id for n in (first, second)] == ["good-full-s0", "good-full-s1"]
    assert study.storage.next_number() == 2 and study.seconds.ready() is None
    study.finish(second, slow=9.0)
    assert study.seconds.ready() is None, "timed-s0 follows full-s0, which has not ended"
    study.finish(first, slow=4.0)
    number, ready = study.begin()
    # 1.5 + 2.5 + 4 + 4 = 12 s, at 2 s an epoch of phase 1.
    assert epochs_of(ready, number) == 6 and ready.refusal is None
    number, ready = study.begin()
    assert epochs_of(ready, number) == 11 and "22.0 s, at 2.00 s an epoch 11 epochs" in study.lines[-1]
    row = study.storage.row(2)
    assert row.values is not None and row.values["pretrain.epochs"] == 6
    assert study.folder.budgets_given()["good-timed-s0"] == {
        "epochs": 6,
        "of": "full",
        "seconds": 12.0,
        "epoch_seconds": 2.0,
    }


def test_what_was_given_is_given_again_whatever_the_clock_says_by_then(study: Study) -> None:
    numbers = [study.begin()[0], study.begin()[0]]
    for number in numbers:
        study.finish(number, slow=4.0)
    assert study.seconds.ready() is not None, "killed between the note of the budget and the draw"
    RunFolder(study.home.runs / "good-full-s0").append_metrics(
        {"epoch": 5, "phase": "adversarial", "seconds": 100.0, "replayed": False}
    )
    study.open()
    number, ready = study.begin()
    assert epochs_of(ready, number) == 6 and study.folder.spec().max_epochs(number) == 6
    (study.folder.path / BUDGETS_FILE).write_text("{")
    with pytest.raises(UserError, match="damaged file of budgets"):
        study.folder.spec()


def test_where_the_reference_failed_the_mean_of_its_other_runs_counts_and_without_any_the_run_fails(
    study: Study,
) -> None:
    first, second = study.begin()[0], study.begin()[0]
    study.storage.tell_failed(first, "crashed")
    assert study.seconds.ready() is None, "another run of the reference may tell it"
    study.finish(second, slow=4.0)
    number, ready = study.begin()
    assert epochs_of(ready, number) == 6


def test_without_any_run_of_the_reference_those_that_follow_it_are_refused(study: Study) -> None:
    for _ in range(2):
        study.storage.tell_failed(study.begin()[0], "crashed")
    ready = study.seconds.ready()
    assert ready is not None and ready.refusal == "no run of full has finished, so that its seconds are not known"


PAIRS = {"data.extra_pairs": "synthetic://ordered?num=4", "pretrain.synthetic_share": 0.5}


def test_what_made_the_extra_pairs_of_the_reference_is_part_of_its_budget(tmp_path: Path) -> None:
    arms = {"timed": FOLLOWS, "full": {"set": PAIRS}, "plain": {"set": {"adversarial.epochs": 0}}}
    study = Study(tmp_path, changed(ARMS, base__set=SIZES, arms=arms))
    (follower,) = (arm for arm in study.design.arms if arm.name == "timed")
    like = study.design.phase_one_like(follower)
    assert like is not None and like.name == "plain", "an arm that learns from other pairs has another phase 1"
    for _ in range(4):
        number = study.begin()[0]
        full = study.design.cells[number][0].name == "full"
        study.finish(number, slow=4.0, pairs_s=8.0 if full else 0.0)
    number, ready = study.begin()
    # 12 s of epochs and 8 s of its pairs, at 2 s an epoch.
    assert epochs_of(ready, number) == 10 and "20.0 s, at 2.00 s an epoch 10 epochs" in study.lines[-1]


def test_an_arm_pays_for_its_own_extra_pairs_out_of_its_budget(tmp_path: Path) -> None:
    timed = {"set": {**PAIRS, "adversarial.epochs": 0}, "budget": {"of": "full", "in": "gpu_seconds"}}
    study = Study(tmp_path, changed(ARMS, base__set=SIZES, arms={"timed": timed, "full": {"set": PAIRS}}))
    for _ in range(2):
        study.finish(study.begin()[0], slow=6.0, pairs_s=8.0)
    number, ready = study.begin()
    # 16 s of epochs and 8 s of pairs, of which its own pairs take 8: 16 s are left, at 2 s an epoch.
    assert epochs_of(ready, number) == 8 and "24.0 s, 8.0 s of which make its extra pairs" in study.lines[-1]


def test_with_subsets_a_run_follows_the_run_on_the_same_subset(tmp_path: Path) -> None:
    labels = {**SIZES, "data.split.labels": 8}
    tree = changed(ARMS, base__set=labels, arms={"timed": FOLLOWS, "full": {}}, seeds=[0], subsets=[0, 1])
    study = Study(tmp_path, tree)
    first, second = study.begin()[0], study.begin()[0]
    assert [study.design.cells[n][1].run_id for n in (first, second)] == ["good-full-s0-u0", "good-full-s0-u1"]
    study.finish(first, slow=4.0)
    number, ready = study.begin()
    assert study.design.cells[number][1].run_id == "good-timed-s0-u0" and epochs_of(ready, number) == 6
    assert study.seconds.ready() is None, "timed-s0-u1 follows full-s0-u1, which has not ended"
    study.finish(second, slow=9.0)
    number, ready = study.begin()
    assert epochs_of(ready, number) == 11


def test_a_begun_arm_keeps_what_its_budget_follows(study: Study) -> None:
    for number in (study.begin()[0], study.begin()[0]):
        study.finish(number, slow=4.0)
    number, ready = study.begin()
    assert isinstance(ready.spec, Design)
    place = ready.spec.run_grid(number)[0]
    config = ready.spec.config(ready.spec.fixed[number].values, place.seed)
    RunFolder.create(study.home.runs, place.run_id, config, RunLabels(study="good", trial=number))
    wanted = changed_spec(study.folder, ["arms.timed.budget.in=epochs"])
    with pytest.raises(UserError, match="arm timed would be another"):
        check_changes(study.folder.spec(), wanted, study.storage.rows(), study.folder)
    labelled = changed_spec(study.folder, ["arms.timed.label=Plain, timed"])
    found = check_changes(study.folder.spec(), labelled, study.storage.rows(), study.folder)
    assert [change.key for change in found] == ["arms.timed"]


def test_other_studies_have_nothing_to_wait_for(tmp_path: Path) -> None:
    design = load(ARMS, tmp_path)
    storage = StudyStorage(tmp_path, "good", design)
    storage.enqueue(design.fixed, design)
    ready = ArmSeconds(StudyFolder(Home(tmp_path / "home"), "good"), design, storage, print).ready()
    assert ready == Ready(design)
