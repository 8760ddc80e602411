"""Phase 1: one supervised step of the segmenter."""

from __future__ import annotations

import torch
from torch import Tensor

from sage_ray.models.dropout import keyed_dropout
from sage_ray.training.batches import Batch
from sage_ray.training.draws import StepDraws
from sage_ray.training.recipe import Recipe
from sage_ray.training.state import TrainState
from sage_ray.training.supervision import head_logits, supervised_loss


def pretrain_step(state: TrainState, batch: Batch, draws: StepDraws, recipe: Recipe) -> dict[str, Tensor]:
    """One update of the segmenter on real pairs; returns detached scalars.

    Source: docs/method/METHOD.md section 1, phase 1: minimise L_seg(S(x), m) with Adam; the mean over several heads.
    """
    segmenter, optimizer = state.networks["segmenter"], state.optimizers["segmenter"]
    with recipe.autocast(), keyed_dropout(draws, "real"):
        heads = head_logits(segmenter, batch.image)
    loss = supervised_loss(heads, batch.mask, recipe)
    if recipe.observe is not None:
        recipe.observe({"segmentation": loss}, state.networks)
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    recipe.average_gradients(segmenter.parameters())
    optimizer.step()
    state.update_ema()
    return {"loss": loss.detach()}
