"""What resumes: moments in the memory order of their parameters, and the counters of learning-rate rules."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sage_ray.config import ExperimentConfig, resolve
from sage_ray.sections import ScheduleConfig
from sage_ray.stages.keys import FIRST_CODE_VERSION, stage_code_version
from sage_ray.stages.store import Snapshot, StageStore
from sage_ray.training import build
from sage_ray.training.context import LocalContext
from sage_ray.training.learning_rate import LearningRate, Plateau
from sage_ray.training.state import TrainState

SETS = ["segmenter.width=4", "segmenter.depth=2", "runtime.threads=1"]
NUMERICS = {"device": "cpu", "precision": "fp32"}


def make(*sets: str) -> tuple[TrainState, ExperimentConfig]:
    config = resolve(preset="tiny_attention_unet", sets=[*SETS, *sets]).config
    return build.build_state(config, "pretrain", LocalContext(config.runtime)), config


def train_step(state: TrainState, seed: int) -> None:
    image = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(seed))
    network, optimizer = state.networks["segmenter"].eval(), state.optimizers["segmenter"]
    optimizer.zero_grad()
    network(image).square().mean().backward()
    optimizer.step()


def moments(state: TrainState) -> list[tuple[nn.Parameter, torch.Tensor]]:
    kept = state.optimizers["segmenter"].state
    return [(p, kept[p][name]) for p in state.networks["segmenter"].parameters() for name in ("exp_avg", "exp_avg_sq")]


@pytest.mark.parametrize("layout", ["true", "false"])
def test_moments_come_back_in_the_memory_order_of_their_parameters(tmp_path: Path, layout: str) -> None:
    state, _ = make(f"runtime.channels_last={layout}")
    train_step(state, 0)
    store = StageStore(tmp_path)
    store.save(Snapshot("a" * 16, 1, state.tensors(), state.scalars(), keep=True))
    stored = store.load_latest("a" * 16, 1)
    assert stored is not None
    again, _ = make(f"runtime.channels_last={layout}")
    again.load(stored.tensors, stored.meta)
    convolutions = [p for p in again.networks["segmenter"].parameters() if p.ndim == 4 and p.shape[1] > 1]
    assert all(p.is_contiguous(memory_format=torch.channels_last) == (layout == "true") for p in convolutions[1:2])
    for (_, before), (parameter, after) in zip(moments(state), moments(again), strict=True):
        assert after.stride() == parameter.stride() and torch.equal(before, after)
    for seed in (1, 2):
        train_step(state, seed)
        train_step(again, seed)
    for before, after in zip(
        state.networks["segmenter"].parameters(), again.networks["segmenter"].parameters(), strict=True
    ):
        assert torch.equal(before, after)


def test_fused_moments_in_another_order_would_compute_wrongly() -> None:
    """Why the order matters: a fused step from moments that lie otherwise is another step."""
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
    other = copy.deepcopy(layer)
    results = []
    for network, order in ((layer, torch.channels_last), (other, torch.contiguous_format)):
        optimizer = torch.optim.Adam(network.parameters(), lr=0.1, fused=True)
        network.weight.grad = torch.ones_like(network.weight)
        network.bias.grad = torch.ones_like(network.bias)
        optimizer.step()
        kept = optimizer.state[network.weight]
        mixed = torch.arange(kept["exp_avg"].numel()).reshape(kept["exp_avg"].shape).float()
        kept["exp_avg"] = torch.empty_like(mixed, memory_format=order).copy_(mixed)
        optimizer.step()
        results.append(network.weight.detach().clone())
    assert not torch.allclose(results[0], results[1])


def test_a_cpu_keeps_the_adam_of_the_stages_of_before() -> None:
    state, _ = make()
    assert not state.optimizers["segmenter"].param_groups[0]["fused"]


@pytest.mark.gpu
def test_a_gpu_takes_the_fused_adam() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    state, _ = make("runtime.device=cuda")
    assert state.optimizers["segmenter"].param_groups[0]["fused"]


def torch_drops(mode: str, patience: int, scores: list[float]) -> list[int]:
    """Epochs from 1 after which torch's own rule lowers its learning rate."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    rule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode=mode, factor=0.5, patience=patience)  # type: ignore[arg-type]
    found = []
    for epoch, score in enumerate(scores, start=1):
        before = optimizer.param_groups[0]["lr"]
        rule.step(score)
        found += [epoch] if optimizer.param_groups[0]["lr"] < before else []
    return found


def our_drops(mode: str, patience: int, scores: list[float]) -> list[int]:
    plateau = Plateau(mode, patience)
    return [epoch for epoch, score in enumerate(scores, start=1) if plateau.drops(score)]


EDGE = st.sampled_from([0.0, 0.5, 0.5 * (1 - 1e-4), 0.5 * (1 + 1e-4), 0.49995, 0.50005, -0.5, math.nan, math.inf])


@given(
    mode=st.sampled_from(["min", "max"]),
    patience=st.integers(0, 4),
    scores=st.lists(EDGE | st.floats(-2, 2), max_size=80),
)
def test_plateau_drops_where_torch_does_for_its_26_drops(mode: str, patience: int, scores: list[float]) -> None:
    ours = our_drops(mode, patience, scores)
    theirs = torch_drops(mode, patience, scores)
    assert len(theirs) <= 26 and ours[:26] == theirs


def schedule(patience: int) -> ScheduleConfig:
    return ScheduleConfig(rule="plateau", patience=patience, mode="max", metric="val/dice", factor=0.9)


def test_plateau_goes_on_after_26_drops() -> None:
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=1.0)
    rate = LearningRate(schedule(0), {"segmenter": optimizer}, 1.0)
    for epoch in range(1, 42):
        rate.after_epoch(epoch, {"val/dice": 0.5})
    assert rate.drops == list(range(2, 42)) and len(torch_drops("max", 0, [0.5] * 41)) == 26
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.9**40)


def test_plateau_states_of_the_first_release_go_on() -> None:
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=1.0)
    rate = LearningRate(schedule(2), {"segmenter": optimizer}, 1.0)
    counters = {"best": 0.6, "num_bad_epochs": 2, "last_epoch": 9, "clock": 0.25}
    rate.load({"lr": 0.81, "drops": [3, 7], "plateau": counters})
    rate.after_epoch(10, {"val/dice": 0.6})
    assert rate.drops == [3, 7, 10] and rate.lr == pytest.approx(0.729)
    saved = rate.state()
    again = LearningRate(schedule(2), {"segmenter": optimizer}, 1.0)
    again.load(saved)
    assert again.state() == saved and saved["plateau"] == {"best": 0.6, "num_bad_epochs": 0}


def test_only_phases_that_can_drop_a_27th_time_are_touched() -> None:
    for epochs, patience, touched in ((26, 0, False), (27, 0, True), (80, 2, False), (81, 2, True)):
        _, config = make(
            f"pretrain.epochs={epochs}", "pretrain.schedule.rule=plateau", f"pretrain.schedule.patience={patience}"
        )
        version = stage_code_version(config, "pretrain", NUMERICS)
        assert version == (5 if touched else FIRST_CODE_VERSION), (epochs, patience)


def test_precision_and_device_decide_which_stages_are_touched() -> None:
    _, config = make()
    found = {
        (device, precision): stage_code_version(config, "pretrain", {"device": device, "precision": precision})
        for device in ("cpu", "cuda")
        for precision in ("fp32", "bf16")
    }
    assert found["cpu", "fp32"] == FIRST_CODE_VERSION and found["cpu", "bf16"] >= 4
    assert found["cuda", "fp32"] >= 5 and found["cuda", "bf16"] >= 5
