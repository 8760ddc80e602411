"""Which measured seconds a config's epochs are taken from, and how they are scaled."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_cases import tiny_config

from sage_ray.search.epoch_cost import Images, Measured, differing, likeness, nearest, seconds_of, steady_mean

HERE = {"device": "cpu", "precision": "fp32", "threads": 1, "gpu": None, "gpus": 0.0}
IMAGES = Images(10, 3)


def measured(kind: str, seconds: float, *sets: str, place: dict[str, Any] = HERE, images: Images = IMAGES) -> Measured:
    phase = "pretrain" if kind == "pretrain" else "adversarial"
    source = "-".join(sets) or "alike"
    return Measured(kind, seconds, 4, source, likeness(tiny_config(*sets), phase, images, place), rest_s=2.0)


def everything(*sets: str, **where: Any) -> list[Measured]:
    return [measured(kind, s, *sets, **where) for kind, s in (("pretrain", 1.0), ("frozen", 2.0), ("adversarial", 4.0))]


def test_settings_that_take_no_time_do_not_matter() -> None:
    for text in (
        "adversarial.lr=1e-5",
        "segmenter.dropout=0.4",
        "seed=3",
        "adversarial.lambda_cycle=3",
        "pretrain.epochs=99",
    ):
        found = seconds_of(tiny_config(text), IMAGES, HERE, everything())
        assert found is not None and found.notes == (), text
        assert dict(found.kinds) == {"pretrain": 1.0, "frozen": 2.0, "adversarial": 4.0} and found.rest_s == 2.0


@pytest.mark.parametrize(
    ("text", "aspect"),
    [
        ("adversarial.batch_size=2", "batch size"),
        ("adversarial.weights.rec_mask=0", "loss terms"),
        ("evaluation.ema_decay=0.9", "averaged weights"),
        ("data.augment.probability=0", "augmentation"),
        ("generator.width=8", "networks"),
        ("data.image_size=[64,64]", "image size"),
    ],
)
def test_what_takes_time_is_told(text: str, aspect: str) -> None:
    ours = likeness(tiny_config(text), "adversarial", IMAGES, HERE)
    assert differing(measured("adversarial", 1.0).likeness, ours) == [aspect]


def test_another_device_says_nothing() -> None:
    for elsewhere in ({"device": "cuda", "gpu": "H100"}, {"precision": "bf16"}, {"threads": 2}, {"gpus": 0.5}):
        assert seconds_of(tiny_config(), IMAGES, HERE, everything(place=HERE | elsewhere)) is None, elsewhere


def test_the_one_with_the_fewest_differences_is_nearest() -> None:
    near = measured("adversarial", 1.0, "adversarial.batch_size=2")
    far = measured("adversarial", 9.0, "adversarial.batch_size=2", "adversarial.weights.rec_mask=0")
    wanted = likeness(tiny_config(), "adversarial", IMAGES, HERE)
    assert nearest("adversarial", wanted, [far, near]) == [near]
    exact = measured("adversarial", 3.0)
    assert nearest("adversarial", wanted, [far, near, exact, exact]) == [exact, exact]


def test_more_images_take_longer_in_proportion() -> None:
    twice = Images(20, 6)
    found = seconds_of(tiny_config(), twice, HERE, everything())
    assert found is not None and found.kinds["adversarial"] == pytest.approx(8.0)
    assert "number of images, scaled by images, x 2.00" in found.notes[0]


def test_an_epoch_of_steps_takes_what_its_steps_take_whatever_the_images() -> None:
    steps = ("pretrain.epochs=0", "pretrain.steps=100", "pretrain.epoch_steps=5", "adversarial.epochs=0")
    few, many = (likeness(tiny_config(*steps), "pretrain", Images(count, 3), HERE) for count in (4, 400))
    assert few == many and few.images == Images(5 * tiny_config().pretrain.batch_size, 3)


def test_other_networks_are_scaled_by_flops_up_to_a_limit() -> None:
    wider = tiny_config("segmenter.width=6", "adversarial.epochs=0")
    found = seconds_of(wider, IMAGES, HERE, everything())
    assert found is not None and 1.2 < found.kinds["pretrain"] < 2.5 and "scaled by FLOPs" in found.notes[0]
    assert seconds_of(wider, IMAGES, HERE, everything(), count_flops=False) is None
    # Sixteen times the work and more: a tiny run says nothing of it.
    assert seconds_of(tiny_config("segmenter.width=32"), IMAGES, HERE, everything()) is None


def test_epochs_while_the_machine_slept_do_not_count() -> None:
    assert steady_mean([1.0, 1.1, 0.9, 1.0, 3600.0]) == pytest.approx(1.0333, abs=1e-3)
    assert steady_mean([2.0]) == 2.0 and steady_mean([1.0, 3.0]) == 2.0


def test_an_epoch_over_rendered_pairs_is_as_long_as_they_are_many() -> None:
    rendered = tiny_config("render.pairs=40", preset="tiny_diffrender")
    assert likeness(rendered, "pretrain", IMAGES, HERE).aspects["number of images"] == Images(40, 3)
    alone = tiny_config("render.train_on_pairs=false", preset="tiny_diffrender")
    assert likeness(alone, "pretrain", IMAGES, HERE).aspects["number of images"] == IMAGES
