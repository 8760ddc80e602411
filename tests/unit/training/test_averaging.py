"""The averaged segmenter's batch statistics: of training batches, under its own weights, only where there are any."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from two_workers import run_two_workers

from sage_ray.config import resolve
from sage_ray.models.norm import BatchNorm, FrozenBatchNorm
from sage_ray.training import averaging, build
from sage_ray.training.averaging import estimate_statistics
from sage_ray.training.batches import Batch
from sage_ray.training.context import LocalContext
from sage_ray.training.draws import KeyedDraws
from sage_ray.training.recipe import Recipe, build_recipe
from sage_ray.training.state import TrainState

SETS = ["segmenter.width=4", "segmenter.depth=2", "segmenter.dropout=0.3", "runtime.threads=1"]
SETS += ["generator.width=4", "generator.depth=2", "generator.style_dim=4", "adversarial.freeze_epochs=0"]
SETS += ["discriminators.width=4", "discriminators.heads=1", "discriminators.head_dim=4"]
MIXED = ["adversarial.mix_start=1", "adversarial.mix_max=1"]
UNMIXED = ["adversarial.mix_start=0", "adversarial.mix_max=0"]
UPDATE = ["adversarial.synthetic_statistics=update"]
EPOCH = 2
Work = tuple[Batch, KeyedDraws]


def make(tmp_path: Path, *sets: str, phase: str = "pretrain", decay: float = 0.9) -> tuple[TrainState, Recipe]:
    """A state whose average differs from the segmenter in weights and statistics."""
    config = resolve("tiny_sage_gan", sets=[*SETS, f"evaluation.ema_decay={decay}", *sets]).config
    ctx = LocalContext(config.runtime)
    state = build.build_state(config, phase, ctx)
    state.phase_epoch = EPOCH
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in state.networks["segmenter"].state_dict().values():
            if tensor.dtype == torch.float32:
                tensor += 0.2 * torch.rand(tensor.shape, generator=generator)
    state.update_ema()
    return state, build_recipe(config, ctx, tmp_path)


def work(count: int = 3, rows: slice = slice(None), phase: str = "pretrain") -> Iterator[Work]:
    for step in range(count):
        generator = torch.Generator().manual_seed(step)
        image = torch.rand(4, 1, 24, 16, generator=generator) * 2 - 1
        ids = list(range(4 * step, 4 * step + 4))[rows]
        yield Batch(image[rows], (image[rows] > 0.3).float()), KeyedDraws(0, phase, EPOCH, step, ids)


def norms(network: nn.Module | None) -> dict[str, BatchNorm]:
    assert network is not None
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, BatchNorm)}


def watch(network: nn.Module | None) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Mean and unbiased variance of what each norm layer meets, a pair a pass."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in norms(network)}
    for name, layer in norms(network).items():

        def hook(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
            seen[name].append((inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3), correction=1)))

        layer.register_forward_pre_hook(hook)
    return seen


def statistics(state: TrainState) -> dict[str, Tensor]:
    assert state.ema is not None
    return {name: buffer.clone() for name, buffer in state.ema.named_buffers()}


def test_statistics_are_the_mean_over_training_batches_under_the_averaged_weights(tmp_path: Path) -> None:
    state, recipe = make(tmp_path)
    weights = {name: p.clone() for name, p in state.ema.named_parameters()}  # type: ignore[union-attr]
    trained = {name: t.clone() for name, t in state.networks["segmenter"].state_dict().items()}
    seen = watch(state.ema)
    estimate_statistics(state, work(), recipe)
    for name, layer in norms(state.ema).items():
        assert len(seen[name]) == 3 and layer.running_mean is not None and layer.running_var is not None
        torch.testing.assert_close(layer.running_mean, torch.stack([mean for mean, _ in seen[name]]).mean(0))
        torch.testing.assert_close(layer.running_var, torch.stack([var for _, var in seen[name]]).mean(0))
        assert layer.momentum == 0.1, "later passes are as before"
    assert all(torch.equal(p, weights[name]) for name, p in state.ema.named_parameters())  # type: ignore[union-attr]
    assert all(torch.equal(t, trained[name]) for name, t in state.networks["segmenter"].state_dict().items())
    # Nothing of before is left in them: they are a function of weights and batches.
    first = statistics(state)
    estimate_statistics(state, work(), recipe)
    assert all(torch.equal(first[name], found) for name, found in statistics(state).items())


def test_a_step_leaves_the_statistics_of_the_average_alone(tmp_path: Path) -> None:
    state, _ = make(tmp_path)
    before = statistics(state)
    norms(state.networks["segmenter"])["encoder.levels.0.norm_a"].running_mean.add_(1.0)  # type: ignore[union-attr]
    state.update_ema()
    assert all(torch.equal(before[name], found) for name, found in statistics(state).items())


def test_batches_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(averaging, "STATISTICS_BATCHES", 2)
    state, recipe = make(tmp_path)
    left = work(count=5)
    estimate_statistics(state, left, recipe)
    assert next(left)[1].step == 2, "the third batch was not drawn"


@pytest.mark.parametrize(
    ("norm", "decay"), [("batch", 0.0), ("group", 0.9), ("frozen", 0.9)], ids=["no average", "group", "frozen"]
)
def test_nobody_pays_who_has_no_statistics_to_estimate(tmp_path: Path, norm: str, decay: float) -> None:
    state, recipe = make(tmp_path, f"segmenter.norm={norm}", decay=decay)
    left = work()
    estimate_statistics(state, left, recipe)
    assert next(left)[1].step == 0, "the first batch was not drawn"


def test_given_statistics_stay(tmp_path: Path) -> None:
    """`norm: frozen` normalises the average by what it normalises the segmenter by: it was trained under no other."""
    state, recipe = make(tmp_path, "segmenter.norm=frozen")
    before = statistics(state)
    estimate_statistics(state, work(), recipe)
    assert before and all(torch.equal(before[name], found) for name, found in statistics(state).items())
    assert all(isinstance(layer, FrozenBatchNorm) for layer in norms(state.ema).values())


@pytest.mark.parametrize(
    ("sets", "passes"),
    [
        (MIXED, 3),
        ([*MIXED, *UPDATE], 6),
        ([*MIXED, *UPDATE, "adversarial.weights.rec_mask=0"], 3),
        ([*UNMIXED, *UPDATE], 3),
    ],
    ids=["held", "counted", "no synthetic pass", "none mixed in"],
)
def test_generated_images_count_where_they_count_for_the_trained_segmenter(
    tmp_path: Path, sets: list[str], passes: int
) -> None:
    state, recipe = make(tmp_path, *sets, phase="adversarial")
    generator = {name: t.clone() for name, t in state.networks["generator"].state_dict().items()}
    seen = watch(state.ema)
    estimate_statistics(state, work(phase="adversarial"), recipe)
    assert {len(pairs) for pairs in seen.values()} == {passes}
    assert all(torch.equal(t, generator[name]) for name, t in state.networks["generator"].state_dict().items())
    assert all(int(layer.num_batches_tracked or 0) == passes for layer in norms(state.ema).values())


def test_two_workers_estimate_what_one_does(tmp_path: Path) -> None:
    one, recipe = make(tmp_path)
    estimate_statistics(one, work(), recipe)

    def worker(rank: int, reduce: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        state, _ = make(tmp_path)
        for layer in norms(state.ema).values():
            layer.reduce = reduce
        estimate_statistics(state, work(rows=slice(2 * rank, 2 * rank + 2)), recipe)
        return statistics(state)

    first, second = run_two_workers(worker)
    for name, expected in statistics(one).items():
        torch.testing.assert_close(first[name], expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(first[name], second[name]), name


def test_the_average_reduces_over_the_same_workers_without_a_copy_of_their_context() -> None:
    class Context:
        def __deepcopy__(self, memo: object) -> Context:
            raise AssertionError("a context holds files and locks")

        def all_reduce(self, tensor: Tensor) -> Tensor:
            return tensor

    context = Context()
    segmenter = nn.Sequential(nn.Conv2d(1, 2, 3), BatchNorm(2), BatchNorm(2))
    for layer in norms(segmenter).values():
        layer.reduce = context.all_reduce
    config = resolve("tiny_unet", sets=["evaluation.ema_decay=0.9"]).config
    state = build.build_state(config, "pretrain", LocalContext(config.runtime), networks={"segmenter": segmenter})
    assert [layer.reduce for layer in norms(state.ema).values()] == [context.all_reduce] * 2
    assert state.ema is not segmenter and not any(p.requires_grad for p in state.ema.parameters())  # type: ignore[union-attr]
