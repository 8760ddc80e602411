"""Scores of particles one by one beside the pixel scores: computed where a test is scored, never while training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sage_ray.data.true_particles import TrueParticles
from sage_ray.evaluation.score_tables import ScoreLine, seed_table, why_no_interval
from sage_ray.files import replacing
from sage_ray.followed import pull, push
from sage_ray.imaging.splitting import NECK, split_mask
from sage_ray.metrics.definitions import (
    PARTICLE_COUNTS,
    PARTICLE_ROWS,
    PARTICLE_SCORES,
    particle_definitions,
    pooled_definition,
    truth_of,
)
from sage_ray.metrics.objects import label_objects
from sage_ray.metrics.size_scores import ParticleScore, pooled_scores, score_particles
from sage_ray.record.run_folder import BASELINE, RunFolder
from sage_ray.statistics import mean_interval
from sage_ray.statistics.bootstrap import DRAWS, drawn_weights, percentile_interval, reflected_interval

SIZES = ("diameter_true", "diameter_pred")
"""`score` of rows that hold the size of one particle; they are kept in a file of their own."""
SPLIT = f"watershed with neck {NECK:g}"
LEVEL = 0.95
_FILE = "particle_sizes.parquet"
_IN_UNIT = ("instance_ap_50", "size_ks")
_NOT_NEGATIVE = (*_IN_UNIT, "count_error_abs", "size_wasserstein", "size_wasserstein_relative")
UNNUMBERED = "the truth has no instance numbers: particles that touch count as one, in truth and prediction"
NOT_AT_HAND = "the masks are not at hand: particles that touch count as one, in truth and prediction"


class ParticleWatch:
    """Looks on while pictures are scored, and scores the particles of each.

    Args:
        definitions: of the pixel scores of the pictures.
        smallest: pixels; smaller particles are left out.
        has_instances: whether any mask of them numbers its particles.
    """

    def __init__(self, definitions: Mapping[str, str], smallest: int, *, has_instances: bool) -> None:
        self._smallest, self.has_instances = smallest, has_instances
        self.definitions = definitions_of_particles(definitions, smallest, has_instances=has_instances)
        self.scores: list[ParticleScore] = []

    def add(self, mask: np.ndarray, labels: np.ndarray | None, pred: np.ndarray) -> None:
        """Score the next picture: its true mask (H,W), the labels of it if there are any, and its prediction (H,W).

        Where a label map has one particle its values say no more than a binary mask, of which components are taken.
        """
        true = labels if labels is not None and self.has_instances else label_objects(mask)
        found = split_mask(pred, self._smallest) if self.has_instances else label_objects(pred)
        self.scores.append(score_particles(true, found, self._smallest))

    def long_rows(
        self, shas: Sequence[str], checkpoint: str, groups: Sequence[str | None] | None = None
    ) -> list[dict[str, Any]]:
        """Rows of part `test` as `score_tables.long_rows`, and one for the size of each particle."""
        rows = []
        for sha, group, score in zip(shas, groups or [None] * len(shas), self.scores, strict=True):
            same = {"part": "test", "checkpoint": checkpoint, "image_sha": sha, "group": group}
            rows += [
                same | {"score": name, "definition": self.definitions[name], "value": score.values[name]}
                for name in PARTICLE_ROWS
            ]
            for name, sizes in zip(SIZES, score.sizes, strict=True):
                meaning = self.definitions["size_wasserstein"]
                rows += [same | {"score": name, "definition": meaning, "value": size} for size in sizes.tolist()]
        return rows


def definitions_of_particles(definitions: Mapping[str, str], smallest: int, *, has_instances: bool) -> dict[str, str]:
    """Definitions of particle scores beside those of the pixel scores of the same pictures."""
    return particle_definitions(
        has_instances=has_instances, split=SPLIT, min_object_pixels=smallest, truth=truth_of(definitions["dice"])
    )


def of_particles(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Those rows of scored images that are about particles."""
    return [dict(row) for row in rows if row["score"] in PARTICLE_ROWS or row["score"] in SIZES]


def are_stored(rows: Sequence[Mapping[str, Any]], definitions: Mapping[str, str], smallest: int) -> bool:
    """Whether rows hold the scores of particles, under a definition of today; sizes may be none if no image has any."""
    known = [definitions_of_particles(definitions, smallest, has_instances=each) for each in (True, False)]
    found = {row["score"]: row["definition"] for row in rows if row["score"] in PARTICLE_ROWS}
    counted = sum(row["value"] for row in rows if row["score"] in PARTICLE_COUNTS[:2])
    sizes = sum(row["score"] in SIZES for row in rows)
    return sizes == counted and any(all(found.get(name) == each[name] for name in PARTICLE_ROWS) for each in known)


