"""Texts as they can stand in markdown: `code` and **bold** stay, what else would be markup is shown as written."""

from __future__ import annotations

import re

_CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)", re.DOTALL)
_BOLD = re.compile(r"\*\*(?=\S)[^*]+?(?<=\S)\*\*")
_PUNCTUATION = r"""!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~"""
_MARKS = re.compile(
    rf"(?P<slash>\\(?=[{_PUNCTUATION}]))"  # would hide itself, and show what follows as it is
    r"|(?P<star>\*+(?=\S)|(?<=\S)\*+)"  # emphasis; a star between blanks is none
    r"|(?P<line>(?<!\w)_+(?=\S)|(?<=\S)_+(?!\w))"  # emphasis; within a name it is none
    r"|(?P<other>`|~(?=~)|(?<=~)~|\$|\](?=[(\[]))"  # code, struck out, formulas, links
)
_TAG, _ENTITY = re.compile(r"<(?=[A-Za-z/!?])"), re.compile(r"&(?=#?\w+;)")


def markdown_text(text: str) -> str:
    """The text with its `code` and **bold** as markup, all else as it is written; `sage_ray.reports` reads it alike."""
    made, place = [], 0
    for code in _CODE.finditer(text):
        made += [_without_code(text[place : code.start()]), code[0]]
        place = code.end()
    return "".join([*made, _without_code(text[place:])])


def markdown_cell(text: str) -> str:
    """The text as it can stand in a cell of a markdown table: as `markdown_text`, on one line, bars escaped."""
    return " ".join(markdown_text(text).replace("|", "\\|").split())


def _without_code(text: str) -> str:
    made, place = [], 0
    for bold in _BOLD.finditer(text):
        made += [_plain(text[place : bold.start()]), f"**{_plain(bold[0][2:-2])}**"]
        place = bold.end()
    return "".join([*made, _plain(text[place:])])


def _plain(text: str) -> str:
    escaped = _MARKS.sub(lambda found: "".join(f"\\{character}" for character in found[0]), text)
    return _TAG.sub("&lt;", _ENTITY.sub("&amp;", escaped))
