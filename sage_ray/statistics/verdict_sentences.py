"""What a comparison has found, as a scientist says it: the verdict, the estimate, what it stands on, what to beware of.

A `Finding` holds the numbers of one comparison and the word that `sage_ray.statistics.claims` found; `say` turns it
into sentences. Nothing is computed here, so a sentence can never say more than the analysis did.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sage_ray.statistics.claims import MIN_SEEDS, Claim, Word
from sage_ray.statistics.clusters import counted as counted

FEW_SEEDS = 3
"""With fewer seeds than these even a decided result is called a hint."""
FEW_IMAGES = 10
"""With fewer images (or micrographs) than these a single odd one can carry a result."""
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Finding:
    """One comparison: a subject against a reference on one score.

    Attributes:
        subject: what is judged, such as "version 2".
        reference: what it is held against.
        score: name of the score, such as "Dice".
        difference: subject minus reference, in the score's own direction.
        low, high: of its interval; None or NaN where there is none.
        level: of the interval, such as 0.95.
        images: that both were scored on; 0 for scores that exist once per run.
        micrographs: that the images are crops of; as many as images where each is its own.
        seeds: trainings of each, that both have in common.
        word: supported, undecided or refuted.
        claim: what the word is about.
        margin: difference that does not matter, of the claim.
        lower_is_better: whether the lowest score is the best.
        images_are: what the images are called, such as "locked-test images".
        why_no_interval: such as "one image"; "" where there is an interval.
        corrected_over: number of comparisons that the word is corrected for; 1 for one alone.
        means: of the subject and of the reference, if they shall be said.
    """

    subject: str
    reference: str
    score: str
    difference: float
    low: float | None
    high: float | None
    level: float
    images: int
    micrographs: int
    seeds: int
    word: Word
    claim: Claim = "better"
    margin: float = 0.0
    lower_is_better: bool = False
    images_are: str = "locked-test images"
    why_no_interval: str = ""
    corrected_over: int = 1
    means: tuple[float, float] | None = None

    @property
    def gain(self) -> float:
        """The difference, turned so that above 0 the subject is better."""
        return -self.difference if self.lower_is_better else self.difference

    @property
    def has_interval(self) -> bool:
        """Whether the difference has an interval."""
        return all(bound is not None and math.isfinite(bound) for bound in (self.low, self.high))

    @property
    def digits(self) -> int:
        """Decimals with which its numbers are said: 4 where its means, or their difference, would look wrong with 3."""
        if self.means is None:
            return 3
        first, second = (round(mean, 3) for mean in self.means)
        fits = abs(abs(first - second) - abs(round(self.difference, 3))) < 5e-4
        return score_digits(self.means) if fits else 4


@dataclass(frozen=True)
class Said:
    """A finding in words.

    Attributes:
        tone: better, worse, same or open; of what is no verdict proposed or result: how a page marks it.
        headline: the verdict, one sentence.
        numbers: estimate, interval, images and seeds.
        plain: the same for a reader who knows no statistics.
        cautions: what to beware of; () if nothing.
    """

    tone: str
    headline: str
    numbers: str
    plain: str
    cautions: tuple[str, ...]

    @property
    def line(self) -> str:
        """All of it but the plain words, on one line."""
        told = f"{self.headline.rstrip('.')}: {self.numbers}." if self.numbers else self.headline
        return " ".join([told, *self.cautions])


def say(finding: Finding) -> Said:
    """The sentences of a finding."""
    tone = tone_of(finding)
    headline = upper_first(f"{_headline(finding, tone)}.")
    return Said(tone, headline, numbers_of(finding), _plain(finding, tone), tuple(_beware(finding)))


def tone_of(finding: Finding) -> str:
    """better, worse, same or open: what the word says of the subject."""
    if finding.claim == "equivalent":
        if finding.word == "supported":
            return "same"
        return "open" if finding.word == "undecided" else _side(finding)
    if finding.claim == "no_worse":
        return {"supported": "same", "undecided": "open", "refuted": "worse"}[finding.word]
    if finding.word == "undecided":
        return "open"
    if finding.word == "supported":
        return finding.claim
    if finding.margin:
        return "open"
    # Refuted without a margin: the whole interval is on the other side, or there is no difference at all.
    return _side(finding)


def _side(finding: Finding) -> str:
    if finding.gain == 0:
        return "same"
    return "better" if finding.gain > 0 else "worse"


def _headline(finding: Finding, tone: str) -> str:
    pair = f"{finding.subject}", f"{finding.reference}"
    by = f" by more than {plain_number(finding.margin)}" if finding.margin else ""
    if finding.claim == "no_worse" and tone == "same":
        return f"{pair[0]} is at most {plain_number(finding.margin)} worse than {pair[1]}"
    if finding.claim == "equivalent" and tone == "same":
        return f"{pair[0]} and {pair[1]} differ by less than {plain_number(finding.margin)}"
    if tone == "same":
        return f"{pair[0]} scored the same as {pair[1]}"
    if tone in ("better", "worse"):
        return f"{pair[0]} is {tone} than {pair[1]}{by if tone == finding.claim else ''}"
    if finding.word == "refuted":
        return f"{pair[0]} is not {finding.claim} than {pair[1]}{by}"
    if finding.seeds < MIN_SEEDS:
        return f"one training each cannot tell {pair[0]} from {pair[1]}"
    return f"it is open whether {pair[0]} differs from {pair[1]}"


def numbers_of(finding: Finding) -> str:
    """Such as "Dice +0.012, 95 % interval +0.002 to +0.022, 13 locked-test images, 2 seeds"."""
    digits = finding.digits
    parts = [f"{finding.score} {signed(finding.difference, digits)}"]
    if finding.has_interval:
        low, high = (signed(bound, digits) for bound in (finding.low, finding.high))
        parts.append(f"{share(finding.level)} interval {low} to {high}")
    else:
        parts.append(f"no interval ({finding.why_no_interval})" if finding.why_no_interval else "no interval")
    return ", ".join([*parts, *stands_on(finding.images, finding.micrographs, finding.seeds, finding.images_are)])


def score_in_words(
    score: str,
    mean: float,
    between: tuple[float, float] | None,
    level: float | None,
    *,
    images: int,
    micrographs: int,
    seeds: int,
) -> str:
    """Such as "Dice 0.890, 95 % interval 0.839 to 0.941, 13 locked-test images, 2 seeds": a score by itself."""
    parts = [f"{score} {mean:.3f}"]
    if between is not None and level is not None:
        parts.append(f"{share(level)} interval {between[0]:.3f} to {between[1]:.3f}")
    return ", ".join([*parts, *stands_on(images, micrographs, seeds)])


def stands_on(images: int, micrographs: int, seeds: int, images_are: str = "locked-test images") -> list[str]:
    """What a number stands on: its images (0: none), the micrographs that they are crops of, and seeds."""
    parts = []
    if images:
        of = f" of {counted(micrographs, 'micrograph')}" if micrographs != images else ""
        noun = images_are if images != 1 else images_are.removesuffix("s")
        parts.append(f"{images} {noun}{of}")
    return [*parts, counted(seeds, "seed")]


def _plain(finding: Finding, tone: str) -> str:
    """The finding without statistics' words."""
    digits = finding.digits
    amount = f"{abs(finding.difference):.{digits}f} {finding.score}"
    if tone == "same" and not finding.difference:
        return "Both gave the same scores."
    if tone == "same":
        return "The two can be used one for the other: what difference there may be is smaller than what matters."
    better = finding.subject if finding.gain > 0 else finding.reference
    beside = ""
    if finding.means is not None:
        ordered = finding.means if finding.gain > 0 else finding.means[::-1]
        beside = f" ({ordered[0]:.{digits}f} against {ordered[1]:.{digits}f})"
    if tone in ("better", "worse"):
        good = "lower, which is better" if finding.lower_is_better else "higher"
        return (
            f"Expect {better} to score about {amount} {good}{beside}, on new images of this kind: the whole range of "
            "differences that fit the data points the same way."
        )
    if not finding.has_interval or finding.seeds < MIN_SEEDS:
        return f"{upper_first(better)} scored better this time{beside}; a second training might have turned it round."
    worst, best = sorted((_gain_of(finding, finding.low), _gain_of(finding, finding.high)))
    if worst >= 0 or best <= 0:
        return (
            f"{upper_first(better)} scored better{beside}, but among {finding.corrected_over} comparisons one such "
            "difference comes about by chance too easily to be believed."
        )
    more = "more seeds or images" if finding.images else "more seeds"
    return (
        f"{upper_first(better)} scored better{beside}, but that may be chance: {finding.subject} may be anything from "
        f"{abs(worst):.{digits}f} worse to {best:.{digits}f} better; {more} would narrow that down. "
        "It does not show that the two are equal."
    )


