"""A resolved config as YAML that says where each value came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

_COLUMN = 58


def annotated_yaml(values: Mapping[str, Any], origins: Mapping[str, str]) -> list[str]:
    """Lines of YAML, one leaf a line, each followed by its origin as a comment; readable as a config file."""
    return list(_lines(values, origins, prefix="", depth=0))


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
