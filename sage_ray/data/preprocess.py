"""From raw pixels to the network's input: grey stretch, resize, mask cleaning (parity case `preprocessing`)."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy.ndimage import binary_erosion
from skimage.measure import label

_EPSILON = 1e-6


def stretch(image: np.ndarray) -> np.ndarray:
    """Grey image (H,W) of any real dtype, min-max stretched to uint8: trunc(255 (x - min) / (max - min + 1e-6)).

    A constant image becomes 0. Source: the public code's scaling (parity case `preprocessing`).
    """
    low, high = float(image.min()), float(image.max())
    scale = high - low + _EPSILON
    if image.dtype == np.uint8 or image.dtype == np.uint16:
        # A table over the grey levels gives the same numbers as the formula per pixel, without a float64 copy.
        levels = np.arange(np.iinfo(image.dtype).max + 1, dtype=np.float64)
        table = np.clip(255 * (levels - low) / scale, 0, 255).astype(np.uint8)
        looked_up: np.ndarray = table[image]
        return looked_up
    grey: np.ndarray = np.clip(255 * (image.astype(np.float64) - low) / scale, 0, 255).astype(np.uint8)
    return grey


def prepare_image(image: np.ndarray, size: tuple[int, int], crop_bottom: int = 0) -> np.ndarray:
    """Image (rows, columns) = `size`, uint8: bar cut off, stretched, resized (Pillow bilinear, area-aware)."""
    stretched = stretch(_crop(image, crop_bottom))
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


def _without_small(foreground: np.ndarray, min_pixels: int) -> np.ndarray:
    objects: np.ndarray = label(foreground, connectivity=1)  # type: ignore[no-untyped-call]  # scikit-image
    kept = np.bincount(objects.ravel()) >= min_pixels
    kept[0] = False
    large: np.ndarray = kept[objects]
    return large


def _crop(pixels: np.ndarray, rows: int) -> np.ndarray:
    return pixels[: pixels.shape[0] - rows] if rows else pixels
