"""All scores of a generator's images, or of made pairs with masks of their own: by the judge, beside real images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sage_ray.data.prepare import pixel_sha
from sage_ray.evaluation.fidelity_task import FidelityTask
from sage_ray.evaluation.generated_pairs import drawn_images, found_masks, has_segmenter
from sage_ray.evaluation.generation_scores import (
    SetDistances,
    pair_table,
    score_line,
    set_distances,
    unpaired_set_distances,
)
from sage_ray.evaluation.image_features import ImageFeatures
from sage_ray.evaluation.judge import Judge
from sage_ray.evaluation.run_pairs import RunPairs, mask_groups
from sage_ray.evaluation.score_tables import ScoreLine
from sage_ray.losses.perceptual import VGG19Loss
from sage_ray.metrics.cycle import cycle_scores, fidelity_and_null, own_dice
from sage_ray.metrics.definitions import generated_definitions, pair_set_definitions


@dataclass(frozen=True, eq=False)
class ScoredImages:
    """Images with their scores.

    Attributes:
        table: scores (n,k) of n masks and k draws, by name.
        definitions: of each of them.
        distances: of the sets.
        on_real: the judge's Dice on the real images.
        masks: (n,H,W) bool.
        made: (n,k,H,W) uint8.
        real: (n,H,W) uint8, of the same masks; None where the images have no real partners.
        found: masks that segmenters find, by the names of the arguments of `cycle_scores`.
        shas, stems: of each mask's real image; without one, of the made image.
        groups: micrograph of each mask, of made pairs the mask itself; None: each is its own.
        notes: sentences.
    """

    table: dict[str, np.ndarray]
    definitions: dict[str, str]
    distances: SetDistances
    on_real: ScoreLine
    masks: np.ndarray
    made: np.ndarray
    real: np.ndarray | None
    found: dict[str, np.ndarray]
    shas: list[str]
    stems: list[str]
    groups: list[str] | None
    notes: tuple[str, ...]


def of_generator(
    task: FidelityTask,
    judge: Judge,
    features: ImageFeatures,
    perceptual: tuple[VGG19Loss | None, str],
    *,
    draws: int,
    seed: int,
) -> ScoredImages:
    """Scores of what a generator draws for the masks of the task's real images.

    Args:
        task: with a generator.
        judge: independent of it.
        features: in which sets are compared.
        perceptual: network of LPIPS, None without, and the check sum of its weights.
        draws: images a mask.
        seed: of them.
    """
    real, masks = _real(task)
    made = drawn_images(task.model, masks, task.shas, draws=draws, seed=seed, where=task.ref.text)
    found = {"judge_generated": found_masks(judge.model, made), "judge_real": found_masks(judge.model, real)}
    if has_segmenter(task.model):
        found |= {"own_generated": found_masks(task.model, made), "own_real": found_masks(task.model, real)}
    table = cycle_scores(masks, **found, groups=task.groups)
    table |= pair_table(real, made, masks, perceptual[0])
    named = generated_definitions(
        judge=judge.text, perceptual=perceptual[1], images=task.images, draws=draws, truth=task.truth
    )
    notes = [_collusion_note(found, masks)]
    if draws > 1 and (made == made[:, :1]).all():
        notes.append(f"the {draws} draws of each mask are equal: the generator makes nothing of style and noise")
    return ScoredImages(
        table=table,
        definitions=named,
        distances=set_distances(features, real, made, masks, task.groups, images=task.images, seed=seed),
        on_real=score_line(table["ceiling"], task.groups, named["ceiling"]),
        masks=masks,
        made=made,
        real=real,
        found=found,
        shas=task.shas,
        stems=[task.data.stems[row] for row in task.rows],
        groups=task.groups,
        notes=tuple(notes),
    )


def of_pairs(
    task: FidelityTask, pairs: RunPairs, judge: Judge, features: ImageFeatures, *, most: int, seed: int
) -> ScoredImages:
    """Scores of made pairs, which have no real partners: whether each image shows its own mask, and distances of sets.

    Args:
        task: of a run that was trained on them.
        pairs: of the run; the first `most` are scored.
        judge: independent of what made them.
        features: in which sets are compared.
        most: pairs that are scored.
        seed: of permutations, subsamples and halvings.
    """
    real, real_masks = _real(task)
    images, masks = pairs.images[:most], pairs.masks[:most]
    text = f"{len(images)} {pairs.text}"
    groups = mask_groups(masks)
    found = {"judge_generated": found_masks(judge.model, images[:, None])}
    on_real = own_dice(found_masks(judge.model, real), real_masks)
    # Equal definitions over seeds: of which data the maker has seen what does not belong to the image's own mask.
    named = pair_set_definitions(judge=judge.text, pairs=text, truth=task.truth)
    ceiling = generated_definitions(judge=judge.text, perceptual="", images=task.images, draws=1, truth=task.truth)
    line = score_line(on_real[:, None], task.groups, ceiling["ceiling"])
    return ScoredImages(
        table=fidelity_and_null(masks, found["judge_generated"], groups),
        definitions=named,
        distances=unpaired_set_distances(
            features,
            (real, real_masks),
            (images, masks),
            task.groups,
            groups,
            images=task.images,
            pairs=text,
            seed=seed,
        ),
        on_real=line,
        masks=masks,
        made=images[:, None],
        real=None,
        found=found,
        shas=[pixel_sha(image) for image in images],
        stems=[f"pair {number}" for number in range(len(images))],
        groups=groups,
        notes=(
            f"scored are {text} ({pairs.place}): they have masks of their own and no real partners, so no ceiling, "
            f"SSIM or LPIPS; the judge's Dice on the {len(real)} real images is {line.mean:.3f}",
        ),
    )


def _real(task: FidelityTask) -> tuple[np.ndarray, np.ndarray]:
    """The task's real images (n,H,W) uint8 and masks (n,H,W) bool."""
    return np.array(task.data.images[task.rows]), np.array(task.data.masks[task.rows]) > 0


def _collusion_note(found: Mapping[str, np.ndarray], masks: np.ndarray) -> str:
    """What collusion is made of: a segmenter that is poor on real images has some too."""
    if "own_generated" not in found:
        return "no collusion: the model has no segmenter of its own"
    drawn = np.mean([own_dice(of_draw, masks).mean() for of_draw in np.moveaxis(found["own_generated"], 1, 0)])
    real = own_dice(found["own_real"], masks).mean()
    return f"own segmenter: Dice {drawn:.3f} on the generated images, {real:.3f} on the real ones"
