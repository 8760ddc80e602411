"""What a score is: its name, label, direction and range, and the text that defines it.

This is the one place that says so. Training, evaluation and analysis read it, and the analysis loads no torch and the
command line no pandas for it: it needs the standard library alone.

Two scores may stand in one column, or be subtracted, only if their definitions are equal to the letter. The texts are
stored beside every score of an image and with every registered model, so a changed text makes old scores incomparable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

IMAGE_SCORES = (
    "dice",
    "iou",
    "precision",
    "recall",
    "f1_object_50",
    "f1_object_75",
    "f1_object_90",
    "boundary_f1",
)
"""Scores that every image has."""
COUNTS = ("tp", "fp", "fn")
"""Pixels of an image: hits, false positives and false negatives. They are stored so that they can be pooled."""
POOLED = "f1_pixel"
"""The score that is computed from the counts of all images together, and that no single image has."""
LOSS = "loss"
SCORES_TO_ONE = (*IMAGE_SCORES, POOLED)
"""Scores that lie in [0, 1] and have a definition of their own."""
DEVICE_SECONDS = "gpu_seconds"
"""What the epochs of a training took, times its GPUs (on a CPU: its workers), whether trained now or taken from a
store. No score of an image, but a study may weigh it against one."""
LOWER_IS_BETTER = frozenset({LOSS, DEVICE_SECONDS})
LABELS = {
    "dice": "Dice",
    "iou": "IoU",
    "precision": "precision",
    "recall": "recall",
    "f1_object_50": "object F1 (IoU > .5)",
    "f1_object_75": "object F1 (IoU > .75)",
    "f1_object_90": "object F1 (IoU > .9)",
    "boundary_f1": "boundary F1",
    POOLED: "pixel F1 (pooled)",
    LOSS: "validation loss",
}
"""Names for tables and figures."""
VALIDATION_SCORES = tuple(f"val/{name}" for name in (*SCORES_TO_ONE, LOSS))
"""What every validation reports; a run may choose its epoch or its learning rate by any of them."""
STUDY_SCORES = tuple(
    f"val/{name}"
    for name in ("dice", "iou", POOLED, "f1_object_50", "f1_object_75", "f1_object_90", "boundary_f1", LOSS)
)
"""What a study may optimise. Precision and recall are left out: either alone is best for a useless mask."""
OWN_SIZE = "at the size of each image, in the masks that `predict` writes"
"""Where scores are counted that are not counted at the size of training."""
SETTINGS = {
    "min_object_pixels": "evaluation.min_object_pixels",
    "boundary_tolerance": "evaluation.boundary_tolerance",
    "mask_erosion": "data.mask_erosion",
    "min_truth_pixels": "data.min_object_pixels",
    "image_size": "data.image_size",
}
"""Arguments of `definitions`, and where a config has them."""


def name_of(metric: str) -> str:
    """The score's name without the part before it: `dice` of `val/dice`."""
    return metric.rsplit("/", 1)[-1]


def label(score: str) -> str:
    """The score's name for people."""
    return LABELS.get(score, score)


def is_lower_better(metric: str) -> bool:
    """Whether the lowest value is the best; `metric` may have a part before its name (`val/loss`)."""
    return name_of(metric) in LOWER_IS_BETTER


def definitions(
    *,
    min_object_pixels: int,
    boundary_tolerance: float,
    mask_erosion: int,
    min_truth_pixels: int,
    image_size: Sequence[int] | None,
) -> dict[str, str]:
    """The full definition of every score and count by name; equal texts may be compared.

    Args:
        min_object_pixels: components of fewer pixels are no objects when objects are matched.
        boundary_tolerance: distance in pixels within which boundaries match.
        mask_erosion: side in pixels of the element that eroded the truth; 0 for the truth as given.
        min_truth_pixels: objects of fewer pixels were dropped from the truth; 0 for none.
        image_size: rows and columns of the pictures that are scored; None: of each its own, masks as `predict` makes.
    """
    dropped = f", truth objects under {min_truth_pixels} pixels dropped" if min_truth_pixels else ""
    truth = f"truth eroded by {mask_erosion}x{mask_erosion} pixels" if mask_erosion else "truth as given"
    size = OWN_SIZE if image_size is None else f"at {'x'.join(str(side) for side in image_size)} pixels"
    tail = f"{truth}{dropped}, {size}"
    named = {name: f"{_formula(name, min_object_pixels, boundary_tolerance)}, {tail}" for name in SCORES_TO_ONE}
    return named | {name: f"pixels counted as {name} for: {named[POOLED]}" for name in COUNTS}


def definitions_from(settings: Mapping[str, Any]) -> dict[str, str]:
    """`definitions` of a run's settings by dotted path; {} if they do not say what its scores are."""
    if any(path not in settings for path in SETTINGS.values()):
        return {}
    return definitions(**{argument: settings[path] for argument, path in SETTINGS.items()})


def loss_definition(weights: Any) -> str:
    """The definition of the validation loss.

    Args:
        weights: the settings of the segmentation loss that make it another loss.
    """
    return f"mean over batches of the segmentation loss {weights}"


def counted_for(definition: str) -> str:
    """The definition of the score that a count is stored for; a text that is no count's is returned as it is."""
    return definition.partition(" for: ")[2] or definition


def whole_definition(score: str, stored: str, whole: Mapping[str, str]) -> str:
    """A stored definition, completed where it lacks what later releases add to it.

    Releases up to 0.2 stored validation scores with a shorter text, without picture size and dropped truth objects.
    A text that is no beginning of ours was written by other code, and stays as it is.

    Args:
        score: a score or a count.
        stored: the text beside it.
        whole: `definitions` of the run.
    """
    ours = whole.get(score, "")
    is_shorter = ours.startswith(stored) or stored.startswith(f"{score} pixels of the foreground")
    return ours if ours and is_shorter else stored


def _formula(name: str, min_object_pixels: int, boundary_tolerance: float) -> str:
    """What is computed, and how images are put together; not what the truth is."""
    pixel = "foreground pixels, argmax (probability > 0.5)"
    if name == POOLED:
        return f"F1 = Dice of {pixel}, counts pooled over images, both empty 1"
    if name == "boundary_f1":
        return (
            f"F1 of boundary pixels of the foreground within {boundary_tolerance:g} pixels, "
            "argmax (probability > 0.5), mean over images, both empty 1"
        )
    if name.startswith("f1_object_"):
        threshold = int(name.rsplit("_", 1)[-1]) / 100
        return (
            f"F1 of objects matched one to one at IoU > {threshold:g}, 4-connected components of the foreground, "
            f"those under {min_object_pixels} pixels removed, argmax (probability > 0.5), mean over images, "
            "both empty 0"
        )
    return f"{LABELS[name]} of {pixel}, mean over images, both empty 1"
