"""Distances between a set of generated and a set of real images, from their features: unbiased MMD, Frechet distances.

At 28 to 140 images only the MMD decides anything: it is 0 on average where the two sets are alike, and its p value and
interval know that a real image, the images generated from its mask and all crops of its micrograph belong together.
Frechet distances are far from 0 for small sets of one distribution; they are computed at equal numbers, beside the
distance of two halves of the real images, for comparison with published ones.

Source: docs/method/METHOD_FAMILY.md section 3; KID: Binkowski et al., arXiv 1801.01401; MMD: Gretton et al., JMLR 13,
2012; subsampling: Politis and Romano, Annals of Statistics 22, 1994.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

PERMUTATIONS = 2000
SUBSAMPLES = 1000
HALVINGS = 20
KERNELS = ("polynomial", "gaussian")
LEAST_GROUPS = 4
"""Micrographs of which a distance says anything."""


@dataclass(frozen=True)
class Mmd:
    """A squared MMD with its interval and the permutation p of "both sets have one distribution"."""

    value: float
    low: float
    high: float
    """NaN, as `low`, where a set has fewer than four micrographs: a half of them is no sample of two."""
    level: float
    p_value: float
    kernel: str
    num_groups: int


@dataclass(frozen=True)
class FrechetDistances:
    """Frechet distances at equal numbers, means over random halvings of the micrographs.

    `published` has the square root of (S1 + S2) / 2 where the Frechet distance has that of S1 S2 (DISCREPANCIES row
    32): it is no distance, and not 0 for equal sets.
    """

    generated: float
    """Half of the real images against images generated from the masks of the other half."""
    real: float
    """The same half of the real images against the other half."""
    generated_published: float
    real_published: float
    images: int
    """On each side, on average."""


def kernel_matrix(features: np.ndarray, kernel: str = "polynomial") -> np.ndarray:
    """Kernel (n,n) float64 between all rows of features (n,d).

    polynomial: (x y / d + 1)^3. gaussian: exp(-|x - y|^2 / s) with s the median of |x - y|^2 over all pairs of both
    sets together, which no permutation changes.

    Raises:
        ValueError: an unknown kernel, or features that are not finite.
    """
    table = np.asarray(features, np.float64)
    if not np.isfinite(table).all():
        raise ValueError("features are not finite: the encoder or the images are damaged")
    products = table @ table.T
    if kernel == "polynomial":
        return np.asarray((products / table.shape[1] + 1) ** 3)
    if kernel != "gaussian":
        raise ValueError(f"unknown kernel {kernel}: use one of {', '.join(KERNELS)}")
    squares = np.diag(products)
    distances = np.maximum(squares[:, None] + squares[None] - 2 * products, 0)
    width = float(np.median(distances[~np.eye(len(table), dtype=bool)])) or 1.0
    return np.asarray(np.exp(-distances / width))


def paired_mmd(
    kernel: np.ndarray,
    num_pairs: int,
    groups: Sequence[Hashable] | None = None,
    *,
    name: str = "polynomial",
    level: float = 0.95,
    seed: int = 0,
) -> Mmd:
    """MMD between real images and the images generated from their masks, by micrograph.

    The statistic is the mean over pairs of different micrographs of <d_i, d_j>, d_i being the real image's feature map
    minus the mean over the draws of its mask. Kernel values within a micrograph enter nowhere, so that the estimate is
    unbiased although a generated image shares its mask with a real one. Under permutation each micrograph's real images
    change places with their images of all draws, the same for all of its crops: the sign of its d. With one draw that
    is exact; with more it stays right where the draws of a mask are alike (a generator that makes little of its style,
    or has none), in which case a real image among the draws would be told apart by that alone.

    Args:
        kernel: (n (1 + k), n (1 + k)): the n real images first, then k times the n generated ones in the same order.
        num_pairs: n.
        groups: micrograph of each pair; None: each is its own.
        name: of the kernel.
        level: of the interval.
        seed: of permutations and subsamples.

    Raises:
        ValueError: a kernel of another size, or fewer than four micrographs.
    """
    versions, left = divmod(len(kernel), num_pairs)
    if left or versions < 2:
        raise ValueError(f"kernel of {len(kernel)} images is none of {num_pairs} pairs and their draws")
    codes, num_groups = _coded(groups, num_pairs)
    _check_groups(num_groups)
    share = np.array([1.0, *[-1 / (versions - 1)] * (versions - 1)])
    of_pairs = np.einsum("aibj,a,b->ij", kernel.reshape(versions, num_pairs, versions, num_pairs), share, share)
    member = np.zeros((num_groups, num_pairs))
    member[codes, np.arange(num_pairs)] = 1.0
    products, counts = member @ of_pairs @ member.T, np.outer(member.sum(1), member.sum(1))
    for table in (products, counts):
        np.fill_diagonal(table, 0.0)
    value = float(products.sum() / counts.sum())
    signs = np.random.default_rng([seed, 1]).choice([-1.0, 1.0], (PERMUTATIONS, num_groups))
    p_value = _p_value(np.einsum("pg,pg->p", signs @ products, signs) / counts.sum(), value)
    kept = _halves([np.arange(num_groups)], num_groups, seed)
    found = np.einsum("sg,sg->s", kept @ products, kept) / np.einsum("sg,sg->s", kept @ counts, kept)
    low, high = _limits(found, value, level)
    return Mmd(value, low, high, level, p_value, name, num_groups)


def unpaired_mmd(
    kernel: np.ndarray,
    is_first: np.ndarray,
    groups: Sequence[Hashable] | None = None,
    *,
    name: str = "polynomial",
    level: float = 0.95,
    seed: int = 0,
) -> Mmd:
    """MMD between two sets of images that share no micrograph, such as two halves of the real images.

    Args:
        kernel: (n,n) between all images.
        is_first: (n,) bool, the images of the first set.
        groups: micrograph of each image; None: each is its own.
        name, level, seed: as `paired_mmd`.

    Raises:
        ValueError: a micrograph in both sets, or fewer than four micrographs, or two in one of the sets.
    """
    codes, num_groups = _coded(groups, len(kernel))
    of_group = np.zeros(num_groups, bool)
    of_group[codes[is_first]] = True
    if not np.array_equal(of_group[codes], np.asarray(is_first, bool)):
        raise ValueError("a micrograph has images in both sets; keep its crops together")
    _check_groups(num_groups)
    smaller = int(min(of_group.sum(), (~of_group).sum()))
    if smaller < 2:
        raise ValueError(f"{smaller} micrographs in one of the sets: the distance needs two or more in each")
    rng = np.random.default_rng([seed, 2])
    labels = rng.permuted(np.tile(of_group, (PERMUTATIONS, 1)), axis=1)[:, codes].astype(np.float64)
    weights = (codes[:, None] != codes[None]).astype(np.float64)
    values = np.where(weights > 0, kernel, 0.0)
    first = of_group[codes].astype(np.float64)
    value = float(_statistics(first[None], 1 - first[None], values, weights)[0])
    p_value = _p_value(_statistics(labels, 1 - labels, values, weights), value)
    if smaller < LEAST_GROUPS:
        return Mmd(value, np.nan, np.nan, level, p_value, name, num_groups)
    chosen = _halves([np.flatnonzero(of_group), np.flatnonzero(~of_group)], num_groups, seed)[:, codes]
    low, high = _limits(_statistics(chosen * first, chosen * (1 - first), values, weights), value, level)
    return Mmd(value, low, high, level, p_value, name, num_groups)


def half_of(groups: Sequence[Hashable], seed: int = 0) -> np.ndarray:
    """(n,) bool: the images of a random half of the micrographs."""
    codes, num_groups = _coded(groups, len(groups))
    chosen = np.random.default_rng([seed, 3]).permutation(num_groups) < num_groups // 2
    return np.asarray(chosen[codes])


def frechet_distance(first: np.ndarray, second: np.ndarray, *, published: bool = False) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of two sets of features (n,d), (m,d).

    The traces of the roots come from singular values of the centred features, exactly and without a d x d matrix.

    Args:
        first, second: features of the two sets, two images at least in each.
        published: the root of (S1 + S2) / 2 instead (DISCREPANCIES row 32).
    """
    ours, theirs = (np.asarray(each, np.float64) for each in (first, second))
    apart = float(((ours.mean(0) - theirs.mean(0)) ** 2).sum())
    centred = [(each - each.mean(0)) / np.sqrt(len(each) - 1) for each in (ours, theirs)]
    spread = sum(float((each**2).sum()) for each in centred)
    if published:
        stacked = np.concatenate(centred) / np.sqrt(2)
        # The eigenvalues of the smaller Gram matrix are the squares of the singular values.
        gram = stacked @ stacked.T if len(stacked) <= stacked.shape[1] else stacked.T @ stacked
        root = float(np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0)).sum())
    else:
        root = float(np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum())
    return apart + spread - 2 * root


