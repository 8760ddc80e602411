"""Decoding one mask file: which value each pixel has as it is stored, and which particles the values stand for.

Unlike images, masks are read as stored: whatever a photometric tag says of how to show them, 1 in a file is 1 here.
Only the orientation is applied, so that a mask lies on its image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from skimage.measure import label

from sage_ray.data.images import decoded
from sage_ray.data.problems import bad_file
from sage_ray.data.stored_picture import StoredPicture, upright

# Label maps number their objects from 1 with few gaps; a grey picture's largest value says nothing of how many it has.
_ID_SLACK = (4, 32)
# A label is one region, or a few when its particle is partly covered; a grey value is scattered over the picture.
_REGION_SLACK = (4, 8)
# Particles of few pixels seldom touch each other; the steps of a soft edge are as small and do little else.
_SPECK_PIXELS, _TOUCHING_SHARE = 9, 0.5
# Share of contacts between unlike pixels that are steps of at most 2 grey levels: a smooth ramp has little else.
_RAMP_SHARE = 0.8
_RAMP_VALUES = 16
_CLASS_REGIONS = 2
# More colours than these are labels or a picture, not classes.
_MAX_CLASSES = 12
# Pages that together cover more than this share are classes with their background, not a particle each.
_ALL = 0.999
_MEND = (
    "save 0 and 255, or particles numbered from 1 on background 0, in a lossless format such as PNG; or say which "
    "values are particles and which are ignored, such as data.foreground='{}'"
)


@dataclass(frozen=True, eq=False)
class Mask:
    """A decoded mask: `foreground` (H,W) bool; `objects` is the number of labels, or of 4-connected regions."""

    foreground: np.ndarray
    objects: int
    notes: tuple[str, ...] = ()
    """What had to be decided to read it, in whole sentences for the user."""
    labels: np.ndarray | None = None
    """(H,W) whole numbers, one per particle and 0 elsewhere, where the mask tells particles apart that touch."""
    details: Mapping[str, str] = field(default_factory=dict)
    """To some of the notes, what is this mask's own."""
    named: frozenset[str] = frozenset()
    """The terms of `data.foreground` that it has pixels of."""
    values: tuple[str, ...] = ()
    """Its first few values as `data.foreground` would name them, where that is set."""


@dataclass(frozen=True, eq=False)
class MaskValues:
    """What a mask file stores: `values` (H,W) of any integer type, or float if they are not whole; 0 is background."""

    values: np.ndarray
    colours: Mapping[int, tuple[int, ...]] | None = None
    """The colour of each value, where values only number colours and say nothing by their size."""
    notes: tuple[str, ...] = ()
    numbers: np.ndarray | None = None
    """The numbers (H,W) that a picture of a colour palette stores; None for all others."""


def read_mask(path: Path) -> Mask:
    """Foreground and object count of a binary mask ({0,1}, {0,255}, one value beside 0) or an instance map.

    Raises:
        BadFile: as `data.images.header_size` and `read_mask_values`, or the values are neither binary nor labels (see
            `classify_values`).
    """
    stored = read_mask_values(path)
    mask = classify_values(stored.values, path, are_colours=stored.colours is not None)
    return replace(mask, notes=(*stored.notes, *_void_note(stored, mask)))


def _void_note(stored: MaskValues, mask: Mask) -> tuple[str, ...]:
    """A note if the largest number of a label map's type lies far above all others, as unlabelled pixels do."""
    pixels = stored.values if stored.numbers is None else stored.numbers
    is_numbered = stored.colours is None or stored.numbers is not None
    if mask.labels is None or not is_numbered or pixels.dtype not in (np.uint8, np.uint16):
        return ()
    top = int(np.iinfo(pixels.dtype).max)
    others = pixels[pixels < top]
    if len(others) == pixels.size or not 0 < others.max(initial=0) < top // 2:
        return ()
    mend = f"where it means not labelled, set data.foreground='ignore {top}'"
    return (f"the value {top} is taken as a particle like {int(others.max())} and others; {mend}",)


