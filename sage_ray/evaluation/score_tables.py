"""Test scores of a model's seeds: one row per image, seed and score, from which come tables, means and intervals."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sage_ray.config import ExperimentConfig, stable_hash
from sage_ray.errors import UserError
from sage_ray.identity import identity_tree
from sage_ray.metrics.definitions import (
    COUNTS,
    GENERATED_LOSS,
    IMAGE_SCORES,
    LOSS,
    POOLED,
    counted_for,
    label,
    loss_definition,
    name_of,
)
from sage_ray.metrics.image_scores import summarise
from sage_ray.statistics import by_group, mean_interval
from sage_ray.statistics.verdict_sentences import score_in_words
from sage_ray.system_rules import has_segmenter
from sage_ray.training.scoring import score_definitions

PRIMARY = "dice"
"""The score that a verdict is about."""


@dataclass(frozen=True)
class SeedTable:
    """One score of every image and seed."""

    score: str
    definition: str
    values: np.ndarray
    """(images, seeds) float64."""
    images: tuple[str, ...]
    seeds: tuple[int, ...]
    groups: tuple[str, ...]
    """Micrograph of each image; its own sha where the image is no crop."""


@dataclass(frozen=True)
class ScoreLine:
    """A score with its interval and what it is."""

    mean: float
    low: float | None
    high: float | None
    """None for a pooled score, which no single image has, and where there is one image or micrograph."""
    level: float | None
    images: int
    seeds: int
    over: str
    definition: str
    micrographs: int
    """That the images are crops of; `images` where each is its own."""


def line_in_words(line: ScoreLine, score: str = PRIMARY) -> str:
    """Such as "Dice 0.890, 95 % interval 0.839 to 0.941, 13 locked-test images, 2 seeds"."""
    between = (line.low, line.high) if line.low is not None and line.high is not None else None
    counts = {"images": line.images, "micrographs": line.micrographs, "seeds": line.seeds}
    return score_in_words(label(score), line.mean, between, line.level, **counts)


def meaning(metric: str, config: ExperimentConfig) -> str:
    """The definition of the score `metric` (`val/dice`) of a config; only equal texts may be compared."""
    name = name_of(metric)
    if not has_segmenter(config.adversarial):
        return GENERATED_LOSS
    if name == LOSS:
        return loss_definition(identity_tree(config.segmentation_loss))
    return score_definitions(config)[name]


def long_rows(
    scores: Sequence[Mapping[str, float]],
    shas: Sequence[str],
    named: Mapping[str, str],
    checkpoint: str,
    groups: Sequence[str | None] | None = None,
) -> list[dict[str, Any]]:
    """Rows of per_image.parquet (part `test`) of the images' scores, in order of `shas` and of their `groups`."""
    return [
        {
            "part": "test",
            "checkpoint": checkpoint,
            "image_sha": sha,
            "group": group,
            "score": name,
            "definition": named[name],
            "value": float(row[name]),
        }
        for sha, group, row in zip(shas, groups or [None] * len(shas), scores, strict=True)
        for name in (*IMAGE_SCORES, *COUNTS)
    ]


def name_test_set(shas: Sequence[str]) -> str:
    """16 hex digits that name a set of test images by contents, whatever else the split holds."""
    return stable_hash(sorted(shas))


def seed_table(frame: pd.DataFrame, score: str, where: str, *, complete: bool = True) -> SeedTable:
    """The score of all images and seeds; without `complete`, NaN where an image or seed has none.

    Raises:
        UserError: the score is missing, has mixed definitions, or not every seed has every image.
    """
    rows = frame[frame["score"] == score]
    meanings = sorted(rows["definition"].unique())
    if len(meanings) != 1:
        what = "score is not stored" if not meanings else "score has several definitions"
        raise UserError(what, f"{where}, {score}", "evaluate the model again with one definition")
    # Copies of one picture may stand in one group; each is an image.
    rows = rows.assign(copy=rows.groupby(["seed", "image_sha"]).cumcount())
    wide = rows.pivot(index=["image_sha", "copy"], columns="seed", values="value").sort_index()
    if complete and wide.isna().to_numpy().any():
        raise UserError("test scores are incomplete", f"{where}, {score}", "every seed needs a score of every image")
    shas = tuple(str(sha) for sha, _ in wide.index)
    seeds = tuple(int(seed) for seed in wide.columns)
    return SeedTable(score, meanings[0], wide.to_numpy(float), shas, seeds, _groups(rows, shas))


def _groups(rows: pd.DataFrame, shas: Sequence[str]) -> tuple[str, ...]:
    """Micrograph of each image; the image itself where it is no crop, or where none was stored."""
    if "group" not in rows:
        return tuple(shas)
    named = rows.dropna(subset="group").drop_duplicates("image_sha").set_index("image_sha")["group"]
    return tuple(str(named.get(sha, sha)) for sha in shas)


def why_no_interval(groups: Sequence[Hashable]) -> str | None:
    """Why there is no interval over images: they are one image, or crops of one micrograph; None if there is."""
    together = by_group(groups, len(groups))
    if together.num_groups > 1:
        return None
    return "one image" if together.plain else f"{together.num_images} crops of one micrograph"


def summary(frame: pd.DataFrame, where: str) -> dict[str, ScoreLine]:
    """Every score, with an interval over images (crossed with seeds when there are several)."""
    lines: dict[str, ScoreLine] = {}
    for name in IMAGE_SCORES:
        found = seed_table(frame, name, where)
        lines[name] = _line(found)
    lines[POOLED] = _pooled(frame, where)
    return lines


def _line(found: SeedTable) -> ScoreLine:
    images, seeds = len(found.images), len(found.seeds)
    why = why_no_interval(found.groups)
    if why is not None:
        over = f"{why}: no interval"
        return ScoreLine(float(found.values.mean()), None, None, None, images, seeds, over, found.definition, 1)
    interval = mean_interval(found.values, groups=found.groups)
    # Every score lies in [0, 1], so its mean does; a t interval over few seeds knows nothing of it.
    low, high = max(interval.low, 0.0), min(interval.high, 1.0)
    return ScoreLine(
        interval.mean, low, high, interval.level, images, seeds, interval.over, found.definition, interval.num_groups
    )


def _pooled(frame: pd.DataFrame, where: str) -> ScoreLine:
    counts = {name: seed_table(frame, name, where) for name in COUNTS}
    first = counts[COUNTS[0]]
    zero = dict.fromkeys(IMAGE_SCORES, 0.0)
    values = []
    for seed in range(len(first.seeds)):
        rows = [
            zero | {name: counts[name].values[image, seed] for name in COUNTS} for image in range(len(first.images))
        ]
        values.append(summarise(rows)[POOLED])
    defined = counted_for(first.definition)
    images, micrographs = len(first.images), len(set(first.groups))
    over = f"pooled over {images} images, mean over {len(values)} seed(s), no interval"
    return ScoreLine(float(np.mean(values)), None, None, None, images, len(values), over, defined, micrographs)
