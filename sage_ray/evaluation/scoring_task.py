"""What an evaluation scores, and its scores: at the size of training, as the locked test has it, or at their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sage_ray.config import ExperimentConfig
from sage_ray.data.prepare import PreparedData
from sage_ray.evaluation.own_size import (
    MaskOf,
    model_masks,
    otsu_masks,
    own_size_definitions,
    own_size_pictures,
    score_own_size,
)
from sage_ray.evaluation.score_tables import long_rows
from sage_ray.metrics.threshold import otsu
from sage_ray.record.model_reference import ModelRef
from sage_ray.record.run_folder import BASELINE
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
    source: str
    """Path of the data."""
    notes: tuple[str, ...]
    groups: list[str] | None
    """Micrograph of each of `rows`; None: every image is its own."""
    masks: str | None = None
    """`data.masks` of the source, whose images are scored at their own size; None: at the size of training."""

    @property
    def shas(self) -> list[str]:
        """sha256 of each image that is scored."""
        return [self.data.shas[row] for row in self.rows]

    @property
    def definitions(self) -> dict[str, str]:
        """What each score is, by name."""
        if self.masks is None:
            return score_definitions(self.config)
        return own_size_definitions(self.config.evaluation)


def score_model(task: ScoringTask) -> list[dict[str, Any]]:
    """Rows of per_image.parquet: the model's scores of each image."""
    device = choose_device("auto")
    model = task.ref.load().to(device)
    select = task.config.evaluation.select
    if task.masks is None:
        return _score(task, segmentation(model.segmenter.eval()), device, select)
    return _score_own_size(task, model_masks(model), device, select)


def score_otsu(task: ScoringTask) -> list[dict[str, Any]]:
    """Rows of per_image.parquet: the scores of Otsu thresholding of each image."""
    if task.masks is not None:
        return _score_own_size(task, otsu_masks(task.config.data.stretch), torch.device("cpu"), BASELINE)

    def predict(image: Tensor, _: Tensor) -> np.ndarray:
        grey = (255 * image[:, 0]).round().byte().numpy()
        return np.stack([otsu(each) for each in grey])

    return _score(task, predict, torch.device("cpu"), BASELINE)


def _score(task: ScoringTask, predict: Predict, device: torch.device, checkpoint: str) -> list[dict[str, Any]]:
    pictures = Pictures(task.data, task.rows, device)
    rows = rows_of(score_pictures(predict, pictures, task.config.evaluation))
    return long_rows(rows, task.shas, task.definitions, checkpoint, task.groups)


def _score_own_size(task: ScoringTask, mask_of: MaskOf, device: torch.device, checkpoint: str) -> list[dict[str, Any]]:
    assert task.masks is not None, "images of DATA are scored at their own size"
    stems = [task.data.stems[row] for row in task.rows]
    pictures = own_size_pictures(task.source, task.masks, stems, task.config.data.crop_bottom)
    rows = score_own_size(mask_of, pictures, task.config.evaluation, device)
    return long_rows(rows, task.shas, task.definitions, checkpoint, task.groups)