def _gain_of(finding: Finding, bound: float | None) -> float:
    value = float(bound or 0.0)
    return -value if finding.lower_is_better else value


def open_together(findings: Sequence[Finding]) -> Said:
    """One entry for several subjects of which it is open whether they differ from the same reference."""
    ordered = sorted(findings, key=lambda finding: finding.difference)
    low, high = ordered[0], ordered[-1]
    first = findings[0]
    names = [finding.subject for finding in findings]
    one = first.seeds < MIN_SEEDS
    headline = (
        f"One training each cannot tell {listed(names)} from {first.reference}."
        if one
        else f"It is open whether {listed(names)} differ from {first.reference}."
    )
    span = f"{first.score} {signed(low.difference)} ({low.subject}) to {signed(high.difference)} ({high.subject})"
    plain = f"{upper_first(in_words(len(names)))} comparisons are open, each in a row of the table below. "
    plain += "A second training might turn them round." if one else "It does not show that they are equal."
    shared = [text for text in _beware(first) if all(text in _beware(finding) for finding in findings)]
    return Said(
        "open",
        headline,
        ", ".join([span, *stands_on(first.images, first.micrographs, first.seeds, first.images_are)]),
        plain,
        tuple(shared),
    )


def listed(texts: Sequence[str]) -> str:
    """Such as "a, b and c"."""
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def _beware(finding: Finding) -> list[str]:
    return cautions(finding.images, finding.micrographs, finding.seeds, decided=finding.word != "undecided")


