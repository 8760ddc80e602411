"""Settings of different subjects in one run: stopped after any epoch it goes on to the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_cases import tiny_config

from sage_ray.config import ExperimentConfig
from sage_ray.data.prepare import prepare
from sage_ray.errors import RunStopped
from sage_ray.stages.store import StageStore
from sage_ray.training.context import LocalContext
from sage_ray.training.loop import TrainResult, run_training

FEW = ("data.split.labels=4", "data.split.unlabelled=disc_image", "evaluation.ema_decay=0.9")
DRAWN = ("data.extra_pairs=synthetic://ordered?num=5&seed=3", "pretrain.synthetic_share=0.3")
STEPS = (
    *("runtime.snapshot_seconds=0", "adversarial.synthetic_statistics=update", "adversarial.batch_size=2"),
    *("pretrain.epochs=0", "pretrain.epoch_steps=3", "pretrain.batch_size=2"),
)
PHASE_2 = (
    *("adversarial.epochs=0", "adversarial.steps=6", "adversarial.epoch_steps=3", "adversarial.freeze_epochs=0"),
    *("discriminators.heads=1", "discriminators.head_dim=4"),
)
CASES = {
    "labels, extra pairs, coarser heads, polynomial rate, average": (
        *("tiny_sage_gan", "pretrain.steps=6", *DRAWN, "generator.style_dim=4"),
        *("segmenter.name=residual_unet", "segmenter.deep_supervision=true"),
        *("pretrain.schedule.rule=poly", "pretrain.schedule.total_epochs=4"),
        *("adversarial.schedule.rule=poly", "adversarial.schedule.total_epochs=2", *PHASE_2),
    ),
    "labels, unpaired, replay pool, average with batch statistics": (
        *("tiny_cyclegan", "adversarial.replay_pool=3", "segmenter.norm=batch", "segmenter.blocks=1"),
        *("generator.name=unet", "generator.blocks=0", *PHASE_2),
    ),
    "labels, rendered and drawn pairs": (
        *("tiny_diffrender", "pretrain.steps=6", *DRAWN),
        *("render.epochs=1", "render.scenes=2", "render.pairs=5", "render.particles=[2, 4]"),
    ),
}


def train(config: ExperimentConfig, root: Path, stop_after: int = 0) -> TrainResult:
    told: list[object] = []
    ctx = LocalContext(
        config.runtime, on_report=told.append, should_stop=lambda: bool(stop_after) and len(told) >= stop_after
    )
    return run_training(config, prepare(config.data, root), ctx, StageStore(root / "stages"), cache_dir=root)


@pytest.mark.parametrize("name", CASES)
def test_a_stopped_run_resumes_to_the_bit(name: str, tmp_path: Path) -> None:
    preset, *sets = CASES[name]
    config = tiny_config(*FEW, *STEPS, *sets, preset=preset)
    whole = train(config, tmp_path / "whole")
    assert whole.epoch == config.num_epochs >= 2
    for stop_after in range(1, whole.epoch):
        with pytest.raises(RunStopped):
            train(config, tmp_path / str(stop_after), stop_after)
        resumed = train(config, tmp_path / str(stop_after))
        assert resumed.weights_sha == whole.weights_sha and resumed.reused_epochs == stop_after
