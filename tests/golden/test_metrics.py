"""Parity cases dice, instance_metrics and evaluation_pipeline."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from neutral_names import our_loss_keywords
from parity import Case, Handled, Parity

from sage_ray.losses.segmentation import segmentation_loss
from sage_ray.metrics.image_scores import score_image, summarise
from sage_ray.metrics.objects import THRESHOLDS, iou_table, label_objects, score_objects
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


@pytest.fixture(scope="module")
def min_object_pixels(pipeline: Case) -> int:
    return pipeline.number(r"fewer than (\d+) pixels removed")


@pytest.fixture(scope="module")
def batch_size(pipeline: Case) -> int:
    return pipeline.number(r"Batch size (\d+)")


def test_pipeline_labels(pipeline: Case, min_object_pixels: int) -> None:
    pred = pipeline["logits"].argmax(axis=1)
    for name, masks in (("true_labels", pipeline["true_mask"]), ("pred_labels", pred)):
        labels = np.stack([label_objects(mask, min_object_pixels) for mask in masks])
        np.testing.assert_array_equal(labels > 0, pipeline[name] > 0)
        # Numbering is a convention of the labelling function; the partition into objects is not.
        for ours, theirs in zip(labels, pipeline[name], strict=True):
            pairs = np.unique(np.stack([ours.ravel(), theirs.ravel()]), axis=1)
            assert pairs.shape[1] == ours.max() + 1 == theirs.max() + 1


def test_pipeline_scores(pipeline: Case, min_object_pixels: int, batch_size: int) -> None:
    pred, true = pipeline["logits"].argmax(axis=1), pipeline["true_mask"]
    pairs = list(zip(pred, true, strict=True))
    by_image = [
        score_objects(label_objects(truth, min_object_pixels), label_objects(guess, min_object_pixels))
        for guess, truth in pairs
    ]
    for name in OBJECT_SCORES:
        means = [np.mean([getattr(scores[threshold], name) for scores in by_image]) for threshold in THRESHOLDS]
        pipeline.assert_matches(name, means)
    rows = [score_image(*pair, min_object_pixels=min_object_pixels, boundary_tolerance=2.0) for pair in pairs]
    summary = summarise(rows)
    pipeline.assert_matches("fscore", [summary[f"f1_object_{percent}"] for percent in (50, 75, 90)])
    # Row 29: the reference averages batch means; `summarise` averages images.
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    pipeline.assert_matches("dice", np.mean([summarise(batch)["dice"] for batch in batches]))


def test_pipeline_loss(parity: Parity, pipeline: Case, batch_size: int) -> None:
    (config,) = pipeline.stated(r"with config (\w+)", "mean_batch_loss")
    keywords = our_loss_keywords(parity.case("seg_loss").spec["configs"][config])
    logits, target = torch.from_numpy(pipeline["logits"]), torch.from_numpy(pipeline["true_mask"]).long()
    losses = [
        segmentation_loss(logits[start : start + batch_size], target[start : start + batch_size], **keywords)
        for start in range(0, len(logits), batch_size)
    ]
    pipeline.assert_matches("mean_batch_loss", torch.stack(losses).mean())
