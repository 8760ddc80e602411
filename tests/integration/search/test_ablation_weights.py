"""What an ablation's arms need, such as weights, labels and pairs, is looked for before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from design_cases import ARMS, FACTORS, changed, load

from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.search.ablate import ablate


def test_an_arm_whose_encoder_cannot_be_had_is_named_before_any_training(tmp_path: Path) -> None:
    pretrained = {"preset": "tiny_pretrained_unet", "set": {"segmenter.encoder_weights": str(tmp_path / "gone.pth")}}
    design = load(changed(ARMS, arms__pretrained=pretrained), tmp_path)
    home = Home(tmp_path / "home")
    with pytest.raises(UserError, match="no such file of ResNet-34 weights: arm pretrained.*gone.pth") as caught:
        ablate(design, home)
    text = str(caught.value)
    assert "\n" not in text and "--set 'arms.pretrained.not_run=REASON'" in text
    assert not (home.studies / "good").exists() and home.run_ids() == []


EXTRA = {"adversarial.epochs": 0, "pretrain.synthetic_share": 0.5}
LAST = {"evaluation.select": "last", "pretrain.handoff": "last"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"data.split.labels": 90, **LAST}, "90 labels, but 31 training images: arm asks, .*give at most 31"),
        ({"data.split.labels": 3, **LAST}, "fewer training images than one batch: arm asks, batch_size=4"),
        ({**EXTRA, "data.extra_pairs": "stage:0123456789abcdef"}, "no such stage of pairs: arm asks, data.extra_pairs"),
        ({**EXTRA, "data.extra_pairs": "nosuchrun?pairs=3"}, "no such model: arm asks, data.extra_pairs=nosuchrun"),
    ],
)
def test_an_arm_that_asks_for_images_that_are_not_there_is_named_before_any_training(
    values: dict[str, Any], words: str, tmp_path: Path
) -> None:
    home = Home(tmp_path / "home")
    with pytest.raises(UserError, match=words) as caught:
        ablate(load(changed(ARMS, arms__asks={"set": values}), tmp_path), home)
    assert "\n" not in str(caught.value) and "--set 'arms.asks.not_run=REASON'" in str(caught.value)
    assert home.run_ids() == [] and home.study_names() == []


def test_a_level_of_a_crossed_design_is_told_how_it_is_left_out(tmp_path: Path) -> None:
    levels = {"all": {}, "n90": {"set": {"data.split.labels": 90}}}
    tree = changed(FACTORS, factors={"labels": levels, "gates": FACTORS["factors"]["gates"]}, base__set=LAST)
    with pytest.raises(UserError, match=r"90 labels.*--set 'factors.FACTOR.LEVEL.not_run=REASON'"):
        ablate(load(tree, tmp_path), Home(tmp_path / "home"))
