"""Keyed draws: equal where keys are equal, whatever the workers and the batch."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sage_ray.training.draws import KeyedDraws, epoch_order, epoch_rows, keyed_seed


@given(st.integers(0, 2**31), st.integers(0, 500), st.permutations(range(6)))
@settings(max_examples=25, deadline=None)
def test_a_row_depends_on_its_sample_alone(seed: int, epoch: int, order: list[int]) -> None:
    whole = KeyedDraws(seed, "pretrain", epoch, 0, range(6))
    shuffled = KeyedDraws(seed, "pretrain", epoch, 3, order)
    for name in ("uniform", "normal"):
        expected = getattr(whole, name)("x", (2, 3))[torch.tensor(order)]
        assert torch.equal(getattr(shuffled, name)("x", (2, 3)), expected)


def test_draws_differ_by_every_part_of_the_key() -> None:
    base = KeyedDraws(0, "pretrain", 0, 0, [0]).uniform("x", (8,))
    others = [
        KeyedDraws(1, "pretrain", 0, 0, [0]).uniform("x", (8,)),
        KeyedDraws(0, "adversarial", 0, 0, [0]).uniform("x", (8,)),
        KeyedDraws(0, "pretrain", 1, 0, [0]).uniform("x", (8,)),
        KeyedDraws(0, "pretrain", 0, 0, [1]).uniform("x", (8,)),
        KeyedDraws(0, "pretrain", 0, 0, [0]).uniform("y", (8,)),
    ]
    assert all(not torch.equal(base, other) for other in others)
    first = KeyedDraws(0, "pretrain", 0, 0, [0]).batch_uniform("x", 3)
    assert first == KeyedDraws(0, "pretrain", 0, 0, [5]).batch_uniform("x", 3)
    assert first != KeyedDraws(0, "pretrain", 0, 1, [0]).batch_uniform("x", 3)


def test_draws_are_uniform_and_normal_over_samples() -> None:
    draws = KeyedDraws(3, "pretrain", 2, 0, range(2000))
    assert stats.kstest(draws.uniform("u", (1,)).flatten().numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(draws.normal("n", (1,)).flatten().numpy(), "norm").pvalue > 1e-3
    batch = np.concatenate([KeyedDraws(3, "p", 0, step, [0]).batch_uniform("b", 10) for step in range(200)])
    assert stats.kstest(batch, "uniform").pvalue > 1e-3


def test_epoch_order_is_a_permutation_that_changes_every_epoch() -> None:
    first, second = epoch_order(50, 0, "pretrain", 0), epoch_order(50, 0, "pretrain", 1)
    assert sorted(first.tolist()) == list(range(50)) and not torch.equal(first, second)
    assert torch.equal(first, epoch_order(50, 0, "pretrain", 0))


def test_keyed_seed_is_the_same_in_every_process() -> None:
    assert keyed_seed(0, "segmenter") == 5132386485778291777


@given(st.integers(1, 20), st.integers(1, 60), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_an_epoch_of_several_passes_shows_every_image_equally_often(images: int, wanted: int, epoch: int) -> None:
    rows = epoch_rows(images, wanted, 0, "pretrain", epoch)
    first = epoch_order(images, 0, "pretrain", epoch)
    assert len(rows) == wanted and torch.equal(rows[:images], first[:wanted])
    counts = torch.bincount(rows, minlength=images)
    assert int(counts.max() - counts.min()) <= 1
    assert torch.equal(rows, epoch_rows(images, wanted + 7, 0, "pretrain", epoch)[:wanted])
