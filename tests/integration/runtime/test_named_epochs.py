"""Epochs that open studies name: which a study's file lists, and which of them a run keeps on its way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from design_cases import ARMS, changed, load
from study_cases import tiny_space
from sweep_cases import write_space

from sage_ray.config import ExperimentConfig
from sage_ray.record.home import Home
from sage_ray.runtime.launch import run
from sage_ray.runtime.named_epochs import FILE, families, named_epochs, read_budgets
from sage_ray.search.study_budgets import MAX_VALUES, StudyBudgets, spaced
from sage_ray.search.study_folder import StudyFolder
from sage_ray.stages.store import StageStore
from sage_ray.study.dimension import Dimension
from sage_ray.study.space import Space, load_space

EPOCHS = {"pretrain.epochs": {"categorical": [4, 2]}, "adversarial.epochs": {"categorical": [1, 3]}}


def opened(home: Home, spec: Any, drawn: list[dict[str, Any]] | None = None) -> StudyBudgets:
    folder = StudyFolder(home, spec.name)
    folder.path.mkdir(parents=True, exist_ok=True)
    budgets = StudyBudgets(folder, spec)
    budgets.open(drawn or [])
    return budgets


def space(folder: Path, dimensions: dict[str, Any], **changes: Any) -> Space:
    return load_space(write_space(folder, space=dimensions, **changes))


def named(config: ExperimentConfig, home: Home) -> tuple[list[int], list[int]]:
    found = named_epochs(config, home)
    return found["pretrain"], found["adversarial"]


def test_a_grid_names_the_budgets_of_each_family(home: Home, tmp_path: Path) -> None:
    spec = space(tmp_path, EPOCHS, points=[], sampler={"name": "grid"}, trials=None)
    budgets = opened(home, spec)
    for values in ({"pretrain.epochs": 4}, {"pretrain.epochs": 2, "seed": 7}):
        assert named(spec.config(values), home) == ([2, 4], [1, 3])
    # Phase 2 from another hand-off, or a phase 1 with another rate, are other stages.
    assert named(spec.config({"pretrain.epochs": 1}), home) == ([2, 4], [])
    assert named(spec.config({"pretrain.lr": 0.5}), home) == ([], [])
    assert named_epochs(spec.config({"pretrain.lr": 0.5}), Home(tmp_path / "other")) == {
        "pretrain": [],
        "adversarial": [],
    }
    budgets.close()
    assert named(spec.base, home) == ([], [])


def test_drawn_trials_add_theirs_and_what_others_may_draw(home: Home, tmp_path: Path) -> None:
    spec = space(tmp_path, EPOCHS | {"adversarial.lambda_cycle": {"categorical": [1.0, 2.0]}}, points=[])
    budgets = opened(home, spec)
    values = {"pretrain.epochs": 4, "adversarial.epochs": 1, "adversarial.lambda_cycle": 2.0}
    assert named(spec.config(values), home) == ([], [])
    budgets.note(values, spec.config(values))
    assert named(spec.config(values), home) == ([2, 4], [1, 3])
    assert named(spec.config(values | {"adversarial.lambda_cycle": 1.0}), home) == ([2, 4], [])
    before = read_budgets(home.studies / spec.name / FILE)
    assert opened(home, spec, [values]) and read_budgets(home.studies / spec.name / FILE) == before


def test_steps_name_the_epochs_that_they_make(home: Home, tmp_path: Path) -> None:
    steps = {"pretrain.epochs": 0, "pretrain.steps": 20, "pretrain.epoch_steps": 10}
    dimensions = {"pretrain.steps": {"categorical": [20, 40]}, "adversarial.lambda_cycle": {"categorical": [1.0, 2.0]}}
    spec = space(tmp_path, dimensions, base={**steps, "adversarial.epochs": 3}, points=[])
    assert spec.max_epochs() == 4 + 3
    budgets = opened(home, spec)
    values = {"pretrain.steps": 20, "adversarial.lambda_cycle": 2.0}
    budgets.note(values, spec.config(values))
    assert named(spec.config(values), home) == ([2, 4], [3])


def test_a_stage_that_no_other_trial_can_have_is_not_cut_into_pieces(home: Home, tmp_path: Path) -> None:
    spec = space(tmp_path, EPOCHS | {"adversarial.lr": {"float": [1e-4, 1e-3]}}, points=[])
    values = {"pretrain.epochs": 4, "adversarial.epochs": 3, "adversarial.lr": 5e-4}
    opened(home, spec, [values])
    assert named(spec.config(values), home) == ([2, 4], [3])


def test_a_tie_of_epochs_names_what_it_can_come_to(home: Home, tmp_path: Path) -> None:
    dimensions = {"pretrain.epochs": {"categorical": [4, 2]}, "adversarial.epochs": {"tie": "7 - pretrain.epochs"}}
    values = {"pretrain.epochs": 4, "adversarial.epochs": 3}
    spec = space(tmp_path, dimensions, points=[])
    opened(home, spec, [values])
    assert named(spec.config(values), home) == ([2, 4], [3, 5])


def test_the_arms_of_a_design_name_theirs(home: Home, tmp_path: Path) -> None:
    tree = changed(ARMS, arms__short={"set": {"pretrain.epochs": 1}})
    spec = load(tree, tmp_path)
    opened(home, spec)
    full = spec.reference.config.pretrain.epochs
    assert named(spec.reference.config, home)[0] == sorted({1, full})


@pytest.mark.parametrize(
    ("low", "high", "step", "expected"),
    [
        (2, 4, None, {2, 3, 4}),
        (100, 500, 100, {100, 200, 300, 400, 500}),
        (50, 400, None, {50, 100, 150, 200, 250, 300, 350, 400}),
    ],
)
def test_a_range_is_named_whole_or_evenly(low: float, high: float, step: float | None, expected: set[int]) -> None:
    found = spaced(Dimension("pretrain.epochs", "int", low, high, step=step))
    assert found == expected and len(found) <= MAX_VALUES


def test_a_damaged_or_foreign_file_names_nothing(home: Home, tmp_path: Path) -> None:
    spec = tiny_space(tmp_path)
    for text in ("{", "[]", '{"families": {"x": "y"}}', '{"families": [1]}'):
        (home.studies / "s").mkdir(parents=True, exist_ok=True)
        (home.studies / "s" / FILE).write_text(text)
        assert named_epochs(spec.base, home) == {"pretrain": [], "adversarial": []}


def test_a_run_keeps_what_another_open_study_of_the_home_names(home: Home, tmp_path: Path) -> None:
    spec = space(tmp_path, EPOCHS, points=[], sampler={"name": "grid"}, trials=None)
    opened(home, spec)
    record = run(spec.config({"pretrain.epochs": 4, "adversarial.epochs": 3}), home, "r", mirror=False)
    stored = {phase: StageStore(home.stages).epochs(key) for phase, key in record.stage_keys.items()}
    assert stored == {"pretrain": [2, 4], "adversarial": [1, 3]}
    short = run(spec.config({"pretrain.epochs": 2, "adversarial.epochs": 1}), home, "short", mirror=False)
    assert short.reused_epochs == 2


def test_families_know_no_seed_fold_or_given_segmenter(tmp_path: Path) -> None:
    base = tiny_space(tmp_path).base
    assert families(base) == families(base.with_values({"seed": 3, "runtime.threads": 2}))
    given = {"pretrain.epochs": 0, "pretrain.checkpoint": "nowhere"}
    assert set(families(base.with_values(given))) == {"adversarial"}
