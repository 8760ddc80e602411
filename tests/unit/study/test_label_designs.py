"""Designs over numbers of labels: subsets beside seeds, arms that differ in labels, runs that share their stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from design_cases import changed, load

from sage_ray.errors import UserError
from sage_ray.study.design import load_design

LAST = {"evaluation.select": "last", "pretrain.handoff": "last"}
DESIGN: dict[str, Any] = {
    "name": "labels",
    "base": {"preset": "tiny_sage_gan", "set": LAST},
    "kind": "factorial",
    "reference": "full_all",
    "factors": {
        "method": {"full": {}, "no_cycle": {"set": {"adversarial.lambda_cycle": 0}}},
        "labels": {"all": {}, "n4": {"set": {"data.split.labels": 4}}},
    },
    "seeds": [0, 1],
    "subsets": [0, 3],
}


def test_every_arm_runs_on_every_seed_and_subset(tmp_path: Path) -> None:
    design = load(DESIGN, tmp_path)
    assert design.trials == 4 * 2 * 2
    names = [place.run_id for _, place in design.cells]
    assert len(set(names)) == 16 and "labels-labels=n4-s1-u3" in names
    number = names.index("labels-labels=n4-s1-u3")
    config = design.run_configs(number, design.fixed[number].values)[0]
    assert (config.seed, config.data.split.labels, config.data.split.subset) == (1, 4, 3)
    assert design.fixed[number].params == {"arm": "labels=n4", "seed": 1, "subset": 3}
    # Of the arms that compute stages for others, whole seeds come first.
    assert [(place.seed, place.subset) for _, place in design.cells[::2][:4]] == [(0, 0), (0, 3), (1, 0), (1, 3)]
    kept = load_design_again(design, tmp_path)
    assert kept.hash == design.hash and kept.trials == design.trials


def load_design_again(design: Any, folder: Path) -> Any:
    (folder / "base.yaml").write_text("extends: tiny_sage_gan\nevaluation: {select: last}\npretrain: {handoff: last}\n")
    path = folder / "again.yaml"
    path.write_text(design.to_yaml("base.yaml"))
    return load_design(path)


def test_without_subsets_runs_and_hashes_are_as_before(tmp_path: Path) -> None:
    one = load(changed(DESIGN, subsets=None), tmp_path)
    assert one.trials == 8 and all("-u" not in place.run_id for _, place in one.cells)
    assert one.hash == load(changed(DESIGN, subsets=[]), tmp_path).hash != load(DESIGN, tmp_path).hash


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"factors__labels__n4": {"set": {"data.split.subset": 1}}}, "list them under subsets"),
        ({"subsets": [0, 0]}, "subsets repeats a value"),
        ({"subsets": 2}, "give a list in brackets, such as"),
        ({"factors__labels__n4": {"set": {"data.split.test": 0.3}}}, "arms with different data.split.test"),
        ({"factors__labels__n4": {"set": {"data.split.labels": 0}}}, "two arms are the same"),
    ],
)
def test_bad_designs_are_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        load(changed(DESIGN, **changes), tmp_path)


def test_the_shipped_design_has_equal_steps_and_one_phase_1(tmp_path: Path) -> None:
    design = load_design("ablate_labels")
    steps = {arm.config.pretrain.steps + arm.config.adversarial.steps for arm in design.arms}
    assert steps == {35000}
    by_name = {arm.name: arm for arm in design.arms}
    sage, supervised = by_name["method=sage_gan+labels=n8"], by_name["labels=n8"]
    assert sage.chain[0] == supervised.chain[0] != by_name["labels=n4"].chain[0]
    for arm in design.arms:
        assert arm.config.evaluation.select == "last" and arm.config.pretrain.handoff == "last"
