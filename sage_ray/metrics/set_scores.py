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
    matched = _matched(images, other_images)
    for name, values in (("", levels), ("_matched", matched)):
        for place in ("inside", "outside"):
            here, there = (
                np.bincount(i[(m > 0) == (place == "inside")], minlength=GREYS)
                for i, m in ((images, masks), (other_images, other_masks))
            )
            known = here.sum() and there.sum()
            found[f"set_{place}{name}"] = (
                float(wasserstein_distance(values, levels, here, there)) if known else float("nan")
            )
    return found


def mean_spectrum(images: np.ndarray) -> np.ndarray:
    """Mean over images (n,H,W) of log10 of the radial power spectrum, (r,)."""
    floor = spectrum_floor(images.shape[1:])
    return np.asarray(np.mean([np.log10(radial_spectrum(image) + floor) for image in images], axis=0))


def _matched(images: np.ndarray, target: np.ndarray) -> np.ndarray:
    """What each grey level (GREYS,) of `images` becomes when they get mean and deviation of the target."""
    spread = float(images.std())
    scale = float(target.std()) / spread if spread > 0 else 0.0
    return np.asarray((np.arange(GREYS) - float(images.mean())) * scale + float(target.mean()))
