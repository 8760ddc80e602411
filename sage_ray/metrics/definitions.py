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
PARTICLE_SCORES = (
    "instance_ap_50",
    "count_error",
    "count_error_abs",
    "diameter_bias",
    "size_wasserstein",
    "size_wasserstein_relative",
    "size_ks",
)
"""Scores of the particles of an image, one by one, which `evaluate` and the locked test have and no training computes.
Those of sizes are missing where truth or prediction has no particle."""
PARTICLE_COUNTS = ("particles_true", "particles_pred", "particles_matched")
PARTICLE_ROWS = (*PARTICLE_SCORES, *PARTICLE_COUNTS)
CYCLE_SCORES = ("fidelity", "ceiling", "collusion", "null")
"""Scores of a mask that its generated images are judged by (`metrics/cycle.py`)."""
PAIR_SCORES = (
    "ssim",
    "lpips",
    "spectrum",
    "grey_inside",
    "grey_outside",
    "grey_inside_matched",
    "grey_outside_matched",
)
"""Scores of a generated image beside the real image of its mask (`metrics/pair_scores.py`)."""
GENERATED_SCORES = (*CYCLE_SCORES, *PAIR_SCORES)
"""Scores of part `generated`, each of a real image whose mask a generator was given, mean over its draws."""
SET_SUMMARIES = ("set_spectrum", "set_inside", "set_outside", "set_inside_matched", "set_outside_matched")
SET_DISTANCES = ("mmd", "mmd_gaussian", "frechet", "frechet_published", *SET_SUMMARIES)
"""Distances between all generated and all real images, which no single image has (`metrics/generation.py`, and
`metrics/set_scores.py` for SET_SUMMARIES)."""
SIGNED = ("count_error", "diameter_bias")
"""Scores for which 0 is best and both signs are worse."""
LOSS = "loss"
SCORES_TO_ONE = (*IMAGE_SCORES, POOLED)
"""Scores that lie in [0, 1] and have a definition of their own."""
DEVICE_SECONDS = "gpu_seconds"
"""What the epochs of a training took, times its GPUs (on a CPU: its workers), whether trained now or taken from a
store. No score of an image, but a study may weigh it against one."""
LOWER_IS_BETTER = frozenset(
    {LOSS, DEVICE_SECONDS, "count_error_abs", "size_wasserstein", "size_wasserstein_relative", "size_ks"}
    | {"collusion", *PAIR_SCORES[1:], *SET_DISTANCES}
)
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
PARTICLE_LABELS = {
    "instance_ap_50": "average precision (IoU .5)",
    "count_error": "count error",
    "count_error_abs": "absolute count error",
    "diameter_bias": "diameter bias",
    "size_wasserstein": "size distribution, Wasserstein (px)",
    "size_wasserstein_relative": "size distribution, Wasserstein (relative)",
    "size_ks": "size distribution, KS",
}
"""Those of PARTICLE_SCORES."""
GENERATED_LABELS = {
    "fidelity": "cycle fidelity",
    "ceiling": "ceiling of fidelity",
    "collusion": "collusion",
    "null": "null of fidelity",
    "ssim": "SSIM",
    "lpips": "LPIPS (VGG19, unweighted)",
    "spectrum": "power spectrum (decades)",
    "grey_inside": "grey values inside",
    "grey_outside": "grey values outside",
    "grey_inside_matched": "grey values inside, matched",
    "grey_outside_matched": "grey values outside, matched",
}
"""Those of GENERATED_SCORES."""
SET_LABELS = {
    "set_spectrum": "power spectrum (decades)",
    "set_inside": "grey values inside",
    "set_outside": "grey values outside",
    "set_inside_matched": "grey values inside, matched",
    "set_outside_matched": "grey values outside, matched",
}
"""Those of SET_SUMMARIES."""
GENERATED_LOSS = "no segmenter: mean absolute difference of generated and real image in [-1,1], mean over pairs"
"""What `val/loss` is of a system without a segmenter, its one validation score."""
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
LATER_SETTINGS = {"foreground": ("data.foreground", "")}
"""Those of later releases, with the value that holds where a stored config does not have them."""


def name_of(metric: str) -> str:
    """The score's name without the part before it: `dice` of `val/dice`."""
    return metric.rsplit("/", 1)[-1]


