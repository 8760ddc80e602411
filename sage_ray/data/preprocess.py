"""From raw pixels to the network's input: grey stretch, resize, mask cleaning (parity case `preprocessing`)."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy.ndimage import binary_erosion
from skimage.measure import label

from sage_ray import grey_range
from sage_ray.grey_range import MINMAX, Rule, bands_of, stretch_range


def stretch(image: np.ndarray, rule: Rule = MINMAX) -> np.ndarray:
    """Grey image (H,W) of any real dtype as uint8, stretched by a rule of `grey_range.stretch_range`."""
    low, high = stretch_range(bands_of(image), rule)
    return grey_range.stretch(image, low, high)


def prepare_image(
    image: np.ndarray, size: tuple[int, int], crop_bottom: int = 0, *, stretch_rule: Rule = MINMAX
) -> np.ndarray:
    """Image (rows, columns) = `size`, uint8: bar cut off, stretched, resized (Pillow bilinear, area-aware)."""
    stretched = stretch(_crop(image, crop_bottom), stretch_rule)
    if stretched.shape == tuple(size):
        return stretched
    resized = Image.fromarray(stretched).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def prepare_mask(
    mask: np.ndarray, size: tuple[int, int], crop_bottom: int = 0, *, erosion: int = 0, min_object_pixels: int = 0
) -> np.ndarray:
    """Mask (rows, columns) = `size`, uint8 in {0,1}: cut, > 0, resized to the nearest pixel, then cleaned.

    Args:
        mask: (H,W) labels or binary; > 0 is foreground.
        size: (rows, columns) wanted.
        crop_bottom: rows cut off at the bottom of the original.
        erosion: side in pixels of the square element that erodes; 2 takes the minimum over rows i-1, i and columns j-1,
            j, pixels outside the image being ignored. 0 and 1 change nothing.
        min_object_pixels: 4-connected objects with fewer pixels are dropped.
    """
    foreground = _crop(mask, crop_bottom) > 0
    if foreground.shape != tuple(size):
        picture = Image.fromarray(foreground.astype(np.uint8) * 255)
        foreground = np.asarray(picture.resize((size[1], size[0]), Image.Resampling.NEAREST)) > 127
    if erosion > 1:
        foreground = binary_erosion(foreground, structure=np.ones((erosion, erosion), bool), border_value=1)
    if min_object_pixels > 1:
        foreground = _without_small(foreground, min_object_pixels)
    return foreground.astype(np.uint8)


def prepare_labels(labels: np.ndarray, size: tuple[int, ...], crop_bottom: int = 0) -> np.ndarray:
    """Labels (rows, columns) = `size`, int32: cut and resized to the nearest pixel, as `prepare_mask` does."""
    kept = _crop(labels, crop_bottom).astype(np.int32)
    if kept.shape == tuple(size):
        return kept
    return np.asarray(Image.fromarray(kept).resize((size[1], size[0]), Image.Resampling.NEAREST), np.int32)


def _without_small(foreground: np.ndarray, min_pixels: int) -> np.ndarray:
    objects: np.ndarray = label(foreground, connectivity=1)  # type: ignore[no-untyped-call]  # scikit-image
    kept = np.bincount(objects.ravel()) >= min_pixels
    kept[0] = False
    large: np.ndarray = kept[objects]
    return large


def _crop(pixels: np.ndarray, rows: int) -> np.ndarray:
    return pixels[: pixels.shape[0] - rows] if rows else pixels
