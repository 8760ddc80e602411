"""Whether somebody computes the stages that a run's extra pairs need."""

from __future__ import annotations

from collections.abc import Mapping

from sage_ray.config import ExperimentConfig
from sage_ray.stages.lease import held
from sage_ray.stages.made_pairs import WHOLE
from sage_ray.stages.pair_keys import RENDER
from sage_ray.stages.pair_stages import PAIRS, ends_of
from sage_ray.stages.store import StageStore


def being_made(config: ExperimentConfig, keys: Mapping[str, str], store: StageStore) -> bool:
    """Whether somebody computes a stage that the extra pairs of a run need and the store lacks."""
    ends = ends_of(config, keys)
    pairs = ends.pop(PAIRS, None)
    if pairs is None or store.latest(*pairs) == WHOLE:
        return False
    if RENDER in ends:
        return being_rendered(store, ends[RENDER][0], pairs[0])
    return held(store, pairs[0]) or any(
        store.latest(key, end) != end and held(store, key) for key, end in ends.values()
    )


def being_rendered(store: StageStore, key: str, pairs_key: str) -> bool:
    """Whether somebody computes a stage of rendering whose pairs the store lacks.

    The lease of the stage is held until the pairs are there, longer than until its last epoch is.
    """
    return store.latest(pairs_key, WHOLE) != WHOLE and held(store, key)
