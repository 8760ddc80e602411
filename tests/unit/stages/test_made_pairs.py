"""Pairs in the stage store: what is written is read again, damage is noticed, another stage's snapshot is no pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sage_ray.stages.made_pairs import MadePairs, read_pairs, write_pairs
from sage_ray.stages.store import Snapshot, StageStore


@pytest.mark.parametrize("told_apart", [True, False])
def test_pairs_are_read_as_they_were_written(tmp_path: Path, told_apart: bool) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 8, 10), dtype=np.uint8)
    instances = rng.integers(0, 3, (3, 8, 10), dtype=np.int32)
    masks = (instances > 0).astype(np.uint8)
    origin = {"maker": "renderer", "trained_on": ["ab"], "source_masks": []}
    store = StageStore(tmp_path)
    assert read_pairs(store, "k") is None

    write_pairs(store, "k", MadePairs(images, masks, instances if told_apart else None, origin))
    found = read_pairs(StageStore(tmp_path), "k")

    assert found is not None and found.origin == origin
    assert np.array_equal(found.images, images) and np.array_equal(found.masks, masks)
    assert (found.instances is not None) == told_apart
    assert found.instances is None or np.array_equal(found.instances, instances)


def test_damaged_pairs_are_set_aside_and_a_training_is_no_pairs(tmp_path: Path) -> None:
    said: list[str] = []
    store = StageStore(tmp_path, say=said.append)
    write_pairs(store, "k", MadePairs(np.zeros((1, 4, 4), np.uint8), np.zeros((1, 4, 4), np.uint8), None, {}))
    state = tmp_path / "k" / "1" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-1] + b"x")

    assert read_pairs(store, "k") is None and "damaged" in said[0]

    store.save(Snapshot("other", 1, {"weight": torch.zeros(2)}, {"phase": "pretrain"}))
    assert read_pairs(store, "other") is None
