"""What a final training will do: config on train + validation, replayed drops, seeds declared beforehand."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_cases import SMALLEST

from sage_ray.config import ExperimentConfig, resolve
from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.registry.final_plan import declare, final_config, make_plan, plan_path, read_plan

TINY = SMALLEST | {"adversarial.epochs": 0, "runtime.pictures": False}


def test_final_config_trains_on_validation_images_for_fixed_epochs() -> None:
    trial = resolve(preset="tiny_sage_gan", sets={"data.split.folds": 3, "data.split.fold": 2}).config
    final = final_config(trial, {}, "x")
    assert (final.data.split.validation, final.data.split.folds, final.data.split.fold) == (0, 0, 0)
    assert (final.evaluation.select, final.pretrain.handoff) == ("last", "last")
    assert (final.pretrain.epochs, final.adversarial.epochs) == (trial.pretrain.epochs, trial.adversarial.epochs)
    assert final.data.split.test == trial.data.split.test
    averaged = final_config(trial.with_values({"evaluation.ema_decay": 0.9}), {}, "x")
    assert averaged.evaluation.select == "ema"


def test_final_config_learns_from_every_label_for_as_many_steps() -> None:
    steps = {"pretrain.epochs": 0, "pretrain.steps": 100, "pretrain.schedule.rule": "plateau"}
    held_back = {"data.split.labels": 4, "data.split.subset": 2, "data.split.unlabelled": "disc_image"}
    trial = resolve(preset="tiny_sage_gan", sets={**steps, **held_back}).config
    final = final_config(trial, {"pretrain": [2], "adversarial": []}, "x")
    assert (final.data.split.labels, final.data.split.subset, final.data.split.unlabelled) == (0, 0, "drop")
    assert (final.pretrain.epochs, final.pretrain.steps) == (0, 100)
    with pytest.raises(UserError, match="learning-rate drops are unknown"):
        final_config(trial, None, "x")


def test_drops_that_validation_drove_are_replayed() -> None:
    values = {f"{phase}.schedule.rule": "plateau" for phase in ("pretrain", "adversarial")}
    values |= {"pretrain.schedule.factor": 0.5}
    trial = resolve(preset="tiny_sage_gan", sets=values).config
    final = final_config(trial, {"pretrain": [3, 6], "adversarial": []}, "x")
    assert (final.pretrain.schedule.rule, final.pretrain.schedule.drops) == ("drops", (3, 6))
    assert final.pretrain.schedule.factor == 0.5
    assert (final.adversarial.schedule.rule, final.adversarial.schedule.drops) == ("drops", ())
    with pytest.raises(UserError, match="learning-rate drops are unknown: x, pretrain.schedule.rule=plateau"):
        final_config(trial, None, "x")


def test_what_makes_extra_pairs_must_do_without_validation_too() -> None:
    def trial(preset: str) -> ExperimentConfig:
        return resolve(
            preset="tiny_attention_unet",
            sets={"data.extra_pairs": f"preset:{preset}pairs=5", "pretrain.synthetic_share": 0.5},
        ).config

    assert final_config(trial("tiny_sage_gan?"), {}, "x").data.extra_pairs == "preset:tiny_sage_gan?pairs=5"
    with pytest.raises(UserError, match="preset:tiny_cgan_seg.*: without a validation part rule plateau has no score"):
        final_config(trial("tiny_cgan_seg?"), {}, "x")
    constant = "tiny_cgan_seg?pretrain.schedule.rule=constant&adversarial.schedule.rule=constant&"
    final_config(trial(constant), {}, "x")


def test_plan_is_declared_once_and_seeds_make_another(home: Home) -> None:
    home.check_writable()
    config = resolve(preset="tiny_sage_gan", sets=TINY).config
    plan = make_plan(config, home, trial="best", seeds=(0, 1), model_name="sage-gan")
    first = declare(plan, home)
    assert declare(plan, home) == first == read_plan(home, plan.final_id)
    assert first.created.endswith("Z") and "@" in first.by
    other = make_plan(config, home, trial="best", seeds=(1, 0), model_name="sage-gan")
    assert other.final_id != plan.final_id
    assert home.final_ids() == [plan.final_id]
    alike = config.with_values({"seed": 9, "runtime.threads": 2})
    same = make_plan(alike, home, trial="best", seeds=(0, 1), model_name="sage-gan")
    assert same.final_id == plan.final_id
    plan_path(home, plan.final_id).write_text("{")
    with pytest.raises(UserError, match="damaged file"):
        read_plan(home, plan.final_id)
    with pytest.raises(UserError, match=f"no such final training: final-x: there are {plan.final_id}"):
        read_plan(home, "final-x")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"seeds": ()}, "no usable seeds"),
        ({"seeds": (0, -1)}, "no usable seeds"),
        ({"seeds": (0, 1, 0)}, "seed given twice"),
        ({"model_name": "a/b"}, "bad model name"),
        ({"test": 0.0}, "no locked test part"),
        ({"source": "nothing"}, "no such study: nothing"),
    ],
)
def test_bad_requests_are_refused_before_training(changes: dict, what: str, home: Home, tmp_path: Path) -> None:
    home.check_writable()
    config = resolve(preset="tiny_sage_gan", sets={**TINY, "data.split.test": changes.pop("test", 0.2)}).config
    source = changes.pop("source", config)
    settings = {"trial": "best", "seeds": (0,), "model_name": "sage-gan"} | changes
    with pytest.raises(UserError, match=what) as caught:
        make_plan(source, home, **settings)
    assert "\n" not in str(caught.value)
    assert home.final_ids() == [] and home.run_ids() == []


def test_a_final_training_shares_its_gpu_with_nobody() -> None:
    trial = resolve("tiny_unet").config
    for given, held in ((0.25, 1.0), (2.0, 2.0), (0.0, 0.0), ("auto", "auto")):
        config = trial.with_values({"runtime.gpus_per_worker": given})
        assert final_config(config, {}, "x").runtime.gpus_per_worker == held