def frechet_beside_real(
    real: np.ndarray,
    generated: np.ndarray,
    groups: Sequence[Hashable] | None = None,
    *,
    paired: bool = True,
    seed: int = 0,
) -> FrechetDistances:
    """Frechet distances of real (n,d) and generated (m,d) features.

    Args:
        real: of the real images.
        generated: of the others; `paired`: row i being made from the mask of real image i, else any of them.
        groups: micrograph of each real image; None: each is its own.
        paired: whether generated images have real partners.
        seed: of the halvings, and of which unpaired images are taken.
    """
    names = list(range(len(real))) if groups is None else list(groups)
    found = []
    sizes = []
    for halving in range(HALVINGS):
        first = half_of(names, seed=seed + halving)
        # Micrographs have different numbers of crops: the larger side gives up its last images.
        count = min(int(first.sum()), int((~first).sum()))
        others = np.flatnonzero(~first)
        if not paired:
            count = min(count, len(generated))
            others = np.random.default_rng([seed + halving, 5]).permutation(len(generated))
        here, there, taken = np.flatnonzero(first)[:count], np.flatnonzero(~first)[:count], others[:count]
        sizes.append(count)
        sets = (generated[taken], real[there])
        found.append(
            [frechet_distance(real[here], other, published=published) for published in (False, True) for other in sets]
        )
    ours, halves, ours_published, halves_published = np.mean(found, axis=0).tolist()
    return FrechetDistances(ours, halves, ours_published, halves_published, round(float(np.mean(sizes))))


