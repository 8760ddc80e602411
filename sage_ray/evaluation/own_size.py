"""Images and truths of a folder or a drawn source at their own size, segmented and scored as `predict` leaves them.

The locked test is scored at the size of training, which is its protocol. A user's own images are scored where their
masks are used: at their own size, with the masks that `predict` writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sage_ray.data.images import BadFile, read_image
from sage_ray.data.pair_masks import read_pair_mask
from sage_ray.data.pairs import look_through, raise_first
from sage_ray.data.pixel_size import pixel_size
from sage_ray.data.preprocess import stretch
from sage_ray.data.synth import DrawnSource
from sage_ray.errors import UserError
from sage_ray.grey_range import Rule
from sage_ray.imaging.model import Model
from sage_ray.metrics.definitions import COUNTS, IMAGE_SCORES, definitions
from sage_ray.metrics.image_scores import score_image
from sage_ray.metrics.threshold import otsu
from sage_ray.sections import EvaluationConfig
from sage_ray.training.scoring import full_precision


@dataclass(frozen=True)
class OwnSizePicture:
    """An image and its truth, without information bar."""

    image: np.ndarray
    """(H,W) grey."""
    truth: np.ndarray
    """(H,W) bool."""
    nm_per_pixel: tuple[float, float] | None
    where: str


MaskOf = Callable[[OwnSizePicture], np.ndarray]


def own_size_pictures(source: str, masks: str, stems: Sequence[str], crop_bottom: int) -> Iterator[OwnSizePicture]:
    """The pairs of these stems, in order, read one at a time.

    Args:
        source: a folder, or `synthetic://...`.
        masks: `data.masks` of the folder.
        stems: as `prepare` names them.
        crop_bottom: rows that are cut off at the bottom of each.

    Raises:
        UserError: a file cannot be read, or an image is not higher than its bar.
    """
    if source.startswith("synthetic://"):
        drawn = DrawnSource.parse(source)
        places = {drawn.stem(index): index for index in range(drawn.num)}
        for stem in stems:
            pair = drawn.draw(places[stem])
            yield _cut(OwnSizePicture(pair.image, pair.mask > 0, None, f"{source} {stem}"), crop_bottom)
        return
    found = look_through(source, masks)
    raise_first(found.problems)
    pairs = {pair.stem: pair for pair in found.pairs}
    for stem in stems:
        pair_of_files = pairs[stem]
        try:
            image = read_image(pair_of_files.image)
            truth = read_pair_mask(pair_of_files, image.shape).foreground
        except BadFile as bad:
            raise bad.problem.error() from None
        size = pixel_size(pair_of_files.image)
        picture = OwnSizePicture(image, truth, size.nm if size else None, str(pair_of_files.image))
        yield _cut(picture, crop_bottom)


def _cut(picture: OwnSizePicture, crop_bottom: int) -> OwnSizePicture:
    rows = len(picture.image) - crop_bottom
    if rows < 1:
        what = f"image lower than its information bar ({len(picture.image)} rows, bar {crop_bottom})"
        raise UserError(what, picture.where, "leave it out, or name a model that was trained without a bar")
    return OwnSizePicture(picture.image[:rows], picture.truth[:rows], picture.nm_per_pixel, picture.where)


def model_masks(model: Model) -> MaskOf:
    """The masks that `predict` writes with a model, for pictures without bar."""

    def mask_of(picture: OwnSizePicture) -> np.ndarray:
        try:
            return model.predict_mask(picture.image, crop_bottom=0, nm_per_pixel=picture.nm_per_pixel)[1]
        except UserError as error:
            raise UserError(error.what, f"{picture.where} ({error.where})", error.mend) from None

    return mask_of


def otsu_masks(rule: Rule) -> MaskOf:
    """Otsu thresholding of pictures that are stretched by a rule of `grey_range.stretch_range`."""
    return lambda picture: otsu(stretch(picture.image, rule))


def score_own_size(
    mask_of: MaskOf, pictures: Iterator[OwnSizePicture], settings: EvaluationConfig, device: torch.device
) -> list[dict[str, float]]:
    """Scores of each picture by name, in order, in full precision.

    Args:
        mask_of: makes the mask (H,W) bool of a picture.
        pictures: that are scored.
        settings: what the scores are.
        device: that masks are made on.
    """
    rows = []
    with full_precision(device):
        for picture in pictures:
            scores = score_image(
                mask_of(picture),
                picture.truth,
                min_object_pixels=settings.min_object_pixels,
                boundary_tolerance=settings.boundary_tolerance,
            )
            rows.append({name: float(scores[name]) for name in (*IMAGE_SCORES, *COUNTS)})
    return rows


def own_size_definitions(settings: EvaluationConfig) -> dict[str, str]:
    """What the scores of `score_own_size` are, by name."""
    return definitions(
        min_object_pixels=settings.min_object_pixels,
        boundary_tolerance=settings.boundary_tolerance,
        mask_erosion=0,
        min_truth_pixels=0,
        image_size=None,
    )