def cautions(images: int, micrographs: int, seeds: int, *, decided: bool) -> list[str]:
    """What to beware of: few seeds, few images, crops of few micrographs."""
    found = []
    if seeds < MIN_SEEDS:
        found.append("One seed says nothing of another training: train at least one more.")
    elif seeds < FEW_SEEDS:
        few = f"{in_words(seeds)} seeds"
        found.append(f"With {few} read it as a hint." if decided else f"{upper_first(few)} are few.")
    if images and micrographs < FEW_IMAGES:
        what = "images" if micrographs == images else "micrographs"
        found.append(
            f"One {what.removesuffix('s')} says nothing of others."
            if micrographs == 1
            else f"{upper_first(in_words(micrographs))} {what} are few: one odd one among them can carry the result."
        )
    return found


def rule_in_words(level: float, comparisons: int) -> str:
    """When a difference is called better, worse or open."""
    among = ""
    if comparisons > 1:
        among = f", and that holds when corrected for {comparisons} comparisons (Holm)"
    return (
        f"A difference is called better or worse if its whole {share(level)} interval lies on that side of zero"
        f"{among}; it is open otherwise, and with one seed."
    )


def signed(value: float | None, digits: int = 3) -> str:
    """A difference with its sign, a true minus."""
    return f"{float(value or 0.0):+.{digits}f}".replace("-", MINUS)


def score_digits(scores: Collection[float]) -> int:
    """Decimals with which scores are given beside each other: 4 where different ones would look equal with 3."""
    # What differs by less than 4 decimals show looks equal with them, too.
    told = {f"{score:.4f}" for score in scores}
    return 4 if len({f"{score:.3f}" for score in scores}) < len(told) else 3


def plain_number(value: float) -> str:
    """A number in few digits, with a true minus."""
    return f"{value:g}".replace("-", MINUS)


def share(level: float) -> str:
    """A level as a percentage, such as "95 %"."""
    return f"{100 * level:g} %"


def in_words(count: int) -> str:
    """Small numbers as words."""
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    return words[count] if 0 <= count < len(words) else str(count)


def upper_first(text: str) -> str:
    """The text with its first letter as a capital; names with an underscore, and in backticks, stay as they are."""
    return text if "_" in text.split(" ", 1)[0] else text[:1].upper() + text[1:]
