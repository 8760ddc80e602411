"""The smallest run that still has both phases and every network: what tests that train start from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sage_ray.config import ExperimentConfig, resolve

SMALLEST: dict[str, Any] = {
    "data.path": "synthetic://ordered?num=16&size=32&seed=0",
    "data.image_size": [32, 32],
    "segmenter.width": 4,
    "segmenter.depth": 2,
    "generator.width": 4,
    "generator.depth": 2,
    "discriminators.width": 4,
    # Two threads that spin for a core that another process holds are many times slower than one.
    "runtime.threads": 1,
}


def as_sets(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The words that follow `--set`, one per value."""
    return tuple(f"{path}={value if isinstance(value, str) else json.dumps(value)}" for path, value in values.items())


def tiny_config(*sets: str, preset: str = "tiny_sage_gan") -> ExperimentConfig:
    """The smallest config of a preset, with `sets` (as after `--set`) replaced."""
    return resolve(preset=preset, sets=[*as_sets(SMALLEST), *sets]).config
