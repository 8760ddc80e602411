"""Networks under torch.compile: one graph a pass, no break, and the numbers of an eager run.

Backend `eager` runs the traced graphs operator by operator, so that equality to the bit shows that tracing is right.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from benchmarks.gpu_sections import GraphWatch
from benchmarks.gpu_steps import KINDS, Kind, Sizes, Training
from sage_ray.models import SEGMENTERS
from sage_ray.models.dropout import KeyedDropout, keyed_dropout, number_dropouts
from sage_ray.training.draws import KeyedDraws
from sage_ray.training.state import weights_sha

SMALL = Sizes(rows=32, columns=48, width=4, batch=2, steps=2, warm_up=1, device="cpu", backend="eager")


class Listed:
    """Keyed draws that note what was asked for."""

    def __init__(self) -> None:
        self.draws, self.asked = KeyedDraws(0, "pretrain", 0, 0, [0, 1]), list[tuple[str, tuple[int, ...]]]()

    def uniform(self, name: str, shape: tuple[int, ...]) -> Tensor:
        self.asked.append((name, shape))
        return self.draws.uniform(name, shape)


@pytest.fixture(autouse=True)
def _forgotten_graphs() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name", sorted(SEGMENTERS))
def test_numbered_layers_draw_what_an_eager_pass_draws(name: str) -> None:
    network = SEGMENTERS[name](width=4, depth=2, dropout=0.5)
    image = torch.rand(2, 1, 32, 48, generator=torch.Generator().manual_seed(1))
    found = []
    for numbered in (False, True):
        if numbered:
            before = {k: v.clone() for k, v in network.state_dict().items()}
            number_dropouts(network)
            assert network.training
            assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
        listed = Listed()
        with keyed_dropout(listed, "real"):
            output = network(image)
        (gradient,) = torch.autograd.grad(output.square().sum(), next(network.parameters()))
        found.append((listed.asked, output.detach(), gradient))
    has_dropout = any(isinstance(layer, KeyedDropout) for layer in network.modules())
    assert found[0][0] == found[1][0] and bool(found[0][0]) == has_dropout
    assert torch.equal(found[0][1], found[1][1]) and torch.equal(found[0][2], found[1][2])


def test_a_numbered_layer_without_draws_still_drops() -> None:
    layer = KeyedDropout(0.5)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), layer)
    number_dropouts(network)
    assert layer.number == 0
    kept = layer(torch.ones(1, 1, 64, 64))
    assert set(kept.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(layer.eval()(torch.ones(2)), torch.ones(2))


@pytest.mark.parametrize("kind", KINDS[:2], ids=lambda kind: kind.name)
def test_a_compiled_step_has_no_graph_break_and_equals_an_eager_one(kind: Kind) -> None:
    found = {}
    for compiled in (False, True):
        watch = GraphWatch()
        training = Training(SMALL, kind.phase, "fp32", compiled=compiled)
        losses = [float(training.step(training.recipe(kind))["loss"]) for _ in range(2)]
        found[compiled] = losses, weights_sha(training.state.tensors())
        counts = watch.counts()
        watch.close()
    assert counts["graphs"] >= 1 and counts["graph_breaks"] == 0, counts["reasons"]
    assert not counts["recompile_limit_hit"]
    assert found[True] == found[False]


def test_the_watch_sees_a_break_and_the_limit_of_recompilations() -> None:
    watch = GraphWatch()

    def breaks(x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return x + 1

    torch.compile(breaks, backend="eager")(torch.ones(2))
    assert watch.counts()["graph_breaks"] == 1
    grows = torch.compile(lambda x, number: x + number, backend="eager", dynamic=False)
    for number in range(torch._dynamo.config.recompile_limit + 2):
        grows(torch.ones(2), float(number))
    assert watch.counts()["recompile_limit_hit"]
    watch.close()
