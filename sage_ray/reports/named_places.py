"""Pages name no folder of the machine that made them: a path is told from the home on, or by its last name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from sage_ray.record.home import Home

T = TypeVar("T")
ABSOLUTE = re.compile(r"(?<![\w:/.~>-])(?:/[\w.+@-]*[\w+@-]){2,}/?")
"""A path from the root of at least two names; addresses (s3://..., https://...) and relative paths are none."""


def without_places(value: T, home: Home) -> T:
    """The same page, or part of one: what lies in the home begins with HOME, of other absolute paths the end is left.

    Paths that a user has typed relative to a folder stay as they are.
    """
    found: T = _walked(value, tuple(dict.fromkeys((str(home.path.absolute()), str(home.path.resolve())))))
    return found


def told_place(text: str, homes: Sequence[str] = ()) -> str:
    """A text with its absolute paths told without their folders; `homes` are the places that are called HOME."""
    if "/" not in text:
        return text
    for place in homes:
        text = re.sub(rf"(?<![\w/.-]){re.escape(place)}(?![\w.-]*[\w-])", "HOME", text)
    return ABSOLUTE.sub(lambda found: f".../{found[0].rstrip('/').rsplit('/', 1)[-1]}", text)


def _walked(value: Any, homes: Sequence[str]) -> Any:
    if isinstance(value, str):
        return told_place(value, homes)
    if is_dataclass(value) and not isinstance(value, type):
        # An SVG has paths and addresses of its own, which are no places.
        kept = {field.name: getattr(value, field.name) for field in fields(value) if field.name != "svg"}
        return replace(value, **{name: _walked(each, homes) for name, each in kept.items()})
    if isinstance(value, Mapping):
        return {key: _walked(each, homes) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_walked(each, homes) for each in value)
    return value
