"""The size distribution of particles: moments, percentiles and a lognormal fit, weighted, with bootstrap intervals.

**Border.** A particle that the frame cuts has no known size, and large particles are cut more often than small ones, so
that leaving cut ones out alone makes the sample too small. Of all places that a particle's bounding box of h x w pixels
can take, it is seen whole with its first pixel in (H - 1 - h)(W - 1 - w) of H x W places (a particle with a pixel in
the outermost rows or columns counts as cut). Each whole particle stands for H W / ((H - 1 - h)(W - 1 - w)) particles.

**Estimates.** With these weights: mean, standard deviation with the divisor 1 - 1/n (n the effective number
(sum w)^2 / sum w^2), percentiles by number (Hazen's positions: the middle of each particle's share), and the lognormal
distribution of greatest weighted likelihood, whose mu and sigma are mean and standard deviation of the logarithms.

**Intervals.** Particles of an image are not independent: with two images or more, whole images are drawn with
replacement; with one image its particles are, and the interval says nothing of other images. An interval is
value x exp(-+ t s), s the standard deviation of the logarithm over the replicates times sqrt(m / (m - 1)) for m images
or particles, t Student's quantile; mu is itself a logarithm. Percentile intervals hold too seldom with a few
images, as s is too small by that factor and t far from 1.96. Unequal numbers of particles take degrees of freedom
(`clusters.Clusters.df`).

Source: Miles, On the elimination of edge effects in planar sampling, in Stochastic Geometry, 1974, and Lantuejoul,
Image analysis and mathematical morphology, 1980, for the weights; Efron and Tibshirani, An Introduction to the
Bootstrap, 1993, ch. 13; Cameron, Gelbach and Miller, Rev. Econ. Stat. 90, 2008, for few clusters; Silverman, Density
Estimation, 1986, eq. 3.31.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import sparse
from scipy.special import ndtr

from sage_ray.statistics.clusters import Clusters
from sage_ray.statistics.combined import t_quantile

FEWEST_FOR_FIT = 10
"""Fewer particles have no lognormal fit and no intervals."""
LEVEL = 0.95
REPLICATES = 1000
_NORMAL = 1.959964
PERCENTILES = {"d10": 0.1, "d50": 0.5, "d90": 0.9}
# Sizes in order are put into at most this many cells, each taken as one size, so that a replicate has a bounded cost.
MAX_CELLS = 2048
# Numbers of a block of replicates that are held at a time.
_BLOCK = 1 << 22
_COLUMNS = ("mean", "sd", "mu", "sigma", *PERCENTILES)
_MEDIAN = _COLUMNS.index("d50")


@dataclass(frozen=True)
class Estimate:
    """A value with the limits of its interval; None where there is none."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class SizeStatistics:
    """What a sample says of a size distribution.

    Attributes:
        number: particles.
        effective_number: (sum w)^2 / sum w^2, the number of equally weighted particles that say as much.
        clusters: images with particles.
        over: "images" or "particles", what intervals are over; None: no intervals.
        values: by name: mean, sd, relative_sd, d10, d50, d90, mu, sigma, geometric_mean, geometric_sd; those that a
            small sample has.
        distance: greatest difference between the sample's distribution and the lognormal one; None without a fit.
        fits: (R, 2) mu and sigma whose scatter gives the interval of the fitted curve; (0, 2) without one.
    """

    number: int
    effective_number: float
    clusters: int
    over: str | None
    values: Mapping[str, Estimate]
    distance: float | None = None
    fits: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))

    @property
    def fitted(self) -> bool:
        """Whether there is a lognormal fit."""
        return "sigma" in self.values


