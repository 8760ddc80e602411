"""Lines of metrics.jsonl: what an epoch says, as JSON that any reader takes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

# They tell when and how an epoch came about, not what it scored.
_CIRCUMSTANCES = frozenset({"time_ms", "seconds", "replayed"})


def scores_of(line: Mapping[str, Any]) -> dict[str, Any]:
    """What a line says of the epoch's scores."""
    return {key: value for key, value in line.items() if key not in _CIRCUMSTANCES}


def parse_lines(content: bytes) -> list[dict[str, Any]]:
    """The complete lines, in epoch order, up to the first that is damaged."""
    lines: list[dict[str, Any]] = []
    for raw in content.split(b"\n")[:-1]:  # what follows the last newline is not complete
        try:
            line = json.loads(raw)
            epoch = line["epoch"]
        except (ValueError, KeyError, TypeError):
            break
        if lines and epoch <= lines[-1]["epoch"]:
            break
        lines.append(line)
    return lines


def dump_lines(lines: Sequence[Mapping[str, Any]]) -> bytes:
    """The lines as bytes of a file."""
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def finite(value: Any) -> Any:
    """The value with null for inf and nan, which JSON has not: a reader in another language would choke on them."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, bool) or value is None or isinstance(value, str | int):
        return value
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
