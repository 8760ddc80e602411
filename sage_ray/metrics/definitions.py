"""What a score is: names, definitions, direction and range; no torch, so that the analysis can read it."""

from __future__ import annotations

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


COUNTS = ("tp", "fp", "fn")


POOLED_SCORES = ("f1_pixel",)


def definition(score: str, *, min_object_pixels: int, boundary_tolerance: float, mask_erosion: int) -> str:
    """One line that says what a score is; two scores may share a table column only if their lines are equal.

    Args:
        score: a name of IMAGE_SCORES or POOLED_SCORES, also with a part before it (`val/dice`).
        mask_erosion: side in pixels of the element that eroded the truth (`data.mask_erosion`); 0 for the truth as
            given.

    Raises:
        ValueError: there is no such score.
    """
    name = score.rsplit("/", 1)[-1]
    truth = f"truth eroded by {mask_erosion}x{mask_erosion} pixels" if mask_erosion else "truth as given"
    pixel = "foreground pixels, argmax (probability > 0.5)"
    if name == "f1_pixel":
        return f"F1 = Dice of {pixel}, counts pooled over images, both empty 1, {truth}"
    label = {"dice": "Dice", "iou": "IoU", "precision": "precision", "recall": "recall"}.get(name)
    if label:
        return f"{label} of {pixel}, mean over images, both empty 1, {truth}"
    if name == "boundary_f1":
        return (
            f"F1 of boundary pixels of the foreground within {boundary_tolerance:g} pixels, "
            f"argmax (probability > 0.5), mean over images, both empty 1, {truth}"
        )
    if name in IMAGE_SCORES:
        threshold = int(name.rsplit("_", 1)[-1]) / 100
        return (
            f"F1 of objects matched one to one at IoU > {threshold:g}, 4-connected components of the foreground, "
            f"those under {min_object_pixels} pixels removed, argmax (probability > 0.5), mean over images, "
            f"both empty 0, {truth}"
        )
    raise ValueError(f"no score is called {score}; there are {', '.join(IMAGE_SCORES + POOLED_SCORES)}")
