"""Bright discs on grey ground as in the cases of issue 10, and a small network trained on them within seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from sage_ray.data.preprocess import prepare_image, prepare_mask
from sage_ray.imaging.model import model_spec, save_model_folder
from sage_ray.models import SEGMENTERS
from sage_ray.models.init import initialise

NETWORK = ("unet", {"width": 6, "depth": 2, "norm": "batch"})


def scene(seed: int, rows: int = 64, columns: int = 64, step: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """(image (H,W) uint8, labels (H,W) int32)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :columns]
    image, labels = rng.normal(90, 8, (rows, columns)), np.zeros((rows, columns), np.int32)
    for row in range(step // 2, rows, step):
        for column in range(step // 2, columns, step):
            if rng.random() < 0.25:
                continue
            centre = row + rng.integers(-3, 4), column + rng.integers(-3, 4)
            radius = (8 + rng.uniform(-2, 1)) * step / 24
            disc = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
            labels[disc] = labels.max() + 1
            image[disc] += 80
    return image.clip(0, 255).astype(np.uint8), labels


def field(side: int, across: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A field of `side` x `across` scenes of 64 x 64 pixels: (image uint8, mask bool)."""
    wide = across or side
    tiles = [[scene(1000 + row * wide + column) for column in range(wide)] for row in range(side)]
    images, labels = ([[tile[place] for tile in row] for row in tiles] for place in (0, 1))
    return np.block(images), np.block(labels) > 0


def write_pair(folder: Path, name: str, image: np.ndarray, mask: np.ndarray) -> None:
    for kind, array in (("images", image), ("masks", mask.astype(np.uint8) * 255)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / kind / f"{name}.png")


def trained_on_scenes(folder: Path, seen: int = 64, steps: int = 40, **spec: object) -> Path:
    """A model folder, trained on scenes of 64 x 64 pixels that the network sees at `seen` x `seen`."""
    network = SEGMENTERS[NETWORK[0]](**NETWORK[1])
    initialise(network, 0)
    pairs = [scene(seed) for seed in range(32)]
    images = np.stack([prepare_image(image, (seen, seen)) for image, _ in pairs])
    masks = np.stack([prepare_mask(labels, (seen, seen)) for _, labels in pairs])
    shown = torch.from_numpy(images)[:, None].float() / 127.5 - 1
    truth = torch.from_numpy(masks).long()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    order = np.random.default_rng(0)
    network.train()
    for _ in range(steps):
        chosen = torch.from_numpy(order.choice(len(pairs), 8, replace=False))
        optimizer.zero_grad()
        functional.cross_entropy(network(shown[chosen]), truth[chosen]).backward()
        optimizer.step()
    described = model_spec(NETWORK, None, **{"image_size": (seen, seen), "native_size": (64, 64), **spec})  # type: ignore[arg-type]
    return save_model_folder(folder, network.eval(), None, described)
