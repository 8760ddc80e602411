"""What an evaluation scores, and its scores: at the size of training, as the locked test has it, or at their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sage_ray.config import ExperimentConfig
from sage_ray.data.prepare import PreparedData
from sage_ray.data.true_particles import TrueParticles
from sage_ray.evaluation.own_size import (
    MaskOf,
    model_masks,
    otsu_masks,
    own_size_definitions,
    own_size_pictures,
    score_own_size,
)
from sage_ray.evaluation.particle_scores import ParticleWatch, are_stored
from sage_ray.evaluation.score_tables import long_rows
from sage_ray.metrics.threshold import otsu
from sage_ray.record.model_reference import ModelRef
from sage_ray.record.run_folder import BASELINE
from sage_ray.sections import DataConfig
from sage_ray.training.batches import Pictures
from sage_ray.training.context import choose_device
from sage_ray.training.scoring import Predict, rows_of, score_definitions, score_pictures, segmentation


@dataclass(frozen=True)
class ScoringTask:
    """What is scored: a model, the prepared data, the rows of it, and where the result is kept."""

    ref: ModelRef
    config: ExperimentConfig
    """Of the model; its `data` says how it was trained, and nothing of the data that are scored."""
    data: PreparedData
    rows: np.ndarray
    locked: bool
    part: str
    read_with: DataConfig
    """How the data are read, their path first."""
    notes: tuple[str, ...]
    groups: list[str] | None
    """Micrograph of each of `rows`; None: every image is its own."""
    own_size: bool = False
    """Whether the images are scored at their own size; else at the size of training."""

    @property
    def shas(self) -> list[str]:
        """sha256 of each image that is scored."""
        return [self.data.shas[row] for row in self.rows]

    @property
    def definitions(self) -> dict[str, str]:
        """What each score is, by name."""
        if not self.own_size:
            return score_definitions(self.config)
        return own_size_definitions(self.config.evaluation, self.read_with.foreground)

    @cached_property
    def truth(self) -> TrueParticles:
        """The particles of the data one by one, where their masks number them; the folder is looked through once."""
        return TrueParticles(self.read_with, self.data)

    def has_particles(self, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Whether rows hold scores of particles as they are defined today."""
        return are_stored(rows, self.definitions, self.config.evaluation.min_object_pixels)

    def watch(self) -> ParticleWatch:
        """What scores the particles of its images, in their order."""
        is_numbered = self.truth.are_numbered(self.rows.tolist())
        return ParticleWatch(self.definitions, self.config.evaluation.min_object_pixels, has_instances=is_numbered)


def score_model(task: ScoringTask) -> list[dict[str, Any]]:
    """Rows of per_image.parquet: the model's scores of each image."""
    device = choose_device("auto")
    model = task.ref.load().to(device)
    select = task.config.evaluation.select
    if not task.own_size:
        return _score(task, segmentation(model.segmenting().eval()), device, select)
    return _score_own_size(task, model_masks(model), device, select)


def score_otsu(task: ScoringTask) -> list[dict[str, Any]]:
    """Rows of per_image.parquet: the scores of Otsu thresholding of each image."""
    if task.own_size:
        return _score_own_size(task, otsu_masks(task.config.data.stretch), torch.device("cpu"), BASELINE)

    def predict(image: Tensor, _: Tensor) -> np.ndarray:
        grey = (255 * image[:, 0]).round().byte().numpy()
        return np.stack([otsu(each) for each in grey])

    return _score(task, predict, torch.device("cpu"), BASELINE)


def _score(task: ScoringTask, predict: Predict, device: torch.device, checkpoint: str) -> list[dict[str, Any]]:
    pictures, watch, truth, left = Pictures(task.data, task.rows, device), task.watch(), task.truth, iter(task.rows)

    def watched(image: Tensor, mask: Tensor) -> np.ndarray:
        """The same predictions, whose particles are scored in passing; batches come in the order of the rows."""
        found = predict(image, mask)
        for pred, row in zip(found, left, strict=False):
            labels = truth.labels(int(row)) if watch.has_instances else None
            watch.add(task.data.masks[row], labels, pred)
        return found

    rows = rows_of(score_pictures(watched, pictures, task.config.evaluation))
    return _long(task, rows, watch, checkpoint)


def _score_own_size(task: ScoringTask, mask_of: MaskOf, device: torch.device, checkpoint: str) -> list[dict[str, Any]]:
    stems, watch = [task.data.stems[row] for row in task.rows], task.watch()
    rows = score_own_size(mask_of, own_size_pictures(task.read_with, stems), task.config.evaluation, device, watch)
    return _long(task, rows, watch, checkpoint)


def _long(
    task: ScoringTask, rows: list[dict[str, float]], watch: ParticleWatch, checkpoint: str
) -> list[dict[str, Any]]:
    pixels = long_rows(rows, task.shas, task.definitions, checkpoint, task.groups)
    return pixels + watch.long_rows(task.shas, checkpoint, task.groups)
