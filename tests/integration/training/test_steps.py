"""One step changes only the networks that it is said to change, and gradients go only where they should."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sage_ray.config import ExperimentConfig, resolve
from sage_ray.training import build
from sage_ray.training.adversarial import adversarial_step
from sage_ray.training.batches import Batch
from sage_ray.training.context import LocalContext
from sage_ray.training.draws import KeyedDraws
from sage_ray.training.gan_parts import mask_of
from sage_ray.training.pretrain import pretrain_step
from sage_ray.training.recipe import Observer, Recipe, build_recipe
from sage_ray.training.state import TrainState

SETS = ["segmenter.width=4", "segmenter.depth=2", "generator.width=4", "generator.depth=2", "generator.style_dim=4"]
SETS += ["discriminators.width=4", "discriminators.heads=1", "discriminators.head_dim=4", "runtime.threads=1"]
SETS += ["pretrain.lr=1e-3", "adversarial.lr=1e-3"]


def make(
    tmp_path: Path, *sets: str, phase: str = "adversarial", epoch: int = 9, observe: Observer | None = None
) -> tuple[TrainState, Recipe, ExperimentConfig]:
    config = resolve(preset="tiny_sage_gan", sets=[*SETS, *sets]).config
    ctx = LocalContext(config.runtime)
    state = build.build_state(config, phase, ctx)
    state.phase_epoch = epoch
    return state, build_recipe(config, ctx, tmp_path, observe), config


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 1, 24, 32, generator=generator) * 2 - 1
    return Batch(image, (image > 0.3).float())


def draws(step: int = 0) -> KeyedDraws:
    return KeyedDraws(0, "adversarial", 9, step, [0, 1])


def copies(state: TrainState) -> dict[str, list[Tensor]]:
    return {name: [p.detach().clone() for p in network.parameters()] for name, network in state.networks.items()}


def changed(state: TrainState, before: dict[str, list[Tensor]]) -> set[str]:
    return {
        name
        for name, network in state.networks.items()
        if any(not torch.equal(p, q) for p, q in zip(network.parameters(), before[name], strict=True))
    }


def test_pretrain_step_changes_the_segmenter(tmp_path: Path) -> None:
    state, recipe, _ = make(tmp_path, phase="pretrain")
    before = copies(state)
    first = pretrain_step(state, batch(), draws(), recipe)["loss"]
    assert changed(state, before) == {"segmenter"}
    for step in range(1, 30):
        last = pretrain_step(state, batch(), draws(step), recipe)["loss"]
    assert last < 0.7 * first


@pytest.mark.parametrize(
    ("sets", "epoch", "expected"),
    [
        ([], 9, {"segmenter", "generator", "disc_image", "disc_mask"}),
        ([], 0, {"segmenter", "disc_image", "disc_mask"}),  # freeze_epochs is 1
        (["adversarial.weights.adv_mask=0"], 9, {"segmenter", "generator", "disc_image"}),
        (["adversarial.weights.adv_image=0"], 9, {"segmenter", "generator", "disc_mask"}),
    ],
)
def test_adversarial_step_changes_only_what_learns(
    tmp_path: Path, sets: list[str], epoch: int, expected: set[str]
) -> None:
    state, recipe, _ = make(tmp_path, *sets, epoch=epoch)
    before = copies(state)
    adversarial_step(state, batch(), draws(), recipe)
    assert changed(state, before) == expected
    assert all(p.requires_grad for network in state.networks.values() for p in network.parameters())
    assert state.generator_updates == int(epoch > 0)


def gradient_norms(tmp_path: Path, *sets: str, epoch: int = 9) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], float] = {}

    def observe(terms: dict[str, Tensor], networks: dict[str, nn.Module]) -> None:
        for term, value in terms.items():
            for name in ("generator", "segmenter"):
                parameters = [p for p in networks[name].parameters() if p.requires_grad]
                live = value.requires_grad and parameters
                grads = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True) if live else []
                found[term, name] = sum(float(g.abs().sum()) for g in grads if g is not None)

    state, recipe, _ = make(tmp_path, *sets, epoch=epoch, observe=observe)
    adversarial_step(state, batch(), draws(), recipe)
    return found


def test_argmax_path_gives_the_segmenter_nothing_and_straight_through_does(tmp_path: Path) -> None:
    hard = gradient_norms(tmp_path, "adversarial.mask_path=argmax")
    through = gradient_norms(tmp_path, "adversarial.mask_path=straight_through")
    soft = gradient_norms(tmp_path, "adversarial.mask_path=soft")
    for term in ("adv_mask", "rec_image_l1"):
        assert hard[term, "segmenter"] == 0.0
        assert through[term, "segmenter"] > 0.0 and soft[term, "segmenter"] > 0.0
    assert hard["id_mask", "segmenter"] > 0.0 and hard["id_mask", "generator"] == 0.0
    assert hard["rec_image_l1", "generator"] > 0.0


def test_generator_feedback_on_a_real_step_trains_the_generator_alone(tmp_path: Path) -> None:
    never = "adversarial.mix_max=0"
    every = gradient_norms(tmp_path, never, "adversarial.generator_feedback=every_step")
    assert every["rec_mask", "generator"] > 0.0 and every["rec_mask", "segmenter"] == 0.0
    only_synthetic = gradient_norms(tmp_path, never, "adversarial.generator_feedback=synthetic_steps")
    assert ("rec_mask", "generator") not in only_synthetic


@pytest.mark.parametrize(("choice", "moves"), [("update", 2), ("hold", 1)])
def test_synthetic_statistics(tmp_path: Path, choice: str, moves: int) -> None:
    sets = ["adversarial.mix_start=1", "adversarial.mix_max=1", f"adversarial.synthetic_statistics={choice}"]
    state, recipe, _ = make(tmp_path, *sets)
    adversarial_step(state, batch(), draws(), recipe)
    counts = {int(v) for k, v in state.networks["segmenter"].state_dict().items() if k.endswith("batches_tracked")}
    assert state.synthetic_steps == 1 and counts == {moves}


def test_mask_paths() -> None:
    logits = torch.tensor([[[[0.0, 2.0]], [[1.0, 0.0]]]], requires_grad=True)
    hard, soft, through = (mask_of(logits, path) for path in ("argmax", "soft", "straight_through"))
    assert hard.tolist() == [[[[1.0, 0.0]]]] and not hard.requires_grad
    assert torch.allclose(soft, torch.sigmoid(torch.tensor([[[[1.0, -2.0]]]])))
    assert torch.allclose(through, hard)
    (gradient,) = torch.autograd.grad(through.sum(), logits)
    (expected,) = torch.autograd.grad(soft.sum(), logits)
    assert torch.allclose(gradient, expected)
