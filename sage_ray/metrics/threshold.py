"""Otsu's threshold: the baseline that a trained segmenter must beat."""

from __future__ import annotations

import numpy as np
from skimage.filters import threshold_otsu


def otsu(image: np.ndarray) -> np.ndarray:
    """Mask (H,W) bool of an image (H,W) uint8: Otsu's two grey classes, one of them called particles.

    Micrographs show particles brighter (most SEM) or darker (most TEM) than what they lie on. Particles are the
    class that is rarer on the outermost rows and columns than in the whole image (bright in a tie), as the ground
    usually reaches the frame. On the 140 EMPS micrographs this gives a mean Dice of 0.67, the smaller class 0.60,
    always bright 0.35, and the better polarity of each image by its truth 0.77. An image of one grey value has no
    particles.

    Raises:
        ValueError: the image is not a two-dimensional array of 8 bit.

    Source: Otsu, IEEE Trans. Syst. Man Cybern. 9(1), 1979; the choice of polarity is ours.
    """
    if image.ndim != 2 or image.dtype != np.uint8:
        raise ValueError(f"Otsu's threshold needs an (H,W) uint8 image, not {image.shape} {image.dtype}")
    if image.min() == image.max():
        return np.zeros(image.shape, bool)
    bright = np.asarray(image > threshold_otsu(image))  # type: ignore[no-untyped-call]
    frame = np.concatenate([bright[0], bright[-1], bright[:, 0], bright[:, -1]])
    return bright if frame.mean() <= bright.mean() else ~bright
