"""What a difference with its error says of a claim: supported, refuted or undecided, and Holm's correction.

A claim is a region of the true gain g (arm minus reference, its sign turned where lower scores are better) with a
margin m >= 0:

    better: g > m        worse: g < -m        no_worse: g > -m        equivalent: -m < g < m

It is supported when the whole interval of g lies inside the region and refuted when the whole interval lies outside.
That is a two-sided t test at the nearest end of the region, so one p-value serves both words; of several comparisons
Holm's adjusted p-value decides, which keeps the chance of any wrong word among them below 1 - level. For `equivalent`
these are the two one-sided tests (TOST), each at (1 - level) / 2: stricter than the customary 1 - level each, so that
the printed interval and the word agree.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

Claim = Literal["better", "worse", "no_worse", "equivalent"]
CLAIMS: tuple[Claim, ...] = get_args(Claim)
SUPPORTED, UNDECIDED, REFUTED = 1, 0, -1
WORDS = {SUPPORTED: "supported", UNDECIDED: "undecided", REFUTED: "refuted"}


def depth(gain: np.ndarray, claim: Claim, margin: float) -> np.ndarray:
    """Distance of gains of any shape from the nearest end of the claim's region, positive inside it."""
    if claim == "better":
        return gain - margin
    if claim == "worse":
        return -gain - margin
    if claim == "no_worse":
        return gain + margin
    return margin - np.abs(gain)


def judge(inside: np.ndarray, error: np.ndarray, p_values: np.ndarray, alpha: float) -> np.ndarray:
    """SUPPORTED, REFUTED or UNDECIDED (int8), of the same shape.

    Args:
        inside: `depth` of the estimated gains.
        error: their standard errors. Without any error a depth of 0, the region's open end, is outside.
        p_values: two-sided for a depth of 0, adjusted or not; NaN (one seed) is undecided.
        alpha: 1 - level.
    """
    decided = (p_values < alpha) | ((error == 0) & (inside == 0))
    words = np.where(inside > 0, SUPPORTED, REFUTED)
    return np.where(decided, words, UNDECIDED).astype(np.int8)


def holm_adjusted(p_values: np.ndarray) -> np.ndarray:
    """Holm's adjusted p-values (..., comparisons), each row corrected by itself.

    Below alpha for all that the step-down test at alpha rejects.

    Source: Holm, Scand. J. Statist. 6, 1979.
    """
    count = p_values.shape[-1]
    order = np.argsort(p_values, axis=-1, kind="stable")
    scaled = np.take_along_axis(p_values, order, -1) * np.arange(count, 0, -1)
    adjusted = np.empty_like(scaled)
    np.put_along_axis(adjusted, order, np.minimum(np.maximum.accumulate(scaled, axis=-1), 1.0), -1)
    return adjusted


def rule_of(claim: Claim, margin: float, level: float, higher_is_better: bool, holm_over: int) -> str:
    """The rule of a table in words, for its foot.

    Args:
        claim, margin, level: as for the verdicts.
        higher_is_better: which direction of the score is good.
        holm_over: number of comparisons corrected together; 0 or 1 for none.
    """
    good = "higher" if higher_is_better else "lower"
    beyond = f" by more than {margin:g}" if margin else ""
    text = {
        "better": f"the arm is better than the reference{beyond} ({good} is better)",
        "worse": f"the arm is worse than the reference{beyond}, that is, the reference is better ({good} is better)",
        "no_worse": f"the arm is at most {margin:g} worse than the reference ({good} is better)",
        "equivalent": f"arm and reference differ by less than {margin:g}",
    }[claim]
    share = f"{100 * level:g} %"
    corrected = ""
    if holm_over > 1:
        corrected = f" Both need a Holm-adjusted p-value over {holm_over} comparisons below {1 - level:.2g}."
    return (
        f"Claim: {text}. Supported: the whole {share} interval of the difference agrees with the claim; refuted: the "
        f"whole interval contradicts it; undecided: anything else, or one seed only.{corrected}"
    )
