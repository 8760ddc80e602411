"""A run goes on on the model of GPU that it began on; Ray is told of GPUs that are none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from sage_ray.runtime.gpu_models import ACCELERATOR_LABEL, Preference, preference
from sage_ray.runtime.ray_cluster import disconnect

pytestmark = pytest.mark.ray

BUNDLE = {"CPU": 1.0, "GPU": 1.0}
H100, A100 = ["NVIDIA A100-SXM4-40GB, torch 2.13.0", "NVIDIA H100 80GB HBM3, torch 2.13.0"], ["Tesla T4, torch 2.13.0"]


@pytest.fixture(scope="module")
def two_models() -> Iterator[dict[str, str]]:
    """Ray's names of two nodes, by the model of their one GPU."""
    disconnect()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    for model in ("H100", "A100"):
        cluster.add_node(num_cpus=1, num_gpus=1, labels={ACCELERATOR_LABEL: model})
    cluster.wait_for_nodes()
    listed: list[dict[str, Any]] = ray.nodes()
    yield {node["Labels"][ACCELERATOR_LABEL]: node["NodeID"] for node in listed if ACCELERATOR_LABEL in node["Labels"]}
    ray.shutdown()
    cluster.shutdown()


def where() -> str:
    return str(ray.get_runtime_context().get_node_id())


@ray.remote(num_cpus=1, num_gpus=1, label_selector={ACCELERATOR_LABEL: "H100"})
class Holder:
    """Holds the H100."""

    def where(self) -> str:
        return where()


def test_a_run_gets_its_model_while_one_is_free(two_models: dict[str, str]) -> None:
    """Fails too if a later Ray has other labels, or tells otherwise what is free."""
    wish = preference("r", H100, BUNDLE, 1, ())
    assert wish == Preference({ACCELERATOR_LABEL: "H100"})
    task: Any = ray.remote(where)
    for _ in range(2):
        found = task.options(num_cpus=1, num_gpus=1, label_selector=wish.selector).remote()
        assert ray.get(found, timeout=60) == two_models["H100"]
    assert preference("r", H100, BUNDLE, 2, ()).missed is not None, "two workers do not fit on it"
    assert preference("r", A100, BUNDLE, 1, ()).missed is not None, "a model that is not there"
    assert preference("r", H100, BUNDLE, 1, (two_models["H100"],)).selector == {}, "its node has a fault"
    assert preference("r", H100, BUNDLE, 1, (two_models["A100"],)) == Preference({}), "there is no other model"
    holder: Any = Holder.remote()
    assert ray.get(holder.where.remote(), timeout=60) == two_models["H100"]
    deadline = time.monotonic() + 30
    while not (taken := preference("trial 3", H100, BUNDLE, 1, ())).missed and time.monotonic() < deadline:
        time.sleep(0.1)
    assert taken.selector == {} and taken.missed == (
        "trial 3 began on NVIDIA H100 80GB HBM3, of which none is free: it may go on on A100, which rounds differently"
    )
