"""Lengths as files and people write them, in nanometres: "1,117 nm", "2.5 µm", "\\u00B5m", "angstrom"."""

from __future__ import annotations

import re

_UNITS = {
    1e-3: ("pm", "picometer", "picometre"),
    0.1: ("å", "ang", "angstrom", "ångström", "ångstrom", "angström"),
    1.0: ("nm", "nanometer", "nanometre", "nanos"),
    1e3: ("µm", "um", "micron", "micrometer", "micrometre", "mum"),
    1e6: ("mm", "millimeter", "millimetre"),
    1e7: ("cm", "centimeter", "centimetre"),
    25.4e6: ("inch", "in", "inches", '"'),
    1e9: ("m", "meter", "metre"),
}
_NM = {name: factor for factor, names in _UNITS.items() for name in names}
_NUMBER = re.compile(r"[-+]?(?:\d+(?:[.,]\d*)*|[.,]\d+)(?:[eE][-+]?\d+)?")
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")


def nm_in(unit: str) -> float | None:
    """Nanometres in one of this unit of length; None if it is none, such as "pixel" or "1/nm".

    Letter case, plural, both micro signs, both signs of the angstrom and Java's escapes ("\\u00B5m") make no
    difference.
    """
    text = _ESCAPED.sub(lambda found: chr(int(found.group(1), 16)), unit).strip().strip("\0").strip()
    if text == "A":
        return 0.1
    text = text.replace("\u03bc", "\u00b5").replace("\u212b", "\u00c5").casefold().replace("\u03bc", "\u00b5")
    text = text.replace("\xc2\xb5", "\u00b5")  # UTF-8 that was read as Latin-1
    return _NM.get(text, _NM.get(text.removesuffix("s")))


def read_number(text: str) -> float | None:
    """The number that a text begins with, with a point or a comma for its decimals; None if there is none."""
    found = _NUMBER.match(text.strip())
    if found is None:
        return None
    digits = found.group()
    if "," in digits and "." in digits:  # the last sign is the decimal one, the others part the thousands
        parts = re.split(r"[.,]", digits)
        digits = "".join(parts[:-1]) + "." + parts[-1]
    try:
        return float(digits.replace(",", "."))
    except ValueError:
        return None


def read_length(text: str, unit: str = "") -> float | None:
    """A length such as "1.117 nm" in nanometres; `unit` is taken where the text names none. None if it is no length."""
    number = read_number(text)
    found = _NUMBER.match(text.strip())
    if number is None or found is None:
        return None
    factor = nm_in(text.strip()[found.end() :] or unit)
    return None if factor is None else number * factor
