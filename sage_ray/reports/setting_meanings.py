"""What the settings are that a page names, as their docstrings say it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sage_ray.config import ExperimentConfig
from sage_ray.reports.page_parts import Bullets, Paragraph, Part
from sage_ray.section_base import meaning_of

MOST_EXPLAINED = 24


def setting_meaning(path: str) -> str:
    """What the setting at a dotted path does; "" if a config has no such setting."""
    *sections, last = path.split(".")
    model: type[BaseModel] = ExperimentConfig
    for section in sections:
        info = _field(model, section)
        held: Any = info.annotation if info is not None else None
        if not (isinstance(held, type) and issubclass(held, BaseModel)):
            return ""
        model = held
    found = _field(model, last)
    return meaning_of(found)[0] if found is not None else ""


def _field(model: type[BaseModel], key: str) -> FieldInfo | None:
    return next((info for name, info in model.model_fields.items() if (info.alias or name) == key), None)


def meanings(paths: Iterable[str]) -> list[Part]:
    """A line for each setting that has a meaning; [] if none has."""
    told = {path: setting_meaning(path) for path in dict.fromkeys(paths)}
    lines = [f"`{path}`: {meaning}" for path, meaning in told.items() if meaning]
    if not lines:
        return []
    more = len(lines) - MOST_EXPLAINED
    if more > 0:
        lines = [*lines[:MOST_EXPLAINED], f"{more} more: `sage-ray config show --explain PATH` explains each."]
    return [Paragraph("What these settings are:"), Bullets(lines)]
