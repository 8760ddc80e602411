"""Contracts of normalisation and dropout: statistics over workers, held statistics, keyed masks."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from two_workers import run_two_workers

from sage_ray.models.blocks import DoubleConv
from sage_ray.models.dropout import KeyedDropout, keyed_dropout
from sage_ray.models.norm import BatchNorm, hold_statistics, make_norm
from sage_ray.training.draws import KeyedDraws


def features(batch: int = 4, channels: int = 6, size: int = 5, seed: int = 0) -> Tensor:
    """(N,C,size,size) float32, mean about 3, standard deviation about 2."""
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(seed)) * 2 + 3


def random_affine(norm: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(9)
    for parameter in norm.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return norm


class TestBatchNorm:
    @pytest.mark.parametrize("training", [True, False])
    def test_alone_it_is_torch_batch_norm_to_the_bit(self, training: bool) -> None:
        ours, theirs = random_affine(make_norm("batch", 6)), random_affine(nn.BatchNorm2d(6))
        for seed in range(2):
            x, y = features(seed=seed).requires_grad_(), features(seed=seed).requires_grad_()
            a, b = ours.train(training)(x), theirs.train(training)(y)
            a.square().sum().backward()
            b.square().sum().backward()
            assert torch.equal(a, b) and x.grad is not None and y.grad is not None and torch.equal(x.grad, y.grad)
        assert all(torch.equal(ours.state_dict()[key], value) for key, value in theirs.state_dict().items())

    def test_two_workers_have_the_statistics_of_the_whole_batch(self) -> None:
        x = features(6).requires_grad_()
        probe = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
        alone = random_affine(BatchNorm(6))
        expected = alone(x)
        (expected * probe).sum().backward()
        expected_grad, x.grad = x.grad, None

        # Parts of unequal size: 2 and 4 images.
        parts = [slice(0, 2), slice(2, 6)]
        workers = [random_affine(BatchNorm(6)) for _ in parts]

        def work(rank, reduce):  # type: ignore[no-untyped-def]
            workers[rank].reduce = reduce
            return workers[rank](x[parts[rank]])

        outputs = run_two_workers(work)
        torch.testing.assert_close(torch.cat(outputs), expected, rtol=1e-5, atol=1e-5)
        sum((out * probe[part]).sum() for out, part in zip(outputs, parts, strict=True)).backward()
        torch.testing.assert_close(x.grad, expected_grad, rtol=1e-4, atol=1e-5)
        for worker in workers:
            for key, value in alone.state_dict().items():
                torch.testing.assert_close(worker.state_dict()[key], value, rtol=1e-5, atol=1e-6)
            for name, parameter in worker.named_parameters():
                assert parameter.grad is not None, name
        for name, parameter in alone.named_parameters():
            total = sum(dict(worker.named_parameters())[name].grad for worker in workers)
            torch.testing.assert_close(total, parameter.grad, rtol=1e-4, atol=1e-4)

    def test_reduced_statistics_survive_a_large_mean(self) -> None:
        """Once the running mean is near, a mean 10,000 times the deviation costs no accuracy."""
        x = features().double().float() * 1e-2 + 100
        norm = BatchNorm(6)
        norm.running_mean = x.mean((0, 2, 3)) * 1.001
        norm.reduce = lambda tensor: tensor
        expected = F.batch_norm(x.double(), None, None, training=True).float()
        torch.testing.assert_close(norm(x), expected, rtol=1e-2, atol=1e-2)

    def test_reduce_keeps_the_input_type(self) -> None:
        norm = BatchNorm(6)
        norm.reduce = lambda tensor: tensor
        assert norm(features().bfloat16()).dtype == torch.bfloat16
        assert norm.running_mean is not None and norm.running_mean.dtype == torch.float32

    @pytest.mark.parametrize("reduced", [False, True])
    def test_held_statistics(self, reduced: bool) -> None:
        network = nn.Sequential(DoubleConv(6, 6, norm="batch"), random_affine(BatchNorm(6))).train()
        for layer in network.modules():
            if isinstance(layer, BatchNorm) and reduced:
                layer.reduce = lambda tensor: tensor
        before = copy.deepcopy(network.state_dict())
        reference = copy.deepcopy(network)(features())
        with hold_statistics(network):
            held = network(features())
        assert torch.equal(held, reference), "held statistics change the output of a train-mode pass"
        assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
        network(features())
        assert not torch.equal(before["1.running_mean"], network.state_dict()["1.running_mean"])

    def test_hold_is_lifted_after_an_error_and_at_the_outer_end(self) -> None:
        norm = BatchNorm(2)
        with pytest.raises(RuntimeError), hold_statistics(norm), hold_statistics(norm):
            raise RuntimeError("inside")
        assert not norm.hold
        with hold_statistics(norm):
            with hold_statistics(norm):
                pass
            assert norm.hold


def test_frozen_norm_uses_and_keeps_running_statistics() -> None:
    norm = random_affine(make_norm("frozen", 6)).train()
    norm.running_mean.fill_(3.0)
    norm.running_var.fill_(4.0)
    before = copy.deepcopy(norm.state_dict())
    x = features()
    expected = (x - 3) / (4 + norm.eps) ** 0.5 * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(norm(x), expected)
    assert all(torch.equal(before[key], value) for key, value in norm.state_dict().items())


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (6, 1), (8, 2), (64, 16), (512, 32), (1024, 32)])
def test_group_norm_sizes(channels: int, groups: int) -> None:
    assert make_norm("group", channels).num_groups == groups


def test_group_norm_treats_every_image_by_itself() -> None:
    norm, x = make_norm("group", 8), features(channels=8)
    torch.testing.assert_close(norm(x)[1:2], norm(x[1:2]))


class ListedDraws:
    """Draws that record the names asked for and return given values."""

    def __init__(self, value: float | Tensor) -> None:
        self.value, self.asked = value, list[tuple[str, tuple[int, ...]]]()

    def uniform(self, name: str, shape: tuple[int, ...]) -> Tensor:
        self.asked.append((name, tuple(shape)))
        return self.value if isinstance(self.value, Tensor) else torch.full((4, *shape), self.value)


class TestDropout:
    def test_injected_mask(self) -> None:
        x = features()
        keep = (torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) > 0.3).float()
        with keyed_dropout(ListedDraws(keep), "given"):
            output = KeyedDropout(0.2).train()(x)
        torch.testing.assert_close(output, x * keep / 0.8)

    def test_layers_are_named_by_their_order_in_each_context(self) -> None:
        layers = nn.Sequential(KeyedDropout(0.5), KeyedDropout(0.0), KeyedDropout(0.1)).train()
        draws = ListedDraws(1.0)
        for prefix in ("real", "synthetic"):
            with keyed_dropout(draws, prefix):
                layers(features())
        names = [name for name, _ in draws.asked]
        assert names == ["real/dropout0", "real/dropout1", "synthetic/dropout0", "synthetic/dropout1"]
        assert all(shape == (6, 5, 5) for _, shape in draws.asked)

    def test_contexts_nest(self) -> None:
        layer, outer, inner = KeyedDropout(0.5).train(), ListedDraws(1.0), ListedDraws(0.0)
        with keyed_dropout(outer, "outer"):
            with keyed_dropout(inner, "inner"):
                assert not layer(features()).any()
            assert layer(features()).any()
        assert [name for name, _ in outer.asked] == ["outer/dropout0"]

    def test_keyed_draws_do_not_depend_on_the_split_of_the_batch(self) -> None:
        layer, x = KeyedDropout(0.5).train(), features()

        def dropped(ids: list[int]) -> Tensor:
            with keyed_dropout(KeyedDraws(0, "pretrain", 0, 0, ids), "real"):
                return layer(x[ids])

        whole = dropped([0, 1, 2, 3])
        assert torch.equal(torch.cat([dropped([0, 1]), dropped([2, 3])]), whole)
        assert torch.equal(dropped([0, 1, 2, 3]), whole)
        assert 0.3 < float((whole == 0).float().mean()) < 0.7

    def test_without_context_it_is_torch_dropout_and_in_eval_mode_nothing(self) -> None:
        layer, x = KeyedDropout(0.5), torch.ones(100, 100)
        torch.manual_seed(0)
        ours = layer.train()(x)
        torch.manual_seed(0)
        assert torch.equal(ours, F.dropout(x, 0.5))
        with keyed_dropout(ListedDraws(0.0), "unused"):
            assert layer.eval()(x) is x

    @pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
    def test_impossible_probability(self, p: float) -> None:
        with pytest.raises(ValueError, match="dropout"):
            KeyedDropout(p)