def _coded(groups: Sequence[Hashable] | None, count: int) -> tuple[np.ndarray, int]:
    if groups is None:
        return np.arange(count), count
    places: dict[Hashable, int] = {}
    codes = np.array([places.setdefault(group, len(places)) for group in groups])
    return codes, len(places)


def _check_groups(num_groups: int) -> None:
    if num_groups < LEAST_GROUPS:
        raise ValueError(f"{num_groups} micrographs: the distance needs four or more")


def _p_value(permuted: np.ndarray, value: float) -> float:
    """The observed order counts as a permutation; what rounds otherwise is as extreme as what was observed."""
    above = int((permuted >= value - 1e-12 * max(1.0, abs(value))).sum())
    return (1 + above) / (1 + len(permuted))


def _statistics(first: np.ndarray, second: np.ndarray, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Unbiased squared MMD (p,) of two sets, each row of labels (p,n), from the pairs of different micrographs."""
    sums = {}
    for key, table in (("values", values), ("weights", weights)):
        of_first, of_second = first @ table, second @ table
        sums[key] = (
            np.einsum("pn,pn->p", of_first, first),
            np.einsum("pn,pn->p", of_second, second),
            np.einsum("pn,pn->p", of_first, second),
        )
    within, other, between = (v / w for v, w in zip(sums["values"], sums["weights"], strict=True))
    return np.asarray(within + other - 2 * between)


def _halves(strata: Sequence[np.ndarray], num_groups: int, seed: int) -> np.ndarray:
    """(SUBSAMPLES, num_groups) of 0 and 1: half of the micrographs of each stratum, four at least, without repeats.

    Repeats, as a bootstrap has them, would inflate the distance. The deviation of a half sample from the whole has the
    variance of the whole sample, as half of the micrographs is left out.
    """
    rng = np.random.default_rng([seed, 4])
    kept = np.zeros((SUBSAMPLES, num_groups))
    for stratum in strata:
        drawn = np.tile(np.arange(len(stratum)) < len(stratum) // 2, (SUBSAMPLES, 1))
        kept[:, stratum] = rng.permuted(drawn, axis=1)
    return kept


def _limits(found: np.ndarray, value: float, level: float) -> tuple[float, float]:
    """Of the interval: the deviations of subsamples from the whole, reflected at the value."""
    tail = (1 - level) / 2
    below, above = np.quantile(found - value, [tail, 1 - tail])
    return value - float(above), value - float(below)