def label(score: str) -> str:
    """The score's name for people."""
    return LABELS.get(score) or PARTICLE_LABELS.get(score) or GENERATED_LABELS.get(score, score)


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
    foreground: str = "",
) -> dict[str, str]:
    """The full definition of every score and count by name; equal texts may be compared.

    Args:
        min_object_pixels: components of fewer pixels are no objects when objects are matched.
        boundary_tolerance: distance in pixels within which boundaries match.
        mask_erosion: side in pixels of the element that eroded the truth; 0 for the truth as given.
        min_truth_pixels: objects of fewer pixels were dropped from the truth; 0 for none.
        image_size: rows and columns of the pictures that are scored; None: of each its own, masks as `predict` makes.
        foreground: `data.foreground`, the mask values that are the truth's particles; "" for all but 0.
    """
    tail = _truth(mask_erosion, min_truth_pixels, image_size, foreground)
    named = {name: f"{_formula(name, min_object_pixels, boundary_tolerance)}, {tail}" for name in SCORES_TO_ONE}
    return named | {name: f"pixels counted as {name} for: {named[POOLED]}" for name in COUNTS}


def particle_definitions(*, has_instances: bool, split: str, min_object_pixels: int, truth: str) -> dict[str, str]:
    """The full definition of each score and count of particles by name.

    Args:
        has_instances: whether the truth numbers its particles; a binary one knows nothing of particles that touch.
        split: how predicted particles that touch are told apart, where the truth has instances.
        min_object_pixels: smaller particles of truth and prediction are left out.
        truth: what the truth is, and at which size; the end of the definition of a pixel score (`truth_of`).
    """
    particles = "particles are 4-connected components of truth and prediction"
    if has_instances:
        particles = f"particles are the instances of the truth and the prediction split by {split}"
    tail = f"{particles}, those under {min_object_pixels} pixels removed, argmax (probability > 0.5)"
    sized = "images without particles in truth or prediction left out"
    named = {}
    for name, (formula, is_sized) in _PARTICLE_FORMULAS.items():
        over = f"mean over images, {sized}" if is_sized else "mean over images"
        named[name] = f"{formula}, {tail}, {over}, {truth}"
    counted = {name: f"number of {what}, {tail}, {truth}" for name, what in _PARTICLES_COUNTED.items()}
    return named | counted


def generated_definitions(*, judge: str, perceptual: str, images: str, draws: int, truth: str) -> dict[str, str]:
    """The full definition of each score of part `generated` by name.

    Args:
        judge: the independent segmenter: architecture, what it was trained on, check sum of its weights.
        perceptual: the check sum of the VGG19 weights.
        images: which real images have the masks, and how many.
        draws: generated images a mask.
        truth: end of the definition of a pixel score (`truth_of`).
    """
    tail = f"mean over {images} and {draws} draws of each, {truth}"
    dice = f"Dice of foreground pixels, argmax (probability > 0.5), both empty 1, judge {judge}"
    beside = "generated beside real image of the same mask, grey values 0 to 255"
    matched = "after the generated image got mean and deviation of the real one"
    named = {
        "fidelity": f"{dice}, on the generated image with the generator's mask",
        "ceiling": f"{dice}, on the real image with the same mask",
        "collusion": f"{dice}: own segmenter minus judge on generated images, minus the same difference on real ones",
        "null": f"{dice}, on the generated image with the masks of all other micrographs",
        "ssim": f"structural similarity, Gaussian window of sigma 1.5, {beside}",
        "lpips": "LPIPS without learned weights (1 for each channel) on VGG19 relu1_1 to relu5_1, weights "
        f"{perceptual}, {beside}",
        "spectrum": f"mean absolute difference of log10 of the radial power spectra, Hann window, {beside}",
    }
    for place in ("inside", "outside"):
        distance = f"Wasserstein-1 distance of the grey values {place} the mask, {beside}"
        named |= {f"grey_{place}": distance, f"grey_{place}_matched": f"{distance}, {matched}"}
    return {name: f"{text}, {tail}" for name, text in named.items()}


def pair_set_definitions(*, judge: str, pairs: str, truth: str) -> dict[str, str]:
    """The full definition of the scores of made pairs, whose images have no real partner, by name.

    Args:
        judge: as of `generated_definitions`.
        pairs: which they are, and how many.
        truth: end of the definition of a pixel score (`truth_of`).
    """
    dice = f"Dice of foreground pixels, argmax (probability > 0.5), both empty 1, judge {judge}"
    return {
        "fidelity": f"{dice}, on the made image with its own mask, mean over {pairs}, {truth}",
        "null": f"{dice}, on the made image with the masks of all other pairs, mean over {pairs}, {truth}",
    }


