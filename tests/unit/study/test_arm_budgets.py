"""Budgets that follow another arm: epochs and steps by hand, GPU-seconds left open, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from design_cases import ARMS, changed, load

from sage_ray.config import dump
from sage_ray.errors import UserError
from sage_ray.study.design import Design, load_design

SIZES = {"pretrain.epochs": 4, "adversarial.epochs": 6, "pretrain.batch_size": 4, "adversarial.batch_size": 4}
MIXING = {"adversarial.mix_start": 0.1, "adversarial.mix_step": 0.2, "adversarial.mix_max": 0.6}
ALONE = {"adversarial.epochs": 0}


def tree(**arms: Any) -> dict[str, Any]:
    """The reference `full` (4 and 6 epochs; mixes .1, .3, .5, .6, .6, .6), its phase 1 alone, and the given arms."""
    base = {"preset": "tiny_sage_gan", "set": {**SIZES, **MIXING, "adversarial.freeze_epochs": 0}}
    return changed(ARMS, base=base, arms={"full": {}, "plain": {"set": ALONE}, **arms})


def follower(unit: str, of: str = "full", **more: Any) -> dict[str, Any]:
    return {"set": {**ALONE, **more.pop("set", {})}, "budget": {"of": of, "in": unit}, **more}


def epochs(design: Design, name: str) -> int:
    return next(arm for arm in design.arms if arm.name == name).config.pretrain.epochs


def test_epochs_are_those_of_both_phases_whatever_the_base_is_set_to(tmp_path: Path) -> None:
    design = load(tree(same=follower("epochs")), tmp_path)
    assert epochs(design, "same") == 10 and epochs(design, "plain") == 4
    larger = load(tree(same=follower("epochs")), tmp_path, sets=["pretrain.epochs=7", "adversarial.epochs=20"])
    assert epochs(larger, "same") == 27 and epochs(larger, "plain") == 7


def test_steps_count_the_generated_batches_that_the_segmenter_learns_from(tmp_path: Path) -> None:
    # .1 + .3 + .5 + .6 + .6 + .6 = 2.7 of the 6 epochs have a second batch: 4 + 6 + 2.7, rounded up.
    assert epochs(load(tree(same=follower("steps")), tmp_path), "same") == 13
    # Half as large batches in phase 2 are twice as many: 4 + 2 * 8.7 = 21.4.
    halved = ["adversarial.batch_size=2"]
    assert epochs(load(tree(same=follower("steps")), tmp_path, sets=halved), "same") == 22
    # Where no loss of generated images trains the segmenter they do not count; then steps would be epochs.
    off = ["adversarial.weights.rec_mask=0"]
    assert epochs(load(tree(same=follower("steps")), tmp_path, sets=off), "same") == 10


STEPS = [f"{phase}.{name}" for phase in ("pretrain", "adversarial") for name in ("epochs=0", "epoch_steps=5")]


def test_budgets_in_steps_are_followed_step_by_step_and_not_mixed_with_epochs(tmp_path: Path) -> None:
    alone = {"set": {"adversarial.steps": 0}}
    arms = changed(tree(same=follower("steps", **alone)), arms__plain__set=ALONE | alone["set"])
    design = load(arms, tmp_path, sets=[*STEPS, "pretrain.steps=20", "adversarial.steps=30"])
    # As many epochs of 5 steps, of which .1 + .3 + .5 + .6 + .6 + .6 have a second batch: 4 + 6 + 2.7, rounded up.
    assert design.arms[-1].config.pretrain.steps == 13 * 5
    with pytest.raises(UserError, match="full and the arm that follows it have budgets in steps and in epochs"):
        load(arms, tmp_path, sets=[*STEPS[:2], "pretrain.steps=20"])


@pytest.mark.parametrize("name", ["ablate_baselines", "ablate_components", "ablate_family", "ablate_screen"])
def test_arms_of_shipped_designs_have_the_same_phases_under_budgets_in_steps(name: str) -> None:
    plain = load_design(name)
    steps = load_design(name, [*STEPS, "pretrain.steps=20", "adversarial.steps=30"])
    phases = [
        [(arm.name, arm.config.pretrain.num_epochs > 0, arm.config.adversarial.num_epochs > 0) for arm in design.arms]
        for design in (plain, steps)
    ]
    assert phases[0] == phases[1]
    assert {arm.config.adversarial.num_epochs for arm in steps.arms} <= {0, 6}


def test_a_polynomial_rate_runs_down_over_the_budget_also_of_a_preset(tmp_path: Path) -> None:
    strong = follower("epochs", preset="tiny_strong_unet")
    design = load(tree(strong=strong), tmp_path, sets=["adversarial.epochs=40"])
    schedule = design.arms[-1].config.pretrain.schedule
    assert (epochs(design, "strong"), schedule.rule, schedule.total_epochs) == (44, "poly", 44)


def test_gpu_seconds_are_an_estimate_that_comes_last_and_is_settled_per_run(tmp_path: Path) -> None:
    design = load(tree(timed=follower("gpu_seconds"), same=follower("epochs")), tmp_path)
    assert [arm.name for arm, _ in design.cells][-2:] == ["timed", "timed"] and epochs(design, "timed") == 10
    assert design.phase_one_like(design.arms[2]) is design.arms[0]
    line = next(text for text in design.details() if text.startswith("timed"))
    assert "timed follows full" in line and "counted here as 10" in line

    settled = dataclasses.replace(design, settled={"good-timed-s1": 23})
    number = next(n for n, (_, place) in enumerate(settled.cells) if place.run_id == "good-timed-s1")
    assert settled.config(settled.fixed[number].values, 1).pretrain.epochs == 23 == settled.max_epochs(number)
    assert settled.max_epochs(number - 1) == 10 and settled.hash == design.hash


def test_a_stored_design_reads_back_with_its_budgets_and_labels(tmp_path: Path) -> None:
    arms = {"timed": follower("gpu_seconds"), "strong": follower("steps", preset="tiny_strong_unet", label="Strong")}
    design = load(tree(**arms), tmp_path)
    (tmp_path / "base.yaml").write_text(dump(design.base))
    (tmp_path / "stored.yaml").write_text(design.to_yaml("base.yaml"))
    again = load_design(tmp_path / "stored.yaml", stored=True)
    # Which presets it was begun from is in study.json alone: the stored file names none.
    facts = design.facts()
    assert facts.pop("presets") == {"base": "tiny_sage_gan", "arms": {"strong": "tiny_strong_unet"}}
    assert again.hash == design.hash and again.facts() == facts
    assert [arm.config for arm in again.arms] == [arm.config for arm in design.arms]
    assert design.facts()["arms"][3]["label"] == "Strong"
    assert design.facts()["arms"][2]["budget"] == {"of": "full", "in": "gpu_seconds"}


def test_labels_and_names_of_budgets_that_are_settled_change_no_hash(tmp_path: Path) -> None:
    plain = load(tree(), tmp_path)
    labelled = load(changed(tree(), arms__plain__label="Plain network"), tmp_path)
    assert plain.hash == labelled.hash
    broken = load(changed(tree(), arms__plain__label=" Plain\n\tnetwork\x1b[31m 😀 "), tmp_path)
    assert broken.labels() == {"plain": "Plain network [31m 😀"}, "a row of a table stays one line"
    assert "label" not in plain.facts()["arms"][1] and "budget" not in plain.facts()["arms"][1]
    timed, counted = (load(tree(x=follower(unit)), tmp_path) for unit in ("gpu_seconds", "epochs"))
    assert timed.hash != counted.hash


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        (follower("epochs", of="ful"), "budget.of.*full"),
        (follower("epochs", of="x"), "x has no budget of its own"),
        (follower("hours"), "arms.x.budget.in"),
        ({"budget": {"of": "full", "in": "epochs"}}, "a budget is of arms that have phase 1 alone"),
        (follower("epochs", set={"pretrain.epochs": 3}), "budget and pretrain.epochs are both given"),
        (follower("gpu_seconds", set={"segmenter.width": 12}), "no run would tell what an epoch of the arm takes"),
        (follower("gpu_seconds", preset="tiny_strong_unet"), "no run would tell what an epoch of the arm takes"),
        (follower("epochs", set={"adversarial.epochs": 0, "pretrain.lr": -1}), "arms.x.*pretrain.lr"),
        (follower("steps", preset="tiny_diffrender"), "rendered pairs and one over real images differ in steps"),
        (follower("epochs", label="plain"), "two arms are called 'plain' in tables"),
    ],
)
def test_budgets_that_cannot_be_followed_are_refused_in_one_line(
    arm: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(tree(x=arm), tmp_path)
    assert "\n" not in str(caught.value)


def test_equal_budgets_are_two_arms_alike(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two arms are the same"):
        load(tree(a=follower("epochs"), b=follower("steps")), tmp_path, sets=["adversarial.weights.rec_mask=0"])


def test_the_shipped_baselines_give_every_budget_of_sage_gan(tmp_path: Path) -> None:
    design = load_design("ablate_baselines", ["pretrain.epochs=20", "adversarial.epochs=30"])
    assert [arm.name for arm in design.arms[:7]][-1] == "sage_gan"
    # The mixing probability grows by .005 an epoch from 0: .005 * (0 + ... + 29) = 2.175 epochs more.
    found = {arm.name: arm.config.pretrain.epochs for arm in design.arms[6:]}
    assert found == {
        "sage_gan": 20, "attention_unet_epochs": 50, "attention_unet_steps": 53, "attention_unet_seconds": 50,
        "strong_unet": 50, "pretrained_unet": 50,
    }  # fmt: skip
    assert all(arm.label for arm in design.arms[7:]) and design.arms[-1].config.segmenter.encoder_weights == "imagenet"
    assert design.arms[-2].config.pretrain.schedule.total_epochs == 50


GAN = {
    **{"pretrain.epochs": 0, "adversarial.freeze_epochs": 0, "adversarial.perceptual": "none"},
    **{"evaluation.select": "last", "evaluation.metric": "val/loss", "evaluation.ema_decay": 0},
}


def test_systems_that_mix_in_every_step_count_it_and_one_without_segmenter_has_no_steps(tmp_path: Path) -> None:
    family = {"preset": "tiny_f_ancgan", "set": {"pretrain.epochs": 0, "adversarial.epochs": 6}}
    design = load(tree(family=family, same=follower("steps", of="family")), tmp_path)
    assert epochs(design, "same") == 12  # a real and a generated batch in each step
    with pytest.raises(UserError, match="gan has no segmenter whose steps could be counted: give the budget in epochs"):
        load(tree(gan={"preset": "tiny_gan", "set": GAN}, same=follower("steps", of="gan")), tmp_path)


def test_an_epoch_is_told_by_an_arm_of_the_same_phase_one_whatever_makes_its_pairs(tmp_path: Path) -> None:
    made = {"data.extra_pairs": "preset:tiny_diffrender?pairs=8"}
    arms = {
        "half": {"set": {**ALONE, **made, "pretrain.synthetic_share": 0.5}},
        "timed": follower("gpu_seconds", set={**made, "pretrain.synthetic_share": 0.5}),
    }
    design = load(tree(**arms), tmp_path)
    like = design.phase_one_like(design.arms[-1])
    assert like is not None and like.name == "half"
    # The same renderer alone makes no phase 1 alike.
    arms["half"] = {"set": {**ALONE, **made, "pretrain.synthetic_share": 1.0}}
    with pytest.raises(UserError, match="no run would tell what an epoch of the arm takes"):
        load(tree(**arms), tmp_path)


def test_an_arm_whose_pairs_nothing_makes_is_named(tmp_path: Path) -> None:
    pairs = {"data.extra_pairs": "preset:tiny_unet", "pretrain.synthetic_share": 0.5}
    with pytest.raises(UserError, match=r"a preset without generator or renderer: .*arms.x, data.extra_pairs"):
        load(tree(x={"set": {**ALONE, **pairs}}), tmp_path)
