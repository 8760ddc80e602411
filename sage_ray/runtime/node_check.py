"""The node check: one task per node looks whether a trial could run there, before any does.

Each task is pinned to its node and takes no CPU. What it runs travels as it is, since the package may be missing there.
"""

from __future__ import annotations

import dataclasses
import pickle
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import sage_ray
from sage_ray.config import ExperimentConfig
from sage_ray.record.home import Home
from sage_ray.record.provenance import code_version
from sage_ray.runtime.home_signs import WAIT_S, HomeSigns
from sage_ray.runtime.node_answers import NodeAnswer, NodeQuestion, listing
from sage_ray.runtime.surroundings import shared_places, surroundings_of

TRAINS = "sage_ray.runtime.ray_train"
CHECK_S = 90.0
"""Longest wait for the nodes' answers. One that has not answered by then gets no trial until it has."""
CLOCK_S = 5.0
"""Difference between two clocks that is said: records and MLflow order by time."""
REFUSED = ("package", "version", "home", "data")
"""What ends a study before it begins, on whichever node: Ray would place trials there."""
AVOIDED = ("cuda", "silent")
"""What takes a node out, while the study goes on with the others."""


@dataclass(frozen=True)
class NodeFault:
    """What is wrong with a node, of which kind, and how to mend it. Of kinds in neither list it is only said."""

    kind: str
    what: str
    mend: str


@dataclass(frozen=True)
class NodeReport:
    """One node as the check found it.

    Attributes:
        node_id, name, address: of the node.
        cpus, gpus: as Ray counts them.
        cuda_devices: GPUs that torch sees there; None: it has not answered.
        version, commit: of the package there.
        clock_s: how far its clock is ahead of the driver's; None: not known.
        faults: what is wrong; none of a node that is as it should be.
    """

    node_id: str
    name: str
    address: str
    cpus: float
    gpus: float
    cuda_devices: int | None = None
    version: str | None = None
    commit: str | None = None
    clock_s: float | None = None
    faults: tuple[NodeFault, ...] = ()

    @property
    def place(self) -> str:
        """The node as messages name it."""
        return f"node {self.name} ({self.address})"

    def of(self, kinds: Collection[str]) -> list[NodeFault]:
        """Its faults of some kinds."""
        return [fault for fault in self.faults if fault.kind in kinds]

    def lines(self) -> list[str]:
        """One line per fault: what: where: how to mend."""
        return [f"{fault.what}: {self.place}: {fault.mend}" for fault in self.faults]


class NodeCheck:
    """Asks nodes, and judges what they say.

    Args:
        home: that trials write to.
        configs: of trials; what their data and files are.
        gpu: whether they compute on a GPU; each GPU of a node is then tried.
        imports: the module that a worker needs of the package.
        several: workers on different nodes have to find each other.

    Raises:
        UserError: an address of MLflow is a folder of this machine alone, or the home cannot be written.
    """

    def __init__(
        self,
        home: Home,
        configs: Sequence[ExperimentConfig],
        *,
        gpu: bool,
        imports: str = TRAINS,
        several: bool = True,
    ) -> None:
        self.signs = HomeSigns(shared_places(home))
        self.gpu, self._imports, self._several = gpu, imports, several
        self.surroundings = surroundings_of(home)
        self.question = NodeQuestion(
            token=self.signs.token,
            places={what: str(place) for what, place in self.signs.places.items()},
            wait_s=WAIT_S,
            listings={path: listing(path) for path in _paths(configs, shared=home.in_bucket)},
            surroundings=self.surroundings,
            gpu=gpu,
        )
        self.signs.put()

    def ask(self, node: Mapping[str, Any]) -> Any:
        """Start the check of a node of `ray.nodes()`; returns Ray's reference of its answer."""
        strategy = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
        # A process that has used a GPU ends: it would keep some of its memory.
        gpu = self.gpu and bool(node["Resources"].get("GPU"))
        options: dict[str, Any] = {"max_calls": 1} if gpu else {}
        task = ray.remote(**options)(_question()) if options else ray.remote(_question())
        asked = pickle.dumps(dataclasses.replace(self.question, gpu=gpu))
        pinned = task.options(num_cpus=0, max_retries=0, scheduling_strategy=strategy)
        return pinned.remote(sage_ray.__version__, self._imports, asked, node["NodeID"])

    def judge(self, node: Mapping[str, Any], answer: Any, at: float) -> NodeReport | None:
        """The report of a node that has answered, at Unix time `at`; None if it left meanwhile."""
        try:
            version, place, said = ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            why = " ".join(str(error.cause).split())[:200]
            return report_of(node, faults=(NodeFault("package", f"a worker cannot import sage_ray ({why})", _mend()),))
        except ray.exceptions.RayError:  # the node left meanwhile, or starts no process now: that is no verdict
            return None
        if version != sage_ray.__version__:
            what = f"a worker has sage_ray {version} ({place}), this is {sage_ray.__version__}"
            return report_of(node, version=version, faults=(NodeFault("version", what, _mend()),))
        return self._judge(node, said, at)

    def _judge(self, node: Mapping[str, Any], said: NodeAnswer, at: float) -> NodeReport:
        faults = []
        ours = code_version()[0]
        if ours and said.commit and said.commit != ours:
            what = f"a worker has sage_ray of commit {said.commit[:12]}, this is {ours[:12]}"
            faults.append(NodeFault("version", what, "check out the same commit on that node"))
        if "home" not in said.wrong:
            unread = self.signs.read_back(node["NodeID"])
            if unread is not None:
                said.wrong["home"] = f"{unread}: what the node wrote there is not to be seen here"
        clock = said.ended_at - at
        if abs(clock) > CLOCK_S:
            faults.append(NodeFault("clock", f"clock differs by {clock:+.0f} s", "let both machines keep time (NTP)"))
        if not self._several or _one_machine():
            said.wrong.pop("host", None)
        faults += [NodeFault(kind, what, _HELP[kind]) for kind, what in said.wrong.items()]
        return report_of(
            node,
            cuda_devices=said.cuda_devices,
            version=sage_ray.__version__,
            commit=said.commit,
            clock_s=round(clock, 1),
            faults=tuple(faults),
        )

    def all_nodes(self, wait_s: float = CHECK_S) -> list[NodeReport]:
        """Reports of all nodes that are there now; one that does not answer in time is `silent`."""
        return self.reports([node for node in ray.nodes() if node["Alive"]], wait_s)  # type: ignore[no-untyped-call]

    def reports(self, nodes: Sequence[Mapping[str, Any]], wait_s: float = CHECK_S) -> list[NodeReport]:
        """Reports of some nodes, in their order; one that leaves meanwhile has none."""
        asked = {self.ask(node): index for index, node in enumerate(nodes)}
        waiting, deadline = list(asked), time.monotonic() + wait_s
        found: dict[int, NodeReport | None] = {}
        while waiting:
            done, waiting = ray.wait(waiting, timeout=max(deadline - time.monotonic(), 0.0))
            at = time.time()
            if not done:
                break
            for answer in done:
                found[asked[answer]] = self.judge(nodes[asked[answer]], answer, at)
        for answer in waiting:
            found[asked[answer]] = report_of(nodes[asked[answer]], faults=(silent(wait_s),))
        return [report for _, report in sorted(found.items()) if report is not None]


