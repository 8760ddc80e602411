"""Crops of one micrograph as one cluster: a table of images becomes a table of micrographs with the same mean.

Crops of one micrograph share whatever is peculiar to it, so that n crops are not n independent images. The unit of
every interval is then the group. What is estimated stays the mean over images: with group sizes m_g (M images in G
groups) and group means y[g,s] of seed s it is the ratio theta_s = sum_g m_g y[g,s] / M, and no mean over groups, which
would weigh a crop of a large group less. Its linearisation (Taylor's, as of any ratio of sums over clusters) is the
table

    z[g,s] = theta_s + c a_g (y[g,s] - theta_s),    a_g = m_g G / M,

whose column means are theta_s, whose mean is the mean over images, and whose rows vary as theta does: the analysis of
variance of `combined` takes z as it takes a table of independent images. theta_s, not theta, is taken off: seed effects
then stay additive and are not mistaken for an interaction of seeds with sizes.

Few groups of unequal sizes make linearised variances too small. Were the group means y equally variable (crops so
alike that a group tells what one image tells: the worst case), then with w_g = m_g / M the sum of squares
sum w_g^2 (y_g - theta)^2 would have the expectation v sum w_g^2 (1 - 2 w_g + q), q = sum w_g^2, against the true v q;

    c^2 = q / sum w_g^2 (1 - 2 w_g + q) * (G - 1) / G

makes up for it, and Satterthwaite's degrees of freedom of that sum, f = tr(A)^2 / tr(A^2) with A its matrix, take the
place of G - 1. With equal sizes c = 1 and f = G - 1, exactly; one image per group gives the table itself. Where crops
are less alike both err on the wide side. benchmarks/verdicts.py simulates it.

Source: Cochran, Sampling Techniques, 1977, ch. 6 and 9A; Bell and McCaffrey, Survey Methodology 28, 2002 (bias and
degrees of freedom of such variances).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Clusters:
    """Which images belong together, and what that does to an interval.

    Attributes:
        index: (n_images,) int64, the group 0..G-1 of each image, in the order in which groups first appear.
        sizes: (G,) int64, images of each group.
    """

    index: np.ndarray
    sizes: np.ndarray

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self.index)

    @property
    def num_groups(self) -> int:
        """Number of groups."""
        return len(self.sizes)

    @property
    def plain(self) -> bool:
        """Whether every image is its own group, so that nothing changes."""
        return self.num_groups == self.num_images

    @property
    def df(self) -> float:
        """Degrees of freedom over groups, f of the module's docstring: G - 1 for equal sizes, less for unequal ones."""
        if self.num_groups < 2 or (self.sizes == self.sizes[0]).all():
            return float(self.num_groups - 1)
        return weights_df(self.sizes / self.num_images)

    def text(self) -> str:
        """Such as "28 images", or "7 micrographs (28 images)" where the two differ."""
        images = counted(self.num_images, "image")
        return images if self.plain else f"{counted(self.num_groups, 'micrograph')} ({images})"

    def gather(self, table: np.ndarray) -> np.ndarray:
        """z of the module's docstring: (..., G, n_seeds) of scores (..., n_images, n_seeds); the table itself if plain.

        One group gives its mean, which says nothing of other groups.
        """
        if self.plain:
            return table
        weights = self.sizes / self.num_images
        total = np.zeros((self.num_groups, self.num_images))
        total[self.index, np.arange(self.num_images)] = 1.0
        means = total @ table / self.sizes[:, None]
        theta = table.mean(axis=-2, keepdims=True)
        left = (means - theta) * (weights * self.num_groups)[:, None]
        return np.asarray(theta + self._stretch() * left)

    def _stretch(self) -> float:
        """c of the module's docstring."""
        if self.num_groups < 2 or (self.sizes == self.sizes[0]).all():
            return 1.0
        squares = (self.sizes / self.num_images) ** 2
        short = squares @ (1 - 2 * self.sizes / self.num_images + squares.sum())
        return float(np.sqrt(squares.sum() / short * (self.num_groups - 1) / self.num_groups))


def weights_df(weights: np.ndarray) -> float:
    """Degrees of freedom over groups whose weights (G,) sum up to 1: f of the module's docstring, G - 1 if equal."""
    # A = D - u w' - w u' + q w w' with D = diag(w^2), u = w^2 and q = w'w: no matrix over all groups is needed.
    q, third, fourth, fifth = (float((weights**power).sum()) for power in (2, 3, 4, 5))
    trace = q - 2 * third + q**2
    return trace**2 / (fourth * (1 + 4 * q) - 4 * fifth + 2 * third**2 + q**4 - 4 * q**2 * third)


def by_group(groups: Sequence[Hashable] | None, num_images: int) -> Clusters:
    """The clusters of images by the name of each image's group; None: every image is its own.

    Raises:
        ValueError: there is not one name per image.
    """
    if groups is None:
        return Clusters(np.arange(num_images), np.ones(num_images, np.int64))
    if len(groups) != num_images:
        raise ValueError(f"{len(groups)} groups of {num_images} images; name the group of every image")
    places: dict[Hashable, int] = {}
    index = np.array([places.setdefault(group, len(places)) for group in groups], np.int64)
    return Clusters(index, np.bincount(index, minlength=len(places)))


def coarser(first: Sequence[Hashable], second: Sequence[Hashable]) -> list[int]:
    """The finest grouping that keeps together whatever either of two groupings of the same images does.

    Args:
        first: the group of each image in the one grouping.
        second: the group of each image in the other.

    Returns:
        a number for each image; images with equal numbers belong together.
    """
    parent: dict[tuple[int, Hashable], tuple[int, Hashable]] = {}

    def root(node: tuple[int, Hashable]) -> tuple[int, Hashable]:
        while parent.setdefault(node, node) != node:
            node = parent[node]
        return node

    for one, other in zip(first, second, strict=True):
        parent[root((0, one))] = root((1, other))
    numbers: dict[tuple[int, Hashable], int] = {}
    return [numbers.setdefault(root((0, one)), len(numbers)) for one in first]


def counted(count: int, noun: str) -> str:
    """Such as "1 seed" and "2 seeds"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
