"""Batch statistics of the averaged segmenter, estimated anew under the averaged weights.

The running statistics of the trained segmenter belong to its own weights: beside averaged ones they are wrong, and an
average of them over steps is wrong too. At the end of an epoch, before the averaged segmenter is scored, handed over or
kept, it is shown training batches again, and the statistics are the mean over them.

`torch.optim.swa_utils.update_bn` does the same for a plain data loader. It does not fit here: it would wipe the
statistics of `norm: frozen`, which no pass fills again, and it knows neither keyed dropout nor generated images.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import torch

from sage_ray.models.dropout import keyed_dropout
from sage_ray.models.norm import fresh_statistics, has_batch_statistics, hold_statistics
from sage_ray.training.adversarial import mixes
from sage_ray.training.batches import Batch
from sage_ray.training.draws import KeyedDraws
from sage_ray.training.gan_parts import generate
from sage_ray.training.recipe import Recipe
from sage_ray.training.state import TrainState
from sage_ray.training.supervision import head_logits

STATISTICS_BATCHES = 20
"""Most batches that the statistics are a mean over. A running average of momentum .1, as the trained segmenter has,
varies as much as a mean over 19 batches does."""


@torch.no_grad()
def estimate_statistics(state: TrainState, batches: Iterable[tuple[Batch, KeyedDraws]], recipe: Recipe) -> None:
    """Set the running statistics of `state.ema` to their mean over the first `STATISTICS_BATCHES` batches.

    Nothing is drawn or computed without an average, or where it has no batch statistics of its own (`norm: group`, and
    `frozen`, whose statistics are given and equal in both segmenters). The result depends on the averaged weights, the
    batches and, with `synthetic_statistics: update`, the generator alone, so that a resumed run has the same.

    Args:
        state: its `phase_epoch` (from 0) is that of the epoch whose batches these are.
        batches: of the epoch just trained, with its draws: the segmenter's training distribution is that of augmented
            images under dropout, and the trained segmenter, beside which the average is judged, has its statistics
            from there too. Generated images count where they count for the trained segmenter.
        recipe: precision, and what phase 2 mixes in.
    """
    averaged = state.ema
    if averaged is None or not has_batch_statistics(averaged):
        return
    averaged.train()
    with fresh_statistics(averaged):
        for batch, draws in islice(batches, STATISTICS_BATCHES):
            if _shows_generated(state, draws, recipe):
                generator = state.networks["generator"]
                with hold_statistics(generator), recipe.autocast(), keyed_dropout(draws, "synthetic"):
                    averaged(generate(generator, batch.mask, draws, recipe, "fake", extra_entry=True))
            with recipe.autocast(), keyed_dropout(draws, "real"):
                head_logits(averaged, batch.image)


def _shows_generated(state: TrainState, draws: KeyedDraws, recipe: Recipe) -> bool:
    """Whether the step of these draws moved the trained segmenter's statistics by generated images (row 14)."""
    if state.phase != "adversarial" or recipe.adversarial.synthetic_statistics == "hold":
        return False
    # A step without the term makes no pass of the segmenter over generated images.
    settings = recipe.adversarial
    return settings.lambda_cycle * settings.weights.rec_mask > 0 and mixes(draws, settings, state.phase_epoch)