def silent(wait_s: float) -> NodeFault:
    """The fault of a node that has not answered."""
    return NodeFault("silent", f"did not answer within {wait_s:g} s", "look at its load, memory and Ray's logs there")


def report_of(node: Mapping[str, Any], **more: Any) -> NodeReport:
    """A report with what Ray itself says of the node."""
    resources = node["Resources"]
    return NodeReport(
        node["NodeID"], node["NodeManagerHostname"], node["NodeManagerAddress"],
        resources.get("CPU", 0.0), resources.get("GPU", 0.0), **more,
    )  # fmt: skip


_HELP = {
    "home": "put the home on a disk that all nodes share (NFS, Lustre), at one path, and mount it on that node",
    "data": "put the same data there under the same path, or use a folder that all nodes share",
    "cuda": "mend its driver, or the torch that is installed there",
    "mlflow": "mend the address or that node's network; runs are recorded all the same, `sage-ray sync` sends them",
    "host": "two workers on different nodes would not find each other: set GLOO_SOCKET_IFNAME there to the network's "
    "interface, or name the host in /etc/hosts with the address of the network",
    "files": "put it there under the same path, or let the node use its own",
}


def _one_machine() -> bool:
    """Whether all nodes have one address: a name that leads to the machine itself then leads to all of them."""
    listed: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return len({node["NodeManagerAddress"] for node in listed if node["Alive"]}) == 1


def _mend() -> str:
    return f"install sage_ray {sage_ray.__version__} in the environment that Ray runs in on that node"


def _paths(configs: Sequence[ExperimentConfig], *, shared: bool) -> list[str]:
    """Folders and files that trials read beside what lies in the home; `shared`: the data are in its bucket."""
    found = []
    for config in configs:
        found += [] if shared or config.data.path.startswith("synthetic://") else [config.data.path]
        found += [config.adversarial.perceptual_weights] if config.adversarial.perceptual_weights else []
    return list(dict.fromkeys(found))


def _question() -> Callable[[str, str, bytes, str], tuple[str, str, Any]]:
    """What a worker runs. A local function travels as it is; one of a module would need the package to be there."""

    def answer(version: str, imports: str, asked: bytes, node_id: str) -> tuple[str, str, Any]:
        import importlib
        import pickle

        import sage_ray

        # All that a trial imports; of another version it may be anything, and is asked nothing else.
        place = str(importlib.import_module(imports).__file__)
        if sage_ray.__version__ != version:
            return sage_ray.__version__, place, None
        from sage_ray.runtime.node_answers import examine_node

        return version, place, examine_node(pickle.loads(asked), node_id)

    return answer
