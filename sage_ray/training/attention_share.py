"""Where attention gates look while a segmenter trains: a number by epoch, and maps of a few images to draw later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sage_ray.config import ExperimentConfig
from sage_ray.metrics.boundary import boundary, within
from sage_ray.models.value_range import to_network_range
from sage_ray.training.batches import Pictures
from sage_ray.training.context import RunContext

NUM_KEPT = 4
"""Validation images, the first by content hash, whose maps are kept: the same ones in all runs of a split."""
LONG_SIDE = 128
"""Pixels of the longer side that kept maps and images have at most."""


def watch_attention(
    segmenter: nn.Module,
    pictures: Pictures,
    shas: Sequence[str],
    config: ExperimentConfig,
    ctx: RunContext,
    *,
    epoch: int,
    ends_phase: bool,
) -> dict[str, float]:
    """Scores of the gates for an epoch's report, with maps kept as attention/epoch_NNNN; {} in other epochs.

    Gates are looked at every `runtime.attention_every` epochs and at the end of a phase, if the segmenter has any.
    `val/attention_boundary_share` is the share of a gate's attention that falls on pixels within
    `evaluation.boundary_tolerance` of the true boundary, mean over gates and images with a boundary;
    `val/attention_boundary_area` is the share of all pixels that lie there: what even attention would give.

    Args:
        segmenter: scored in eval mode, left in train mode; without gates it is left alone.
        pictures: of the validation part, at least one.
        shas: content hashes of the pictures.
        config: of the run.
        ctx: keeps the maps; every worker computes the same.
        epoch: on the monotone counter, from 1.
        ends_phase: whether it is the last one of its phase.
    """
    every = config.runtime.attention_every
    maps_of = getattr(segmenter, "attention_maps", None)
    if not every or maps_of is None or not (ends_phase or epoch % every == 0):
        return {}
    segmenter.eval()
    shares, areas, kept = _look(maps_of, pictures, config)
    segmenter.train()
    if not shares:
        return {}
    by_gate = np.mean(shares, axis=0)
    facts = {
        "shas": np.array(shas[: len(kept["image"])]),
        "share": by_gate.astype(np.float32),
        "area": np.float32(np.mean(areas)),
        "tolerance": np.float32(config.evaluation.boundary_tolerance),
        "epoch": np.int32(epoch),
    }
    ctx.keep(f"attention/epoch_{epoch:04d}", {**kept, **facts})
    return {
        "val/attention_boundary_share": float(by_gate.mean()),
        "val/attention_boundary_area": float(np.mean(areas)),
    }


@torch.no_grad()
def _look(
    maps_of: Callable[[Tensor], list[Tensor]], pictures: Pictures, config: ExperimentConfig
) -> tuple[list[list[float]], list[float], dict[str, np.ndarray[Any, Any]]]:
    """(shares by image and gate, band areas by image, arrays to keep); images without a boundary have no share."""
    shares: list[list[float]] = []
    areas: list[float] = []
    kept: dict[str, list[np.ndarray[Any, Any]]] = {}
    for rows in torch.split(torch.arange(len(pictures)), config.evaluation.batch_size):
        image, mask = pictures.take(rows)
        maps = [level.float() for level in maps_of(to_network_range(image))]
        if not maps:
            break
        size = (image.shape[-2], image.shape[-1])
        whole = [F.interpolate(level, size=size, mode="nearest")[:, 0].cpu().numpy() for level in maps]
        for place, truth in enumerate(mask[:, 0].bool().cpu().numpy()):
            band = within(boundary(truth), config.evaluation.boundary_tolerance)
            if band.any():
                areas.append(float(band.mean()))
                shares.append([float(level[place][band].sum() / level[place].sum()) for level in whole])
        named = {"image": image, "truth": mask} | {f"gate_{k}": level for k, level in enumerate(maps, start=1)}
        for name, tensor in named.items():
            kept.setdefault(name, []).extend(_small(tensor)[: max(NUM_KEPT - int(rows[0]), 0)])
    return shares, areas, {name: np.stack(arrays) for name, arrays in kept.items()}


def _small(tensor: Tensor) -> np.ndarray[Any, Any]:
    """(N,h,w) uint8 of (N,1,H,W) in [0,1], at most LONG_SIDE pixels long."""
    height, width = tensor.shape[-2:]
    factor = min(1.0, LONG_SIDE / max(height, width))
    if factor < 1:
        size = (max(round(height * factor), 1), max(round(width * factor), 1))
        tensor = F.interpolate(tensor, size=size, mode="area")
    small: np.ndarray[Any, Any] = (255 * tensor[:, 0]).round().to(torch.uint8).cpu().numpy()
    return small
