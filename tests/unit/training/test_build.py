"""The state of a phase, as every run, doctor and benchmark begins with it."""

from __future__ import annotations

import pytest
import torch

from sage_ray.config import ExperimentConfig, resolve
from sage_ray.training.build import build_product, build_state
from sage_ray.training.context import LocalContext

SETS = ["segmenter.width=4", "segmenter.depth=2", "generator.width=4", "generator.depth=2", "generator.style_dim=4"]
SETS += ["discriminators.width=4", "discriminators.heads=1", "discriminators.head_dim=4", "runtime.threads=1"]
SETS += ["pretrain.lr=1e-3", "adversarial.lr=2e-4", "adversarial.betas=[0.5, 0.9]", "adversarial.schedule.rule=plateau"]
ALL = ["segmenter", "generator", "disc_image", "disc_mask"]


def config_of(*sets: str) -> ExperimentConfig:
    return resolve("tiny_sage_gan", sets=[*SETS, *sets]).config


@pytest.mark.parametrize(
    ("phase", "networks", "lr", "betas"),
    [("pretrain", ["segmenter"], 1e-3, (0.9, 0.999)), ("adversarial", ALL, 2e-4, (0.5, 0.9))],
)
def test_a_phase_has_its_networks_rates_and_betas(
    phase: str, networks: list[str], lr: float, betas: tuple[float, float]
) -> None:
    config = config_of()
    state = build_state(config, phase, LocalContext(config.runtime))
    assert state.phase == phase and state.phase_epoch == 0 and not state.history
    assert list(state.networks) == list(state.optimizers) == networks
    for name, optimizer in state.optimizers.items():
        (group,) = optimizer.param_groups
        assert group["lr"] == lr and group["betas"] == betas
        assert len(group["params"]) == len(list(state.networks[name].parameters()))
    assert state.learning_rate.lr == lr and state.learning_rate.schedule == config.phase(phase).schedule
    assert state.ema is None


def test_handed_weights_are_where_segmenter_and_average_start_from() -> None:
    config = config_of("evaluation.ema_decay=0.9")
    ctx = LocalContext(config.runtime)
    earlier = build_state(config, "pretrain", ctx)
    with torch.no_grad():
        for parameter in earlier.networks["segmenter"].parameters():
            parameter.add_(1.0)
    earlier.ema = None
    handed = earlier.product_weights("last")
    state = build_state(config, "adversarial", ctx, handed=handed)
    assert state.ema is not None
    for network in (state.networks["segmenter"], state.ema):
        assert all(torch.equal(v, handed[f"segmenter.{k}"]) for k, v in network.state_dict().items())
    assert not any(p.requires_grad for p in state.ema.parameters())


def test_the_product_is_the_networks_that_a_run_keeps() -> None:
    config = config_of()
    state = build_state(config, "adversarial", LocalContext(config.runtime))
    segmenter, generator = build_product(config, state.product_weights("last"))
    assert generator is not None and not segmenter.training and not generator.training
    for name, network in (("segmenter", segmenter), ("generator", generator)):
        ours = state.networks[name].state_dict()
        assert all(torch.equal(v, ours[k]) for k, v in network.state_dict().items())
    alone = {k: v for k, v in state.product_weights("last").items() if k.startswith("segmenter.")}
    assert build_product(config, alone)[1] is None
