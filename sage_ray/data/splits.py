"""Splits into train, validation and test: by contents, stratified by coverage, groups kept together.

Which images are tested follows from the images' contents (and groups) and the test fraction alone; which are validated
also from `split.seed`. File names and their order play no part, except through `split.group`. The images outside the
test set fall into three disjoint parts A, B and C, which follow from contents and test fraction too (`split.part`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sage_ray.config import stable_hash
from sage_ray.errors import UserError
from sage_ray.sections import SplitConfig

PARTS = ("train", "validation", "test", "unlabelled")
THIRDS = ("A", "B", "C")
"""Values of `split.part` beside "all"."""


@dataclass(frozen=True, eq=False)
class Split:
    """Read-only sorted indices (int64) of the parts, and `split_id`, 16 hex digits over contents of the first three.

    `unlabelled` are the training images that `data.split.labels` leaves without masks; none without it. Images that
    belong to another `split.part` are in none of them.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    split_id: str
    unlabelled: np.ndarray = field(default_factory=lambda: _indices([]))

    def counts(self) -> dict[str, int]:
        """Number of images of each part."""
        return {name: len(getattr(self, name)) for name in PARTS}

    def parts(self, total: int | None = None) -> list[str]:
        """The part ("train", "validation", "test", "unlabelled", or "other" for none) of each image, by index.

        Args:
            total: number of all images; None: all of them are in a part.
        """
        names = {int(i): name for name in PARTS for i in getattr(self, name)}
        return [names.get(i, "other") for i in range(len(names) if total is None else total)]


@dataclass(frozen=True)
class _Unit:
    """Images that stay together: one image, or all crops of one micrograph."""

    members: tuple[int, ...]
    coverage: float
    key: str

    @property
    def size(self) -> int:
        return len(self.members)


def make_split(
    shas: Sequence[str],
    coverages: Sequence[float],
    stems: Sequence[str],
    config: SplitConfig,
    where: str = "data.split",
) -> Split:
    """The split of N images.

    Args:
        shas: contents of each image, such as its sha256 (with that of its mask).
        coverages: share of foreground pixels of each mask, in [0, 1].
        stems: file stems; read only if `config.group` is set.
        config: fractions, folds, seed, group.
        where: names the data in an error.

    Raises:
        UserError: fewer images (or groups) than the parts or folds need, or a group expression that does not match.
    """
    units = _units(shas, coverages, group_names(stems, config.group))
    total: float = len(shas)
    noun = "groups" if config.group else "images"
    mend = "give more images, fewer folds, or set data.split.test (or validation) to 0"
    # The test part must not depend on `folds`, so what it leaves over is counted afterwards.
    spare = 2 if config.validation else 1
    parts = spare + (1 if config.test else 0)
    if len(units) < parts:
        raise UserError(f"fewer {noun} than the parts of the split need ({len(units)}, {parts} needed)", where, mend)
    test = _choose(units, _target(config.test, total), "test", spare) if config.test else []
    rest = _without(units, test)
    if config.part != "all":
        rest, total = _part(rest, config, spare, noun, where)
    if len(rest) < config.folds:
        beside = f" beside {len(test)} of the test set" if test else ""
        raise UserError(f"fewer {noun} than folds ({len(rest)}{beside}, {config.folds} folds)", where, mend)
    if config.folds:
        validation = _fold(rest, config.folds, config.fold, f"fold:{config.seed}")
    elif config.validation:
        validation = _choose(rest, _target(config.validation, total), f"validation:{config.seed}", 1)
    else:
        validation = []
    pool = _without(rest, validation)
    train = _labelled(pool, config, where)
    return _split(shas, train, validation, test, _without(pool, train))


def _labelled(pool: list[_Unit], config: SplitConfig, where: str) -> list[_Unit]:
    """The units that keep their masks: the first of a keyed order, as many as fit into `labels` images."""
    if not config.labels:
        return pool
    images = sum(unit.size for unit in pool)
    if config.labels > images:
        mend = f"give at most {images}, or 0 for all of them"
        raise UserError(f"{config.labels} labels, but {images} training images", f"{where}, labels", mend)
    chosen: list[_Unit] = []
    left = config.labels
    for unit in sorted(pool, key=lambda unit: _draw(f"labels:{config.subset}", unit.key)):
        if unit.size > left:
            break
        chosen.append(unit)
        left -= unit.size
    if not chosen:
        what = f"{config.labels} labels are fewer than the crops of the first micrograph of subset {config.subset}"
        raise UserError(what, f"{where}, labels", "give more labels, or another data.split.subset")
    return chosen


