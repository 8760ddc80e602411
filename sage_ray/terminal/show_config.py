"""A resolved config as YAML that says where each value came from, and what a setting of it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import yaml

from sage_ray.terminal.shell import Answer

if TYPE_CHECKING:
    from sage_ray.config import Resolved

_COLUMN = 58


def annotated_yaml(values: Mapping[str, Any], origins: Mapping[str, str]) -> list[str]:
    """Lines of YAML, one leaf a line, each followed by its origin as a comment; readable as a config file."""
    return list(_lines(values, origins, prefix="", depth=0))


def explanation(path: str, resolved: Resolved) -> Answer:
    """What a setting, or each setting of a section, is, with its value in a config.

    Raises:
        UserError: there is no such setting; the nearest names are given.
    """
    from sage_ray.terminal.setting_reference import explain, explained, section_lines

    rows = explain(path)
    lines = section_lines(path.strip().rstrip("."))
    here = []
    for row in rows:
        lines += explained(row)
        fields = asdict(row)
        if row.kind == "config":
            fields |= {"value": resolved.config.get(row.path), "origin": resolved.origins[row.path]}
            lines += [f"  here: {_scalar(fields['value'])} ({fields['origin']})"] if _is_chosen(fields) else []
        here.append(fields)
        lines += [""] if row is not rows[-1] else []
    return Answer(lines, {"settings": here})


def _is_chosen(fields: Mapping[str, Any]) -> bool:
    """Whether a value was given by the user, and not by the default config."""
    return fields["origin"] not in ("default", "preset sage_gan_paper")


def _lines(tree: Mapping[str, Any], origins: Mapping[str, str], prefix: str, depth: int) -> Iterator[str]:
    indent = "  " * depth
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield f"{indent}{key}:"
            yield from _lines(value, origins, f"{path}.", depth + 1)
            continue
        text = f"{indent}{key}: {_scalar(value)}"
        yield f"{text:<{_COLUMN}}  # {origins.get(path, 'default')}"


def _scalar(value: Any) -> str:
    if isinstance(value, float):
        # PyYAML writes 1e-04 for small numbers, which YAML 1.1 reads back as text unless it has a point.
        text = repr(value)
        return text if "e" not in text or "." in text else text.replace("e", ".0e")
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...").strip()
