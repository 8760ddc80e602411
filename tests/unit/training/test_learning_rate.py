"""The polynomial learning rate: hand values, resume, and that a longer total is another stage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sage_ray.config import ExperimentConfig, resolve
from sage_ray.errors import UserError
from sage_ray.sections import ScheduleConfig
from sage_ray.stages.keys import stage_keys
from sage_ray.training.learning_rate import LearningRate, polynomial_rate

POLY = ["pretrain.schedule.rule=poly", "pretrain.schedule.total_epochs=4"]


def keys(*sets: str, preset: str = "tiny_unet") -> str:
    return stage_keys(config(*sets, preset=preset), "data", "split", {})["pretrain"]


def config(*sets: str, preset: str = "tiny_unet") -> ExperimentConfig:
    return resolve(preset=preset, sets=["pretrain.epochs=4", *sets]).config


def test_hand_values() -> None:
    assert polynomial_rate(0.1, 0, 10, 0.9) == 0.1
    assert polynomial_rate(0.1, 5, 10, 0.9) == pytest.approx(0.1 * 0.5**0.9)
    assert polynomial_rate(0.08, 3, 4, 2.0) == pytest.approx(0.005)
    assert polynomial_rate(0.1, 10, 10, 0.9) == 0 == polynomial_rate(0.1, 12, 10, 0.9)


def test_the_rule_sets_the_rate_of_the_next_epoch_and_resumes() -> None:
    schedule = ScheduleConfig(rule="poly", total_epochs=4, power=1.0)
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=0.8)
    rate, rates = LearningRate(schedule, {"segmenter": optimizer}, 0.8), []
    for epoch in range(1, 5):
        rates.append(optimizer.param_groups[0]["lr"])
        rate.after_epoch(epoch, {})
        saved = rate.state()
        rate = LearningRate(schedule, {"segmenter": optimizer}, 0.8)
        rate.load(saved)
    assert rates == pytest.approx([0.8, 0.6, 0.4, 0.2]) and rate.lr == 0
    assert rate.drops == []


def test_the_total_is_part_of_the_key_and_the_epochs_are_not() -> None:
    assert keys(*POLY) == keys(*POLY, "pretrain.epochs=2")
    assert keys(*POLY) != keys(POLY[0], "pretrain.schedule.total_epochs=5")
    assert keys(*POLY) != keys(*POLY, "pretrain.schedule.power=1")
    assert keys(*POLY) == keys(*POLY, "pretrain.schedule.factor=0.5", "pretrain.schedule.patience=3")
    for rule in ("constant", "plateau", "drops"):
        ruled = f"pretrain.schedule.rule={rule}"
        assert keys(ruled) == keys(ruled, "pretrain.schedule.total_epochs=9", "pretrain.schedule.power=2")


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (POLY[:1], "needs its total: set pretrain.schedule.total_epochs, such as 4"),
        ([*POLY, "pretrain.epochs=5"], "pretrain has 5 epochs, more than pretrain.schedule.total_epochs 4"),
        (["pretrain.schedule.rule=cosine"], "use constant, plateau, drops, or poly"),
    ],
)
def test_bad_totals_are_refused_in_one_line(sets: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(*sets)


def test_ranges_of_operations_that_are_off_split_no_stages() -> None:
    assert keys() == keys("data.augment.rotate_degrees=10", "data.augment.gamma_range=[0.5,2]")
    assert keys() != keys("data.augment.rotate=0.1")
    on = "data.augment.elastic=0.1"
    assert keys(on) != keys(on, "data.augment.elastic_spacing=16")


def test_published_weights_count_by_what_is_in_them(tmp_path: Path) -> None:
    first, same, other = (tmp_path / name for name in ("a.pth", "b.pth", "c.pth"))
    first.write_bytes(b"weights")
    same.write_bytes(b"weights")
    other.write_bytes(b"others")

    def key(weights: Path | str) -> str:
        return keys(f"segmenter.encoder_weights={weights}", preset="tiny_pretrained_unet")

    assert key(first) == key(same) != key(other)
    assert len({key("none"), key("imagenet"), key(first), key(tmp_path / "gone.pth")}) == 4
    assert key("none") == keys(preset="tiny_pretrained_unet")
