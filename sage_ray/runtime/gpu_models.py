"""Which model of GPU a run goes on on: that which it began on, where one is free."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ACCELERATOR_LABEL = "ray.io/accelerator-type"
"""Ray's label of a node for the model of its GPUs, such as H100."""


@dataclass(frozen=True)
class Preference:
    """What a worker asks of Ray so that it gets its model of GPU, and what to tell where that is not to be had.

    Attributes:
        selector: Ray's label selector; {}: any node will do.
        missed: line for the user if the run may go on on another model, else None.
    """

    selector: dict[str, str]
    missed: str | None = None


def preference(
    run: str, computed_on: Sequence[str], bundle: Mapping[str, float], workers: int, avoid: Collection[str]
) -> Preference:
    """Whether a run can go on on the model of GPU that it was computed on last, in the connected Ray and now.

    Numbers of two models round differently, but to wait for one would leave the others idle, for as long as another
    study may take.

    Args:
        run: its name, for the line.
        computed_on: `RunRecord.computed_on`; empty for a run that has not begun.
        bundle: CPUs and GPUs of one of its workers.
        workers: how many there are.
        avoid: ids of nodes that get no worker.
    """
    if not computed_on or not bundle.get("GPU"):
        return Preference({})
    from ray._private.state import available_resources_per_node

    wanted = computed_on[-1].rsplit(", torch", 1)[0]
    models = {node: model for node, model in _models().items() if node not in avoid}
    if not models or all(is_model(model, wanted) for model in models.values()):
        return Preference({})
    free: dict[str, dict[str, float]] = available_resources_per_node()  # type: ignore[no-untyped-call]
    for label in dict.fromkeys(model for model in models.values() if is_model(model, wanted)):
        nodes = [free.get(node, {}) for node, model in models.items() if model == label]
        if sum(_room(node, bundle) for node in nodes) >= workers:
            return Preference({ACCELERATOR_LABEL: label})
    others = " or ".join(sorted({model for model in models.values() if not is_model(model, wanted)}))
    text = f"{run} began on {wanted}, of which none is free: it may go on on {others}, which rounds differently"
    return Preference({}, text)


def is_model(label: str, name: str) -> bool:
    """Whether Ray's label of a model of GPU ("H100") is of the GPU that torch names so ("NVIDIA H100 80GB HBM3")."""
    return set(_words(label)) <= set(_words(name))


def _words(name: str) -> list[str]:
    return re.split(r"[\s-]+", name.strip().lower())


def _models() -> dict[str, str]:
    """Model of GPU of each node that is alive and has one, by Ray's name of the node."""
    import ray

    listed: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    labels = {node["NodeID"]: node.get("Labels", {}).get(ACCELERATOR_LABEL) for node in listed if node["Alive"]}
    return {node: label for node, label in labels.items() if label}


def _room(free: Mapping[str, float], bundle: Mapping[str, float]) -> int:
    """Workers that fit into what is free on a node."""
    return int(min(free.get(kind, 0.0) / amount for kind, amount in bundle.items() if amount) + 1e-6)
