"""The verdict rule: what a difference with its error says of a claim, Holm's correction, and the rule in words.

A claim is a region of the true gain g (arm minus reference, its sign turned where lower scores are better) with a
margin m >= 0:

    better: g > m        worse: g < -m        no_worse: g > -m        equivalent: -m < g < m

It is supported when the whole interval of g lies inside the region and refuted when the whole interval lies outside.
That is a two-sided t test at the nearest end of the region, so one p-value serves both words; of several comparisons
Holm's adjusted p-value decides, which keeps the chance of any wrong word among them below 1 - level. For `equivalent`
these are the two one-sided tests (TOST), each at (1 - level) / 2: stricter than the customary 1 - level each, so that
the printed interval and the word agree.

One seed says nothing of a method, so its verdict is always undecided. Every verdict of the package comes from `judge`:
of arms of a study (`analysis.arm_differences`) and of registered versions (`verdicts`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from sage_ray.statistics.combined import two_sided_p
from sage_ray.statistics.paired import Interval

Claim = Literal["better", "worse", "no_worse", "equivalent"]
CLAIMS: tuple[Claim, ...] = get_args(Claim)
SUPPORTED, UNDECIDED, REFUTED = 1, 0, -1
Word = Literal["supported", "undecided", "refuted"]
WORDS: dict[int, Word] = {SUPPORTED: "supported", UNDECIDED: "undecided", REFUTED: "refuted"}
MIN_SEEDS = 2
"""Fewer seeds decide nothing."""


@dataclass(frozen=True)
class Verdict:
    """What the data say of a claim.

    Attributes:
        word: supported, refuted or undecided.
        p_value: two-sided, of the difference lying at the claim's boundary, after Holm's correction.
        rule: what the word means, as sentences.
    """

    word: Word
    p_value: float
    rule: str


def depth(gain: np.ndarray, claim: Claim, margin: float) -> np.ndarray:
    """Distance of gains of any shape from the nearest end of the claim's region, positive inside it."""
    if claim == "better":
        return gain - margin
    if claim == "worse":
        return -gain - margin
    if claim == "no_worse":
        return gain + margin
    return np.asarray(margin - np.abs(gain))


def judge(inside: np.ndarray, error: np.ndarray, p_values: np.ndarray, alpha: float | np.ndarray) -> np.ndarray:
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


def verdicts(intervals: Mapping[str, Interval], margin: float = 0.0) -> dict[str, Verdict]:
    """Verdicts on "better than the reference by more than `margin`", Holm-corrected over all of the intervals.

    Two arms without any difference refute the claim.

    Args:
        intervals: of paired differences, by name; higher scores are better.
        margin: difference that does not matter, in units of the score.
    """
    listed = list(intervals.values())
    error = np.array([each.error for each in listed])
    inside = depth(np.array([each.mean for each in listed]), "better", margin)
    adjusted = holm_adjusted(two_sided_p(inside, error, np.array([each.df for each in listed])))
    enough = np.array([each.num_seeds >= MIN_SEEDS for each in listed], bool)
    alpha = np.array([1 - each.level for each in listed])
    words = judge(inside, np.where(enough, error, np.nan), np.where(enough, adjusted, np.nan), alpha)
    return {
        name: Verdict(
            WORDS[int(word)],
            float(p_value),
            rule_of("better", margin, each.level, True, len(listed), subject="version"),
        )
        for (name, each), word, p_value in zip(intervals.items(), words, adjusted, strict=True)
    }


def withdrawn(word: str, p_value: float, level: float) -> str:
    """A word that was found without a correction, undecided unless the corrected p-value is below 1 - level."""
    return word if p_value < 1 - level else WORDS[UNDECIDED]


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


def rule_of(
    claim: Claim, margin: float, level: float, higher_is_better: bool, holm_over: int, *, subject: str = "arm"
) -> str:
    """The rule of a table in words, for its foot.

    Args:
        claim: about each row.
        margin: difference that does not matter, in units of the score.
        level: of the intervals.
        higher_is_better: which direction of the score is good.
        holm_over: number of comparisons corrected together; 0 or 1 for none.
        subject: what is compared with the reference.
    """
    good = "higher" if higher_is_better else "lower"
    beyond = f" by more than {margin:g}" if margin else ""
    text = {
        "better": f"the {subject} is better than the reference{beyond} ({good} is better)",
        "worse": f"the {subject} is worse than the reference{beyond}, that is, the reference is better "
        f"({good} is better)",
        "no_worse": f"the {subject} is at most {margin:g} worse than the reference ({good} is better)",
        "equivalent": f"{subject} and reference differ by less than {margin:g}",
    }[claim]
    share = f"{100 * level:g} %"
    corrected = ""
    if holm_over > 1:
        corrected = f" Both need a Holm-adjusted p-value over {holm_over} comparisons below {1 - level:.2g}."
    return (
        f"Claim: {text}. Supported: the whole {share} interval of the difference agrees with the claim; refuted: the "
        f"whole interval contradicts it; undecided: anything else, or one seed only.{corrected}"
    )
