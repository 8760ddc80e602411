"""Scores of a generated image beside the real image of its mask: structure, spectrum, grey values.

Images are (H,W) uint8. A missing score (no pixel inside or outside the mask) is nan.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from skimage.metrics import structural_similarity

GREYS = 256


def ssim(generated: np.ndarray, real: np.ndarray) -> float:
    """Structural similarity in [-1, 1], Gaussian window of sigma 1.5 on 0 to 255. Source: Wang et al. 2004."""
    found = structural_similarity(  # type: ignore[no-untyped-call]
        generated, real, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    return float(found)


def radial_spectrum(image: np.ndarray) -> np.ndarray:
    """Mean power (r,) at 1, 2, ... cycles per shorter side, a Hann window against the edges of the picture.

    The mean is taken off first; frequencies beyond the shorter side's Nyquist limit are left out.
    """
    rows, columns = image.shape
    centred = image.astype(np.float64) - float(image.mean())
    power = np.abs(np.fft.rfft2(centred * np.outer(np.hanning(rows), np.hanning(columns)))) ** 2
    rings = _rings(rows, columns)
    longest = min(rows, columns) // 2
    inside = (rings > 0) & (rings <= longest)
    sums = np.bincount(rings[inside], power[inside], longest + 1)[1:]
    counts = np.bincount(rings[inside], minlength=longest + 1)[1:]
    return np.asarray(sums / counts)


@lru_cache(maxsize=8)
def _rings(rows: int, columns: int) -> np.ndarray:
    """Cycles per shorter side, rounded, of each frequency of `rfft2`."""
    side = min(rows, columns)
    return np.asarray(np.rint(side * np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None])), np.int64)


def spectrum_distance(generated: np.ndarray, real: np.ndarray) -> float:
    """Mean absolute difference of the two radial spectra in decades (log10 of power); below 1 grey^2 power is none."""
    floor = spectrum_floor(real.shape)
    ours, theirs = (np.log10(radial_spectrum(image) + floor) for image in (generated, real))
    return float(np.abs(ours - theirs).mean())


def spectrum_floor(shape: tuple[int, ...]) -> float:
    """The power of white noise of 1 grey^2 in pictures (H,W), which is added to spectra before their logarithm."""
    return float(np.sum(np.outer(np.hanning(shape[0]), np.hanning(shape[1])) ** 2))


def grey_distances(generated: np.ndarray, real: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Wasserstein-1 distances in grey values between generated and real image, inside and outside the mask (H,W).

    `_matched`: after the generated image as a whole was given mean and deviation of the real one, unrounded and
    unclipped; what then is gone was a matter of brightness and contrast alone.
    """
    matched = match_greys(generated, real)
    found = {}
    for name, image in (("", generated), ("_matched", matched)):
        for place, region in (("inside", mask > 0), ("outside", mask == 0)):
            found[f"grey_{place}{name}"] = _wasserstein(image[region], real[region])
    return found


def match_greys(image: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The image (H,W) float64 with mean and deviation of the target; a flat image gets the mean."""
    values = image.astype(np.float64)
    spread = float(values.std())
    scale = float(target.std()) / spread if spread > 0 else 0.0
    return np.asarray((values - values.mean()) * scale + float(target.mean()))


def _wasserstein(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Of two samples of equal length: the mean distance of their order statistics."""
    if not len(ours):
        return float("nan")
    return float(np.abs(np.sort(ours).astype(np.float64) - np.sort(theirs)).mean())


def score_pair(generated: np.ndarray, real: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """All scores of one pair: `ssim`, `spectrum`, `grey_inside`, `grey_outside`, and the two `_matched`."""
    return {
        "ssim": ssim(generated, real),
        "spectrum": spectrum_distance(generated, real),
        **grey_distances(generated, real, mask),
    }