def read_mask_values(path: Path) -> MaskValues:
    """The values that a mask file stores, whatever its format, before they are judged.

    Grey keeps its numbers, also where the file says that 0 is white; a palette gives its numbers, with black as 0; each
    other colour is numbered, with black as 0. Fully transparent pixels are 0, and where the colour is the same
    everywhere, the opacity is the mask. Pages that each hold one particle become labels 1, 2, ... in their order.

    Raises:
        BadFile: as `data.images.header_size`, undecodable, or pages that are no particles.
    """
    return decoded(path, _values)


def _values(picture: StoredPicture) -> MaskValues:
    if picture.pages > 1:
        return _labels_of_pages(picture)
    return _page_values(picture, 0)


def _page_values(picture: StoredPicture, page: int) -> MaskValues:
    samples = np.concatenate(list(picture.read(page)))
    samples = np.ascontiguousarray(upright(samples, picture.look.orientation))
    if samples.dtype.kind == "f":
        samples = whole_numbers(samples)
    if samples.dtype == bool:
        samples = samples.astype(np.uint8)
    if picture.look.kind == "palette":
        return _palette_values(samples, picture)
    if samples.ndim == 2:
        return MaskValues(samples)
    alpha = picture.look.alpha
    layers = [samples[..., n] for n in range(samples.shape[2]) if n != alpha]
    opacity = None if alpha is None else samples[..., alpha]
    return _layer_values(layers, opacity)


def _layer_values(layers: list[np.ndarray], opacity: np.ndarray | None) -> MaskValues:
    varies = opacity is not None and opacity.min() != opacity.max()
    if opacity is not None and varies and all(layer.min() == layer.max() for layer in layers):
        return MaskValues(opacity, notes=("the mask is in the alpha channel, as its colour is the same everywhere",))
    is_grey = all(np.array_equal(layer, layers[0]) for layer in layers[1:])
    stored = MaskValues(layers[0]) if is_grey else _colour_numbers(layers)
    if opacity is None or not varies or not stored.values[opacity == 0].any():
        return stored
    values = np.where(opacity == 0, stored.values.dtype.type(0), stored.values)
    return MaskValues(values, stored.colours, ("transparent pixels of the mask are taken as background",))


def whole_numbers(samples: np.ndarray) -> np.ndarray:
    """Floats that are whole numbers as int64; others as they are, for `classify_values` to judge."""
    if samples.dtype.kind != "f" or not np.isfinite(samples).all():
        return samples
    if (np.abs(samples) < np.float64(2**53)).all() and np.array_equal(samples, np.round(samples)):
        return samples.astype(np.int64)
    return samples


def _palette_values(numbers: np.ndarray, picture: StoredPicture) -> MaskValues:
    """Values of a palette: its numbers, its grey levels, or its numbers as colours with black as 0.

    A ramp from white to black only says how to show the numbers, so that they stay; so they do where grey levels climb
    with them. Other grey levels say more than their numbers, which a program that packs a file may give in any order.
    """
    palette = picture.look.palette
    assert palette is not None, "a palette picture has a palette"
    stored, numbers = numbers, np.minimum(numbers, len(palette) - 1)
    used = np.unique(numbers)
    if (palette[used] == palette[used, :1]).all():
        levels = palette[:, 0].astype(np.int64)
        is_inverting = (np.diff(levels) < 0).all() and (len(levels) >= 256 or picture.format == "TIFF")
        if is_inverting or (used[0] == 0 and (np.diff(levels[used]) > 0).all()):
            return MaskValues(numbers)
        return MaskValues(palette[numbers, 0])
    first_of: dict[tuple[int, ...], int] = {}
    table = np.arange(len(palette), dtype=np.int32)
    for number in used.tolist():
        table[number] = first_of.setdefault(tuple(palette[number].tolist()), number)
    black = first_of.get((0, 0, 0), 0)
    swapped = np.where(table == black, 0, np.where(table == 0, black, table))
    colours = {int(swapped[number]): colour for colour, number in first_of.items()}
    return MaskValues(swapped[numbers], colours, numbers=stored)


