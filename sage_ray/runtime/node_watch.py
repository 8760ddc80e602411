"""The nodes of a study: which of them may get trials, which join, and which are avoided because of a fault."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import ray

from sage_ray.errors import UserError
from sage_ray.runtime.devices import Node
from sage_ray.runtime.node_check import AVOIDED, CHECK_S, REFUSED, NodeCheck, NodeFault, NodeReport, report_of, silent

LOOK_S = 2.0
NODE_LABEL = "ray.io/node-id"
"""Label by which Ray knows a node; a selector with `!in(...)` keeps a trial away from nodes."""


HEAD = "node:__internal_head__"
"""Resource that the head node of every cluster has."""


class NodeWatch:
    """Knows the nodes of the connected Ray that may get trials.

    Args:
        check: asks a node whether a trial could run there; None: this process's own Ray, where nothing is asked.
        could_get: whether a node is big enough for a trial.
        say: told one line for each node that is left out, or joins.
        head: the head node gets something too, however small it is: what waits for the workers of a trial.
    """

    def __init__(
        self,
        check: NodeCheck | None,
        could_get: Callable[[Node], bool],
        say: Callable[[str], None],
        *,
        head: bool = False,
    ) -> None:
        self.check, self._could_get, self._say, self._head = check, could_get, say, head
        self._alive: dict[str, Mapping[str, Any]] = {}
        self._good: set[str] = set()
        self._bad: dict[str, str] = {}
        """Reason by node that is avoided."""
        self._asked: dict[str, tuple[Any, float]] = {}
        self._looked = -math.inf

    def begin(self) -> None:
        """Check the nodes that are there.

        Raises:
            UserError: home, package, version or data are not right on one of them, or none is left for a trial.
        """
        self._see()
        if self.check is None:
            return
        asked = [node for node in self._alive.values() if self._concerned(node)]
        reports = self.check.reports(asked)
        for report in reports:
            self._refuse(report)
        for report in reports:
            self._settle(report, joins=False)
        if asked and not self._good:
            raise UserError("no node can run a trial", "; ".join(self.reasons()), "mend one of them, or add another")

    def _refuse(self, report: NodeReport) -> None:
        for fault in report.of(REFUSED):
            raise UserError(fault.what, report.place, fault.mend)

    def look(self) -> None:
        """See who has joined, left or answered; at most every `LOOK_S` seconds."""
        if time.monotonic() - self._looked < LOOK_S:
            return
        self._see()
        if self.check is None:
            return
        for node_id, node in self._alive.items():
            known = node_id in self._good or node_id in self._bad or node_id in self._asked
            if not known and self._concerned(node):
                self._asked[node_id] = (self.check.ask(node), time.monotonic())
        self._hear(self.check)

    def _hear(self, check: NodeCheck) -> None:
        """Take the answers that are here of nodes that have joined."""
        for node_id, (answer, since) in list(self._asked.items()):
            if node_id not in self._alive:
                del self._asked[node_id]
                continue
            done, _ = ray.wait([answer], timeout=0)
            if done:
                del self._asked[node_id]
                report = check.judge(self._alive[node_id], answer, time.time())
                if report is not None:
                    self._settle(report, joins=True)
            elif node_id not in self._bad and time.monotonic() - since > CHECK_S:
                # It still may answer, and is used from then on.
                self._avoid(report_of(self._alive[node_id]), silent(CHECK_S))

    def _settle(self, report: NodeReport, *, joins: bool) -> None:
        wrong = report.of((*REFUSED, *AVOIDED))
        if wrong:
            self._avoid(report, wrong[0])
            return
        self._bad.pop(report.node_id, None)
        self._good.add(report.node_id)
        for line in report.lines():
            self._say(f"warning: {line}")
        if joins:
            self._say(f"{report.place} has joined and is used")

    def _avoid(self, report: NodeReport, fault: NodeFault) -> None:
        self._good.discard(report.node_id)
        self._bad[report.node_id] = f"{report.place}: {fault.what}"
        self._say(f"{fault.what}: {report.place} is left out: {fault.mend}")

    def _concerned(self, listed: Mapping[str, Any]) -> bool:
        return self._could_get(_node(listed)) or (self._head and HEAD in listed["Resources"])

    def _see(self) -> None:
        self._looked = time.monotonic()
        listed: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        self._alive = {node["NodeID"]: node for node in listed if node["Alive"]}
        if self.check is None:
            self._good = set(self._alive) - set(self._bad)

    def usable(self) -> tuple[Node, ...]:
        """The nodes that may get trials now, and are big enough for one."""
        self.look()
        nodes = [_node(self._alive[node_id]) for node_id in sorted(self._good) if node_id in self._alive]
        return tuple(node for node in nodes if self._could_get(node))

    def avoided(self) -> tuple[str, ...]:
        """Ids of the nodes that are here and shall get no trial: with a fault, or not checked yet."""
        self.look()
        return tuple(sorted(node_id for node_id in self._alive if node_id in self._bad or node_id in self._asked))

    def selector(self) -> dict[str, str]:
        """Ray's label selector that keeps a worker away from the avoided nodes; {} if there are none."""
        return selector_without(self.avoided())

    def blame(self, node_id: str, reason: str) -> None:
        """Leave a node out from now on."""
        if node_id in self._bad:
            return
        self._see()
        node = self._alive.get(node_id)
        place = report_of(node).place if node is not None else f"node {node_id[:12]}"
        self._good.discard(node_id)
        self._bad[node_id] = f"{place}: {reason}"
        self._say(f"{place} is left out of this study: {reason}; its trials go elsewhere")

    def forgive(self, node_id: str) -> None:
        """Use a node again that was blamed."""
        if self._bad.pop(node_id, None) is not None and node_id in self._alive:
            self._good.add(node_id)

    def exhausted(self) -> bool:
        """Whether every node that is here and big enough has a fault."""
        self._see()
        fit = [node_id for node_id, node in self._alive.items() if self._could_get(_node(node))]
        return bool(self._bad) and all(node_id in self._bad for node_id in fit)

    def reasons(self) -> list[str]:
        """Why nodes are left out, one text per node."""
        return list(self._bad.values())

    def close(self) -> None:
        """Remove what the check has left in the home."""
        if self.check is not None:
            self.check.signs.clear()


def _node(listed: Mapping[str, Any]) -> Node:
    resources = listed["Resources"]
    return Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0))


def selector_without(node_ids: Collection[str]) -> dict[str, str]:
    """Ray's label selector that keeps a worker away from some nodes; {} if there are none."""
    return {NODE_LABEL: f"!in({','.join(node_ids)})"} if node_ids else {}
