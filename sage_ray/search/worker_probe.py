"""A look at the workers before the first draw: does each node have this package, in this version?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import sage_ray
from sage_ray.errors import UserError

PROBE_S = 60.0
"""Longest wait for the workers' answers. A node that does not answer in time is left to Ray."""


def probe_workers() -> None:
    """Ask a worker of each node for the version that it imports.

    Raises:
        UserError: a node lacks the package or has another version, and every trial there would fail.
    """
    nodes = {node["NodeID"]: _name(node) for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]
    asked = {_ask(node_id): node_id for node_id in nodes}
    done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=PROBE_S)
    for answer in done:
        _check(answer, nodes[asked[answer]])


def _check(answer: Any, node: str) -> None:
    try:
        version, place = ray.get(answer)
    except ray.exceptions.RayTaskError as error:
        why = " ".join(str(error.cause).split())[:200]
        raise UserError(f"a worker cannot import sage_ray ({why})", node, _mend()) from None
    except ray.exceptions.RayError:  # the node left meanwhile, or starts no process now: what Ray retries is no verdict
        return
    if version != sage_ray.__version__:
        raise UserError(f"a worker has sage_ray {version} ({place}), this is {sage_ray.__version__}", node, _mend())


def _mend() -> str:
    return f"install sage_ray {sage_ray.__version__} in the environment that Ray runs in on that node"


def _ask(node_id: str) -> Any:
    strategy = NodeAffinitySchedulingStrategy(node_id=node_id, soft=False)
    return ray.remote(_question()).options(num_cpus=0, scheduling_strategy=strategy).remote()


def _question() -> Callable[[], tuple[str, str]]:
    """What a worker runs. A local function travels as it is; one of a module would need the package to be there."""

    def answer() -> tuple[str, str]:
        import sage_ray
        import sage_ray.search.trainable as trainable  # all that a trial imports

        return sage_ray.__version__, str(trainable.__file__)

    return answer


def _name(node: dict[str, Any]) -> str:
    return f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
