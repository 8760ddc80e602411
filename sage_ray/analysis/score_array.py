"""A tidy frame of scores as a complete array of arms x images x seeds, or one line that says what it lacks."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sage_ray.errors import UserError, did_you_mean
from sage_ray.statistics.clusters import Clusters, by_group
from sage_ray.statistics.crossed import Images

SHOWN = 5


@dataclass(frozen=True)
class ScoreArray:
    """One score of all arms; `values` is (arms, images, seeds) float64, complete and finite."""

    values: np.ndarray
    arms: tuple[str, ...]
    """In the order in which they first appear."""
    images: tuple[Hashable, ...]
    """Empty for scores that exist once per run; `values` then has one "image"."""
    seeds: tuple[Hashable, ...]
    together: Clusters
    """Which images are crops of one micrograph; of scores once per run, the one "image"."""

    @property
    def num_groups(self) -> int:
        """Micrographs that the images are crops of; 0 for scores that exist once per run."""
        return self.together.num_groups if self.images else 0

    def speaks_of(self, images: Images) -> str:
        """What an interval over this array generalises to, as words that follow "Intervals speak of"."""
        if len(self.seeds) < 2:
            return "these trained weights only: one seed, no interval"
        seeds = f"further training runs than the {len(self.seeds)} seeds"
        if not self.images:
            return f"{seeds} seen here, one value a run on the same images; says nothing of other images"
        if images == "these":
            these = f"these {len(self.images)} images" if len(self.images) > 1 else "this one image"
            return f"{these} and {seeds} seen here; says nothing of other images"
        if self.together.plain:
            return f"new images from the source of these {len(self.images)}, and {seeds} seen here"
        return f"new micrographs from the source of these {self.together.text()}, and {seeds} seen here"

    def index_of(self, arm: str) -> int:
        """Place of an arm.

        Raises:
            UserError: there is none of this name.
        """
        if arm in self.arms:
            return self.arms.index(arm)
        mend = did_you_mean(str(arm), self.arms, "", least=0)
        raise UserError("unknown reference arm", arm, f"{mend} arms: {', '.join(self.arms)}")


def score_array(scores: pd.DataFrame, by_image: bool) -> ScoreArray:
    """The frame as a complete array.

    Args:
        scores: columns arm, seed, value and, if `by_image`, image; one row per cell. A column group names the
            micrograph that an image is a crop of.
        by_image: whether there is one value per image, or one per run.

    Raises:
        UserError: no rows or columns, a value that is not finite or comes twice, an arm that lacks a seed or an image
            that another has, or an image that is in two groups.
    """
    keys = ["arm", "image", "seed"] if by_image else ["arm", "seed"]
    absent = [column for column in (*keys, "value") if column not in scores.columns]
    if absent:
        raise UserError("scores lack a column", ", ".join(absent), f"give columns {', '.join(keys)}, value")
    if scores.empty:
        raise UserError("no scores", "the table is empty", "name a study with finished runs")
    frame = scores.assign(arm=scores["arm"].astype(str), value=pd.to_numeric(scores["value"], errors="coerce"))
    _check_cells(frame, keys)
    arms = tuple(dict.fromkeys(frame["arm"]))
    seeds = _ordered(frame["seed"])
    images = _ordered(frame["image"]) if by_image else ()
    _check_complete(frame, arms, seeds, images)
    wide = frame.set_index(keys)["value"]
    levels = [arms, images, seeds] if by_image else [arms, seeds]
    cells = wide.reindex(pd.MultiIndex.from_product(levels)).to_numpy(np.float64)
    values = cells.reshape(len(arms), max(len(images), 1), len(seeds))
    return ScoreArray(values, arms, images, seeds, _together(frame, images))


def check_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Raise UserError unless an option has one of its values."""
    if value not in allowed:
        raise UserError(f"unknown {name}", value, f"use one of {', '.join(allowed)}")


def check_share(name: str, value: object) -> None:
    """Raise UserError unless an option is a share between 0 and 1, both left out."""
    if not (isinstance(value, float) and 0 < value < 1):
        raise UserError(f"{name} is no share between 0 and 1", value, "use one such as 0.95")


def _together(frame: pd.DataFrame, images: Sequence[Hashable]) -> Clusters:
    if not images or "group" not in frame.columns:
        return by_group(None, max(len(images), 1))
    pairs = frame[["image", "group"]].drop_duplicates()
    twice = pairs[pairs["image"].duplicated()]
    if len(twice):
        raise UserError("image is in two groups", twice.iloc[0]["image"], "name one micrograph for each image")
    named = dict(zip(pairs["image"], pairs["group"], strict=True))
    return by_group([named[image] for image in images], len(images))


def _check_cells(frame: pd.DataFrame, keys: Sequence[str]) -> None:
    bad = frame[~np.isfinite(frame["value"].to_numpy(np.float64))]
    if len(bad):
        raise UserError("score is missing or not finite", _cell(bad, keys), "leave this run out or score it again")
    twice = frame[frame.duplicated(list(keys))]
    if len(twice):
        mend = "give one definition and checkpoint at a time"
        mend += "" if "image" in keys else ", and name the images in a column `image` if there are several"
        raise UserError("score is given twice", _cell(twice, keys), mend)


def _check_complete(
    frame: pd.DataFrame, arms: Sequence[str], seeds: Sequence[Hashable], images: Sequence[Hashable]
) -> None:
    mend = "finish its runs, or compare over what all arms have"
    for arm in arms:
        mine = frame[frame["arm"] == arm]
        lacking = _missing(seeds, mine["seed"])
        if lacking:
            raise UserError("arms are unequal", f"arm {arm} lacks seed {_listed(lacking)}", mend)
        if not images:
            continue
        for seed, cells in mine.groupby("seed", sort=False)["image"]:
            lacking = _missing(images, cells)
            if lacking:
                raise UserError("arms are unequal", f"arm {arm}, seed {seed} lacks image {_listed(lacking)}", mend)


def _cell(rows: pd.DataFrame, keys: Sequence[str]) -> str:
    return ", ".join(f"{key} {rows.iloc[0][key]}" for key in keys)


def _missing(wanted: Sequence[Hashable], there: pd.Series) -> list[Hashable]:
    have = set(there)
    return [value for value in wanted if value not in have]


def _listed(values: Sequence[Hashable]) -> str:
    shown = ", ".join(str(value) for value in values[:SHOWN])
    return shown if len(values) <= SHOWN else f"{shown} and {len(values) - SHOWN} more"


def _ordered(column: pd.Series) -> tuple[Hashable, ...]:
    values = list(dict.fromkeys(column))
    try:
        return tuple(sorted(values))
    except TypeError:
        return tuple(sorted(values, key=str))
