"""Splits into train, validation and test: by contents, stratified by coverage, groups kept together.

Which images are tested follows from the images' contents (and groups) and the test fraction alone; which are validated
also from `split.seed`. File names and their order play no part, except through `split.group`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sage_ray.config import stable_hash
from sage_ray.errors import UserError
from sage_ray.sections import SplitConfig


@dataclass(frozen=True, eq=False)
class Split:
    """Read-only sorted indices (int64) of the three parts, and `split_id`, 16 hex digits over their contents."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    split_id: str

    def parts(self) -> list[str]:
        """The part ("train", "validation", "test") of each image, by index."""
        names = {int(i): name for name in ("train", "validation", "test") for i in getattr(self, name)}
        return [names[i] for i in range(len(names))]


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
    total = len(shas)
    noun = "groups" if config.group else "images"
    mend = "give more images, fewer folds, or set data.split.test (or validation) to 0"
    # The test part must not depend on `folds`, so what it leaves over is counted afterwards.
    spare = 2 if config.validation else 1
    parts = spare + (1 if config.test else 0)
    if len(units) < parts:
        raise UserError(f"fewer {noun} than the parts of the split need ({len(units)}, {parts} needed)", where, mend)
    test = _choose(units, _target(config.test, total), "test", spare) if config.test else []
    rest = _without(units, test)
    if len(rest) < config.folds:
        beside = f" beside {len(test)} of the test set" if test else ""
        raise UserError(f"fewer {noun} than folds ({len(rest)}{beside}, {config.folds} folds)", where, mend)
    if config.folds:
        validation = _fold(rest, config.folds, config.fold, config.seed)
    elif config.validation:
        validation = _choose(rest, _target(config.validation, total), f"validation:{config.seed}", 1)
    else:
        validation = []
    train = _without(rest, validation)
    return _split(shas, train, validation, test)


def _split(shas: Sequence[str], *parts: list[_Unit]) -> Split:
    train, validation, test = (
        np.array(sorted(i for unit in part for i in unit.members), dtype=np.int64) for part in parts
    )
    for array in (train, validation, test):
        array.setflags(write=False)
    identity = [sorted(shas[i] for i in array) for array in (train, validation, test)]
    return Split(train, validation, test, split_id=stable_hash(identity))


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


def _target(fraction: float, total: int) -> int:
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


def _fold(units: list[_Unit], folds: int, fold: int, seed: int) -> list[_Unit]:
    """Units of one fold: the largest first, neighbours in coverage dealt to different folds, the fullest fold last."""
    ordered = sorted(units, key=lambda unit: (-unit.size, unit.coverage, unit.key))
    filled = [0] * folds
    chosen = []
    for unit in ordered:
        _, _, emptiest = min((filled[k], _draw(f"fold:{seed}:{k}", unit.key), k) for k in range(folds))
        filled[emptiest] += unit.size
        if emptiest == fold:
            chosen.append(unit)
    return chosen


def _without(units: list[_Unit], taken: list[_Unit]) -> list[_Unit]:
    gone = {unit.members for unit in taken}
    return [unit for unit in units if unit.members not in gone]
