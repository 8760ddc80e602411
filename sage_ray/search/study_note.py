"""What a study says of itself in Optuna's storage, for those who look at it in Optuna's dashboard."""

from __future__ import annotations

import json
from typing import Any

from sage_ray.metrics.definitions import DEVICE_SECONDS
from sage_ray.study.dimension import Dimension
from sage_ray.study.file_schema import ObjectivePart
from sage_ray.study.spec import StudySpec

NOTE_CHARS = 2045
"""Characters of one attribute of a note, as optuna-dashboard 0.21 stores it."""
NOTE_VERSION, NOTE_PART = "note_ver", "note_str:"
OURS = 1
"""Version of a note that nobody has edited: each change in the dashboard counts it up."""
_REDUCTIONS = {
    "plateau": "median of the last fifth of the epochs of the last phase",
    "last": "last epoch",
    "best": "best epoch of the last phase",
}


def metric_names(spec: StudySpec) -> list[str]:
    """The names of a study's objectives, in Optuna's order."""
    return [part.metric for part in spec.objectives]


def study_note(spec: StudySpec) -> str:
    """Markdown on a study: what it runs, how a trial is judged, and what is searched or compared."""
    repeats = len(spec.seeds_and_folds()) if spec.kind == "sweep" else 1
    runs = f"{repeats} runs each" if repeats > 1 else "one run each"
    lines = [f"{spec.kind.capitalize()} **{spec.name}**: {spec.trials} trials, {runs}.", ""]
    lines += [f"- Objective: {_objective(part, repeats)}." for part in spec.objectives]
    lines += [f"- {line[:1].upper()}{line[1:]}." for line in spec.details() if not line.startswith("two objectives")]
    if spec.dimensions:
        lines += ["", "| Searched | Values |", "|---|---|"]
        lines += [f"| `{dimension.path}` | {_values(dimension)} |" for dimension in spec.dimensions]
    return "\n".join(lines)


def note_attributes(text: str, prefix: str = "dashboard:") -> dict[str, Any]:
    """The attributes of a study that hold a note, as the dashboard finds it; `prefix` names what it is on."""
    parts = [text[start : start + NOTE_CHARS] for start in range(0, len(text), NOTE_CHARS)]
    attrs: dict[str, Any] = {f"{prefix}{NOTE_PART}{index}": part for index, part in enumerate(parts)}
    return {f"{prefix}{NOTE_VERSION}": OURS, **attrs}


def _objective(part: ObjectivePart, repeats: int) -> str:
    better = "higher is better" if part.maximize else "lower is better"
    if part.metric == DEVICE_SECONDS:
        return f"`{part.metric}` ({better}), what training takes as if nothing had been reused"
    mean = f", mean of {repeats} runs" if repeats > 1 else ""
    return f"`{part.metric}` ({better}), {_REDUCTIONS[part.reduce]}{mean}"


def _values(dimension: Dimension) -> str:
    if dimension.kind == "tie":
        text = "follows from others"
    elif dimension.kind == "categorical":
        text = ", ".join(str(dimension.encode(choice)) for choice in dimension.choices)
    else:
        step = f", in steps of {dimension.step:g}" if dimension.step else ""
        text = f"{dimension.low:g} to {dimension.high:g}{step}{', on a log scale' if dimension.log else ''}"
    when = [f"{path} is {' or '.join(map(json.dumps, values))}" for path, values in dimension.when.items()]
    return (f"{text}, where {' and '.join(when)}" if when else text).replace("|", "\\|")