def distance_definitions(
    *, features: str, images: str, made: str, size: Sequence[int], paired: bool = True
) -> dict[str, str]:
    """The full definition of each of SET_DISTANCES by name.

    Args:
        features: of which network, with the check sum of its weights.
        images: which real images, and how many.
        made: which images are compared with them, such as "4 draws of each mask".
        size: rows and columns of the images.
        paired: whether these were made from the masks of the real images.
    """
    at = f"{images}, {made}, at {size[0]}x{size[1]} pixels"
    mmd = "unbiased squared MMD over pairs of different micrographs"
    others = "one draw of those of the other half's masks" if paired else "as many of the others"
    halves = f"half of the real images against {others}, mean over halvings"
    grey = "Wasserstein-1 distance of all grey values (0 to 255) {} the masks of the two sets"
    matched = "after those of the made images got mean and deviation of the real ones"
    return {
        "mmd": f"{mmd}, kernel (x y / d + 1)^3, {features}, {at}",
        "mmd_gaussian": f"{mmd}, Gaussian kernel of the median width, {features}, {at}",
        "frechet": f"Frechet distance, {halves}, {features}, {at}",
        "frechet_published": f"as the Frechet distance, root of (S1 + S2) / 2 (row 32), {halves}, {features}, {at}",
        "set_spectrum": f"mean absolute difference of the sets' mean log10 radial power spectra, Hann window, {at}",
        "set_inside": f"{grey.format('inside')}, {at}",
        "set_outside": f"{grey.format('outside')}, {at}",
        "set_inside_matched": f"{grey.format('inside')}, {matched}, {at}",
        "set_outside_matched": f"{grey.format('outside')}, {matched}, {at}",
    }


_SIZES = "sizes (equivalent circular diameters) of predicted and true particles"
_PARTICLE_FORMULAS = {
    "instance_ap_50": ("TP / (TP + FP + FN) of particles matched one to one at IoU > 0.5 (1 without any)", False),
    "count_error": ("(predicted - true) / true number of particles (of at least one)", False),
    "count_error_abs": ("absolute (predicted - true) / true number of particles (of at least one)", False),
    "diameter_bias": ("mean equivalent circular diameter of predicted / of true particles - 1", True),
    "size_wasserstein": (f"Wasserstein-1 distance in pixels between the {_SIZES}", True),
    "size_wasserstein_relative": (f"Wasserstein-1 distance between the {_SIZES} / mean true size", True),
    "size_ks": (f"Kolmogorov-Smirnov distance between the {_SIZES}", True),
}
_PARTICLES_COUNTED = {
    "particles_true": "true particles",
    "particles_pred": "predicted particles",
    "particles_matched": "particles matched one to one at IoU > 0.5",
}


def pooled_definition(definition: str) -> str:
    """The definition of a score of particles when the particles of all images are taken together."""
    head, _, tail = definition.partition(", mean over images")
    return f"{head}, all images together, {truth_of(tail)}"


def truth_of(definition: str) -> str:
    """The end of a pixel score's definition: what the truth is, and at which size."""
    return definition[definition.rindex(", truth ") + 2 :]


def definitions_from(settings: Mapping[str, Any]) -> dict[str, str]:
    """`definitions` of a run's settings by dotted path; {} if they do not say what its scores are."""
    if any(path not in settings for path in SETTINGS.values()):
        return {}
    later = {argument: settings.get(path, value) for argument, (path, value) in LATER_SETTINGS.items()}
    return definitions(**{argument: settings[path] for argument, path in SETTINGS.items()}, **later)


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


def _truth(mask_erosion: int, min_truth_pixels: int, image_size: Sequence[int] | None, foreground: str) -> str:
    """What the truth is, and at which size."""
    dropped = f", truth objects under {min_truth_pixels} pixels dropped" if min_truth_pixels else ""
    truth = f"truth eroded by {mask_erosion}x{mask_erosion} pixels" if mask_erosion else "truth as given"
    values = f", particles being mask values {foreground}" if foreground else ""
    size = OWN_SIZE if image_size is None else f"at {'x'.join(str(side) for side in image_size)} pixels"
    return f"{truth}{values}{dropped}, {size}"


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