def _part(rest: list[_Unit], config: SplitConfig, spare: int, noun: str, where: str) -> tuple[list[_Unit], float]:
    """The units of `split.part`, and of how many images its fractions are: the test set counts with each third."""
    chosen = _fold(rest, len(THIRDS), THIRDS.index(config.part), "part")
    if len(chosen) < spare:
        what = f"fewer {noun} in part {config.part} than the split needs ({len(chosen)}, {spare} needed)"
        raise UserError(what, where, "give more images, or set data.split.part to all")
    return chosen, sum(unit.size for unit in chosen) / (1 - config.test)


def _split(shas: Sequence[str], *parts: list[_Unit]) -> Split:
    train, validation, test, unlabelled = (_indices([i for unit in part for i in unit.members]) for part in parts)
    identity = [sorted(shas[i] for i in array) for array in (train, validation, test)]
    return Split(train, validation, test, stable_hash(identity), unlabelled)


def _indices(rows: Sequence[int]) -> np.ndarray:
    array = np.array(sorted(rows), dtype=np.int64)
    array.setflags(write=False)
    return array


def group_names(stems: Sequence[str], pattern: str | None, *, lenient: bool = False) -> list[str] | None:
    """The micrograph that each image comes from, or None without a `pattern`.

    Args:
        stems: file stems.
        pattern: `data.split.group`.
        lenient: a stem that the pattern does not match names a micrograph of its own; for data that the pattern was
            not written for.

    Raises:
        UserError: the pattern is no regular expression, or does not match a stem.
    """
    if pattern is None:
        return None
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"bad regular expression ({error})", f"data.split.group {pattern!r}", "correct it") from None
    names = []
    for stem in stems:
        match = expression.search(stem)
        if match is None and lenient:
            names.append(stem)
            continue
        if match is None:
            mend = "write an expression that matches every file stem, or unset it"
            raise UserError(f"group expression does not match {stem}", f"data.split.group {pattern!r}", mend)
        first = match.group(1) if expression.groups else None
        names.append(match.group(0) if first is None else first)
    return names


def _units(shas: Sequence[str], coverages: Sequence[float], groups: list[str] | None) -> list[_Unit]:
    members: dict[str, list[int]] = {}
    for index in range(len(shas)):
        members.setdefault(groups[index] if groups else str(index), []).append(index)
    units = []
    for indices in members.values():
        key = hashlib.sha256("".join(sorted(shas[i] for i in indices)).encode()).hexdigest()
        # fsum of the sorted values: the mean must not depend on the order of the images.
        coverage = float(np.sort([coverages[i] for i in indices]).mean())
        units.append(_Unit(tuple(indices), coverage, key))
    return units


def _target(fraction: float, total: float) -> int:
    return max(1, int(fraction * total + 0.5))


def _draw(salt: str, key: str) -> str:
    return hashlib.sha256(f"{salt}:{key}".encode()).hexdigest()


def _choose(units: list[_Unit], images: int, salt: str, spare: int) -> list[_Unit]:
    """Units with nearly `images` images in all, one from each stratum of coverage; `spare` units at least are left."""
    ordered = sorted(units, key=lambda unit: (unit.coverage, unit.key))
    draws = {unit.key: _draw(salt, unit.key) for unit in units}
    most = len(units) - spare
    if all(unit.size == 1 for unit in units):
        return _one_a_stratum(ordered, min(images, most), draws)
    choices = (_one_a_stratum(ordered, count, draws) for count in range(1, most + 1))
    return min(choices, key=lambda chosen: abs(sum(unit.size for unit in chosen) - images))


def _one_a_stratum(ordered: list[_Unit], count: int, draws: dict[str, str]) -> list[_Unit]:
    edges = [i * len(ordered) // count for i in range(count + 1)]
    strata = (ordered[low:high] for low, high in zip(edges, edges[1:], strict=False))
    return [min(stratum, key=lambda unit: draws[unit.key]) for stratum in strata]


def _fold(units: list[_Unit], folds: int, fold: int, salt: str) -> list[_Unit]:
    """Units of one fold: the largest first, neighbours in coverage dealt to different folds, the fullest fold last."""
    ordered = sorted(units, key=lambda unit: (-unit.size, unit.coverage, unit.key))
    filled = [0] * folds
    chosen = []
    for unit in ordered:
        _, _, emptiest = min((filled[k], _draw(f"{salt}:{k}", unit.key), k) for k in range(folds))
        filled[emptiest] += unit.size
        if emptiest == fold:
            chosen.append(unit)
    return chosen


def _without(units: list[_Unit], taken: list[_Unit]) -> list[_Unit]:
    gone = {unit.members for unit in taken}
    return [unit for unit in units if unit.members not in gone]
