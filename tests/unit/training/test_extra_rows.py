"""Which places of a batch extra pairs take: the share holds, whatever the workers, and no pair is preferred."""

from __future__ import annotations

import math
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_cases import tiny_config

from sage_ray.stages.made_pairs import MadePairs
from sage_ray.training.batches import Pictures, training_batches
from sage_ray.training.extra_rows import extra_rows

SHARES = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1))


@settings(max_examples=60, deadline=None)
@given(share=SHARES, batch=st.integers(1, 9), steps=st.integers(1, 40), seed=st.integers(0, 99), num=st.integers(1, 12))
def test_the_share_holds_in_each_batch_and_over_all_of_them(
    share: float, batch: int, steps: int, seed: int, num: int
) -> None:
    shown: Counter[int] = Counter()
    for step in range(steps):
        places, rows = extra_rows(num, seed, share, step, batch)
        assert math.floor(share * batch - 1e-6) <= len(places) <= math.ceil(share * batch + 1e-6)
        assert len(rows) == len(places) == len(set(places.tolist()))
        assert all(0 <= place < batch for place in places.tolist())
        shown.update(rows.tolist())
    assert abs(sum(shown.values()) - share * batch * steps) <= 1.001
    counts = [shown[row] for row in range(num)]
    assert max(counts) - min(counts) <= 1


def test_a_step_is_the_same_whichever_came_before_it() -> None:
    alone = extra_rows(7, 3, 0.3, 1234, 4)
    for step in range(1235):
        again = extra_rows(7, 3, 0.3, step, 4)
    assert all(torch.equal(one, other) for one, other in zip(alone, again, strict=True))


def pictures(grey: int, num: int) -> Pictures:
    """Images of one value each (grey, grey + 1, ...), with empty masks."""
    images = np.broadcast_to(np.arange(grey, grey + num, dtype=np.uint8)[:, None, None], (num, 8, 8)).copy()
    return Pictures(MadePairs(images, np.zeros_like(images), None, {}), np.arange(num), torch.device("cpu"))


def batches(share: float, workers: int = 1, augmented: bool = False, extra: int = 5) -> list[torch.Tensor]:
    """The images of an epoch's global batches: real ones have values up to 20, extra ones from 200."""
    off = () if augmented else ("data.augment.probability=0",)
    given = ("data.extra_pairs=stage:x", f"pretrain.synthetic_share={share}") if share else ()
    config = tiny_config("pretrain.batch_size=4", *off, *given)
    parts: list[list[torch.Tensor]] = []
    for rank in range(workers):
        ctx: Any = SimpleNamespace(rank=rank, world_size=workers, device=torch.device("cpu"))
        pairs = pictures(200, extra) if share else None
        found = training_batches(pictures(1, 18), config, ctx, "pretrain", 2, extra=pairs)
        parts.append([batch.image for batch, _ in found])
    return [torch.cat(images) for images in zip(*parts, strict=True)]


@settings(max_examples=15, deadline=None)
@given(share=SHARES, augmented=st.booleans())
def test_two_workers_have_the_batches_of_one(share: float, augmented: bool) -> None:
    one, two = batches(share, 1, augmented), batches(share, 2, augmented)
    # Augmenting two images rounds otherwise than augmenting four.
    assert all(torch.allclose(a, b, atol=1e-5 if augmented else 0) for a, b in zip(one, two, strict=True))


@settings(max_examples=15, deadline=None)
@given(share=SHARES)
def test_real_pairs_keep_their_places_and_an_epoch_its_steps(share: float) -> None:
    plain, mixed = batches(0.0), batches(share)
    assert len(plain) == len(mixed) == 18 // 4
    extra = 0
    for real, both in zip(plain, mixed, strict=True):
        made = both[:, 0, 0, 0] > 0.5
        assert torch.equal(real[~made], both[~made])
        extra += int(made.sum())
    assert abs(extra - share * 16) <= 1.001


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_phase_2_sees_real_pairs_alone(share: float) -> None:
    config = tiny_config("data.extra_pairs=stage:x", f"pretrain.synthetic_share={share}")
    ctx: Any = SimpleNamespace(rank=0, world_size=1, device=torch.device("cpu"))
    with_extra = training_batches(pictures(1, 9), config, ctx, "adversarial", 0, extra=pictures(200, 3))
    without = training_batches(pictures(1, 9), config, ctx, "adversarial", 0)
    assert all(torch.equal(a.image, b.image) for (a, _), (b, _) in zip(with_extra, without, strict=True))
