"""All arms of a study held against their reference on one score: differences, Holm's correction and the verdict rule.

Whoever says whether an arm is better or worse (tables, reports, descriptions in MLflow) has it from here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sage_ray.statistics.claims import Claim, depth, holm_adjusted, judge
from sage_ray.statistics.clusters import Clusters
from sage_ray.statistics.crossed import Contrasts, Images, contrasts


@dataclass(frozen=True)
class JudgedArms:
    """What was found of all arms but the reference, arrays in their order."""

    contrasts: Contrasts
    p_values: np.ndarray
    p_holm: np.ndarray
    """Adjusted over the arms; `p_values` again without a correction."""
    words: np.ndarray
    """SUPPORTED, REFUTED or UNDECIDED of `sage_ray.statistics.claims`."""


def judged_arms(
    scores: np.ndarray,
    reference: int = 0,
    *,
    claim: Claim = "worse",
    margin: float = 0.0,
    level: float = 0.95,
    higher_is_better: bool = True,
    images: Images = "new",
    together: Clusters | None = None,
    pool: bool | None = None,
    holm: bool = True,
) -> JudgedArms:
    """A claim about each arm but the reference, judged.

    Args:
        scores: as `crossed.contrasts`.
        reference: index of the arm that all are compared with.
        claim: about each arm.
        margin: of the claim, in units of the score.
        level: 1 - level is the chance of any wrong verdict.
        higher_is_better: whether the highest score is the best.
        images: what intervals speak of, as `crossed.contrasts`.
        together: which images are crops of one micrograph, as `crossed.contrasts`.
        pool: as `crossed.contrasts`.
        holm: whether verdicts are corrected for the number of arms.

    Raises:
        ValueError: as `crossed.contrasts`.
    """
    found = contrasts(scores, reference, images=images, pool=pool, together=together)
    inside = depth(found.difference if higher_is_better else -found.difference, claim, margin)
    single = found.p_values(inside)
    adjusted = holm_adjusted(single) if holm else single
    return JudgedArms(found, single, adjusted, judge(inside, found.error, adjusted, 1 - level))
