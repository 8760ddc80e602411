"""Images that a model's generator draws for masks whose real image is known, and the masks that segmenters find."""

from __future__ import annotations

import numpy as np

from sage_ray.config import stable_hash
from sage_ray.errors import UserError
from sage_ray.evaluation.image_features import in_batches
from sage_ray.imaging.model import Model
from sage_ray.training.scoring import full_precision


def draw_seed(seed: int, sha: str, draw: int) -> int:
    """Seed of style and noise of one generated image, by the contents of its mask's real image: no two share one."""
    return int(stable_hash([seed, sha, draw]), 16)


def drawn_images(model: Model, masks: np.ndarray, shas: list[str], *, draws: int, seed: int, where: str) -> np.ndarray:
    """Generated images (n,draws,H,W) uint8 of masks (n,H,W).

    Args:
        model: with a generator, on its device.
        masks: at the size of training; non-zero is particle.
        shas: of the masks' real images.
        draws: images a mask.
        seed: of all of them.
        where: names the model in an error.

    Raises:
        UserError: a model without generator.
    """
    if model.generator is None:
        mend = "name one that was trained with adversarial.epochs above 0"
        raise UserError("model without generator", where, mend)
    with full_precision(model.device):
        made = [
            [model.generate(mask, draw_seed(seed, sha, draw)) for draw in range(draws)]
            for mask, sha in zip(masks, shas, strict=True)
        ]
    return np.array(made)


def found_masks(model: Model, images: np.ndarray) -> np.ndarray:
    """Masks (...,H,W) bool that a model's segmenter finds in prepared images (...,H,W) uint8."""
    flat = images.reshape(-1, *images.shape[-2:])
    with full_precision(model.device):
        found = [model.probabilities(flat[rows]) > 0.5 for rows in in_batches(len(flat))]
    return np.concatenate(found).reshape(images.shape)


def has_segmenter(model: Model) -> bool:
    """Whether a model can segment: some are a generator alone."""
    network: object = model.segmenter
    return network is not None
