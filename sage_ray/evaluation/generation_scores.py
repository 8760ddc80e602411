"""How the images of a generator compare with real ones: as sets, in features, and one by one with their partners."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sage_ray.evaluation.image_features import ImageFeatures, in_batches
from sage_ray.evaluation.score_tables import ScoreLine, why_no_interval
from sage_ray.losses.perceptual import VGG19Loss
from sage_ray.losses.perceptual_distance import perceptual_distance
from sage_ray.metrics.definitions import distance_definitions
from sage_ray.metrics.generation import (
    KERNELS,
    FrechetDistances,
    Mmd,
    frechet_beside_real,
    half_of,
    kernel_matrix,
    paired_mmd,
    unpaired_mmd,
)
from sage_ray.metrics.pair_scores import score_pair
from sage_ray.metrics.set_scores import set_summaries
from sage_ray.models.value_range import to_network_range
from sage_ray.statistics import mean_interval
from sage_ray.training.scoring import full_precision

LEVEL = 0.95


@dataclass(frozen=True)
class SetDistances:
    """Distances of all generated from all real images; those of two halves of the real images stand beside them."""

    features: str
    mmd: Mmd
    mmd_gaussian: Mmd
    real_halves: Mmd
    """`mmd` of two halves of the real images: the same distance where there is no difference."""
    frechet: FrechetDistances
    """For comparison with papers; it decides nothing."""
    summaries: dict[str, float]
    """Power spectrum and grey values, without features (`metrics/set_scores.py`)."""
    summaries_of_halves: dict[str, float]
    definitions: dict[str, str]


def set_distances(
    features: ImageFeatures,
    real: np.ndarray,
    generated: np.ndarray,
    masks: np.ndarray,
    groups: Sequence[str] | None,
    *,
    images: str,
    seed: int = 0,
) -> SetDistances:
    """Distances of generated (n,k,H,W) from real images (n,H,W), both uint8, by micrograph.

    Args:
        features: in which they are compared.
        real: whose masks the generator was given.
        generated: k draws of each mask.
        masks: (n,H,W).
        groups: micrograph of each real image; None: each is its own.
        images: which images they are, for the definitions.
        seed: of permutations, subsamples and halvings.
    """
    num, draws = generated.shape[:2]
    of_real = features.of(real)
    versions = [of_real, *(features.of(generated[:, draw]) for draw in range(draws))]
    together = np.concatenate(versions)
    polynomial, gaussian = kernel_matrix(together), kernel_matrix(together, "gaussian")
    names = list(groups) if groups is not None else [str(n) for n in range(num)]
    flat = generated.reshape(num * draws, *generated.shape[2:])
    return SetDistances(
        features=features.text,
        mmd=paired_mmd(polynomial, num, names, level=LEVEL, seed=seed),
        mmd_gaussian=paired_mmd(gaussian, num, names, name="gaussian", level=LEVEL, seed=seed),
        real_halves=_of_halves(polynomial[:num, :num], names, seed),
        frechet=frechet_beside_real(of_real, versions[1], names, seed=seed),
        summaries=set_summaries(flat, np.repeat(masks, draws, axis=0), real, masks),
        summaries_of_halves=_summaries_of_halves(real, masks, names, seed),
        definitions=distance_definitions(
            features=features.text, images=images, made=f"{draws} draws of each mask", size=real.shape[-2:]
        ),
    )


def unpaired_set_distances(
    features: ImageFeatures,
    real: tuple[np.ndarray, np.ndarray],
    made: tuple[np.ndarray, np.ndarray],
    groups: Sequence[str] | None,
    made_groups: Sequence[str] | None = None,
    *,
    images: str,
    pairs: str,
    seed: int = 0,
) -> SetDistances:
    """Distances of made images from real ones whose masks are others.

    Of a micrograph with several crops, and of several made images of one mask, the first one counts in the MMD: images
    can change places only with their like.

    Args:
        features: in which they are compared.
        real: images (n,H,W) uint8 and their masks.
        made: images (m,H,W) uint8 and their masks.
        groups: micrograph of each real image; None: each is its own.
        made_groups: mask of each made image; None: each has its own.
        images, pairs: which real and which made images they are, for the definitions.
        seed: of permutations, subsamples and halvings.
    """
    num = len(real[0])
    names = list(groups) if groups is not None else [str(n) for n in range(num)]
    of_real, of_made = features.of(real[0]), features.of(made[0])
    first, made_first = np.unique(names, return_index=True)[1], np.arange(len(of_made))
    if made_groups is not None:
        made_first = np.sort(np.unique(list(made_groups), return_index=True)[1])
    together = np.concatenate([of_real[first], of_made[made_first]])
    is_made = np.arange(len(together)) >= len(first)
    found = {
        kernel: unpaired_mmd(kernel_matrix(together, kernel), is_made, name=kernel, level=LEVEL, seed=seed)
        for kernel in KERNELS
    }
    return SetDistances(
        features=features.text,
        mmd=found["polynomial"],
        mmd_gaussian=found["gaussian"],
        real_halves=_of_halves(kernel_matrix(of_real), names, seed),
        frechet=frechet_beside_real(of_real, of_made[made_first], names, paired=False, seed=seed),
        summaries=set_summaries(*made, *real),
        summaries_of_halves=_summaries_of_halves(*real, names, seed),
        definitions=distance_definitions(
            features=features.text, images=images, made=pairs, size=real[0].shape[-2:], paired=False
        ),
    )


def _of_halves(kernel: np.ndarray, names: list[str], seed: int) -> Mmd:
    return unpaired_mmd(kernel, half_of(names, seed), names, level=LEVEL, seed=seed)


def _summaries_of_halves(real: np.ndarray, masks: np.ndarray, names: list[str], seed: int) -> dict[str, float]:
    half = half_of(names, seed)
    return set_summaries(real[half], masks[half], real[~half], masks[~half])


def pair_table(
    real: np.ndarray, generated: np.ndarray, masks: np.ndarray, perceptual: VGG19Loss | None = None
) -> dict[str, np.ndarray]:
    """Scores (n,k) float64 of generated (n,k,H,W) beside real images (n,H,W), by name; nan where one has none.

    Args:
        real, generated: uint8.
        masks: (n,H,W).
        perceptual: for `lpips`, on the device that it is used on; None: without it.
    """
    num, draws = generated.shape[:2]
    rows: list[dict[str, float]] = [
        score_pair(generated[n, draw], real[n], masks[n]) for n in range(num) for draw in range(draws)
    ]
    table = {name: np.array([row[name] for row in rows]).reshape(num, draws) for name in rows[0]}
    if perceptual is not None:
        table["lpips"] = np.stack([_lpips(perceptual, generated[:, draw], real) for draw in range(draws)], axis=1)
    return table


def _lpips(network: VGG19Loss, generated: np.ndarray, real: np.ndarray) -> np.ndarray:
    device = next(network.parameters()).device
    found = []
    with full_precision(device):
        for rows in in_batches(len(real)):
            ours, theirs = (
                to_network_range(torch.from_numpy(np.array(images[rows])).to(device)[:, None].float() / 255)
                for images in (generated, real)
            )
            found.append(perceptual_distance(network, ours, theirs).double().cpu().numpy())
    return np.concatenate(found)


def score_line(values: np.ndarray, groups: Sequence[str] | None, definition: str) -> ScoreLine:
    """Mean over masks of scores (n,k), with its interval over masks (micrographs); draws of a mask are averaged first.

    A mask whose score is missing is left out, and `over` says so.
    """
    means = values.mean(1)
    known = np.isfinite(means)
    names = [group for group, there in zip(groups, known, strict=True) if there] if groups is not None else None
    left_out = int((~known).sum())
    tail = f", {left_out} without this score left out" if left_out else ""
    facts: dict[str, Any] = {"images": int(known.sum()), "seeds": 1, "definition": definition}
    if not known.any():
        return ScoreLine(float("nan"), None, None, None, over="no mask has this score", micrographs=0, **facts)
    why = why_no_interval(names if names is not None else list(range(int(known.sum()))))
    if why is not None:
        over = f"{why}: no interval{tail}"
        return ScoreLine(float(means[known].mean()), None, None, None, over=over, micrographs=1, **facts)
    found = mean_interval(means[known][:, None], LEVEL, names)
    return ScoreLine(
        found.mean, found.low, found.high, found.level, over=found.over + tail, micrographs=found.num_groups, **facts
    )
