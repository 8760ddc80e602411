"""Stage keys of labelled subsets and of budgets in steps: what matters splits them, what does not leaves them."""

from __future__ import annotations

import pytest
from tiny_cases import tiny_config

from sage_ray.errors import UserError
from sage_ray.stages.keys import stage_keys

STEPS = ("pretrain.epochs=0", "pretrain.steps=20", "pretrain.epoch_steps=5")
PHASE_2 = ("adversarial.epochs=0", "adversarial.steps=20", "adversarial.epoch_steps=5")


def keys(*sets: str, split: str = "s") -> dict[str, str]:
    return stage_keys(tiny_config(*sets), "data", split, {})


def test_a_budget_in_steps_is_not_in_its_own_key() -> None:
    short, long = keys(*STEPS, *PHASE_2), keys(*STEPS, *PHASE_2, "adversarial.steps=200")
    assert short == long
    longer = keys(*STEPS, *PHASE_2, "pretrain.steps=40")
    assert longer["pretrain"] == short["pretrain"] and longer["adversarial"] != short["adversarial"]


def test_steps_of_an_epoch_are_in_the_key_where_they_decide() -> None:
    assert keys(*STEPS)["pretrain"] != keys(*STEPS, "pretrain.epoch_steps=10")["pretrain"]
    assert keys("pretrain.epoch_steps=7") == keys()
    # At their default too: an epoch of so many steps is none over all images.
    default = keys("pretrain.epochs=0", "pretrain.steps=50")["pretrain"]
    assert default != keys()["pretrain"] and default != keys(*STEPS)["pretrain"]


def test_labels_are_in_the_keys_through_the_split_alone() -> None:
    assert keys("data.split.labels=4", "data.split.subset=1") == keys()
    assert keys("data.split.labels=4", split="t") != keys()


def test_unlabelled_images_split_phase_2_where_a_discriminator_sees_them() -> None:
    plain, seen = keys("data.split.labels=4"), keys("data.split.labels=4", "data.split.unlabelled=disc_image")
    assert seen["pretrain"] == plain["pretrain"] and seen["adversarial"] != plain["adversarial"]
    assert keys("data.split.unlabelled=disc_image") == keys()
    blind = ("data.split.labels=4", "adversarial.weights.adv_image=0")
    assert keys(*blind, "data.split.unlabelled=disc_image") == keys(*blind)


def test_parts_tell_unlabelled_images_apart_that_no_held_out_part_does() -> None:
    """Without a validation part, 1 label of part A may be the one of all images: the split is equal, the others not."""
    few = ("data.split.labels=1", "data.split.validation=0", "evaluation.select=last", "pretrain.handoff=last")
    seen = (*few, "data.split.unlabelled=disc_image")
    assert keys(*few, "data.split.part=A") == keys(*few)
    found = [keys(*seen, f"data.split.part={part}")["adversarial"] for part in ("all", "A", "B")]
    assert len(set(found)) == 3


def rendered(*sets: str, split: str) -> str:
    config = tiny_config("data.split.unlabelled=disc_image", *sets, preset="tiny_diffrender")
    return stage_keys(config, "data", split, {})["render"]


def test_a_renderer_that_sees_all_images_is_one_for_all_numbers_of_labels() -> None:
    few, more = ("data.split.labels=4", "data.split.subset=1"), ("data.split.labels=8",)
    assert rendered(*few, split="s") == rendered(*more, split="t") == rendered(split="u")
    for other in ("data.split.seed=3", "data.split.part=A", "data.split.folds=3", "data.split.test=0.3"):
        assert rendered(*few, other, split="s") != rendered(*few, split="s")
    # Where labels matter to it, or file names tell the training images, the split alone says which they are.
    for set_ in ("render.sizes=fitted", "data.split.group=(.)", "data.split.unlabelled=drop"):
        assert rendered(*few, set_, split="s") != rendered(*more, set_, split="t")
    assert rendered(*few, "render.sizes=fitted", split="s") == rendered(*more, "render.sizes=fitted", split="s")


def test_a_renderer_has_no_mask_discriminator_and_may_lack_its_table() -> None:
    plain = rendered("data.split.labels=4", split="s")
    assert rendered("data.split.labels=4", "discriminators.mask_attention=false", split="s") == plain
    assert rendered("render.sizes=fitted", "render.sizes_table=/nowhere.csv", split="s") != plain


def test_both_budgets_and_broken_epochs_are_refused() -> None:
    with pytest.raises(UserError, match="epochs 8 and steps 50 are both given"):
        tiny_config("pretrain.steps=50")
    with pytest.raises(UserError, match="no multiple of epoch_steps 50: set steps to 50 or 100"):
        tiny_config("pretrain.epochs=0", "pretrain.steps=70")
    with pytest.raises(UserError, match="set steps to 50"):
        tiny_config("pretrain.epochs=0", "pretrain.steps=20")
    with pytest.raises(UserError, match="nothing would be trained"):
        tiny_config("pretrain.epochs=0", "adversarial.epochs=0")
    config = tiny_config(*STEPS, *PHASE_2, "adversarial.steps=35")
    assert (config.pretrain.num_epochs, config.adversarial.num_epochs, config.num_epochs) == (4, 7, 11)