def write_sizes(run: RunFolder, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Store the rows of sizes beside per_image.parquet, for each checkpoint anew; returns the other rows."""
    sizes = [dict(row) for row in rows if row["score"] in SIZES]
    others = [dict(row) for row in rows if row["score"] not in SIZES]
    if any(row["score"] in PARTICLE_ROWS for row in others):
        checkpoints = {row["checkpoint"] for row in others}
        kept = [row for row in read_sizes(run) if row["checkpoint"] not in checkpoints]
        columns = ["part", "checkpoint", "image_sha", "group", "score", "definition", "value"]
        with replacing(run.path / _FILE) as temporary:
            pd.DataFrame([*kept, *sizes], columns=columns).to_parquet(temporary, index=False)
        push(run.path / _FILE)
    return others


def read_sizes(run: RunFolder) -> list[dict[str, Any]]:
    """The rows that `write_sizes` stored; none if there are none."""
    path = run.path / _FILE
    pull(path)
    if not path.is_file():
        return []
    return as_rows(pd.read_parquet(path))


def sizes_of_runs(runs: Sequence[RunFolder]) -> pd.DataFrame:
    """The sizes that the models of several runs found on their test, with column `seed`; those of Otsu are left out."""
    tables = [
        pd.DataFrame(row for row in read_sizes(run) if row["checkpoint"] != BASELINE).assign(seed=run.read().seed)
        for run in runs
    ]
    return pd.concat(tables, ignore_index=True)


def as_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as they are scored and stored."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def particle_lines(frame: pd.DataFrame, where: str) -> dict[str, ScoreLine]:
    """Every score of particles that the rows of one model have: mean over images, and of all images pooled.

    Rows without sizes of particles, as a registered version has them, give the means alone.

    A score that no image has, as none has particles in truth and prediction, is left out.
    """
    if not frame["score"].isin(PARTICLE_SCORES).any():
        return {}
    lines = {name: _line(frame, name, where) for name in PARTICLE_SCORES}
    return {name: line for name, line in (lines | _pooled(frame, where)).items() if line is not None}


def particle_notes(lines: Mapping[str, ScoreLine], truth: TrueParticles) -> list[str]:
    """What a person has to know of the scores of particles."""
    if not lines or any("instances of the truth" in line.definition for line in lines.values()):
        return []
    return [UNNUMBERED if truth.at_hand else NOT_AT_HAND]


def _line(frame: pd.DataFrame, name: str, where: str) -> ScoreLine | None:
    found = seed_table(frame, name, where, complete=False)
    known = np.isfinite(found.values).all(axis=1)
    values, groups = found.values[known], [g for g, is_known in zip(found.groups, known, strict=True) if is_known]
    images, seeds = values.shape
    if not images:
        return None
    left_out = len(known) - images
    tail = f"; {left_out} without particles in truth or prediction left out" if left_out else ""
    mean, why = float(values.mean()), why_no_interval(groups)
    if why is not None:
        over = f"{why}: no interval{tail}"
        return ScoreLine(mean, None, None, None, images, seeds, over, found.definition, len(set(groups)))
    interval = mean_interval(values, groups=groups)
    low = max(interval.low, 0.0) if name in _NOT_NEGATIVE else interval.low
    high = min(interval.high, 1.0) if name in _IN_UNIT else interval.high
    over = interval.over + tail
    return ScoreLine(mean, low, high, interval.level, images, seeds, over, found.definition, interval.num_groups)


def _pooled(frame: pd.DataFrame, where: str) -> dict[str, ScoreLine | None]:
    """Scores of all images together, with bootstrap intervals over images and seeds; the mean over seeds."""
    matched = seed_table(frame, PARTICLE_COUNTS[-1], where)
    counted = frame.loc[frame["score"].isin(PARTICLE_COUNTS[:2]), "value"].sum()
    if why_no_interval(matched.groups) == "one image" or frame["score"].isin(SIZES).sum() != counted:
        return {}
    weights = np.concatenate([np.ones((1, len(matched.images))), drawn_weights(matched.groups)])
    drawn = [
        pooled_scores(_sizes_of(frame, seed, matched.images), matched.values[:, column], weights)
        for column, seed in enumerate(matched.seeds)
    ]
    micrographs, seeds = len(set(matched.groups)), len(matched.seeds)
    # Of each draw the seeds are drawn too, crossed with its images; the first row is what was measured.
    shares = np.concatenate([np.ones((1, seeds)), drawn_weights(matched.seeds, seed=1)]) / seeds
    units = "images" if micrographs == len(matched.images) else "micrographs"
    units += " and seeds" if seeds > 1 else ""
    lines: dict[str, ScoreLine | None] = {}
    for name in drawn[0]:
        values = (np.stack([each[name] for each in drawn], axis=1) * shares).sum(axis=1)
        interval = _interval_of(name, values) if micrographs > 1 else None
        low, high = interval or (None, None)
        over = f"{len(matched.images)} images pooled, mean over {seeds} seed(s)"
        over += ", no interval" if interval is None else f", {DRAWS} bootstrap draws of {units}"
        meaning = pooled_definition(str(frame.loc[frame["score"] == name, "definition"].iloc[0]))
        line = ScoreLine(
            float(values[0]), low, high, None if interval is None else LEVEL, len(matched.images), seeds, over, meaning,
            micrographs,
        )  # fmt: skip
        lines[f"{name}_pooled"] = line if np.isfinite(values[0]) else None
    return lines


def _interval_of(name: str, values: np.ndarray) -> tuple[float, float] | None:
    """The interval of a pooled score, of which the first value is the estimate and the others are draws."""
    if not name.startswith("size_"):
        return percentile_interval(values[1:], LEVEL)
    found = reflected_interval(values[1:], float(values[0]), LEVEL)
    return found if found is None or name not in _IN_UNIT else (found[0], min(found[1], 1.0))


def _sizes_of(frame: pd.DataFrame, seed: int, shas: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Sizes of true and predicted particles of each image; those of copies of one picture stand with the first."""
    rows = frame[(frame["seed"] == seed) & frame["score"].isin(SIZES)]
    values = {key: part["value"].to_numpy(float) for key, part in rows.groupby(["image_sha", "score"])}
    none = np.zeros(0)
    true, pred = ([values.pop((sha, name), none) for sha in shas] for name in SIZES)
    return list(zip(true, pred, strict=True))
