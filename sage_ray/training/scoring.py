"""Scores of images: the one loop that makes them, for validation, the locked test and baselines alike, in fp32."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sage_ray.config import ExperimentConfig
from sage_ray.errors import UserError
from sage_ray.metrics.definitions import COUNTS, IMAGE_SCORES, LOSS, VALIDATION_SCORES, definitions
from sage_ray.metrics.image_scores import score_image, summarise
from sage_ray.models.value_range import to_network_range
from sage_ray.sections import PHASES, EvaluationConfig
from sage_ray.system_rules import has_segmenter
from sage_ray.training import build
from sage_ray.training.batches import Pictures
from sage_ray.training.context import RunContext
from sage_ray.training.precision import Precision, computing_in
from sage_ray.training.recipe import Recipe

COLUMNS = (*IMAGE_SCORES, *COUNTS)
SCORING_PRECISION: Precision = "fp32"
"""The precision in which every score of an image is computed: `scoring` in record.json and in the answer of `evaluate`.
Records of the first release have no such entry. It scored validation images in the precision of training, and test
images in fp32 (with TF32 in convolutions on a GPU)."""
Predict = Callable[[Tensor, Tensor], np.ndarray]
"""From image (B,1,H,W) float32 in [0,1] and true mask (B,1,H,W) in {0,1} to the predicted masks (B,H,W) bool. The
truth is there for a loss beside the scores; no prediction may look at it."""


def score_pictures(
    predict: Predict, pictures: Pictures, settings: EvaluationConfig, *, rank: int = 0, world_size: int = 1
) -> np.ndarray:
    """Scores (N, len(COLUMNS)) float64 of all pictures, in their order. Every score of an image is computed here.

    Args:
        predict: called with whole batches, without gradients, in full precision.
        pictures: that are scored.
        settings: batch size, and what the scores are.
        rank: of this worker; whole batches are shared out over workers, and the rows of other workers are 0.
        world_size: number of workers.
    """
    table = np.zeros((len(pictures), len(COLUMNS)))
    batches = torch.split(torch.arange(len(pictures)), settings.batch_size)
    with torch.no_grad(), full_precision(pictures.device):
        for rows in batches[rank::world_size]:
            image, mask = pictures.take(rows)
            pred, true = predict(image, mask), mask[:, 0].bool().cpu().numpy()
            for row, p, t in zip(rows.tolist(), pred, true, strict=True):
                scores = score_image(
                    p, t, min_object_pixels=settings.min_object_pixels, boundary_tolerance=settings.boundary_tolerance
                )
                table[row] = [scores[name] for name in COLUMNS]
    return table


def rows_of(table: np.ndarray) -> list[dict[str, float]]:
    """The scores of each picture by name, of `score_pictures`."""
    return [dict(zip(COLUMNS, map(float, row), strict=True)) for row in table]


def segmentation(segmenter: nn.Module, also: Callable[[Tensor, Tensor], None] | None = None) -> Predict:
    """`Predict` of a segmenter in eval mode: the arg-max of its class logits.

    Args:
        segmenter: on the device of the pictures.
        also: given the logits (B,2,H,W) and the true masks (B,1,H,W) of each batch.
    """

    def predict(image: Tensor, mask: Tensor) -> np.ndarray:
        logits = segmenter(to_network_range(image))
        if also is not None:
            also(logits, mask)
        return np.asarray(logits.argmax(1).bool().cpu().numpy())

    return predict


def validate(
    segmenter: nn.Module, pictures: Pictures, settings: EvaluationConfig, recipe: Recipe, ctx: RunContext
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Summary scores (`dice`, `f1_object_50`, ..., `loss`) and the scores of each image, in the order of `pictures`.

    The segmenter runs in eval mode and is left in train mode. `loss` is the mean over batches of L_seg, which are whole
    on every worker, so that it is the same however many workers there are.
    """
    losses: list[Tensor] = []

    def keep_loss(logits: Tensor, mask: Tensor) -> None:
        losses.append(recipe.local_segmentation_loss(logits, mask))

    segmenter.eval()
    predict = segmentation(segmenter, keep_loss)
    table = score_pictures(predict, pictures, settings, rank=ctx.rank, world_size=ctx.world_size)
    segmenter.train()
    if ctx.world_size > 1:
        # Each worker filled its own rows, the others are 0: the sum is the whole table.
        table = ctx.all_reduce(torch.from_numpy(table).to(ctx.device)).cpu().numpy()
    rows = rows_of(table)
    summary: dict[str, float] = dict(summarise(rows))
    summary["loss"] = mean_loss(losses, ctx)
    return summary, rows


def check_scores(config: ExperimentConfig) -> None:
    """Raise UserError if the config names a score that is not computed, or an unregistered network."""
    build.check_names(config)
    named = {"evaluation.metric": config.evaluation.metric}
    for phase in PHASES:
        schedule = config.phase(phase).schedule
        if schedule.rule == "plateau":
            named[f"{phase}.schedule.metric"] = schedule.metric
    for path, metric in named.items():
        if metric not in VALIDATION_SCORES:
            raise UserError("no such score", f"{path}={metric}", "choose one of " + ", ".join(VALIDATION_SCORES))


def check_objective(config: ExperimentConfig, metric: str) -> None:
    """Raise UserError if a search would judge the config by a validation score that its system does not have."""
    if not has_segmenter(config.adversarial) and metric.startswith("val/") and metric != f"val/{LOSS}":
        system = config.adversarial.system
        mend = f"system {system} has no segmenter and one validation score: name val/{LOSS}"
        raise UserError("no such score", f"objective.metric={metric}", mend)


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No autocast within the body, and on a GPU no TF32, whatever training uses; afterwards all is as it was."""
    with torch.autocast(device.type, enabled=False), computing_in(SCORING_PRECISION, device):
        yield


def per_image_rows(
    rows: Sequence[dict[str, float]],
    shas: Sequence[str],
    config: ExperimentConfig,
    groups: Sequence[str | None] | None = None,
    **labels: Any,
) -> list[dict[str, Any]]:
    """Long form: one row per image and score with its definition and micrograph, and `labels` (part, checkpoint, ...).

    Args:
        rows: scores of each image.
        shas: of the images.
        config: of the run.
        groups: micrograph that each image is a crop of (`PreparedData.groups`); None: each is its own.
        labels: on every row.
    """
    micrographs = groups or [None] * len(shas)
    defined = score_definitions(config)
    return [
        labels | {"image_sha": sha, "group": group, "score": score, "definition": defined[score], "value": value}
        for sha, group, scores in zip(shas, micrographs, rows, strict=True)
        for score, value in scores.items()
    ]


def score_definitions(config: ExperimentConfig) -> dict[str, str]:
    """What each score of a config is, by name; equal texts may be compared."""
    return definitions(
        min_object_pixels=config.evaluation.min_object_pixels,
        boundary_tolerance=config.evaluation.boundary_tolerance,
        mask_erosion=config.data.mask_erosion,
        min_truth_pixels=config.data.min_object_pixels,
        image_size=config.data.image_size,
        foreground=config.data.foreground,
    )


def mean_loss(losses: list[Tensor], ctx: RunContext) -> float:
    """Mean of the losses of all workers' batches; NaN if there is none."""
    total = torch.stack(losses).sum() if losses else torch.zeros((), device=ctx.device)
    sums = torch.stack([total.double(), torch.tensor(float(len(losses)), device=total.device, dtype=torch.float64)])
    total_sum, count = ctx.all_reduce(sums).tolist()
    return total_sum / count if count else float("nan")
