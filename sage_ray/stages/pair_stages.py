"""Stages that stand before those of a run: what its extra pairs are made by, and the pairs themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sage_ray.config import ExperimentConfig
from sage_ray.stages.keys import Numerics, extra_pairs_key, stage_keys
from sage_ray.stages.pair_keys import RENDER, WHOLE, origin_config, source_of

PAIRS = "pairs"
"""Name of the stage of the pairs beside those of the phases that are trained for them."""


@dataclass(frozen=True)
class PairStages:
    """The stages that a run's extra pairs need.

    Attributes:
        pairs: key of the pairs in the stage store; None: they are read from a folder, or there are none.
        origin: config of the run that trains what makes them; None: nothing is trained for them.
        trained: of that run, the key of each phase by its name, in order.
        by_the_run: whether the pairs are themselves a stage of that run, which takes its lease.
    """

    pairs: str | None
    origin: ExperimentConfig | None
    trained: dict[str, str]
    by_the_run: bool = False

    def keys(self) -> dict[str, str]:
        """Keys by the names of the trained phases, in order, and of the pairs, as a run's record notes them."""
        return {**self.trained, **({PAIRS: self.pairs} if self.pairs else {})}


def ends_of(config: ExperimentConfig, keys: Mapping[str, str]) -> dict[str, tuple[str, int]]:
    """Key and last epoch of each stage of `PairStages.keys`, by its name, of a run with this config."""
    origin = origin_config(config) if set(keys) - {PAIRS} else None
    return {
        name: (key, WHOLE if name == PAIRS or origin is None else origin.epochs_of(name)) for name, key in keys.items()
    }


def pair_stages(config: ExperimentConfig, data_fingerprint: str, split_id: str, numerics: Numerics) -> PairStages:
    """The stages that come before those of a run; arguments as of `stage_keys`.

    Raises:
        UserError: `data.extra_pairs` names what is not there.
    """
    source = source_of(config)
    if source is None:
        return PairStages(None, None, {})
    key = extra_pairs_key(config, data_fingerprint, split_id, numerics)
    origin = origin_config(config)
    if origin is None:
        made = source.kind != "place"
        return PairStages(key if made else None, None, {})
    keys = stage_keys(origin, data_fingerprint, split_id, numerics)
    if RENDER in keys:  # what its preset would train on the pairs is not needed
        return PairStages(key, origin, {RENDER: keys[RENDER]}, by_the_run=True)
    return PairStages(key, origin, keys)
