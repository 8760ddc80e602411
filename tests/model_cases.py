"""A small trained model in a folder, and a micrograph to use it on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from sage_ray.imaging.model import model_spec, save_model_folder
from sage_ray.imaging.seed_votes import pack_seeds
from sage_ray.models import GENERATORS, SEGMENTERS
from sage_ray.models.init import initialise

SEGMENTER = ("unet", {"width": 4, "depth": 2, "norm": "batch"})
GENERATOR = ("style_unet", {"width": 4, "depth": 2, "style_dim": 8})


def trained(network: torch.nn.Module, seed: int) -> torch.nn.Module:
    """The network with keyed weights and running statistics that are not the identity, as training leaves them."""
    initialise(network, seed)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith(("running_mean", "running_var")):
                value.add_(0.3 * torch.rand(value.shape, generator=draw))
    return network.eval()


def make_folder(
    folder: Path, image_size: tuple[int, int] = (64, 96), *, generator: bool = True, **spec: object
) -> Path:
    segmenter = trained(SEGMENTERS[SEGMENTER[0]](**SEGMENTER[1]), 1)
    made = trained(GENERATORS[GENERATOR[0]](**GENERATOR[1]), 2) if generator else None
    described = model_spec(SEGMENTER, GENERATOR if generator else None, image_size=image_size, **spec)  # type: ignore[arg-type]
    return save_model_folder(folder, segmenter, made, described)


def make_voting_folder(folder: Path, seeds: tuple[int, ...], image_size: tuple[int, int], **spec: object) -> Path:
    """A model folder of several seeds, the first one registered, all with keyed weights."""
    made = {}
    for seed in seeds:
        network = trained(SEGMENTERS[SEGMENTER[0]](**SEGMENTER[1]), seed)
        described = model_spec(SEGMENTER, None, image_size=image_size, **spec)  # type: ignore[arg-type]
        target = folder if seed == seeds[0] else folder.with_name(f"{folder.name}-{seed}")
        made[seed] = save_model_folder(target, network, None, described)
    pack_seeds(folder, seeds[0], {seed: made[seed] for seed in seeds[1:]})
    return folder


def micrograph(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Discs on a shaded, noisy ground, uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :columns]
    image = 60 + 40 * x / columns + rng.normal(0, 6, (rows, columns))
    for _ in range(max(rows * columns // 900, 1)):
        row, column, radius = rng.uniform(0, rows), rng.uniform(0, columns), rng.uniform(3, 8)
        image[(y - row) ** 2 + (x - column) ** 2 <= radius**2] += 90
    return np.clip(image, 0, 255).astype(np.uint8)
