"""How much a config's networks compute, by which trials that score alike are told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sage_ray.config import ExperimentConfig

NetworksKey = tuple[tuple[int, ...], str]
"""Size of the images, and classes and keywords of the networks."""


def network_flops(config: ExperimentConfig) -> int:
    """FLOPs of one forward pass, one image, of every network that the config trains; counted on shapes alone."""
    key = networks_key(config)
    # The trials of most searches have the same networks, whose passes are counted once.
    if key not in _COUNTED:
        _COUNTED[key] = _forward_flops(_parts(config), config.data.image_size)
    return _COUNTED[key]


def networks_key(config: ExperimentConfig) -> NetworksKey:
    """What FLOPs depend on; nothing is counted for it."""
    return tuple(config.data.image_size), repr(_parts(config))


_COUNTED: dict[NetworksKey, int] = {}


def _parts(config: ExperimentConfig) -> Mapping[str, tuple[Any, dict[str, Any]]]:
    from sage_ray.training.build import network_parts

    return network_parts(config, "adversarial" if config.adversarial.num_epochs else "pretrain")


def _forward_flops(parts: Mapping[str, tuple[Any, dict[str, Any]]], size: Sequence[int]) -> int:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        image = torch.zeros(1, 1, *size)
        for name, (network, keywords) in parts.items():
            built: Any = network(**keywords).eval()
            given = (image, torch.zeros(1, built.levels, built.style_dim), image) if name == "generator" else (image,)
            built(*given)
    return int(counter.get_total_flops())
