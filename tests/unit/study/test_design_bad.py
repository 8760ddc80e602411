"""Bad ablation designs: each is refused in one line, beside a good twin that loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from design_cases import ARMS, DICE, FACTORS, changed, load

from sage_ray.errors import UserError


def bad(label: str, tree: dict[str, Any], twin: dict[str, Any], *words: str) -> Any:
    return pytest.param(tree, twin, words, id=label)


def dice(values: dict[str, Any]) -> dict[str, Any]:
    """ARMS whose arm `dice` sets these values instead of its own."""
    return changed(ARMS, arms__dice={"set": values})


def again(values: dict[str, Any]) -> dict[str, Any]:
    """ARMS with one arm more."""
    return changed(ARMS, arms__again={"set": values})


def based(values: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """ARMS with assignments to the base."""
    return changed(ARMS, base__set=values, **changes)


def long_names(length: int) -> dict[str, Any]:
    factors = {name.ljust(length, "x"): levels for name, levels in FACTORS["factors"].items()}
    return changed(FACTORS, name="n" * 100, factors=factors)


FRACTION = changed(FACTORS, kind="fractional", generators={"loss": "gates*mixing"})
LEAVE_ONE_OUT = changed(FACTORS, kind="leave_one_out")
NO_DICE = changed(ARMS, arms__dice__not_run="no")
THREE = {"data.split.folds": 3}
PUBLIC = {"preset": "tiny_sage_gan_public"}
FOCAL = {"segmentation_loss.focal_gamma": 3}
CE = {"set": {"segmentation_loss.w_focal_tversky": 0}}
BAD = [
    bad("reference", changed(ARMS, reference="ful"), ARMS, "unknown reference ful", "full"),
    bad("no reference", changed(ARMS, reference=None), ARMS, "reference is missing"),
    bad("kind", changed(ARMS, kind="arm"), changed(ARMS, kind="arms"), "unknown kind arm", "arms"),
    bad("no kind", changed(FACTORS, kind=None), FACTORS, "missing key", "kind"),
    bad("key", changed(ARMS, sedes=[1]), changed(ARMS, seeds=[1]), "sedes", "seeds"),
    bad("arm's key", changed(ARMS, arms__dice={"sett": {}}), ARMS, "sett", "did you mean set?"),
    bad("arm's path", dice({"segmentation_loss.w_dise": 1}), dice(DICE), "arms.dice", "w_dice"),
    bad("arm's value", dice({"pretrain.lr": -1}), dice({"pretrain.lr": 1}), "arms.dice, pretrain.lr", "greater"),
    bad("arm's preset", changed(ARMS, arms__dice={"preset": "tiny_unett"}), ARMS, "tiny_unet"),
    bad("arm's network", dice({"segmenter.name": "unett"}), dice({"segmenter.name": "unet"}), "dice", "unknown model"),
    bad("arm's runtime", dice({"runtime.threads": 2}), based({"runtime.threads": 2}), "runtime.threads", "base.set"),
    bad("arm's seed", dice({"seed": 2}), changed(ARMS, seeds=[2]), "seed", "under seeds"),
    bad("arm's name", changed(ARMS, arms={"full": {}, "a/b": {"set": DICE}}), ARMS, "a/b"),
    bad("reserved name", changed(ARMS, arms={"full": {}, "final": {"set": DICE}}), ARMS, "cannot be called final"),
    bad("empty arms", changed(ARMS, arms={}), ARMS, "arms is empty"),
    bad("one arm", changed(ARMS, arms={"full": {}}), ARMS, "one arm only"),
    bad("one arm that runs", changed(NO_DICE, arms__no_mixing__not_run="no"), NO_DICE, "one arm only"),
    bad("reference not run", changed(ARMS, arms__full={"not_run": "no"}), NO_DICE, "reference is not run"),
    bad("empty reason", changed(ARMS, arms__dice__not_run=" "), NO_DICE, "reason"),
    bad("other data", dice({"data.path": "synthetic://ordered?num=9"}), ARMS, "data.path do not compare", "base.set"),
    bad("other split", dice({"data.split.seed": 3}), based({"data.split.seed": 3}), "data.split.seed do not compare"),
    bad("other size", dice({"data.image_size": [32, 32]}), based({"data.image_size": [32, 32]}), "data.image_size"),
    bad("other crop", dice({"data.crop_bottom": 2}), based({"data.crop_bottom": 2}), "data.crop_bottom"),
    bad("split of a preset", changed(ARMS, arms__public=PUBLIC),
        based({"data.split.validation": 0.1}, arms__public=PUBLIC), "data.split.validation", "arms.public"),
    bad("identical", again({"adversarial.mix_max": 0.6}), again({"adversarial.mix_max": 0.5}), "full and again"),
    bad("no effect", again(FOCAL), again({**FOCAL, "segmentation_loss.w_focal": 1}), "are the same", "full and again"),
    bad("seeds twice", changed(ARMS, seeds=[1, 1]), ARMS, "seeds repeats"),
    bad("no seeds", changed(ARMS, seeds=[]), ARMS, "seeds is empty"),
    bad("no folds", changed(ARMS, folds=[0]), based(THREE, folds=[0]), "fold 0 does not exist"),
    bad("fold too high", based(THREE, folds=[3]), based(THREE, folds=[2]), "fold 3"),
    bad("no test part", based({"data.split.test": 0}), based({"data.split.test": 0}, test=False), "test: false"),
    bad("factors beside arms", changed(ARMS, factors=FACTORS["factors"]), ARMS, "kind arms"),
    bad("arms beside factors", changed(FACTORS, arms=ARMS["arms"]), FACTORS, "kind factorial"),
    bad("no factors", changed(FACTORS, factors={}), FACTORS, "factors is empty"),
    bad("one level", changed(FACTORS, factors__loss={"hybrid": {}}), FACTORS, "factor loss has 1 level"),
    bad("level's key", changed(FACTORS, factors__loss__dice={"est": {}}), FACTORS, "est", "set"),
    bad("level's path", changed(FACTORS, factors__loss__dice={"set": {"loss.w": 1}}), FACTORS, "loss.w"),
    bad("level's name", changed(FACTORS, factors__loss={"a+b": {}, "dice": {"set": DICE}}), FACTORS, "a+b"),
    bad("three levels", changed(LEAVE_ONE_OUT, factors__loss__ce=CE), LEAVE_ONE_OUT, "loss has 3 levels", "two"),
    bad("three levels of a fraction", changed(FRACTION, factors__loss__ce=CE), FRACTION, "loss has 3 levels"),
    bad("shared setting", changed(FACTORS, factors__mixing__off={"set": {"segmenter.attention": False}}), FACTORS,
        "gates and mixing both set segmenter.attention"),
    bad("level without effect", changed(FACTORS, factors__loss__dice={}), FACTORS, "two arms are the same"),
    bad("no generators", changed(FACTORS, kind="fractional"), FRACTION, "generators"),
    bad("generators elsewhere", changed(FRACTION, kind="factorial"), FRACTION, "belong to fractional"),
    bad("unknown generated", changed(FRACTION, generators={"los": "gates*mixing"}), FRACTION, "unknown factor los"),
    bad("unknown in generator", changed(FRACTION, generators={"loss": "gates*mix"}), FRACTION, "unknown factor mix"),
    bad("itself in generator", changed(FRACTION, generators={"loss": "gates*loss"}), FRACTION, "unknown factor loss"),
    bad("repeated in generator", changed(FRACTION, generators={"loss": "gates*gates"}), FRACTION, "occurs twice"),
    bad("resolution", changed(FRACTION, generators={"loss": "gates"}), FRACTION, "resolution II", "gates*loss"),
    bad("minus", changed(FRACTION, generators={"loss": "-gates*mixing"}), FRACTION, "reference is no arm"),
    bad("name", changed(ARMS, name="a/b"), ARMS, "a/b"),
    bad("long run id", long_names(30), long_names(20), "too long"),
    bad("base value", based({"pretrain.lr": -1}), based({"pretrain.lr": 1}), "pretrain.lr"),
    bad("score", changed(ARMS, objective={"metric": "val/dise"}), ARMS, "val/dice"),
    bad("cuda without gpu", {**based({"runtime.device": "cuda"}), "resources": {"gpu": 0}},
        based({"runtime.device": "cuda"}), "resources.gpu"),
    bad("arm that is no mapping", changed(ARMS, arms__dice=3), ARMS, "arms.dice"),
]  # fmt: skip


@pytest.mark.parametrize(("tree", "twin", "words"), BAD)
def test_bad_design_is_one_line_that_names_it_and_its_twin_loads(
    tmp_path: Path, tree: dict[str, Any], twin: dict[str, Any], words: tuple[str, ...]
) -> None:
    assert load(twin, tmp_path).trials > 1
    with pytest.raises(UserError) as caught:
        load(tree, tmp_path).trials  # noqa: B018
    text = str(caught.value)
    assert "\n" not in text and all(word in text for word in words), text
