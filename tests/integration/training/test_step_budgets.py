"""Budgets in steps: as many of them whatever the labels, extended and resumed to the bit; masks nobody may see."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_cases import tiny_config

from sage_ray.config import ExperimentConfig
from sage_ray.data.prepare import PreparedData, prepare
from sage_ray.errors import RunStopped
from sage_ray.stages.store import StageStore
from sage_ray.training.context import LocalContext
from sage_ray.training.loop import TrainResult, run_training

SETS = [
    *("generator.style_dim=4", "discriminators.heads=1", "discriminators.head_dim=4", "runtime.snapshot_seconds=0"),
    *("pretrain.epochs=0", "pretrain.steps=6", "pretrain.epoch_steps=3", "pretrain.batch_size=2"),
    *("adversarial.epochs=0", "adversarial.steps=12", "adversarial.epoch_steps=4", "adversarial.batch_size=2"),
    *("adversarial.freeze_epochs=1", "adversarial.mix_step=0.3", "evaluation.select=last", "pretrain.handoff=last"),
]


def tiny(*sets: str) -> ExperimentConfig:
    return tiny_config(*SETS, *sets)


def train(config: ExperimentConfig, root: Path, stop_after: int = 0, data: PreparedData | None = None) -> TrainResult:
    told: list[object] = []
    ctx = LocalContext(
        config.runtime, on_report=told.append, should_stop=lambda: bool(stop_after) and len(told) >= stop_after
    )
    data = data or prepare(config.data, root)
    return run_training(config, data, ctx, StageStore(root / "stages"), cache_dir=root)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("steps")


@pytest.fixture(scope="module")
def few(root: Path) -> TrainResult:
    return train(tiny("data.split.labels=3"), root)


def test_every_number_of_labels_has_the_same_steps_epochs_freeze_and_ramp(few: TrainResult, root: Path) -> None:
    every = train(tiny(), root)
    assert few.weights_sha != every.weights_sha
    for result in (few, every):
        # 4 steps frozen, 8 in which the generator learns; the epoch counter runs on over both phases.
        assert result.generator_updates == 8 and result.epoch == 5
        assert [report["phase_epoch"] for report in result.history] == [1, 2, 1, 2, 3]
    # The share of synthetic steps is that of the epoch, and its draws are keyed by epoch and step.
    assert few.synthetic_steps == every.synthetic_steps > 0


def test_a_longer_budget_extends_the_stage_of_a_shorter_one(few: TrainResult, root: Path, tmp_path: Path) -> None:
    longer = tiny("data.split.labels=3", "adversarial.steps=16")
    extended, whole = train(longer, root), train(longer, tmp_path)
    assert extended.weights_sha == whole.weights_sha != few.weights_sha
    assert (extended.reused_epochs, whole.reused_epochs) == (5, 0)


@pytest.mark.parametrize("stop_after", [1, 2, 4])
def test_a_stopped_run_resumes_to_the_bit(few: TrainResult, tmp_path: Path, stop_after: int) -> None:
    config = tiny("data.split.labels=3")
    with pytest.raises(RunStopped):
        train(config, tmp_path, stop_after)
    resumed = train(config, tmp_path)
    assert resumed.weights_sha == few.weights_sha and resumed.reused_epochs == stop_after


@pytest.mark.parametrize("use", ["drop", "disc_image"])
def test_masks_of_unlabelled_images_change_nothing(tmp_path: Path, use: str) -> None:
    config = tiny("data.split.labels=3", f"data.split.unlabelled={use}")
    data = prepare(config.data, tmp_path)
    masks, images = data.masks.copy(), data.images.copy()
    masks[data.split.unlabelled] = 1 - masks[data.split.unlabelled]
    images[data.split.unlabelled] = 255 - images[data.split.unlabelled]
    shas = [
        train(config, tmp_path / name, data=changed).weights_sha
        for name, changed in {
            "as_they_are": data,
            "other_masks": replace(data, masks=masks),
            "other_images": replace(data, images=images),
        }.items()
    ]
    assert shas[0] == shas[1]
    # Their pictures count where the image discriminator sees them, and nowhere else.
    assert (shas[0] == shas[2]) == (use == "drop")


def test_phase_1_is_shared_whatever_the_unlabelled_are_for(few: TrainResult, root: Path) -> None:
    seen = train(tiny("data.split.labels=3", "data.split.unlabelled=disc_image"), root)
    assert seen.stage_keys["pretrain"] == few.stage_keys["pretrain"] and seen.reused_epochs == 2
    assert seen.weights_sha != few.weights_sha
