"""Drawn micrographs of ordered particles with exact masks: the embedded default data and its `synthetic://` source."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

import numpy as np
from PIL import Image

from sage_ray.data.images import SUFFIXES
from sage_ray.data.layouts import draw_centres
from sage_ray.data.micrograph import Particles, draw_conditions, expose, outline_field
from sage_ray.errors import UserError

DRAWN_PREFIX = "synthetic://ordered"
DRAWN_VERSION = 1
"""Raised when the same seed draws other pixels; part of the cache key."""
MIN_SIZE, MAX_SIZE, MAX_NUM = 16, 4096, 100_000
_LIMITS = {"num": (1, MAX_NUM), "size": (MIN_SIZE, MAX_SIZE), "seed": (0, 2**63 - 1)}
_DEFAULTS = {"num": 64, "size": 128, "seed": 0}


class DrawnPair(NamedTuple):
    """A drawn micrograph, image (H,W) uint8, and its particles, labels (H,W) uint16 (0 background, 1..n)."""

    image: np.ndarray
    labels: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """(H,W) uint8 in {0,1}."""
        return (self.labels > 0).astype(np.uint8)


def draw_pair(rng: np.random.Generator, size: int) -> DrawnPair:
    """One square micrograph of `size` pixels with at least one particle.

    Layout, size, shape and contrast of the particles and the imaging conditions are all drawn from `rng`; some images
    are dim, unevenly charged or show dark particles, so that no grey threshold separates them.
    """
    radius = _radius(rng, size)
    centres, overlapping = draw_centres(rng, size, radius)
    spread = rng.uniform(0.02, 0.16) if overlapping else rng.uniform(0.01, 0.08)
    radii = radius * np.clip(rng.normal(1, spread, len(centres)), 0.7, 1.25)
    if not overlapping:
        radii = np.minimum(radii, radius * 1.05)
    particles = Particles(
        centres=centres,
        radii=radii,
        roughness=rng.uniform(0.01, 0.09),
        facets=int(rng.choice((0, 0, 0, 4, 6))) if radius > 4 else 0,
        elongation=rng.uniform(1.0, 1.18) if rng.random() < 0.7 else rng.uniform(1.15, 1.4),
        rim=rng.uniform(0.35, 1.5),
        light=rng.uniform(0, 2 * math.pi),
    )
    labels, cover, relief = outline_field(rng, size, particles)
    image = expose(rng, labels, cover, relief, radius, draw_conditions(rng, size))
    return DrawnPair(image, _renumber(labels))


def _radius(rng: np.random.Generator, size: int) -> float:
    """Mean particle radius in pixels: 3 to 9 up to 128 pixels a side, wider spread above."""
    low = max(3.0, 0.022 * size)
    high = max(low + 1.5, 0.075 * size)
    return float(math.exp(rng.uniform(math.log(low), math.log(high))))


def _renumber(labels: np.ndarray) -> np.ndarray:
    """Labels 1..n without gaps: particles that others cover wholly have no pixel left."""
    found = np.unique(labels)
    table = np.zeros(int(found[-1]) + 1, np.uint16)
    table[found] = np.arange(len(found)) + (found[0] != 0)
    renumbered: np.ndarray = table[labels]
    return renumbered


@dataclass(frozen=True)
class DrawnSource:
    """`num` pairs of `size` pixels a side, each drawn from (seed, size, its index)."""

    num: int
    size: int
    seed: int

    @classmethod
    def parse(cls, path: str) -> DrawnSource:
        """The source of `synthetic://ordered?num=64&size=128&seed=0`; what is left out has these values.

        Raises:
            UserError: another kind, an unknown or repeated name, or a value that is no whole number in range.
        """
        parts = urlsplit(path)
        example = "write synthetic://ordered?num=64&size=128&seed=0"
        if f"{parts.scheme}://{parts.netloc}" != DRAWN_PREFIX or parts.path not in ("", "/") or parts.fragment:
            raise UserError("unknown drawn source", path, example)
        values = dict(_DEFAULTS)
        given: set[str] = set()
        for name, text in parse_qsl(parts.query, keep_blank_values=True):
            if name not in values or name in given:
                raise UserError(f"unknown or repeated {name}", path, example)
            given.add(name)
            low, high = _LIMITS[name]
            if not text.isdecimal() or not low <= int(text) <= high:
                raise UserError(f"bad {name}={text}", path, f"give a whole number from {low} to {high}")
            values[name] = int(text)
        return cls(**values)

    def draw(self, index: int) -> DrawnPair:
        """Pair number `index`, from 0; the same whatever else was drawn before."""
        return draw_pair(np.random.default_rng([self.seed, self.size, index]), self.size)

    def stem(self, index: int) -> str:
        """File stem of pair number `index`."""
        return f"ordered_{index:05d}"


def write_dataset(out: str | Path, num: int, size: int, seed: int, *, instance_maps: bool = False) -> Path:
    """Write `num` drawn pairs as PNG to `out`/images and `out`/masks ({0,255}), or `out`/segmaps (16-bit labels).

    The folder holds the same pixels as `synthetic://ordered?num=&size=&seed=`.

    Raises:
        UserError: a value out of range, a folder that holds other pictures, or one that cannot be written.
    """
    source = DrawnSource.parse(f"{DRAWN_PREFIX}?num={num}&size={size}&seed={seed}")
    root = Path(out).expanduser()
    folders = {"images": root / "images", "truth": root / ("segmaps" if instance_maps else "masks")}
    other = {root / name for name in ("masks", "segmaps")} - {folders["truth"]}
    names = {source.stem(index) + ".png" for index in range(num)}
    for folder in (*folders.values(), *other):
        _refuse_others(folder, set() if folder in other else names)
    try:
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        for index in range(num):
            pair = source.draw(index)
            Image.fromarray(pair.image).save(folders["images"] / f"{source.stem(index)}.png")
            truth = pair.labels if instance_maps else pair.mask * np.uint8(255)
            Image.fromarray(truth).save(folders["truth"] / f"{source.stem(index)}.png")
    except OSError as error:
        raise UserError(f"cannot write ({error.strerror or error})", root, "choose a writable folder") from None
    return root


def _refuse_others(folder: Path, ours: set[str]) -> None:
    if not folder.is_dir():
        return
    others = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.name not in ours)
    if others:
        raise UserError("folder holds other pictures", folder / others[0], "choose a new folder")
