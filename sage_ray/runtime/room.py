"""Room for what fits on no node now: whether the cluster's autoscaler could ever make it, and what is waited for."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sage_ray.errors import UserError

WAIT_VARIABLE = "SAGE_WAIT_FOR_NODES"
"""Minutes that a study or run on a cluster without an autoscaler waits for a node that can hold it."""
ANSWER_S = 20.0
"""Longest wait for the autoscaler's verdict on what is asked of it; it looks every few seconds."""
LOOK_S = 0.5
_V1_STATUS = b"__autoscaling_status"


@dataclass(frozen=True)
class Awaited:
    """What is waited for, in words, and how long at most (seconds; None: as long as it takes)."""

    what: str
    limit_s: float | None

    @property
    def line(self) -> str:
        """For a person."""
        limit = "" if self.limit_s is None else f", at most {self.limit_s / 60:g} minutes ({WAIT_VARIABLE})"
        return f"waiting for {self.what}{limit}"


def in_words(bundle: Mapping[str, float], workers: int = 1) -> str:
    """A worker's resources as "2 CPUs and 1 GPU on one node", for several workers each."""
    counted = [f"{amount:g} {kind}{'' if amount == 1 else 's'}" for kind, amount in bundle.items() if amount]
    each = f", {workers} times" if workers > 1 else ""
    return f"{' and '.join(counted)} on one node{each}"


def await_room(bundle: Mapping[str, float], workers: int) -> Awaited | None:
    """What may be waited for so that `workers` workers of `bundle` fit on the connected cluster; None: nothing helps.

    An autoscaler is asked for the room, and says whether a kind of node could hold it; one of the older kind says
    nothing of that, and is waited for. Without one the user may have said how long to wait (`SAGE_WAIT_FOR_NODES`).

    Raises:
        UserError: `SAGE_WAIT_FOR_NODES` is no number.
    """
    minutes = _minutes()
    what = in_words(bundle, workers)
    if _autoscaler_could([bundle] * workers):
        return Awaited(what, None)
    ask_for([])
    return Awaited(what, 60 * minutes) if minutes else None


def ask_for(bundles: Sequence[Mapping[str, float]]) -> None:
    """Ask the autoscaler for room for all of these; [] takes the wish back. Without one nothing happens."""
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=[dict(bundle) for bundle in bundles])


def _minutes() -> float:
    text = os.environ.get(WAIT_VARIABLE, "").strip()
    if not text:
        return 0.0
    try:
        minutes = float(text)
    except ValueError:
        minutes = -1.0
    if not 0 <= minutes < float("inf"):
        raise UserError("not a number of minutes", f"{WAIT_VARIABLE}={text}", "give a number, such as 30")
    return minutes


def _autoscaler_could(bundles: Sequence[Mapping[str, float]]) -> bool:
    """Whether the cluster has an autoscaler that could make room for the bundles."""
    if not _status().autoscaling_state.autoscaler_state_version:
        return _old_autoscaler()
    ask_for(bundles)
    asked_at = _status().cluster_resource_state.cluster_resource_state_version
    deadline = time.monotonic() + ANSWER_S
    while time.monotonic() < deadline:
        state = _status().autoscaling_state
        if state.last_seen_cluster_resource_state_version >= asked_at:
            # That of a plain cluster answers too: it cannot start anything.
            return not state.infeasible_cluster_resource_constraints
        time.sleep(LOOK_S)
    return True  # it is busy: what is awaited is shown


def _status() -> Any:
    """What the cluster's state service has of nodes, and what autoscaler v2 says; no public call tells the verdict."""
    import ray
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply  # type: ignore[attr-defined]

    reply = GetClusterStatusReply()
    reply.ParseFromString(GcsClient(ray.get_runtime_context().gcs_address).get_cluster_status(timeout_s=5))
    return reply


def _old_autoscaler() -> bool:
    """Whether autoscaler v1 starts nodes here. That of a plain cluster gives each node a kind of its own."""
    from ray.experimental.internal_kv import _internal_kv_get

    try:
        report = json.loads(_internal_kv_get(_V1_STATUS) or b"{}").get("autoscaler_report", {})
    except ValueError:
        return False
    kinds = (report.get("node_type_mapping") or {}).values()
    return any(not str(kind).startswith("node_") for kind in kinds)
