"""How two sets of images differ in what can be read off without features: mean power spectrum, grey histograms.

Nothing here needs an image to have a partner, so that images that were rendered or drawn are compared as generated ones
are. Images are (n,H,W) uint8, masks (n,H,W).
"""

from __future__ import annotations

import numpy as np
from scipy.stats import wasserstein_distance

from sage_ray.metrics.pair_scores import GREYS, radial_spectrum, spectrum_floor


def set_summaries(
    images: np.ndarray, masks: np.ndarray, other_images: np.ndarray, other_masks: np.ndarray
) -> dict[str, float]:
    """Distances of two sets by name, 0 for equal sets; nan where a set has no pixel inside (outside) its masks.

    set_spectrum: mean absolute difference of the sets' mean log10 radial spectra, in decades. set_inside, set_outside:
    Wasserstein-1 distance of all grey values inside (outside) the masks; `_matched`: after the first set's grey values
    as a whole got mean and deviation of the other's.
    """
    ours, theirs = mean_spectrum(images), mean_spectrum(other_images)
    found = {"set_spectrum": float(np.abs(ours - theirs).mean())}
    levels = np.arange(GREYS, dtype=np.float64)
    here, there = grey_counts(images, masks), grey_counts(other_images, other_masks)
    matched = _matched(here.sum(0), there.sum(0))
    for name, values in (("", levels), ("_matched", matched)):
        for place, ours_here, theirs_here in zip(("inside", "outside"), here, there, strict=True):
            known = ours_here.any() and theirs_here.any()
            found[f"set_{place}{name}"] = (
                float(wasserstein_distance(values, levels, ours_here, theirs_here)) if known else float("nan")
            )
    return found


def grey_counts(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """(2, GREYS) int64: pixels of each grey value inside the masks, and outside, over all images."""
    found = np.zeros((2, GREYS), np.int64)
    for image, mask in zip(images, masks, strict=True):  # one by one: counting takes eight times an image's memory
        for place, pixels in enumerate((image[mask > 0], image[mask == 0])):
            found[place] += np.bincount(pixels, minlength=GREYS)
    return found


def mean_spectrum(images: np.ndarray) -> np.ndarray:
    """Mean over images (n,H,W) of log10 of the radial power spectrum, (r,)."""
    floor = spectrum_floor(images.shape[1:])
    return np.asarray(np.mean([np.log10(radial_spectrum(image) + floor) for image in images], axis=0))


def _matched(counts: np.ndarray, target: np.ndarray) -> np.ndarray:
    """What each grey level (GREYS,) becomes when images of these counts get mean and deviation of the target's."""
    mean, spread = _moments(counts)
    wanted, wanted_spread = _moments(target)
    scale = wanted_spread / spread if spread > 0 else 0.0
    return np.asarray((np.arange(GREYS) - mean) * scale + wanted)


def _moments(counts: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of the grey values that were counted (GREYS,)."""
    levels = np.arange(GREYS, dtype=np.float64)
    mean = float(np.average(levels, weights=counts))
    return mean, float(np.sqrt(np.average((levels - mean) ** 2, weights=counts)))
