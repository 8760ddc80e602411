"""Training pairs that a stage has made (a renderer, a generator), in the stage store beside what has been trained.

A set of pairs is one snapshot of its stage: the key says what made it, the epoch is 1, and its end is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sage_ray.stages.pair_keys import WHOLE as WHOLE
from sage_ray.stages.store import Snapshot, StageStore


@dataclass(frozen=True, eq=False)
class MadePairs:
    """Images that were made together with their masks.

    Attributes:
        images: (N,H,W) uint8, grey values.
        masks: (N,H,W) uint8 in {0,1}.
        instances: (N,H,W) int32, particles numbered from 1; None where particles are not told apart.
        origin: plain data that says what made them, and from what: `maker` (such as "generator" or "renderer"),
            `trained_on` (sha256 of the images that the maker learned from) and `source_masks` (sha256 of the images
            whose masks were drawn from), both possibly empty, and whatever else the maker notes.
    """

    images: np.ndarray
    masks: np.ndarray
    instances: np.ndarray | None
    origin: dict[str, Any]


def write_pairs(store: StageStore, key: str, pairs: MadePairs) -> None:
    """Keep pairs for good under a stage's key; a sound set that is there already stays.

    Raises:
        SnapshotFailed: they could not be written.
    """
    tensors = {"images": torch.from_numpy(pairs.images), "masks": torch.from_numpy(pairs.masks)}
    if pairs.instances is not None:
        tensors["instances"] = torch.from_numpy(pairs.instances)
    store.save(Snapshot(key, WHOLE, tensors, {"pairs": pairs.origin}, keep=True))


def read_pairs(store: StageStore, key: str) -> MadePairs | None:
    """The pairs of a stage; None if it has none yet, or what is there is damaged (which is set aside and said)."""
    snapshot = store.load_latest(key, WHOLE)
    if snapshot is None or "pairs" not in snapshot.meta:
        return None
    arrays = {name: tensor.numpy() for name, tensor in snapshot.tensors.items()}
    return MadePairs(arrays["images"], arrays["masks"], arrays.get("instances"), snapshot.meta["pairs"])
