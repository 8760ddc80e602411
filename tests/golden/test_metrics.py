"""Parity cases dice, instance_metrics and evaluation_pipeline."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from parity import Case, Handled, Parity

from sage_ray.losses.segmentation import segmentation_loss
from sage_ray.metrics import label_objects, score_image, score_objects, summarise
from sage_ray.metrics.objects import THRESHOLDS, iou_table
from sage_ray.metrics.overlap import PixelCounts, dice, pixel_counts

HANDLES = {
    "dice": Handled(arrays=("pred|true|per_image|mean|pooled|two_class_mean|foreground_only_as_evaluated",)),
    "instance_metrics": Handled(
        arrays=(r".+/(true|pred|precision|recall|fscore|iou)", r"all/mean_(precision|recall|fscore)")
    ),
    "evaluation_pipeline": Handled(
        arrays=("logits|true_mask|dice|precision|recall|fscore|mean_batch_loss|true_labels|pred_labels",)
    ),
}
OBJECT_SCORES = ("precision", "recall", "fscore")
REFERENCE_BATCH = 2
MIN_OBJECT_PIXELS = 15


def image_dice(pred: np.ndarray, true: np.ndarray) -> list[float]:
    return [dice(pixel_counts(*pair)) for pair in zip(pred, true, strict=True)]


def test_dice(parity: Parity) -> None:
    case = parity.case("dice")
    pred, true = case["pred"] > 0, case["true"] > 0
    foreground, background = image_dice(pred, true), image_dice(~pred, ~true)
    case.assert_matches("per_image", foreground)
    case.assert_matches("mean", np.mean(foreground))
    case.assert_matches("foreground_only_as_evaluated", np.mean(foreground))
    case.assert_matches("two_class_mean", np.mean([foreground, background]))
    counts = [pixel_counts(*pair) for pair in zip(pred, true, strict=True)]
    case.assert_matches("pooled", dice(sum(counts, PixelCounts(0, 0, 0))))
    rows = [score_image(*pair, min_object_pixels=0, boundary_tolerance=2.0) for pair in zip(pred, true, strict=True)]
    case.assert_matches("mean", summarise(rows)["dice"])
    case.assert_matches("pooled", summarise(rows)["f1_pixel"])


def test_instance_metrics(parity: Parity) -> None:
    case = parity.case("instance_metrics")
    variants = case.groups("(.+)/true")
    assert variants
    values: dict[str, list[list[float]]] = {name: [] for name in OBJECT_SCORES}
    for variant in variants:
        true, pred = case[f"{variant}/true"], case[f"{variant}/pred"]
        scores = score_objects(true, pred)
        for name in OBJECT_SCORES:
            values[name].append([getattr(scores[threshold], name) for threshold in THRESHOLDS])
            case.assert_matches(f"{variant}/{name}", values[name][-1])
        if f"{variant}/iou" in case:
            case.assert_matches(f"{variant}/iou", iou_table(true, pred))
    for name in case.names("all/mean_.+"):
        case.assert_matches(name, np.mean(values[name.removeprefix("all/mean_")], axis=0))


@pytest.fixture(scope="module")
def pipeline(parity: Parity) -> Case:
    return parity.case("evaluation_pipeline")


def test_pipeline_labels(pipeline: Case) -> None:
    pred = pipeline["logits"].argmax(axis=1)
    for name, masks in (("true_labels", pipeline["true_mask"]), ("pred_labels", pred)):
        labels = np.stack([label_objects(mask, MIN_OBJECT_PIXELS) for mask in masks])
        np.testing.assert_array_equal(labels > 0, pipeline[name] > 0)
        # Numbering is a convention of the labelling function; the partition into objects is not.
        for ours, theirs in zip(labels, pipeline[name], strict=True):
            pairs = np.unique(np.stack([ours.ravel(), theirs.ravel()]), axis=1)
            assert pairs.shape[1] == ours.max() + 1 == theirs.max() + 1


def test_pipeline_scores(pipeline: Case) -> None:
    pred, true = pipeline["logits"].argmax(axis=1), pipeline["true_mask"]
    pairs = list(zip(pred, true, strict=True))
    by_image = [
        score_objects(label_objects(truth, MIN_OBJECT_PIXELS), label_objects(guess, MIN_OBJECT_PIXELS))
        for guess, truth in pairs
    ]
    for name in OBJECT_SCORES:
        means = [np.mean([getattr(scores[threshold], name) for scores in by_image]) for threshold in THRESHOLDS]
        pipeline.assert_matches(name, means)
    rows = [score_image(*pair, min_object_pixels=MIN_OBJECT_PIXELS, boundary_tolerance=2.0) for pair in pairs]
    summary = summarise(rows)
    pipeline.assert_matches("fscore", [summary[f"f1_object_{percent}"] for percent in (50, 75, 90)])
    # Row 29: the reference averages batch means; `summarise` averages images.
    batches = [rows[start : start + REFERENCE_BATCH] for start in range(0, len(rows), REFERENCE_BATCH)]
    pipeline.assert_matches("dice", np.mean([summarise(batch)["dice"] for batch in batches]))


def test_pipeline_loss(parity: Parity, pipeline: Case) -> None:
    config = parity.specs["seg_loss"]["configs"]["sage_file_defaults"]
    logits, target = torch.from_numpy(pipeline["logits"]), torch.from_numpy(pipeline["true_mask"]).long()
    losses = [
        segmentation_loss(
            logits[start : start + REFERENCE_BATCH],
            target[start : start + REFERENCE_BATCH],
            w_ce=config["w_ce"],
            w_focal=config["w_focal"],
            w_dice=config["w_dice"],
            w_tversky=config["w_tversky"],
            w_focal_tversky=config["w_focal_tversky"],
            alpha=config["fp_weight"],
            beta=config["fn_weight"],
            gamma=1 / config["delta"],
            focal_alpha=config["focal_scale"],
            focal_gamma=config["focal_power"],
            focal_form="batch",
            reduction="batch",
        )
        for start in range(0, len(logits), REFERENCE_BATCH)
    ]
    pipeline.assert_matches("mean_batch_loss", torch.stack(losses).mean())
