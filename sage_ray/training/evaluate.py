"""Scores of a segmenter on one part of the data; images are shared out over workers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sage_ray.config import ExperimentConfig
from sage_ray.metrics import COUNTS, IMAGE_SCORES, definition, score_image, summarise
from sage_ray.sections import EvaluationConfig
from sage_ray.training.batches import Pictures
from sage_ray.training.context import RunContext
from sage_ray.training.recipe import Recipe

COLUMNS = (*IMAGE_SCORES, *COUNTS)


def evaluate(
    segmenter: nn.Module, pictures: Pictures, settings: EvaluationConfig, recipe: Recipe, ctx: RunContext
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Summary scores (`dice`, `f1_object_50`, ..., `loss`) and the scores of each image, in the order of `pictures`.

    The prediction is the arg-max of the class logits; the segmenter runs in eval mode and is left in train mode.
    `loss` is the mean over batches of L_seg.
    """
    table = np.zeros((len(pictures), len(COLUMNS)))
    losses: list[Tensor] = []
    segmenter.eval()
    with torch.no_grad():
        # Whole batches are shared out, so that `loss` is the same however many workers there are.
        batches = torch.arange(len(pictures)).split(settings.batch_size)
        for rows in batches[ctx.rank :: ctx.world_size]:
            image, mask = pictures.take(rows)
            with recipe.autocast():
                logits = segmenter(2 * image - 1)
            losses.append(recipe.local_segmentation_loss(logits, mask))
            pred = logits.argmax(1).bool().cpu().numpy()
            true = mask[:, 0].bool().cpu().numpy()
            for row, p, t in zip(rows.tolist(), pred, true, strict=True):
                scores = score_image(
                    p, t, min_object_pixels=settings.min_object_pixels, boundary_tolerance=settings.boundary_tolerance
                )
                table[row] = [scores[name] for name in COLUMNS]
    segmenter.train()
    if ctx.world_size > 1:
        # Each worker filled its own rows, the others are 0: the sum is the whole table.
        table = ctx.all_reduce(torch.from_numpy(table).to(ctx.device)).cpu().numpy()
    rows_of_scores = [dict(zip(COLUMNS, map(float, row), strict=True)) for row in table]
    summary: dict[str, float] = dict(summarise(rows_of_scores))
    summary["loss"] = _mean_loss(losses, ctx)
    return summary, rows_of_scores


def per_image_rows(
    rows: list[dict[str, float]], shas: list[str], config: ExperimentConfig, **labels: Any
) -> list[dict[str, Any]]:
    """Long form: one row an image and score with its definition, and `labels` (part, checkpoint, ...) on each."""
    return [
        {**labels, "image_sha": sha, "score": score, "definition": define(score, config), "value": value}
        for sha, scores in zip(shas, rows, strict=True)
        for score, value in scores.items()
    ]


def define(score: str, config: ExperimentConfig) -> str:
    """What a score of this config's evaluation means; equal texts may be compared."""
    if score in COUNTS:
        return f"{score} pixels of the foreground, for pooling, truth eroded by {config.data.mask_erosion}"
    settings = config.evaluation
    return definition(
        score,
        min_object_pixels=settings.min_object_pixels,
        boundary_tolerance=settings.boundary_tolerance,
        mask_erosion=config.data.mask_erosion,
    )


def _mean_loss(losses: list[Tensor], ctx: RunContext) -> float:
    total = torch.stack(losses).sum() if losses else torch.zeros((), device=ctx.device)
    sums = torch.stack([total.double(), torch.tensor(float(len(losses)), device=total.device, dtype=torch.float64)])
    total_sum, count = ctx.all_reduce(sums).tolist()
    return total_sum / count if count else float("nan")
