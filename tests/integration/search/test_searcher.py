"""The Optuna side: numbers and states are exact, trials are taken up again, the scheduler's rungs come back."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import yaml
from ray.tune.search import Searcher

from sage_ray.search.reconcile import make_scheduler
from sage_ray.search.sampling import drawn_blindly, simulate
from sage_ray.search.searcher import OptunaSearcher
from sage_ray.search.storage import Progress, StudyStorage, read_rows
from sage_ray.search.trial_queue import LOOK_S, TrialQueue
from sage_ray.study.file_schema import ObjectivePart
from sage_ray.study.objective import reduce_reports
from sage_ray.study.space import Space, load_space

SPACE: dict[str, Any] = {
    "name": "unit",
    "base": {"preset": "tiny_sage_gan"},
    "space": {
        "adversarial.lambda_cycle": {"float": [0.1, 10], "log": True},
        "adversarial.freeze_epochs": {"int": [0, 4]},
        "adversarial.betas": {"categorical": [[0.9, 0.999], [0.5, 0.999]]},
        "segmentation_loss.w_focal": {"categorical": [0, 1]},
        "segmentation_loss.focal_gamma": {"float": [1, 4], "when": {"segmentation_loss.w_focal": [1]}},
    },
    "points": [{}, {"adversarial.lambda_cycle": 2.5}],
    "sampler": {"name": "random", "seed": 3},
    "scheduler": {"name": "asha", "grace_epochs": 2, "reduction_factor": 2},
    "trials": 6,
}


def make_space(folder: Path, **changes: Any) -> Space:
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump({**SPACE, **changes}))
    return load_space(path)


class Study:
    """A storage and a searcher over it, as one start of a driver has them."""

    def __init__(self, folder: Path, space: Space, on_disk: dict[int, Progress] | None = None) -> None:
        self.space, self.halted, self.limit = space, False, 100
        self.misplaced: set[int] = set()
        self.can_go_on: set[int] = set()
        self.now = 1000.0
        self.storage = StudyStorage(folder, "unit", space)
        self.storage.enqueue(space.fixed, space)
        orphans = [row.number for row in self.storage.rows() if row.state == "RUNNING"]
        self.searcher = OptunaSearcher(
            self.storage,
            space,
            queue=TrialQueue(orphans, lambda number: number in self.can_go_on, lambda: self.now),
            payload=lambda drawn: {"values": drawn.sample.values},
            progress=lambda number: (on_disk or {}).get(number, Progress()),
            failed=self.storage.tell_failed,
            halted=lambda: self.halted,
            limit=lambda: self.limit,
            blind=lambda number: drawn_blindly(space, number),
            misplaced=lambda number, result: number in self.misplaced,
        )

    def states(self) -> dict[int, str]:
        return {row.number: row.state for row in self.storage.rows()}

    def finish(self, trial_id: str, value: float) -> None:
        self.searcher.on_trial_complete(trial_id, {"objective": value, "objectives": [value], "trial_complete": 1})


def test_points_come_first_then_draws_until_the_target(tmp_path: Path) -> None:
    study = Study(tmp_path, make_space(tmp_path))
    given = [study.searcher.suggest(f"id{k}") for k in range(6)]
    assert [g["number"] for g in given if g] == list(range(6))
    assert given[0]["values"] == {} and given[1]["values"]["adversarial.lambda_cycle"] == 2.5
    assert study.searcher.suggest("id6") is None, "one of them may have to go on on another node"
    for k in range(6):
        study.finish(f"id{k}", 0.5)
    assert study.searcher.suggest("id6") == Searcher.FINISHED
    for k in range(6):
        config = study.space.config(given[k]["values"])
        assert config.adversarial.betas in ((0.9, 0.999), (0.5, 0.999))


def test_no_more_trials_live_than_the_limit_allows_by_then(tmp_path: Path) -> None:
    study = Study(tmp_path, make_space(tmp_path))
    study.limit = 1
    assert study.searcher.suggest("a") is not None
    assert study.searcher.suggest("b") is None and study.states() == {0: "RUNNING"}, "nothing is drawn before its time"
    study.limit = 3  # two machines join
    assert study.searcher.suggest("b") is not None and study.searcher.suggest("c") is not None
    assert study.searcher.suggest("d") is None
    study.limit = 2  # one leaves
    study.finish("a", 0.5)
    assert study.searcher.suggest("d") is None
    study.finish("b", 0.5)
    assert study.searcher.suggest("d") is not None
    study.limit = 0
    for trial_id in ("c", "d"):
        study.finish(trial_id, 0.5)
    assert study.searcher.suggest("e") is None, "no node can hold one: Tune waits, and asks again"
    study.limit = 1
    assert study.searcher.suggest("e") is not None


BUSY = {"objective": math.nan, "trial_halted": 1, "stage_busy": 1}


@pytest.mark.parametrize(("sampler", "drawn"), [("random", 4), ("tpe", 2)])
def test_a_trial_that_waits_for_a_stage_leaves_its_place_to_one_that_is_drawn_blindly(
    tmp_path: Path, sampler: str, drawn: int
) -> None:
    study = Study(tmp_path, make_space(tmp_path, points=[], sampler={"name": sampler}))
    study.limit = 2
    assert study.searcher.suggest("a")["number"] == 0 and study.searcher.suggest("b")["number"] == 1  # type: ignore[index]
    study.searcher.on_trial_complete("b", BUSY)
    for name in "cdef":  # each finds the stage busy
        if study.searcher.suggest(name) is not None:
            study.searcher.on_trial_complete(name, BUSY)
    assert len(study.storage.rows()) == drawn, "a sampler that learns draws none without results"
    assert {row.attempts for row in study.storage.rows()[1:]} == {0}, "a start that found the stage busy does not count"
    study.can_go_on = {1}
    assert study.searcher.suggest("g") is None, "the store is not asked again and again"
    study.now += LOOK_S
    assert study.searcher.suggest("g")["number"] == 1  # type: ignore[index]
    study.finish("a", 0.5)
    study.finish("g", 0.5)
    study.now += LOOK_S
    assert study.states()[1] == "COMPLETE" and study.states()[drawn - 1] in ("RUNNING", "COMPLETE")
    study.can_go_on = set(range(9))
    taken = [study.searcher.suggest(f"h{k}")["number"] for k in range(2)]  # type: ignore[index]
    assert taken == [2, 3], "those that waited come before new ones, in their order"


def test_trials_that_only_wait_end_no_study(tmp_path: Path) -> None:
    study = Study(tmp_path, make_space(tmp_path, points=[], trials=1))
    assert study.searcher.suggest("a") is not None
    study.searcher.on_trial_complete("a", BUSY)
    assert study.searcher.suggest("b") is None, "another study computes what it needs"
    assert study.searcher.suggest("b") is None and study.states() == {0: "RUNNING"}


def test_a_trial_that_is_misplaced_goes_on_elsewhere_under_its_number(tmp_path: Path) -> None:
    study = Study(tmp_path, make_space(tmp_path))
    given = [study.searcher.suggest(f"id{k}") for k in range(6)]
    study.misplaced = {1}
    study.searcher.on_trial_complete("id1", {"trial_halted": 1, "node_fault": "no CUDA", "node": "n"})
    again = study.searcher.suggest("again")
    assert again and again["number"] == 1, "however many are drawn already"
    assert study.space.config(again["values"]) == study.space.config(given[1]["values"])
    assert study.states()[1] == "RUNNING" and study.storage.row(1).stalls == 0
    study.searcher.on_trial_complete("id2", {"trial_halted": 1, "node_fault": "no CUDA", "node": "n"})
    assert study.searcher.suggest("more") is None, "its own fault after all, which is told elsewhere"


def test_each_end_is_told_as_what_it_is(tmp_path: Path) -> None:
    study = Study(tmp_path, make_space(tmp_path))
    for k in range(6):
        study.searcher.suggest(f"id{k}")
        study.searcher.on_trial_result(f"id{k}", {"objective": 0.1 * k, "step": 1, "epoch": 1})
    study.finish("id0", 0.7)
    study.finish("id1", math.nan)
    study.searcher.on_trial_complete("id2", {"objective": 0.25, "step": 2, "epoch": 2})
    study.searcher.on_trial_complete("id3", {"objective": math.nan, "trial_failed": "diverged: step 3"})
    study.searcher.on_trial_complete("id4", {"objective": math.nan, "trial_halted": 1})
    study.finish("id0", 0.9)
    study.searcher.on_trial_complete("id2", {"objective": 0.3, "objectives": [0.3], "trial_complete": 1})
    rows = {row.number: row for row in read_rows(tmp_path, "unit")}
    states = {number: row.state for number, row in rows.items()}
    assert states == {0: "COMPLETE", 1: "FAIL", 2: "PRUNED", 3: "FAIL", 4: "RUNNING", 5: "RUNNING"}
    assert rows[0].value == 0.7 and rows[3].error == "diverged: step 3" and "not finite" in (rows[1].error or "")
    assert rows[2].reports == {1: pytest.approx(0.2), 2: 0.25}
    stored = optuna.load_study(study_name="unit", storage=f"sqlite:///{tmp_path / 'optuna.db'}").trials
    assert stored[2].state == optuna.trial.TrialState.PRUNED and stored[2].last_step == 2


def test_trials_of_a_killed_driver_keep_number_and_values(tmp_path: Path) -> None:
    space = make_space(tmp_path)
    first = Study(tmp_path, space)
    before = {k: first.searcher.suggest(f"id{k}") for k in range(4)}
    first.finish("id0", 0.5)
    second = Study(tmp_path, space)
    after = [second.searcher.suggest(f"new{k}") for k in range(5)]
    assert [a["number"] for a in after if a] == [1, 2, 3, 4, 5]
    for a in after[:3]:
        assert space.config(a["values"]) == space.config(before[a["number"]]["values"])
    assert second.searcher.suggest("more") is None and len(second.states()) == 6
    assert {row.attempts for row in second.storage.rows()[1:4]} == {2}


def test_driver_killed_between_asking_and_noting_the_values(tmp_path: Path) -> None:
    space = make_space(tmp_path)
    storage = StudyStorage(tmp_path, "unit", space)
    storage.enqueue(space.fixed, space)
    storage.study.ask()
    half_asked = storage.study.ask()
    half_asked.suggest_float("adversarial.lambda_cycle", 0.1, 10, log=True)
    study = Study(tmp_path, space)
    given = [study.searcher.suggest(f"id{k}") for k in range(3)]
    assert [g["number"] for g in given if g] == [0, 1, 2]
    assert given[0]["values"] == {} and given[1]["values"]["adversarial.lambda_cycle"] == 2.5


def test_trial_that_never_gets_further_fails_in_the_end(tmp_path: Path) -> None:
    space = make_space(tmp_path)
    numbers = []
    # It gets somewhere once (epoch 3), which forgives what was before.
    for begun, epochs in enumerate([0, 0, 0, 3, 3, 3, 3, 3, 3]):
        study = Study(tmp_path, space, {0: Progress(epochs, begun)})
        given = study.searcher.suggest("id")
        numbers.append(given["number"] if given else None)
    assert numbers == [0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert "without getting any further" in (study.storage.row(0).error or "") and study.states()[0] == "FAIL"


def test_driver_killed_before_a_trial_began_is_no_fault_of_the_trial(tmp_path: Path) -> None:
    space = make_space(tmp_path)
    for _ in range(9):
        given = Study(tmp_path, space).searcher.suggest("id")
        assert given and given["number"] == 0


def test_ends_on_purpose_do_not_count_as_crashes(tmp_path: Path) -> None:
    space = make_space(tmp_path)
    for begun in range(9):
        study = Study(tmp_path, space, {0: Progress(0, begun)})
        given = study.searcher.suggest("id")
        assert given and given["number"] == 0
        study.halted = True
        study.searcher.on_trial_complete("id", {"objective": 0.5, "step": 1})
    assert study.states() == {0: "RUNNING"} and study.searcher.suggest("other") == Searcher.FINISHED


def test_sampler_does_not_repeat_itself_after_a_restart(tmp_path: Path) -> None:
    space = make_space(tmp_path)
    seen = []
    for k in range(4):
        study = Study(tmp_path, space)
        given = study.searcher.suggest(f"id{k}")
        assert given
        seen.append(repr(given["values"]))
        study.finish(f"id{k}", 0.5)
    assert len(set(seen)) == 4


@pytest.mark.parametrize("name", ["tpe", "random", "gp", "qmc", "nsga2", "grid"])
def test_every_sampler_fills_a_study(tmp_path: Path, name: str) -> None:
    spacing = {"step": 0.9} if name == "grid" else {"log": True}
    dimensions = {
        "adversarial.lambda_cycle": {"float": [0.1, 10], **spacing},
        "adversarial.mask_path": {"categorical": ["soft", "argmax", "straight_through"]},
    }
    space = make_space(tmp_path, space=dimensions, points=[{}], sampler={"name": name, "startup": 2}, trials=5)
    study = Study(tmp_path, space)
    values = []
    for k in range(5):
        given = study.searcher.suggest(f"id{k}")
        assert given
        values.append(repr(sorted(given["values"].items())))
        study.finish(f"id{k}", 0.1 * k)
    assert study.searcher.suggest("more") == Searcher.FINISHED
    assert len(set(values)) == 5 and set(study.states().values()) == {"COMPLETE"}


def test_simulated_draw_is_what_a_random_search_does(tmp_path: Path) -> None:
    space = make_space(tmp_path)
    study = Study(tmp_path, space)
    drawn = []
    for k in range(6):
        given = study.searcher.suggest(f"id{k}")
        assert given
        drawn.append(given["values"])
    assert [dict(sample.values) for sample in simulate(space, 6)] == drawn


def test_asha_remembers_what_ended_trials_reported(tmp_path: Path) -> None:
    space = make_space(tmp_path)
    study = Study(tmp_path, space)
    for k in range(3):
        study.searcher.suggest(f"id{k}")
        for step in (1, 2, 3):
            study.searcher.on_trial_result(f"id{k}", {"objective": 0.8, "step": step})
        study.finish(f"id{k}", 0.8)

    def decision(value: float, rows: list[Any]) -> str:
        scheduler, trial = make_scheduler(space, rows), SimpleNamespace(trial_id="new", config={"number": 99})
        scheduler.on_trial_add(None, trial)  # type: ignore[arg-type]
        return scheduler.on_trial_result(None, trial, {"epoch": 2, "objective": value})  # type: ignore[arg-type]

    rows = study.storage.rows()
    assert decision(0.2, rows) == "STOP" and decision(0.9, rows) == "CONTINUE" and decision(0.2, []) == "CONTINUE"


def test_a_trial_that_goes_on_under_another_name_of_tunes_is_one_trial(tmp_path: Path) -> None:
    scheduler = make_scheduler(make_space(tmp_path), [])

    def report(number: int, name: str, value: float) -> str:
        trial: Any = SimpleNamespace(trial_id=name, config={"number": number})
        scheduler.on_trial_add(None, trial)  # type: ignore[arg-type]
        decision = scheduler.on_trial_result(None, trial, {"epoch": 2, "objective": value})  # type: ignore[arg-type]
        scheduler.on_trial_complete(None, trial, {"objective": math.nan})  # type: ignore[arg-type]
        return decision

    assert report(0, "a", 0.9) == "CONTINUE"
    assert [report(1, f"b{k}", 0.3) for k in range(5)] == ["STOP", *["CONTINUE"] * 4], "it was judged there before"
    assert report(2, "c", 0.65) == "CONTINUE"
    assert report(3, "d", 0.5) == "STOP", "below the median of three; of seven reports it would be above"


def reports(*scores: float | None, phase: str = "adversarial") -> list[dict[str, Any]]:
    return [{"epoch": k + 1, "phase": phase, "val/dice": score} for k, score in enumerate(scores)]


def test_objective_is_reduced_over_the_last_phase() -> None:
    history = reports(0.99, 0.98, phase="pretrain") + reports(0.1, 0.9, 0.5, 0.4, 0.3, 0.6, 0.2)
    assert reduce_reports(history, ObjectivePart(reduce="plateau")) == pytest.approx(0.4)
    assert reduce_reports(history, ObjectivePart(reduce="last")) == 0.2
    assert reduce_reports(history, ObjectivePart(reduce="best")) == 0.9
    assert reduce_reports(history, ObjectivePart(reduce="best", direction="minimize")) == 0.1
    assert reduce_reports(history[:2], ObjectivePart(reduce="last")) == 0.98


def test_objective_without_a_finite_score_is_nan() -> None:
    assert math.isnan(reduce_reports([], ObjectivePart()))
    assert math.isnan(reduce_reports(reports(0.5, None), ObjectivePart()))
    assert math.isnan(reduce_reports(reports(0.5, math.inf), ObjectivePart(reduce="best")))
    assert reduce_reports(reports(None, 0.5), ObjectivePart(reduce="last")) == 0.5
