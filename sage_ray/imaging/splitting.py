"""Touching particles of a mask told apart: distance transform, h-maxima, watershed.

The distance of a pixel to the background is highest in the middle of a particle and has a saddle at the neck between
two particles that touch. A peak counts as a particle of its own when the neck to every higher peak is narrow beside
it: (distance at the neck + 1 pixel) < NECK x (distance at the peak + 1 pixel). These are the h-maxima of the logarithm
of the distance, with h = -log(NECK), so that the rule is the same for small and for large particles; the pixel that is
added keeps particles a few pixels wide from being cut at the steps of their edges.

scikit-image's watershed floods from all local maxima, and the basins of peaks that do not count are joined to the
neighbour over their highest saddle. That is the watershed from the h-maxima (the tests hold it to scikit-image's
morphological reconstruction) without the reconstruction, which takes longer than all else together.

NECK was chosen on one half of 140 EMPS instance maps and checked on the other (benchmarks/results/instances.md), where
0.74 to 0.82 are equally good. It is not the largest of these because from about 0.8 on, ellipses and rectangles of less
than 7 pixels of width come apart.

Source: Grimaud, Proc. SPIE 1769, 1992 (dynamics); Soille, Morphological Image Analysis, 2003 (h-maxima, watershed).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.morphology import local_maxima
from skimage.segmentation import watershed

from sage_ray.errors import UserError

SPLITS = ("watershed", "none")
"""How particles that touch are told apart; `none`: each 4-connected component of the mask is one particle."""
NECK = 0.78
"""Two particles are told apart where the neck between them is narrower than this share of the smaller one."""
SLACK_PIXELS = 1.0


def check_split(split: str) -> str:
    """The way of splitting, as given. Raises UserError if it is none of `SPLITS`."""
    if split not in SPLITS:
        raise UserError(f"unknown way to split particles ({split})", "--split", f"choose one of {', '.join(SPLITS)}")
    return split


def split_mask(mask: np.ndarray, min_object_pixels: int = 0, neck: float = NECK) -> np.ndarray:
    """Labels 1..n (H,W) int32 of the particles of a mask (H,W), numbered by first pixel, row by row.

    Every pixel of the mask gets a label, and every particle is 4-connected.

    Args:
        mask: non-zero is particle. What lies beyond the frame is unknown, and is not taken for background.
        min_object_pixels: a smaller piece is given back to the neighbour that it would be split from.
        neck: see NECK.
    """
    return by_first_pixel(Basins.of(np.asarray(mask) != 0).joined(neck, min_object_pixels))


def by_first_pixel(labels: np.ndarray) -> np.ndarray:
    """The same regions (H,W) int32, numbered 1..n in the order of their first pixels, row by row; 0 stays 0."""
    present, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    numbers = np.zeros(len(present), np.int32)
    order = np.argsort(first[present > 0])
    ranks = np.empty(len(order), np.int32)
    ranks[order] = np.arange(1, len(order) + 1)
    numbers[present > 0] = ranks
    return numbers[inverse].reshape(labels.shape)


def background_distance(mask: np.ndarray) -> np.ndarray:
    """Euclidean distance (H,W) float32 in pixels from each pixel of a mask (H,W) bool to the nearest background pixel.

    What lies beyond the frame is not background. Without any background all distances are rows + columns.
    """
    if mask.all():
        return np.full(mask.shape, sum(mask.shape), np.float32)
    # The nearest pixels alone take half the memory of scipy's own distances.
    near = ndimage.distance_transform_edt(mask, return_distances=False, return_indices=True)
    near[0] -= np.arange(mask.shape[0], dtype=near.dtype)[:, None]
    near[1] -= np.arange(mask.shape[1], dtype=near.dtype)
    square = near[0].astype(np.float32) ** 2
    square += near[1].astype(np.float32) ** 2
    return np.asarray(np.sqrt(square, out=square))


@dataclass(frozen=True)
class Basins:
    """The mask flooded from every local maximum of the distance to the background.

    `labels` (H,W) int32, 0 the background; `heights` (n + 1,) the distance at each basin's peak, in pixels; `areas`
    (n + 1,) pixels; `pairs` (K,2) basins that touch and `saddles` (K,) the distance at the highest pass between them,
    highest first.
    """

    labels: np.ndarray
    heights: np.ndarray
    areas: np.ndarray
    pairs: np.ndarray
    saddles: np.ndarray

    @classmethod
    def of(cls, mask: np.ndarray, wanted: np.ndarray | None = None) -> Basins:
        """Basins of a mask (H,W) bool; `wanted` (H,W) bool holds the whole components that are looked at, None: all."""
        distance = background_distance(mask)
        labels, heights = _flooded(mask if wanted is None else wanted, distance)
        pairs, saddles = _passes(labels, distance)
        return cls(labels, heights, np.bincount(labels.ravel(), minlength=len(heights)), pairs, saddles)

    def joined(self, neck: float = NECK, min_object_pixels: int = 0) -> np.ndarray:
        """Labels (H,W) of particles: basins whose peaks do not count are joined to a neighbour."""
        groups = _Groups(self.heights + SLACK_PIXELS)
        for one, other, saddle in zip(*self.pairs.T.tolist(), (self.saddles + SLACK_PIXELS).tolist(), strict=True):
            groups.meet(one, other, saddle, neck)
        if min_object_pixels > 1:
            groups.give_back(self.pairs, self.areas, min_object_pixels)
        return np.asarray(groups.roots()[self.labels])


class _Groups:
    """Basins joined from the highest pass down.

    `lake` holds what the water connects by now, with its highest peak; `particle` holds what is one particle.
    """

    def __init__(self, heights: np.ndarray) -> None:
        self._top = heights.tolist()
        self._lake = list(range(len(heights)))
        self._particle = list(range(len(heights)))

    def meet(self, one: int, other: int, saddle: float, neck: float) -> None:
        """Two basins meet at a pass: the lower lake ends here, as a particle or as part of the basin beyond."""
        high, low = _root(self._lake, one), _root(self._lake, other)
        if high == low:
            return
        if self._top[high] < self._top[low]:
            high, low, one, other = low, high, other, one
        if saddle >= neck * self._top[low]:
            # A lake that holds two particles has a narrower neck inside than here, so this joins one particle alone.
            self._particle[_root(self._particle, other)] = _root(self._particle, one)
        self._lake[low] = high

    def give_back(self, pairs: np.ndarray, areas: np.ndarray, min_object_pixels: int) -> None:
        """Join particles below a number of pixels to the neighbour over their highest pass."""
        total = np.bincount(self.roots(), areas, len(areas)).tolist()
        for one, other in pairs.tolist():
            first, second = _root(self._particle, one), _root(self._particle, other)
            if first != second and min(total[first], total[second]) < min_object_pixels:
                self._particle[second] = first
                total[first] += total[second]

    def roots(self) -> np.ndarray:
        """The basin that stands for the particle of each basin."""
        return np.array([_root(self._particle, basin) for basin in range(len(self._particle))], np.int32)


def _root(parents: list[int], member: int) -> int:
    while parents[member] != member:
        parents[member] = parents[parents[member]]
        member = parents[member]
    return member


def _flooded(mask: np.ndarray, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Basins (H,W) int32 of all local maxima, and the height of each peak; components with one peak need no flood."""
    components, number = ndimage.label(mask)
    # A frame below all else, as scikit-image finds no maximum in an array of one value.
    framed = local_maxima(np.pad(distance, 1, constant_values=-1), connectivity=1)  # type: ignore[no-untyped-call]
    peaks, num_peaks = ndimage.label(framed[1:-1, 1:-1].astype(bool) & mask)
    held = np.flatnonzero(peaks)
    which = peaks.ravel()[held]
    heights, component = np.zeros(num_peaks + 1, np.float32), np.zeros(num_peaks + 1, np.int64)
    heights[which] = distance.ravel()[held]
    component[which] = components.ravel()[held]
    several = np.bincount(component[1:], minlength=number + 1) > 1
    only = np.zeros(number + 1, np.int32)
    only[component[1:]] = np.arange(1, num_peaks + 1)
    only[several] = 0
    labels = only[components]
    contested = several[components]
    if contested.any():
        flooded = watershed(-distance, np.where(contested, peaks, 0), mask=contested)  # type: ignore[no-untyped-call]
        labels += flooded
    return labels, heights


def _passes(labels: np.ndarray, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (K,2) of labels with a common border and the highest distance (K,) on it, highest first."""
    found: list[np.ndarray] = []
    heights: list[np.ndarray] = []
    for here, there in (((slice(-1),), (slice(1, None),)), ((slice(None), slice(-1)), (slice(None), slice(1, None)))):
        one, other = labels[here], labels[there]
        border = (one != other) & (one > 0) & (other > 0)
        found.append(np.stack([one[border], other[border]], axis=1))
        heights.append(np.minimum(distance[here][border], distance[there][border]))
    pairs, height = np.sort(np.concatenate(found), axis=1), np.concatenate(heights)
    order = np.lexsort((-height, pairs[:, 1], pairs[:, 0]))
    pairs, height = pairs[order], height[order]
    first = np.ones(len(pairs), bool)
    first[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
    pairs, height = pairs[first], height[first]
    order = np.argsort(-height, kind="stable")
    return pairs[order], height[order]
