"""The judge of a study: one for all its arms, whatever their systems, widths, budgets and segmenters."""

from __future__ import annotations

import pytest

from sage_ray.config import resolve
from sage_ray.data.splits import THIRDS
from sage_ray.evaluation.judge import judge_config, own_architecture, real_data
from sage_ray.study.design import load_design

SYSTEMS = ("sage_gan", "f_ancgan", "cyclegan", "gan", "diffrender")


def judge_of(config: object) -> str:
    data = real_data(config.data, THIRDS[1])  # type: ignore[attr-defined]
    return judge_config(config, data, 20).config_hash()  # type: ignore[arg-type]


def test_all_arms_of_the_family_have_one_judge() -> None:
    arms = load_design("ablate_family", {"adversarial.perceptual": "none", "data.split.part": "A"}).arms
    assert {own_architecture(arm.config) for arm in arms} >= {"attention_unet", "unet", "resnet", None}
    assert len({judge_of(arm.config) for arm in arms}) == 1


@pytest.mark.parametrize("steps", [0, 200])
def test_budgets_of_any_kind_widths_and_seeds_do_not_matter(steps: int) -> None:
    hashes = set()
    for number, name in enumerate(SYSTEMS):
        budget = {"adversarial.steps": steps, "adversarial.epochs": 0} if steps and name != "diffrender" else {}
        config = resolve(preset=f"tiny_{name}", sets={"seed": number, "evaluation.batch_size": number + 1, **budget})
        hashes.add(judge_of(config.config))
    assert len(hashes) == 1


def test_the_judge_is_of_another_architecture_than_the_generators_own_segmenter() -> None:
    strong = resolve(preset="tiny_sage_gan", sets={"segmenter.name": "residual_unet"}).config
    judge = judge_config(strong, real_data(strong.data, "B"), 3)
    assert judge.segmenter.name == "unet" and judge.pretrain.batch_size == 3 and judge.pretrain.steps == 1000
    # Nothing is generated beside a segmenter that is trained on real or rendered pairs, nor by a system without one.
    for name in ("tiny_strong_unet", "tiny_gan"):
        config = resolve(preset=name, sets={}).config
        assert judge_config(config, real_data(config.data, "B"), 20).segmenter.name == "residual_unet"
    other = judge_config(strong, real_data(strong.data, "B"), 20, epochs=7)
    assert other.num_epochs == 7 and other.pretrain.schedule.total_epochs == 7
    small = real_data(strong.data.model_copy(update={"image_size": (16, 40)}), "B")
    assert judge_config(strong, small, 20).segmenter.depth == 3 and judge.segmenter.depth == 4
    large = resolve(preset="sage_gan_paper", sets={}).config
    assert judge_config(large, real_data(large.data, "B"), 20).segmenter.width == 32 and judge.segmenter.width == 8