def border_weights(shape: tuple[int, int], heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Weight (n,) of each whole particle: how many particles of its bounding box it stands for, at least 1.

    Args:
        shape: (rows, columns) of what was looked at, in pixels.
        heights: (n,) rows of the bounding boxes of particles without a pixel in the outermost rows and columns.
        widths: (n,) columns of them.

    Raises:
        ValueError: a box has no place inside the frame, so that its particle cannot be whole.
    """
    places = (shape[0] - 1 - heights) * (shape[1] - 1 - widths)
    if len(heights) and (np.minimum(shape[0] - 1 - heights, shape[1] - 1 - widths) <= 0).any():
        raise ValueError(f"a bounding box that has no place inside {shape[0]} x {shape[1]} pixels")
    return np.asarray(shape[0] * shape[1] / places.astype(np.float64))


def size_statistics(
    sizes: np.ndarray,
    weights: np.ndarray | None = None,
    images: np.ndarray | None = None,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> SizeStatistics:
    """Moments, percentiles and lognormal fit of sizes, with intervals as the module's docstring says.

    Args:
        sizes: (n,) above 0, of any unit.
        weights: (n,) above 0; None: all 1.
        images: (n,) whole numbers, the image of each particle; None: one image.
        replicates: bootstrap samples.
        seed: of their draws.

    Raises:
        ValueError: sizes or weights that are not finite numbers above 0, or arrays of other lengths.
    """
    sizes = np.asarray(sizes, np.float64)
    weights = np.ones(len(sizes)) if weights is None else np.asarray(weights, np.float64)
    for name, given in (("sizes", sizes), ("weights", weights)):
        if given.shape != sizes.shape or not (np.isfinite(given) & (given > 0)).all():
            raise ValueError(f"{name} must be finite numbers above 0, one per particle")
    places = np.zeros(len(sizes), np.int64) if images is None else np.unique(images, return_inverse=True)[1]
    counts = np.bincount(places)
    number = len(sizes)
    if number == 0:
        return SizeStatistics(0, 0.0, 0, None, {})
    effective = weights.sum() ** 2 / (weights**2).sum()
    order = np.argsort(sizes, kind="stable")
    cells = _cells(sizes[order], weights[order], places[order])
    stretch = effective / (effective - 1) if effective > 1 + 1e-9 else math.nan
    found = dict(zip(_COLUMNS, _measured(cells.weights[None], cells.values, stretch)[0], strict=True))
    if number < FEWEST_FOR_FIT or found["sigma"] <= 1e-12:
        names = ("mean", *PERCENTILES, *(("sd",) if number > 1 else ()))
        values = {name: Estimate(float(found[name])) for name in names}
        return SizeStatistics(number, float(effective), len(counts), None, _with_ratios(values))
    spread = _spread(cells, counts, stretch, replicates, seed)
    values = {name: _bounded(name, found[name], spread) for name in _COLUMNS}
    values["relative_sd"] = _bounded("relative_sd", found["sd"] / found["mean"], spread)
    mu, sigma = found["mu"], found["sigma"]
    return SizeStatistics(
        number,
        float(effective),
        len(counts),
        "images" if len(counts) > 1 else "particles",
        _with_ratios(values),
        _distance(sizes[order], weights[order], mu, sigma),
        np.stack([mu + spread.wide["mu"], sigma * np.exp(spread.wide["sigma"])], axis=1),
    )


def median_ratio(
    first: Sequence[tuple[np.ndarray, np.ndarray]],
    second: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Estimate:
    """Median of the first sizes divided by that of the second, of particles of the same images, with its interval.

    The interval is that of the module's docstring over images, each drawn for both at once: what makes the particles of
    an image large makes both medians large. One image, or fewer than `FEWEST_FOR_FIT` particles, have none.

    Args:
        first: sizes (n,) above 0 and weights (n,) above 0 of the particles of each image.
        second: likewise of the same images in the same order.
        replicates: bootstrap samples.
        seed: of their draws.

    Raises:
        ValueError: other images, or a side without particles.
    """
    if len(first) != len(second):
        raise ValueError(f"the same images are needed, and these are {len(first)} and {len(second)}")
    numbers = np.array([[len(sizes) for sizes, _ in side] for side in (first, second)])
    if not numbers.sum(axis=1).all():
        raise ValueError("both need a particle")
    counts = numbers.sum(axis=0)
    held = [int(place) for place in np.flatnonzero(counts)]
    rng = np.random.default_rng([seed, len(held), int(counts.sum())])
    drawn = rng.multinomial(len(held), np.full(len(held), 1 / len(held)), replicates).astype(np.float64)
    medians = []
    for side in (first, second):
        sizes, weights = (np.concatenate([side[place][part] for place in held]) for part in (0, 1))
        places = np.repeat(np.arange(len(held)), [len(side[place][0]) for place in held])
        order = np.argsort(sizes, kind="stable")
        cells = _cells(sizes[order], weights[order], places[order], len(held))
        whole = _measured(cells.weights[None], cells.values, 1.0)
        medians.append(np.concatenate([whole, _measured(drawn @ cells.by_image, cells.values, 1.0)])[:, _MEDIAN])
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = np.log(medians[0] / medians[1])
    value, logs = math.exp(float(ratios[0])), ratios[1:][np.isfinite(ratios[1:])]
    if len(held) < 2 or numbers.sum(axis=1).min() < FEWEST_FOR_FIT:
        return Estimate(value)
    df = Clusters(np.repeat(np.arange(len(held)), counts[held]), counts[held]).df
    factor = math.sqrt(len(held) / (len(held) - 1))
    half = min(float(t_quantile(df, LEVEL)) * factor * float(logs.std()), 700.0)
    return Estimate(value, value * math.exp(-half), value * math.exp(half))


def lognormal_density(sizes: np.ndarray, mu: float | np.ndarray, sigma: float | np.ndarray) -> np.ndarray:
    """Probability density of the lognormal distribution, per unit of `sizes` (n,) above 0; mu, sigma may be (R, 1)."""
    scaled = (np.log(sizes) - mu) / sigma
    return np.asarray(np.exp(-(scaled**2) / 2) / (sizes * sigma * math.sqrt(2 * math.pi)))


def fitted_band(found: SizeStatistics, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Density of the lognormal fit at `sizes` (n,), and the limits of its pointwise 95 % interval; each (n,)."""
    mu, sigma = found.values["mu"].value, found.values["sigma"].value
    many = lognormal_density(sizes, found.fits[:, :1], found.fits[:, 1:])
    low, high = np.quantile(many, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return lognormal_density(sizes, mu, sigma), low, high


def smoothed_density(sizes: np.ndarray, weights: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Kernel density (m,) at `at` (m,), per unit of size: Gaussian kernels on the logarithm, Silverman's bandwidth.

    On the logarithm no density falls below 0, and the long tail of a size distribution is not drawn as single peaks.

    Args:
        sizes: (n,) above 0, at least two different ones.
        weights: (n,) above 0.
        at: (m,) above 0.
    """
    order = np.argsort(sizes, kind="stable")
    cells = _cells(sizes[order], weights[order], np.zeros(len(sizes), np.int64))
    logs, shares = np.log(cells.values), cells.weights / cells.weights.sum()
    middle = np.cumsum(shares) - shares / 2
    quarters = np.diff(np.interp([0.25, 0.75], middle, logs))[0] / 1.349
    deviation = math.sqrt(float(shares @ (logs - shares @ logs) ** 2))
    scale = min(deviation, quarters) if quarters > 0 else deviation
    width = 0.9 * scale * (weights.sum() ** 2 / (weights**2).sum()) ** -0.2
    apart = (np.log(at)[:, None] - logs) / width
    return np.asarray(np.exp(-(apart**2) / 2) @ shares / (width * math.sqrt(2 * math.pi)) / at)


@dataclass(frozen=True)
class _Cells:
    values: np.ndarray  # (C,) mean size of each cell, ascending
    weights: np.ndarray  # (C,) sum of weights
    counts: np.ndarray  # (C,) particles
    by_image: sparse.csr_array  # (G, C) sums of weights


@dataclass(frozen=True)
class _Spread:
    """Logarithms of replicates minus that of the value; `wide` as far apart as a normal interval shall be."""

    logs: Mapping[str, np.ndarray]
    t: float
    wide: Mapping[str, np.ndarray]


def _cells(sizes: np.ndarray, weights: np.ndarray, places: np.ndarray, images: int = 0) -> _Cells:
    """Sizes in ascending order, neighbours put together where there are more than `MAX_CELLS`; of `images` at least."""
    number = min(len(sizes), MAX_CELLS)
    cell = np.arange(len(sizes)) * number // max(len(sizes), 1)
    sums = np.bincount(cell, weights, number)
    means = np.bincount(cell, weights * sizes, number) / sums
    shape = (max(int(places.max(initial=0)) + 1, images), number)
    return _Cells(means, sums, np.bincount(cell, minlength=number), sparse.csr_array((weights, (places, cell)), shape))


def _measured(weights: np.ndarray, values: np.ndarray, stretch: float) -> np.ndarray:
    """`_COLUMNS` (R, 7) of samples with `weights` (R, C) of ascending `values` (C,); NaN where a row has no weight."""
    with np.errstate(invalid="ignore", divide="ignore"):
        total = weights.sum(axis=1)
        columns = []
        for numbers in (values, np.log(values)):
            middle = float(numbers.mean())
            mean = weights @ (numbers - middle) / total
            variance = weights @ (numbers - middle) ** 2 / total - mean**2
            columns += [mean + middle, np.sqrt(np.maximum(variance, 0) * stretch)]
        positions = (np.cumsum(weights, axis=1) - weights / 2) / total[:, None]
    rows = np.arange(len(weights))
    for share in PERCENTILES.values():
        above = np.clip((positions < share).sum(axis=1), 0, len(values) - 1)
        below = np.maximum(above - 1, 0)
        low, high = positions[rows, below], positions[rows, above]
        gap = np.where(high > low, high - low, 1)
        columns.append(values[below] + (values[above] - values[below]) * np.clip((share - low) / gap, 0, 1))
    return np.stack(columns, axis=1)


def _spread(cells: _Cells, counts: np.ndarray, stretch: float, replicates: int, seed: int) -> _Spread:
    rng = np.random.default_rng([seed, len(counts), int(counts.sum())])
    units = len(counts) if len(counts) > 1 else int(counts.sum())
    found, step = [], max(_BLOCK // len(cells.values), 1)
    for start in range(0, replicates, step):
        size = min(step, replicates - start)
        if len(counts) > 1:
            drawn = rng.multinomial(units, np.full(units, 1 / units), size).astype(np.float64)
            weights = drawn @ cells.by_image
        else:
            weights = rng.multinomial(units, cells.counts / units, size) * (cells.weights / cells.counts)
        found.append(_measured(weights, cells.values, stretch))
    replicated = dict(zip(_COLUMNS, np.concatenate(found).T, strict=True))
    original = dict(zip(_COLUMNS, _measured(cells.weights[None], cells.values, stretch)[0], strict=True))
    replicated["relative_sd"], original["relative_sd"] = (
        each["sd"] / each["mean"] for each in (replicated, original)
    )  # fmt: skip
    usable = (replicated["sigma"] > 1e-12) & np.isfinite(replicated["mu"])
    # Too narrow by this factor: a bootstrap variance has the divisor m, not m - 1.
    factor = math.sqrt(units / (units - 1))
    logs = {
        name: factor * (values[usable] - original[name] if name == "mu" else np.log(values[usable] / original[name]))
        for name, values in replicated.items()
    }
    df = Clusters(np.repeat(np.arange(units), counts), counts).df if len(counts) > 1 else float(units - 1)
    t = float(t_quantile(df, LEVEL))
    # Limits keep a curve's density finite where an interval over few images says nothing.
    wide = {name: np.clip(logs[name] * t / _NORMAL, -50, 50) for name in ("mu", "sigma")}
    return _Spread(logs, t, wide)


def _bounded(name: str, value: float, spread: _Spread) -> Estimate:
    half = spread.t * float(spread.logs[name].std())
    if name == "mu":
        return Estimate(float(value), float(value - half), float(value + half))
    # exp overflows for an interval that says nothing, such as one over two images that differ widely.
    most = min(half, 700.0)
    return Estimate(float(value), float(value * math.exp(-most)), float(value * math.exp(most)))


def _with_ratios(values: dict[str, Estimate]) -> dict[str, Estimate]:
    if "sd" in values and "relative_sd" not in values:
        values["relative_sd"] = Estimate(values["sd"].value / values["mean"].value)
    for name, source in (("geometric_mean", "mu"), ("geometric_sd", "sigma")):
        if source in values:
            given = values[source]
            numbers = (given.value, given.low, given.high)
            values[name] = Estimate(*(math.exp(min(number or 0.0, 700.0)) for number in numbers))
    return values


def _distance(sizes: np.ndarray, weights: np.ndarray, mu: float, sigma: float) -> float:
    after = np.cumsum(weights) / weights.sum()
    expected = ndtr((np.log(sizes) - mu) / sigma)
    before = np.concatenate([[0.0], after[:-1]])
    return float(max(np.abs(after - expected).max(), np.abs(before - expected).max()))
