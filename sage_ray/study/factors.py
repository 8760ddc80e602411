"""Factor designs as plain combinatorics: which combinations of levels are run, and what a fraction confuses.

Two-level fractions follow Box, Hunter and Hunter (Statistics for Experimenters, chapter 6): a generated factor is a
product of basic ones over levels coded +1 (the first, reference level) and -1. The words that equal the identity make
the defining relation; its shortest word is the resolution, and an effect is confused with its product with every word.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

ROMAN = {1: "I", 2: "II", 3: "III", 4: "IV", 5: "V", 6: "VI", 7: "VII", 8: "VIII", 9: "IX", 10: "X"}
LEAST_RESOLUTION = 3
MAX_ARMS = 512

Combination = dict[str, str]
"""Factor to the name of its level."""


@dataclass(frozen=True)
class Word:
    """A product of factors with a sign, such as -gates*ema; without factors it is the identity."""

    factors: frozenset[str]
    sign: int = 1

    def __mul__(self, other: Word) -> Word:
        """The product; a factor that occurs twice cancels."""
        return Word(self.factors ^ other.factors, self.sign * other.sign)

    def text(self, order: Sequence[str]) -> str:
        """The word with its factors in the order of `order`."""
        return ("-" if self.sign < 0 else "") + "*".join(name for name in order if name in self.factors)


@dataclass(frozen=True)
class Fraction:
    """Structure of a two-level fraction.

    Attributes:
        factors: all factors, as they are listed in the file.
        generators: generated factor to the word that it equals.
        relation: words other than the identity that equal it, shortest first.
    """

    factors: tuple[str, ...]
    generators: Mapping[str, Word]
    relation: tuple[Word, ...]

    @property
    def resolution(self) -> int:
        """Number of factors of the shortest word."""
        return min(len(word.factors) for word in self.relation)

    @property
    def basic(self) -> tuple[str, ...]:
        """Factors that are crossed in full; the others are generated."""
        return tuple(name for name in self.factors if name not in self.generators)

    def aliases(self, factor: str) -> list[str]:
        """Effects that the main effect of `factor` cannot be told from, lowest order first."""
        effects = sorted((Word(frozenset({factor})) * word for word in self.relation), key=self._order)
        return [effect.text(self.factors) for effect in effects]

    def lines(self) -> list[str]:
        """Size, defining relation, resolution, and the aliases of every main effect, for a person."""
        count, generated = len(self.factors), len(self.generators)
        resolution = ROMAN.get(self.resolution, str(self.resolution))
        words = " = ".join(word.text(self.factors) for word in self.relation)
        size = f"2^({count}-{generated}) fraction, {2 ** (count - generated)} arms"
        head = f"{size}, resolution {resolution}: I = {words}"
        return [head, *(f"  {factor} is confused with {', '.join(self.aliases(factor))}" for factor in self.factors)]

    def _order(self, word: Word) -> tuple[int, list[int]]:
        return len(word.factors), sorted(self.factors.index(name) for name in word.factors)


def parse_generator(text: str, factors: Sequence[str]) -> Word:
    """The word of "a*b" or "-a*b".

    Raises:
        ValueError: an unknown or repeated factor, or no factor at all.
    """
    bare = text.strip()
    sign = -1 if bare.startswith("-") else 1
    names = [name.strip() for name in bare.lstrip("+-").split("*")]
    for name in names:
        if name not in factors:
            raise ValueError(f"unknown factor {name or repr(text)}; use a product of {', '.join(factors)}")
    if len(set(names)) != len(names):
        raise ValueError(f"a factor occurs twice in {text}")
    return Word(frozenset(names), sign)


def fraction(factors: Sequence[str], generators: Mapping[str, str]) -> Fraction:
    """The structure of a fraction.

    Args:
        factors: names in order.
        generators: generated factor to a product of basic ones, as text.

    Raises:
        ValueError: a generator that names an unknown or generated factor, or a resolution below III.
    """
    for name in generators:
        if name not in factors:
            raise ValueError(f"unknown factor {name}; generators name one of {', '.join(factors)}")
    basic = [name for name in factors if name not in generators]
    words = {name: parse_generator(text, basic) for name, text in generators.items()}
    contrasts = [Word(frozenset({name})) * word for name, word in words.items()]
    relation = [
        prod(chosen, start=Word(frozenset()))
        for size in range(1, len(contrasts) + 1)
        for chosen in itertools.combinations(contrasts, size)
    ]
    made = Fraction(tuple(factors), words, ())
    made = Fraction(tuple(factors), words, tuple(sorted(relation, key=made._order)))
    if made.resolution < LEAST_RESOLUTION:
        shortest = made.relation[0].text(made.factors)
        raise ValueError(
            f"resolution {ROMAN[made.resolution]} (I = {shortest}): two main effects could not be told apart; "
            "generate from products of at least two factors, each generated factor from another product"
        )
    return made


def combinations(
    kind: str, factors: Mapping[str, Sequence[str]], generators: Mapping[str, str]
) -> tuple[list[Combination], Fraction | None]:
    """(combinations in order, structure of the fraction if it is one).

    The combination of all first levels comes first wherever it is one of them.

    Args:
        kind: one_factor, leave_one_out, factorial or fractional.
        factors: factor to its levels, reference level first.
        generators: of a fraction.

    Raises:
        ValueError: too many combinations, or as `fraction`.
    """
    if kind in ("one_factor", "leave_one_out"):
        return list(_one_by_one(factors)), None
    structure = fraction(list(factors), generators) if kind == "fractional" else None
    crossed = structure.basic if structure else tuple(factors)
    count = prod(len(factors[name]) for name in crossed)
    if count > MAX_ARMS:
        mend = "generate more factors" if structure else "use kind fractional, or fewer factors"
        raise ValueError(f"{count} arms, at most {MAX_ARMS}; {mend}")
    full = [
        dict(zip(crossed, levels, strict=True)) for levels in itertools.product(*(factors[name] for name in crossed))
    ]
    return ([_completed(row, structure, factors) for row in full] if structure else full), structure


def _one_by_one(factors: Mapping[str, Sequence[str]]) -> Iterator[Combination]:
    first = {name: levels[0] for name, levels in factors.items()}
    yield first
    for name, levels in factors.items():
        for level in levels[1:]:
            yield first | {name: level}


def _completed(row: Combination, structure: Fraction, factors: Mapping[str, Sequence[str]]) -> Combination:
    """A row of the basic factors with the levels of the generated ones, in the order of the file."""
    code = {name: 1 if level == factors[name][0] else -1 for name, level in row.items()}
    for name, word in structure.generators.items():
        code[name] = word.sign * prod(code[part] for part in word.factors)
    return {name: factors[name][0 if code[name] > 0 else 1] for name in structure.factors}