def _colour_numbers(layers: list[np.ndarray]) -> MaskValues:
    """Colours numbered from 1 in the order of their values, black as 0."""
    shape = layers[0].shape
    codes = np.zeros(shape, np.int64)
    for layer in layers:
        found, ranks = np.unique(layer, return_inverse=True)
        codes = np.unique(codes * len(found) + ranks.reshape(shape), return_inverse=True)[1].reshape(shape)
    _, first = np.unique(codes, return_index=True)
    colours = [tuple(layer.flat[place].item() for layer in layers) for place in first.tolist()]
    # The codes are in the order of the colours, so that black, if it is there, is the first one.
    start = 0 if not any(colours[0]) else 1
    return MaskValues(codes + start, dict(enumerate(colours, start)))


def _labels_of_pages(picture: StoredPicture) -> MaskValues:
    """Labels (H,W) int32 of a file whose pages each hold one particle; a later page lies over those before it."""
    refused = f"mask file with {picture.pages} pages"
    mend = "save one page with particles numbered from 1, or one page for each particle"
    labels = np.zeros(picture.shape, np.int32)
    number = 0
    for page in range(picture.pages):
        values = _page_values(picture, page).values
        if values.shape != labels.shape:
            raise bad_file(f"{refused} of different sizes", picture.path, mend)
        if len(np.unique(values[values != 0])) > 1:
            raise bad_file(f"{refused}, of which page {page + 1} holds more than one value", picture.path, mend)
        number += bool(values.any())
        labels[values != 0] = number
    if (labels > 0).mean() > _ALL:
        raise bad_file(f"{refused}, which together cover the whole image", picture.path, mend)
    notes = ("the pages of the mask are taken as one particle each",) if len(np.unique(labels)) > 2 else ()
    return MaskValues(labels, notes=notes)


def classify_values(values: np.ndarray, path: Path | str = "mask", *, are_colours: bool = False) -> Mask:
    """The mask that pixel values (H,W) stand for, 0 being background.

    At most one value beside 0 is a binary mask. More are labels if each forms one region or a few of some size (a grey
    value is scattered), if they do not climb in small steps as in a ramp, and, where they could be grey levels of 8
    bits, if they are numbered from 1 without large gaps or each is one region. Up to 12 colours may be classes, each of
    any number of regions of some size: their objects are the 4-connected regions of one colour.

    Args:
        values: whole numbers of any type, or floats.
        path: named in the message.
        are_colours: whether a value's size says nothing, as it only numbers a colour.

    Raises:
        BadFile: neither binary nor labels.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        mend = "save its background as 0, or, where nan stands for unlabelled pixels, set data.foreground='ignore nan'"
        raise bad_file("mask with values that are not finite", path, mend)
    found, ranks = _ranked(values)
    ids = found[found != 0]
    if len(ids) == 1 and ids[0] < 0:
        raise bad_file(f"mask with the negative value {ids[0]:g} for its particles", path, _MEND.format("<0"))
    if len(ids) <= 1:
        foreground = values != 0
        objects: np.ndarray = label(foreground, connectivity=1)  # type: ignore[no-untyped-call]  # scikit-image
        return Mask(foreground, int(objects.max()))
    if values.dtype.kind == "f":
        what = "mask of values that are not whole numbers"
        mend = _MEND.format(f">{(ids.max() + ids.min()) / 2:.3g}")
        raise bad_file(f"{what} ({len(ids)} values beside 0, up to {ids.max():g})", path, mend)
    reason, regions = _why_no_labels(found, ids, ranks, are_colours)
    if reason is None:
        is_classes = are_colours and len(ids) <= _MAX_CLASSES
        # Few values of many regions are classes of particles, not particles.
        labels = regions if is_classes or int(regions.max()) > _CLASS_REGIONS * len(ids) else ranks
        return Mask(values != 0, int(regions.max()) if is_classes else len(ids), labels=labels)
    mend = _MEND.format("#ff0000" if are_colours else _example_rule(found, ids))
    raise bad_file(f"mask is neither binary nor an instance map ({reason})", path, mend)


def _example_rule(found: np.ndarray, ids: np.ndarray) -> str:
    """A rule of `data.foreground` that could be meant by values that are neither binary nor labels."""
    if ids.min() < 0:
        return f"ignore {ids.min()}" if ids.max() > 0 else "<0"
    if found[0] != 0:
        return f"{ids[-1]}"
    return ",".join(map(str, ids)) if len(ids) <= 3 and ids.max() < 64 else f">{ids.max() // 2}"


def labels_or_reason(values: np.ndarray) -> tuple[np.ndarray | None, str | None]:
    """Labels (H,W) int32 from 1 of whole numbers (H,W) of at least 0, or why they are none; None, None if binary."""
    found, ranks = _ranked(values)
    ids = found[found != 0]
    if len(ids) <= 1:
        return None, None
    reason, _ = _why_no_labels(found, ids, ranks, are_colours=False)
    return (ranks, None) if reason is None else (None, reason)


def _ranked(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted distinct values (n,), and the rank of each pixel's value (H,W), with 0 kept as 0."""
    if values.dtype in (np.uint8, np.uint16):
        counts = np.bincount(values.ravel())
        found = np.flatnonzero(counts)
        table = np.zeros(len(counts), np.int32)
        table[found] = np.arange(len(found)) + (0 if found[0] == 0 else 1)
        return found, table[values]
    found, ranks = np.unique(values, return_inverse=True)
    return found, ranks.reshape(values.shape).astype(np.int32) + np.int32(0 if found[0] == 0 else 1)


