"""Attention during training: numbers by epoch, maps beside the record, and no effect on what is trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_cases import tiny_config
from torch import Tensor, nn

from sage_ray.config import ExperimentConfig
from sage_ray.data.prepare import PreparedData, prepare
from sage_ray.metrics.boundary import boundary, within
from sage_ray.record.home import Home
from sage_ray.runtime.launch import run
from sage_ray.stages.store import StageStore
from sage_ray.training.attention_share import watch_attention
from sage_ray.training.batches import Pictures
from sage_ray.training.context import LocalContext
from sage_ray.training.loop import TrainResult, run_training

SETS = [
    "pretrain.epochs=5",
    "adversarial.epochs=0",
    "runtime.pictures=false",
]
SHARE, AREA = "val/attention_boundary_share", "val/attention_boundary_area"


def tiny(*sets: str, preset: str = "tiny_attention_unet") -> ExperimentConfig:
    return tiny_config(*SETS, *sets, preset=preset)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepare(tiny().data, tmp_path_factory.mktemp("cache"))


class Kept:
    """What a context is asked to keep, by name."""

    def __init__(self) -> None:
        self.arrays: dict[str, Mapping[str, Any]] = {}

    def __call__(self, name: str, arrays: Mapping[str, Any]) -> None:
        self.arrays[name] = arrays


class FixedGate(nn.Module):
    """A segmenter whose one gate returns what it is told."""

    def __init__(self, maps: Tensor) -> None:
        super().__init__()
        self.maps, self.at = maps, 0

    def attention_maps(self, image: Tensor) -> list[Tensor]:
        rows = self.maps[self.at : self.at + len(image)]
        self.at += len(image)
        return [rows]


def train(config: ExperimentConfig, data: PreparedData, root: Path) -> tuple[TrainResult, Kept]:
    kept = Kept()
    ctx = LocalContext(config.runtime, on_arrays=kept)
    return run_training(config, data, ctx, StageStore(root / "stages"), cache_dir=root), kept


def look(config: ExperimentConfig, data: PreparedData, maps: Tensor, epoch: int = 2) -> tuple[dict[str, float], Kept]:
    kept = Kept()
    ctx = LocalContext(config.runtime, on_arrays=kept)
    pictures = Pictures(data, data.split.validation, ctx.device)
    shas = [data.shas[i] for i in data.split.validation]
    gate = FixedGate(maps)
    return watch_attention(gate, pictures, shas, config, ctx, epoch=epoch, ends_phase=False), kept


def test_numbers_and_maps_come_at_their_epochs_and_change_nothing_that_is_trained(
    data: PreparedData, tmp_path: Path
) -> None:
    watched, kept = train(tiny("runtime.attention_every=2"), data, tmp_path / "a")
    plain, nothing = train(tiny(), data, tmp_path / "b")
    assert [report["epoch"] for report in watched.history if SHARE in report] == [2, 4, 5]  # and the end of the phase
    assert list(kept.arrays) == ["attention/epoch_0002", "attention/epoch_0004", "attention/epoch_0005"]
    assert not nothing.arrays and not any(SHARE in report for report in plain.history)
    assert watched.weights_sha == plain.weights_sha
    arrays = kept.arrays["attention/epoch_0004"]
    num = min(4, len(data.split.validation))
    assert arrays["image"].shape == arrays["truth"].shape == (num, 32, 32) and arrays["image"].dtype == np.uint8
    assert [arrays[f"gate_{k}"].shape for k in (1, 2)] == [(num, 16, 16), (num, 32, 32)]
    assert list(arrays["shas"]) == [data.shas[i] for i in data.split.validation[:num]]
    assert np.isclose(arrays["share"].mean(), watched.history[3][SHARE], atol=1e-6)


def test_even_attention_gets_the_share_of_the_area_and_attention_on_the_band_gets_one(data: PreparedData) -> None:
    config = tiny("runtime.attention_every=2")
    truths = data.masks[data.split.validation].astype(bool)
    bands = np.stack([within(boundary(truth), config.evaluation.boundary_tolerance) for truth in truths])
    even, _ = look(config, data, torch.full((len(truths), 1, 8, 8), 0.25))
    assert even[SHARE] == pytest.approx(even[AREA]) == pytest.approx(bands.mean(axis=(1, 2)).mean())
    on_band, _ = look(config, data, torch.from_numpy(bands[:, None]).float())
    assert on_band[SHARE] == pytest.approx(1.0) and on_band[AREA] == pytest.approx(even[AREA])


def test_it_is_silent_out_of_turn_when_switched_off_and_without_gates(data: PreparedData, tmp_path: Path) -> None:
    ones = torch.ones(len(data.split.validation), 1, 8, 8)
    assert look(tiny("runtime.attention_every=2"), data, ones, epoch=3)[0] == {}
    assert look(tiny(), data, ones)[0] == {}
    unet, kept = train(tiny("runtime.attention_every=1", preset="tiny_unet"), data, tmp_path)
    assert not kept.arrays and not any(SHARE in report for report in unet.history)


def test_a_run_keeps_the_maps_among_its_artifacts_and_counts_its_parameters(home: Home) -> None:
    config = tiny("runtime.attention_every=4", "pretrain.epochs=4")
    record = run(config, home, "gates", mirror=False)
    with np.load(home.runs / "gates" / "artifacts" / "attention" / "epoch_0004.npz", allow_pickle=False) as stored:
        assert {"image", "truth", "gate_1", "gate_2", "share", "area", "tolerance", "shas"} <= set(stored.files)
        assert int(stored["epoch"]) == 4
    assert record.metrics[SHARE] is not None and 0 < record.metrics[SHARE] < 1
    assert set(record.parameters) == {"segmenter"} and record.parameters["segmenter"] > 1000
