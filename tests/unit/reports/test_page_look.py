"""The look of pages: a dark one for browsers that ask for it, in which every word can be read; paper stays bright."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

CSS = files("sage_ray.reports").joinpath("templates", "page.css").read_text(encoding="utf-8")
WORDS = ("ink", "soft", "link", "better", "worse", "same", "open", "warn")
DARK = re.search(r"@media screen and \(prefers-color-scheme: dark\) \{\s*:root \{(.*?)\}", CSS, re.DOTALL)
BRIGHT = re.search(r"^:root \{(.*?)\}", CSS, re.DOTALL)


def colours(block: re.Match[str] | None) -> dict[str, str]:
    assert block is not None
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block[1]))


def lightness(colour: str) -> float:
    """Relative luminance, 0 to 1, as the Web Content Accessibility Guidelines 2.1 define it."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((lightness(one), lightness(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("look", [BRIGHT, DARK], ids=["bright", "dark"])
def test_words_can_be_read_on_every_ground(look: re.Match[str] | None) -> None:
    held = colours(look)
    for word in WORDS:
        for ground in ("ground", "panel"):
            assert contrast(held[word], held[ground]) >= 4.5, (word, ground)
    assert contrast(held["warn"], held["warn-ground"]) >= 4.5
    assert contrast(held["ink"], held["mark"]) >= 4.5, "the row of a trial that was clicked"
    assert lightness(held["card"]) > 0.85, "figures are drawn in dark ink"


def test_the_dark_look_has_every_colour_and_no_rule_has_one_of_its_own() -> None:
    assert set(colours(DARK)) == set(colours(BRIGHT))
    rules = re.sub(r":root \{.*?\}", "", CSS, flags=re.DOTALL)
    assert re.findall(r"#[0-9a-f]{3,8}\b(?=[;,} ])", rules) == []
    assert "color-scheme: dark" in str(DARK and DARK[1])
