"""The grammar of `data.foreground`: which values or colours of a mask are particles, and which are ignored.

    RULE  := [TERMS] ["ignore" TERMS]        1,2        >0        1 ignore 255        ignore -1        #ff0000
    TERMS := TERM ["," TERM ...]
    TERM  := NUMBER | NUMBER..NUMBER | (> >= < <=)NUMBER | #RRGGBB | nan (to ignore alone)

It stands above the config, which checks the text, and `data.foreground`, which applies it to pixels.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator

Colour = tuple[int, int, int]
EXAMPLES = "'1,2', '>127', '10..99', '#ff0000' or '1 ignore 255'"
_NUMBER = r"[+-]?\d+(?:\.\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})")
_COMPARED = re.compile(rf"(>=|<=|>|<)({_NUMBER})")
_COLOUR = re.compile(r"#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})")


@dataclass(frozen=True)
class ValueTerm:
    """One term of a rule: a colour, NaN, or the values from `low` to `high`, with or without these two."""

    text: str
    low: float = math.nan
    high: float = math.nan
    with_ends: bool = True
    colour: Colour | None = None

    @property
    def is_nan(self) -> bool:
        """Whether it stands for pixels that are not a number."""
        return self.colour is None and math.isnan(self.low)

    @property
    def is_single(self) -> bool:
        """Whether it names one value or colour, which then is a class and no range of labels."""
        return self.colour is not None or self.low == self.high


@dataclass(frozen=True)
class ForegroundRule:
    """Which values are particles (none named: every value but 0) and which are ignored; ignoring goes first."""

    foreground: tuple[ValueTerm, ...]
    ignored: tuple[ValueTerm, ...]

    @property
    def text(self) -> str:
        """The rule in its shortest form; equal rules have equal texts."""
        parts = [",".join(term.text for term in self.foreground)]
        parts += ["ignore " + ",".join(term.text for term in self.ignored)] if self.ignored else []
        return " ".join(filter(None, parts))


@functools.cache
def foreground_rule(text: str) -> ForegroundRule:
    """The rule that a text of `data.foreground` says; "" names no value.

    Raises:
        ValueError: it is none, with the part that is wrong and examples.
    """
    head, *tails = re.split(r"\bignore\b", text.lower())
    if len(tails) > 1:
        raise ValueError(f"`ignore` stands once, before all values that are ignored, such as {EXAMPLES}")
    foreground, ignored = _terms(head), _terms(tails[0]) if tails else ()
    if tails and not ignored:
        raise ValueError("no value after `ignore`; such as '1 ignore 255'")
    if any(term.is_nan for term in foreground):
        raise ValueError("nan can be ignored but is no particle, such as 'ignore nan'")
    twice = {term.text for term in foreground} & {term.text for term in ignored}
    if twice:
        raise ValueError(f"{', '.join(sorted(twice))} cannot be particles and ignored; name it once")
    return ForegroundRule(foreground, ignored)


def _terms(text: str) -> tuple[ValueTerm, ...]:
    joined = re.sub(r"\s*(\.\.|>=|<=|>|<)\s*", r" \1", text).replace(" ..", "..")
    found = {term.text: term for word in re.split(r"[,;\s]+", joined) if word for term in [_term(word)]}
    return tuple(found.values())


def _term(word: str) -> ValueTerm:
    if word == "nan":
        return ValueTerm(word)
    if colour := _COLOUR.fullmatch(word):
        red, green, blue = (int(part, 16) for part in colour.groups())
        return ValueTerm(word, colour=(red, green, blue))
    if re.fullmatch(_NUMBER, word):
        return ValueTerm(_plain(word), float(word), float(word))
    if between := _RANGE.fullmatch(word):
        low, high = map(float, between.groups())
        if low > high:
            raise ValueError(f"{word} is empty; write the lower value first, such as {high:g}..{low:g}")
        return ValueTerm("..".join(map(_plain, between.groups())) if low < high else f"{low:g}", low, high)
    if compared := _COMPARED.fullmatch(word):
        sign, number = compared.group(1), float(compared.group(2))
        low, high = (number, math.inf) if sign[0] == ">" else (-math.inf, number)
        return ValueTerm(sign + _plain(compared.group(2)), low, high, with_ends=len(sign) == 2)
    raise ValueError(f"{word} is no value, range or colour of a mask; write such as {EXAMPLES}")


def _plain(number: str) -> str:
    value = float(number)
    return str(int(value)) if value == int(value) else repr(value)


def _checked(value: Any) -> Any:
    """The shortest text of a rule; one number and lists of them, as YAML has them, are texts too."""
    if value is None:
        raise ValueError(f"no value; in YAML a colour stands in quotes, such as {EXAMPLES}")
    if isinstance(value, list | tuple):
        value = ",".join(map(str, value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    return foreground_rule(value).text if isinstance(value, str) else value


ForegroundText = Annotated[str, BeforeValidator(_checked)]
"""A setting that holds a rule, in its shortest form."""
