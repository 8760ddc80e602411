"""A folder of drawn pairs, the data section that reads it, and what a cache holds."""

from __future__ import annotations

from pathlib import Path

from sage_ray.data.synth import write_dataset
from sage_ray.sections import DataConfig

NUM = 9


def pairs_in(path: Path) -> Path:
    """`NUM` drawn pairs with a number for each particle, written under `path`."""
    return write_dataset(path, num=NUM, size=40, seed=1, instance_maps=True)


def config_of(folder: Path, **values: object) -> DataConfig:
    return DataConfig.model_validate({"path": str(folder), "image_size": (32, 48), **values})


def entries(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.is_dir() and not path.name.startswith("."))