def _why_no_labels(
    found: np.ndarray, ids: np.ndarray, ranks: np.ndarray, are_colours: bool
) -> tuple[str | None, np.ndarray]:
    """Why values are no labels, None if they are, and their regions (H,W), numbered from 1."""
    if found.min() < 0:
        return "negative values", ranks
    kind = "colours" if are_colours else "grey values"
    if found[0] != 0:
        return f"no background value 0, but {len(ids)} other {'colours' if are_colours else 'values'}", ranks
    regions: np.ndarray = label(ranks, connectivity=1, background=0)  # type: ignore[no-untyped-call]  # scikit-image
    areas = np.bincount(regions.ravel())[1:]
    if not are_colours and ids.max() <= 255 and _has_gaps(ids, len(areas)):
        return f"{len(ids)} grey values up to {ids.max()}", regions
    touching, steps = _contacts(ranks)
    factor, slack = _REGION_SLACK
    specks = bool(np.median(areas) < _SPECK_PIXELS and touching > _TOUCHING_SHARE)
    scattered = len(areas) > factor * len(ids) + slack
    is_classes = are_colours and len(ids) <= _MAX_CLASSES and np.median(areas) >= _SPECK_PIXELS
    if specks or (scattered and not is_classes):
        return f"{len(ids)} {kind} scattered over {len(areas)} regions", regions
    if not are_colours and len(ids) >= _RAMP_VALUES and steps > _RAMP_SHARE:
        return f"{len(ids)} grey values that form a ramp", regions
    return None, regions


def _has_gaps(ids: np.ndarray, regions: int) -> bool:
    """Whether values up to 255 look like grey levels: numbered with large gaps, and not one region each.

    White (255) beside other values stays a grey level, whatever its regions are.
    """
    factor, slack = _ID_SLACK
    if ids.max() <= factor * len(ids) + slack:
        return False
    return bool(ids.max() == 255 or len(ids) < 3 or regions > len(ids) + max(2, len(ids) // 4))


def _contacts(ranks: np.ndarray) -> tuple[float, float]:
    """Among neighbouring pixels of unlike ranks: share without background, and share that are steps of at most 2."""
    touching = steps = contacts = 0
    for a, b in ((ranks[1:], ranks[:-1]), (ranks[:, 1:], ranks[:, :-1])):
        unlike, both = a != b, (a > 0) & (b > 0)
        contacts += int(unlike.sum())
        touching += int((unlike & both).sum())
        steps += int((unlike & both & (np.abs(a - b) <= 2)).sum())
    return touching / max(contacts, 1), steps / max(contacts, 1)
