"""Constraints between settings, directions that follow a score, and dimensions that the command line fixes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sage_ray.errors import UserError
from sage_ray.study.constraints import STRICT, parse_constraint
from sage_ray.study.space import Space, load_space

SPACE: dict[str, Any] = {
    "name": "unit",
    "base": {"preset": "tiny_sage_gan"},
    "objective": {"metric": "val/dice", "reduce": "plateau", "direction": "maximize"},
    "space": {
        "adversarial.lambda_cycle": {"float": [0.5, 2.5], "step": 1.0},
        "adversarial.mix_max": {"categorical": [0.2, 0.9]},
    },
    "sampler": {"name": "grid"},
}


def load(folder: Path, *sets: str, **changes: Any) -> Space:
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump({**SPACE, **changes}))
    return load_space(path, sets)


@pytest.mark.parametrize(
    ("text", "values", "missed"),
    [
        ("a.b + a.c > 0", {"a.b": 0.0, "a.c": 0.0}, STRICT),
        ("a.b + a.c > 0", {"a.b": 0.5, "a.c": 0.0}, -0.5),
        ("a.b >= 2", {"a.b": 0.5}, 1.5),
        ("a.b <= 2", {"a.b": 2.0}, 0.0),
        ("0 < a.b <= a.c", {"a.b": 3.0, "a.c": 1.0}, 2.0),
        ("0 < a.b <= a.c", {"a.b": -1.0, "a.c": 1.0}, 1.0),
    ],
)
def test_a_constraint_says_by_how_much_it_is_missed(text: str, values: dict[str, float], missed: float) -> None:
    constraint = parse_constraint(text, "file")
    assert constraint.missed_by(values.__getitem__, "file") == pytest.approx(missed)
    assert set(constraint.paths) == set(values)


def test_a_plan_names_two_objectives_and_constraints(tmp_path: Path) -> None:
    both = load(
        tmp_path,
        objective=[{"metric": "val/dice"}, {"metric": "gpu_seconds"}],
        points=[],
        constraints=["adversarial.mix_max <= 0.5"],
    )
    first, second, *cells = both.details()
    assert first == "two objectives: val/dice (maximize) and gpu_seconds (minimize)"
    assert second == "constraint: adversarial.mix_max <= 0.5" and cells[0].startswith("impossible cell: ")
    assert load(tmp_path).details() == []


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("seeds=3", "give a list in brackets, such as [0, 1]"),
        ("constraints=adversarial.mix_max < 1", "give a list in brackets"),
        ("objective.metric=val/loss", "objective is a list"),
    ],
)
def test_a_value_that_should_be_a_list_is_told_so(assignment: str, told: str, tmp_path: Path) -> None:
    listed = [{"metric": "val/dice"}, {"metric": "gpu_seconds"}]
    assert load(tmp_path, "seeds=[3]", objective=listed).file.seeds == (3,)
    with pytest.raises(UserError) as caught:
        load(tmp_path, assignment, objective=listed)
    assert told in str(caught.value)


@pytest.mark.parametrize("text", ["a.b", "a.b == 1", "a.b != 1", "a.b < __import__('os')", "a.b < 'x'", "a.b <", ""])
def test_anything_but_a_comparison_of_settings_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="bad constraint"):
        parse_constraint(text, "file")


def test_a_constraint_names_settings_that_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown key adversarial.lamda_cycle.*did you mean adversarial.lambda_cycle"):
        load(tmp_path, constraints=["adversarial.lamda_cycle > 0"])
    with pytest.raises(UserError, match="point 0 violates the constraint"):
        load(tmp_path, constraints=["adversarial.lambda_cycle > 100"])


def test_impossible_cells_of_a_grid_take_no_trial_and_are_listed(tmp_path: Path) -> None:
    whole = load(tmp_path, points=[])
    assert whole.trials == 6 and whole.details() == []
    bound = load(tmp_path, points=[], constraints=["adversarial.lambda_cycle * adversarial.mix_max < 2"])
    assert bound.trials == 5
    assert all(s.values["adversarial.lambda_cycle"] * s.values["adversarial.mix_max"] < 2 for s in bound.fixed)
    assert bound.details() == [
        "constraint: adversarial.lambda_cycle * adversarial.mix_max < 2",
        "impossible cell: adversarial.lambda_cycle=2.5, adversarial.mix_max=0.9 "
        "(violates the constraint adversarial.lambda_cycle * adversarial.mix_max < 2)",
    ]


def test_a_cell_that_the_config_refuses_is_impossible_too(tmp_path: Path) -> None:
    # No epoch in either phase would train nothing.
    dimensions = {"pretrain.epochs": {"categorical": [0, 2]}, "adversarial.epochs": {"categorical": [0, 3]}}
    space = load(tmp_path, points=[], space=dimensions)
    assert space.trials == 3 and "nothing would be trained" in space.details()[-1]
    assert load(tmp_path, points=[], space={**dimensions, "adversarial.epochs": {"categorical": [1, 3]}}).trials == 4


def test_another_metric_takes_its_own_direction_with_it(tmp_path: Path) -> None:
    assert load(tmp_path).objective.direction == "maximize"
    loss = load(tmp_path, "objective.metric=val/loss")
    assert loss.objective.direction == "minimize" and loss.notes == ()
    told = load(tmp_path, "objective.metric=val/loss", "objective.direction=maximize")
    assert told.objective.direction == "maximize"
    assert told.notes == (f"warning: {told.source} says maximize val/loss, of which lower is better",)
    assert load(tmp_path, "objective.reduce=last").objective.direction == "maximize"
    assert load(tmp_path, "objective.metric=val/iou").objective.direction == "maximize"


def test_a_searched_setting_that_is_set_is_no_dimension_and_said(tmp_path: Path) -> None:
    points = [{}, {"adversarial.lambda_cycle": 1.5}, {"adversarial.lambda_cycle": 2.5, "adversarial.mix_max": 0.9}]
    space = load(tmp_path, "adversarial.lambda_cycle=7", points=points)
    assert [dimension.path for dimension in space.dimensions] == ["adversarial.mix_max"]
    assert space.base.adversarial.lambda_cycle == 7 and space.file.points == ({}, {"adversarial.mix_max": 0.9})
    assert space.notes == ("adversarial.lambda_cycle is fixed at 7.0 by --set: no dimension of this study",)
    assert all(space.config(sample.values).adversarial.lambda_cycle == 7 for sample in space.fixed)
    with pytest.raises(UserError, match="nothing is left to search"):
        load(tmp_path, "adversarial.lambda_cycle=7", "adversarial.mix_max=0.5")
    free = load(tmp_path, "adversarial.lr=1e-4")
    assert len(free.dimensions) == 2 and free.notes == ()


def test_two_objectives(tmp_path: Path) -> None:
    both = [{"metric": "val/dice"}, {"metric": "gpu_seconds"}]
    space = load(tmp_path, objective=both)
    assert [(part.metric, part.direction) for part in space.objectives] == [
        ("val/dice", "maximize"),
        ("gpu_seconds", "minimize"),
    ]
    again = yaml.safe_load(space.to_yaml("base.yaml"))
    assert [part.get("metric", "val/dice") for part in again["objective"]] == ["val/dice", "gpu_seconds"]
    assert space.hash != load(tmp_path, objective=both[:1]).hash == load(tmp_path, objective=both[0]).hash
    for objective, words in (
        ([both[1]], "no objective by itself"),
        ([*both, both[0]], "lists 3 entries"),
        ([both[0], both[0]], "twice"),
    ):
        with pytest.raises(UserError, match=words):
            load(tmp_path, objective=objective)
    with pytest.raises(UserError, match="a scheduler judges by one number"):
        load(tmp_path, objective=both, scheduler={"name": "asha"})
