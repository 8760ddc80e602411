"""What is drawn as trial n depends on the study's seed and on n, and on nothing that happened to the driver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.trial import TrialState

from sage_ray.config import stable_hash
from sage_ray.errors import UserError
from sage_ray.search.sampling import key, simulate
from sage_ray.search.storage import DIVERGED, StudyStorage
from sage_ray.study.space import Space, load_space

SPACE: dict[str, Any] = {
    "name": "unit",
    "base": {"preset": "tiny_sage_gan"},
    "space": {
        "adversarial.lambda_cycle": {"float": [0.1, 10], "log": True},
        "adversarial.lr": {"float": [1e-5, 1e-3], "log": True},
    },
    "points": [{}],
    "trials": 12,
    "concurrency": 1,
}
DISCRETE = {
    "adversarial.mask_path": {"categorical": ["soft", "argmax", "straight_through"]},
    "adversarial.mix_max": {"categorical": [0.2, 0.6, 0.9]},
}


def make_space(folder: Path, **changes: Any) -> Space:
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump({**SPACE, **changes}))
    return load_space(path)


def worth(values: dict[str, Any]) -> float:
    """A score that prefers small cycle weights, so that a sampler has something to learn."""
    return -float(values.get("adversarial.lambda_cycle", 1.0)) + 100 * float(values.get("adversarial.lr", 1e-3))


def drawn(folder: Path, space: Space, killed_at: set[int], *, half_asked: bool = False) -> list[dict[str, Any]]:
    """Values of all trials of a study whose driver is killed when it has drawn the given ones, and begins anew."""
    folder.mkdir()
    storage = StudyStorage(folder, "unit", space)
    storage.enqueue(space.fixed, space)
    found = []
    for number in range(space.trials):
        if half_asked and number in killed_at:
            storage.study.ask()  # the trial is in the storage, and nothing is noted of it
            storage = StudyStorage(folder, "unit", space)
            storage.enqueue(space.fixed, space)
            got = storage.draw(number, space)
        else:
            got = storage.draw(None, space)
        assert got.number == number
        if not half_asked and number in killed_at:
            storage = StudyStorage(folder, "unit", space)
            storage.enqueue(space.fixed, space)
            assert storage.draw(number, space).sample.values == got.sample.values
        storage.tell_complete(number, [worth(got.sample.values)])
        found.append(got.sample.values)
    return found


@pytest.mark.parametrize("half_asked", [False, True])
@pytest.mark.parametrize("name", ["random", "qmc", "tpe", "grid"])
def test_a_driver_that_is_killed_draws_what_it_would_have_drawn(tmp_path: Path, name: str, half_asked: bool) -> None:
    changes: dict[str, Any] = {"sampler": {"name": name, "seed": 7, "startup": 4}}
    if name == "grid":
        changes["space"] = DISCRETE
    space = make_space(tmp_path, **changes)
    whole = drawn(tmp_path / "whole", space, set())
    assert len({stable_hash(values) for values in whole}) == space.trials
    for killed_at in ({1}, {0, 3, 4, 9}, set(range(space.trials))):
        again = drawn(tmp_path / f"killed-{len(killed_at)}", space, killed_at, half_asked=half_asked)
        assert again == whole, killed_at
    if name != "grid":
        other = make_space(tmp_path, sampler={"name": name, "seed": 8, "startup": 4})
        assert drawn(tmp_path / "other", other, set())[1:] != whole[1:]


def test_two_trials_of_a_seed_and_two_seeds_of_a_trial_have_other_keys() -> None:
    keys = {key(seed, number, attempt) for seed in range(20) for number in range(20) for attempt in range(3)}
    assert len(keys) == 20 * 20 * 3


@pytest.mark.parametrize("name", ["random", "qmc"])
def test_a_plan_tells_the_very_draws(tmp_path: Path, name: str) -> None:
    space = make_space(tmp_path, sampler={"name": name, "seed": 3})
    assert [sample.values for sample in simulate(space, 12)] == drawn(tmp_path / "run", space, {5})


@pytest.mark.parametrize("name", ["random", "qmc", "tpe", "nsga2"])
def test_a_discrete_space_is_used_up_before_anything_is_tried_again(tmp_path: Path, name: str) -> None:
    space = make_space(tmp_path, space=DISCRETE, sampler={"name": name, "startup": 2}, points=[{}], trials=11)
    base = {"adversarial.mask_path": "straight_through", "adversarial.mix_max": 0.6}
    values = [stable_hash(v or base) for v in drawn(tmp_path / "run", space, {4})]
    assert len(set(values[:9])) == 9, "the space has nine configurations, the base among them"
    assert len(set(values)) == 9 and len(values) == 11


@pytest.mark.parametrize("name", ["random", "tpe"])
def test_a_space_of_steps_is_discrete_too(tmp_path: Path, name: str) -> None:
    steps = {"adversarial.lambda_cycle": {"float": [1.0, 2.0], "step": 0.5}, "adversarial.epochs": {"int": [2, 4]}}
    space = make_space(tmp_path, space=steps, sampler={"name": name, "startup": 2}, points=[], trials=9)
    assert len({stable_hash(values) for values in drawn(tmp_path / "run", space, {4})}) == 9


@pytest.mark.parametrize("name", ["random", "qmc", "tpe", "gp", "nsga2"])
def test_what_violates_a_constraint_is_never_a_trial(tmp_path: Path, name: str) -> None:
    text = "adversarial.lambda_cycle < 2000 * adversarial.lr"
    changes: dict[str, Any] = {"sampler": {"name": name, "startup": 3}, "points": [], "constraints": [text]}
    space = make_space(tmp_path, **changes)
    values = drawn(tmp_path / "run", space, {2})
    assert len(values) == 12
    assert all(v["adversarial.lambda_cycle"] < 2000 * v["adversarial.lr"] for v in values)
    study = StudyStorage(tmp_path / "run", "unit", space).study
    assert all(trial.constraints[text] <= 0 for trial in study.trials), "Optuna is told how far each is from it"
    free = make_space(tmp_path, **{**changes, "constraints": []})
    wild = drawn(tmp_path / "free", free, set())
    assert any(v["adversarial.lambda_cycle"] >= 2000 * v["adversarial.lr"] for v in wild)


def test_a_discrete_space_with_too_many_cells_to_list_is_searched_as_long_as_any_other(tmp_path: Path) -> None:
    # Whole numbers on a log scale are discrete and have no grid; one draw in about a hundred keeps the constraint.
    whole = {"int": [1, 1000], "log": True}
    steps = {"pretrain.epochs": whole, "adversarial.epochs": whole}
    text = "pretrain.epochs + adversarial.epochs < 5"
    space = make_space(tmp_path, space=steps, points=[], trials=6, sampler={"name": "random"}, constraints=[text])
    values = drawn(tmp_path / "run", space, {2})
    assert all(v["pretrain.epochs"] + v["adversarial.epochs"] < 5 for v in values)
    assert len({stable_hash(v) for v in values}) == 6, "there are six of them, and each is drawn once"


def test_constraints_that_leave_nothing_are_refused_before_any_trial(tmp_path: Path) -> None:
    space = make_space(tmp_path, points=[], constraints=["adversarial.lambda_cycle > 100"])
    with pytest.raises(UserError, match="no possible configuration.*loosen the constraints"):
        simulate(space, 1)


def test_a_diverged_region_is_left_alone(tmp_path: Path) -> None:
    """Trials of lambda_cycle above 1 diverge; a sampler that hears of it draws the rest from below."""
    space = make_space(tmp_path, sampler={"name": "tpe", "seed": 1, "startup": 6}, points=[], trials=30)
    above: dict[bool, int] = {}
    for told in (True, False):
        folder = tmp_path / f"told-{told}"
        folder.mkdir()
        storage = StudyStorage(folder, "unit", space)
        numbers = []
        for number in range(30):
            got = storage.draw(None, space)
            if got.sample.values["adversarial.lambda_cycle"] > 1:
                numbers.append(number)
                error = "unit-t0000-s0: diverged: non-finite loss" if told else "its process died"
                storage.tell_failed(number, error)
            else:
                storage.tell_complete(number, [0.5])
        above[told] = sum(number >= 10 for number in numbers)
        states = {row.number: row.state for row in storage.rows()}
        assert {states[number] for number in numbers} == {"FAIL"}, "whatever the sampler is told"
        stored = storage.study.trials
        kept = {TrialState.PRUNED} if told else {TrialState.FAIL}
        assert {stored[number].state for number in numbers} == kept
        assert all(stored[number].values is None for number in numbers), "no score is invented"
        assert all((DIVERGED in stored[number].constraints) is told for number in numbers)
    assert above[True] <= 4 < above[False], above


def test_two_objectives_are_told_and_read_back(tmp_path: Path) -> None:
    objective = [{"metric": "val/dice"}, {"metric": "gpu_seconds"}]
    for name in ("tpe", "gp", "nsga2", "random"):
        space = make_space(tmp_path, objective=objective, sampler={"name": name, "startup": 2})
        folder = tmp_path / name
        folder.mkdir()
        storage = StudyStorage(folder, "unit", space)
        storage.enqueue(space.fixed, space)
        for number in range(8):
            values = storage.draw(None, space).sample.values
            storage.report(number, 1, 0.5)
            if number == 3:
                storage.tell_failed(number, "unit-t0003-s0: diverged: non-finite loss")
            else:
                storage.tell_complete(number, [worth(values), 10.0 + number])
        rows = storage.rows()
        assert [row.objectives[1] for row in rows if row.objectives] == [10, 11, 12, 14, 15, 16, 17]
        assert rows[3].state == "FAIL" and rows[3].value is None
