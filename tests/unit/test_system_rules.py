"""Systems of phase 2 in the config: what is refused, and how to mend it."""

from __future__ import annotations

import pytest

from sage_ray.config import resolve
from sage_ray.errors import UserError
from sage_ray.study.design import load_design
from sage_ray.system_rules import NETWORKS, has_segmenter

PAIRS = "unpaired data where pairs are needed"


@pytest.mark.parametrize(
    ("preset", "bad", "said"),
    [
        ("tiny_sage_gan", ["adversarial.pairing=unpaired"], PAIRS),
        ("tiny_f_ancgan", ["adversarial.pairing=unpaired"], "adversarial.system to cyclegan or gan"),
        ("tiny_cyclegan", ["pretrain.epochs=2"], f"{PAIRS} (adversarial.pairing=unpaired, phase 1 learns from pairs)"),
        ("tiny_f_ancgan", ["adversarial.replay_pool=9"], "system f_ancgan has no replay pool"),
        ("tiny_f_ancgan", ["adversarial.freeze_epochs=1"], "set adversarial.freeze_epochs to 0"),
        ("tiny_cyclegan", ["adversarial.perceptual=vgg19"], "set adversarial.perceptual to none"),
        ("tiny_gan", ["pretrain.epochs=2"], "set pretrain.epochs to 0"),
        ("tiny_gan", ["pretrain.steps=50"], "pretrain.steps too"),
        ("tiny_cyclegan", ["pretrain.steps=50"], "pretrain.steps too"),
        ("tiny_gan", ["evaluation.select=best"], "set evaluation.select to last"),
        ("tiny_gan", ["evaluation.metric=val/dice"], "set evaluation.metric to val/loss"),
        ("tiny_gan", ["adversarial.schedule.rule=plateau"], "set adversarial.schedule.metric to val/loss"),
        ("tiny_gan", ["evaluation.ema_decay=0.9"], "set evaluation.ema_decay to 0"),
        ("tiny_gan", ["adversarial.weights.adv_image=0"], "adversarial.weights.adv_image above 0"),
        ("tiny_f_ancgan", ["segmenter.blocks=3"], "segmenter.blocks=3 needs segmenter.name resnet"),
        ("tiny_gan", ["adversarial.system=wgan"], "cyclegan"),
    ],
)
def test_what_a_system_cannot_do_is_refused_in_one_line(preset: str, bad: list[str], said: str) -> None:
    with pytest.raises(UserError) as refused:
        resolve(preset, sets=bad)
    assert said in str(refused.value) and len(str(refused.value).splitlines()) == 1


def test_systems_and_their_presets() -> None:
    for system, networks in NETWORKS.items():
        preset = "sage_gan_paper" if system == "sage_gan" else system
        config, small = resolve(preset).config, resolve(f"tiny_{preset}").config
        assert config.adversarial.system == small.adversarial.system == system
        assert has_segmenter(config.adversarial) == ("segmenter" in networks)
    # A run of phase 1 alone trains the segmenter, whatever phase 2 would be.
    assert has_segmenter(resolve("unet", sets=["adversarial.epochs=0"]).config.adversarial)


def test_the_values_of_the_papers() -> None:
    ours = resolve("f_ancgan").config
    assert (ours.segmentation_loss.w_focal, ours.segmentation_loss.focal_alpha) == (0.5, 0.25)
    assert (ours.adversarial.weights.rec_mask, ours.adversarial.weights.id_mask) == (100, 50)
    assert ours.adversarial.epochs == 700 and ours.pretrain.epochs == 0
    cycle = resolve("cyclegan").config.adversarial
    assert (cycle.pairing, cycle.replay_pool, cycle.lr, cycle.betas) == ("unpaired", 50, 2e-4, (0.5, 0.999))
    assert cycle.weights.rec_mask == cycle.weights.rec_image_l1 == 2 * cycle.weights.id_mask == 10


@pytest.mark.parametrize("sets", [[], ["pretrain.epochs=2", "adversarial.epochs=3", "adversarial.freeze_epochs=1"]])
def test_the_family_s_design_keeps_its_arms_whatever_is_set_for_all(sets: list[str]) -> None:
    arms = {arm.name: arm.config for arm in load_design("ablate_family", dict(s.split("=") for s in sets)).arms}
    systems = {name: config.adversarial.system for name, config in arms.items()}
    assert systems == {
        "sage_gan": "sage_gan",
        "f_ancgan": "f_ancgan",
        "f_ancgan_focal_tversky": "f_ancgan",
        "f_ancgan_no_gates": "f_ancgan",
        "cyclegan": "cyclegan",
        "gan": "gan",
        "cgan_seg": "sage_gan",
        "diffrender": "sage_gan",
        "shader": "sage_gan",
    }
    assert [arms[name].render.engine for name in ("diffrender", "shader")] == ["mitsuba", "shader"]
    for name in ("diffrender", "shader"):
        assert arms[name].render.train_on_pairs and not arms[name].adversarial.num_epochs
    assert not arms["f_ancgan_no_gates"].segmenter.attention and arms["f_ancgan"].segmenter.attention
    assert arms["f_ancgan_focal_tversky"].segmentation_loss.w_focal_tversky == 1
    assert [arms[name].pretrain.epochs for name in ("f_ancgan", "cyclegan", "gan", "cgan_seg")] == [0] * 4
    assert len({config.data.model_dump_json() for config in arms.values()}) == 1
