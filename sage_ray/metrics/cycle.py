"""Cycle fidelity: whether an independent segmenter finds the mask in the image that was generated from it.

With G the generator, S its own segmenter and S* the independent judge, per mask m with real image x and draw z:

- fidelity = Dice(S*(G(m, z)), m);
- ceiling = Dice(S*(x), m): what the judge reaches on the real image of the same mask;
- collusion = [Dice(S(G(m, z)), m) - Dice(S*(G(m, z)), m)] - [Dice(S(x), m) - Dice(S*(x), m)]: how much better S reads
  the images of its own G than its advantage on real ones explains;
- null = Dice(S*(G(m, z)), m'), mean over the masks m' of all other micrographs.

Source: docs/method/METHOD_FAMILY.md section 4.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


def dice_table(found: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Dice (a,b) float64 of each of found (a,H,W) bool with each of masks (b,H,W) bool; both empty 1."""
    ours = found.reshape(len(found), -1).astype(np.float32)
    theirs = masks.reshape(len(masks), -1).astype(np.float32)
    # Sums of up to 2^24 ones are exact in float32.
    common = (ours @ theirs.T).astype(np.float64)
    sizes = ours.sum(1, dtype=np.float64)[:, None] + theirs.sum(1, dtype=np.float64)[None]
    return np.where(sizes > 0, 2 * common / np.maximum(sizes, 1), 1.0)


def own_dice(found: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Dice (n,) float64 of found (n,H,W) bool with the mask of the same place; both empty 1."""
    common = (found & masks).sum((1, 2), dtype=np.float64)
    sizes = found.sum((1, 2), dtype=np.float64) + masks.sum((1, 2), dtype=np.float64)
    return np.where(sizes > 0, 2 * common / np.maximum(sizes, 1), 1.0)


def cycle_scores(
    masks: np.ndarray,
    judge_generated: np.ndarray,
    judge_real: np.ndarray,
    own_generated: np.ndarray | None = None,
    own_real: np.ndarray | None = None,
    groups: Sequence[Hashable] | None = None,
) -> dict[str, np.ndarray]:
    """`fidelity`, `ceiling`, `null`, and `collusion` where there is an own segmenter: each (n,k) float64.

    Args:
        masks: (n,H,W) bool, m.
        judge_generated: (n,k,H,W) bool, the judge's masks of the k images generated from each mask.
        judge_real: (n,H,W) bool, the judge's masks of the real images.
        own_generated: as `judge_generated`, of the generator's own segmenter; None: it has none.
        own_real: as `judge_real`, of that segmenter.
        groups: micrograph of each mask; None: each is its own.

    Raises:
        ValueError: all masks are of one micrograph, so that there is no other one.
    """
    draws = judge_generated.shape[1]
    ceiling = own_dice(judge_real, masks)
    scores = fidelity_and_null(masks, judge_generated, groups)
    scores["ceiling"] = np.repeat(ceiling[:, None], draws, axis=1)
    if own_generated is not None and own_real is not None:
        ours = np.stack([own_dice(own_generated[:, draw], masks) for draw in range(draws)], axis=1)
        advantage = own_dice(own_real, masks) - ceiling
        scores["collusion"] = ours - scores["fidelity"] - advantage[:, None]
    return scores


def fidelity_and_null(
    masks: np.ndarray, judge_generated: np.ndarray, groups: Sequence[Hashable] | None = None
) -> dict[str, np.ndarray]:
    """`fidelity` and `null` of `cycle_scores`, which need no real image; arguments and errors as there."""
    names = np.unique(np.array([str(group) for group in groups or range(len(masks))]), return_inverse=True)[1]
    others = (names[:, None] != names[None]).astype(np.float64)
    if not others.any(1).all():
        raise ValueError("all masks are of one micrograph: there is no other mask to compare with")
    found: dict[str, list[np.ndarray]] = {"fidelity": [], "null": []}
    for draw in range(judge_generated.shape[1]):
        table = dice_table(judge_generated[:, draw], masks)
        found["fidelity"].append(np.diag(table))
        found["null"].append((table * others).sum(1) / others.sum(1))
    return {name: np.stack(columns, axis=1) for name, columns in found.items()}
