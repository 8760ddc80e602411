"""Extra pairs that are read or drawn: brought to `data.image_size` as a run's own data are."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from sage_ray.config import stable_hash
from sage_ray.data.other_data import read_alike
from sage_ray.data.pairs import fingerprint, hash_pairs, look_through, raise_first
from sage_ray.data.prepare import PreparedData, prepare
from sage_ray.data.preprocess import prepare_image, prepare_mask
from sage_ray.data.synth import DRAWN_PREFIX, DRAWN_VERSION, DrawnSource
from sage_ray.errors import UserError
from sage_ray.sections import DataConfig

MAX_SQUEEZE = 0.01
"""Sides may be in another proportion by this share: what a resized image's whole pixels amount to."""


@dataclass(frozen=True, eq=False)
class ReadPairs:
    """Pairs at the training size: images (N,H,W) uint8, masks (N,H,W) uint8 in {0,1}, sha256 of files and pixels."""

    images: np.ndarray
    masks: np.ndarray
    shas: tuple[tuple[str, str], ...] = ()


def read_folder(path: str, data: DataConfig, own: PreparedData, cache_dir: Path) -> ReadPairs:
    """The pairs of a folder, read, stretched, resized and cleaned as `data.path` is; they have no information bar.

    Raises:
        UserError: no such folder, nothing in it, an image without mask, or images of another size.
    """
    where = f"data.extra_pairs={path}"
    try:
        settings = _alike(path, data)
        found = prepare(settings, cache_dir)
    except UserError as error:
        raise UserError(f"extra pairs: {error.what}", _place(error, path), error.mend) from None
    for fact, stem in zip(found.facts, found.stems, strict=True):
        check_proportion((fact.rows, fact.columns), data, own, f"{where}, {stem}")
    return ReadPairs(found.images, found.masks, tuple((fact.image_sha, fact.pixel_sha) for fact in found.facts))


def folder_content(path: str, data: DataConfig) -> str:
    """16 hex digits over the files of a folder of pairs and how they are read.

    Raises:
        UserError: as `read_folder`.
    """
    try:
        settings = _alike(path, data)
        root = Path(path).expanduser()
        stats = ((file, file.stat()) for file in sorted(root.rglob("*")) if file.is_file())
        seen = tuple((str(file), stat.st_size, stat.st_mtime_ns) for file, stat in stats)
        content = _content(path, settings.masks, settings.foreground, seen)
    except UserError as error:
        raise UserError(f"extra pairs: {error.what}", _place(error, path), error.mend) from None
    return stable_hash([content, *_brought(data)])


def check_proportion(size: tuple[int, int], data: DataConfig, own: PreparedData, where: str) -> None:
    """Raise UserError unless an image may be resized to `data.image_size`.

    Its sides are in the proportion of `data.image_size`, or of some image of the run's data, which is squeezed alike.
    """
    natural = {(fact.rows - data.crop_bottom) / fact.columns for fact in own.facts}
    wanted = data.image_size[0] / data.image_size[1]
    if all(abs(size[0] / size[1] / other - 1) > MAX_SQUEEZE for other in {wanted, *natural}):
        rows, columns = data.image_size
        what = f"extra pairs of another size ({size[0]}x{size[1]})"
        raise UserError(what, where, f"give images of {rows}x{columns} pixels, or of sides in that proportion")


def draw_pairs(text: str, data: DataConfig, alive: Callable[[], None] = lambda: None) -> ReadPairs:
    """Drawn particles: squares, cut to the proportion of `data.image_size`, then resized and cleaned as data are.

    Raises:
        UserError: no such drawn source.
    """
    source = drawn_source(text, data)
    rows, columns = data.image_size
    side = source.size
    kept = (
        (side, max(1, round(side * columns / rows)))
        if columns <= rows
        else (max(1, round(side * rows / columns)), side)
    )
    images, masks = [], []
    for index in range(source.num):
        alive()
        pair = source.draw(index)
        image, mask = (array[: kept[0], : kept[1]] for array in (pair.image, pair.mask))
        images.append(prepare_image(image, data.image_size, stretch_rule=data.stretch))
        cleaning = {"erosion": data.mask_erosion, "min_object_pixels": data.min_object_pixels}
        masks.append(prepare_mask(mask, data.image_size, **cleaning))
    return ReadPairs(np.stack(images), np.stack(masks))


def drawn_source(text: str, data: DataConfig) -> DrawnSource:
    """The source of a text; a size that is left out is the longer side of `data.image_size`."""
    source = DrawnSource.parse(text)
    return source if "size=" in text else replace(source, size=max(data.image_size))


def drawn_content(text: str, data: DataConfig) -> str:
    """16 hex digits over what is drawn and how it is brought to the training size."""
    source = drawn_source(text, data)
    return stable_hash([DRAWN_PREFIX, DRAWN_VERSION, source.num, source.size, source.seed, *_brought(data)])


def resized(images: np.ndarray, masks: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Made pairs (N,H,W) at `size`: images by Pillow's bilinear filter, masks by the nearest pixel; grey as it is."""
    if images.shape[1:] == tuple(size):
        return images, masks
    shape, kind = (size[1], size[0]), Image.Resampling
    shown = [np.asarray(Image.fromarray(image).resize(shape, kind.BILINEAR)) for image in images]
    return np.stack(shown), np.stack([prepare_mask(mask, size) for mask in masks])


def _brought(data: DataConfig) -> list[object]:
    return [data.image_size, data.stretch, data.mask_erosion, data.min_object_pixels]


def _alike(path: str, data: DataConfig) -> DataConfig:
    if not Path(path).expanduser().is_dir():
        raise UserError("no such folder", path, "give a folder with images/ and masks/, or another source of pairs")
    return read_alike(data, path).model_copy(update={"crop_bottom": 0, "extra_pairs": ""})


def _place(error: UserError, path: str) -> str:
    place = f"data.extra_pairs={path}"
    return place if error.where == path else f"{place}, {error.where}"


@functools.lru_cache(maxsize=64)
def _content(path: str, masks: str, foreground: str, seen: tuple[tuple[str, int, int], ...]) -> str:
    found = look_through(path, masks)
    raise_first(found.problems)
    return fingerprint(hash_pairs(found.pairs, None, foreground))
