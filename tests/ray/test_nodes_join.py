"""A machine that joins the cluster of a running study gets trials; logical GPUs are shared out by Ray itself."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sweep_cases import write_space

from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.search.driver import sweep
from sage_ray.study.space import load_space

pytestmark = pytest.mark.ray


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A cluster of one node with one CPU, connected; others can be added."""
    import ray
    from ray.cluster_utils import Cluster

    from sage_ray.search.ray_session import environment

    with environment():
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
        GROWING[:] = [made]
        try:
            yield made
        finally:
            GROWING.clear()
            ray.shutdown()
            made.shutdown()


GROWING: list[Any] = []
"""The cluster. No part of the watch: Tune pickles what a study tells its progress to."""


class Watch:
    """Adds a node a while after the first trial began, and keeps the most trials seen running at a time."""

    def __init__(self) -> None:
        self.before = self.after = 0
        self.lines: list[str] = []
        self._began, self._joined = 0.0, False

    def update(self, status: Any) -> None:
        if self._joined:
            self.after = max(self.after, status.running)
            return
        self.before = max(self.before, status.running)
        self._began = self._began or (time.monotonic() if status.running else 0.0)
        # Long enough for a second trial to be asked for, if it were.
        if self._began and time.monotonic() - self._began > 3:
            GROWING[0].add_node(num_cpus=1)
            self._joined = True

    def line(self, text: str) -> None:
        self.lines.append(text)


def test_a_node_that_joins_gets_a_trial(cluster: Any, tmp_path: Path) -> None:
    dimension = {"adversarial.lambda_cycle": {"float": [0.5, 2.0]}}
    base = {"adversarial.epochs": 20}
    path = write_space(tmp_path, base=base, space=dimension, trials=3, concurrency="auto")
    watch = Watch()
    status = sweep(load_space(path), Home(tmp_path / "home"), watch=watch)
    assert status.done == 3 and status.state == "finished"
    assert watch.lines[1] == "trials on CPU, 1 thread, fp32; 1 trial at once"
    assert (watch.before, watch.after) == (1, 2)


def test_gpus_that_torch_cannot_use_leave_trials_on_the_cpu(tmp_path: Path) -> None:
    """`ray start --num-gpus` counts GPUs that need not be there, or not for the torch that is installed."""
    import ray

    from sage_ray.runtime.devices import ray_machines
    from sage_ray.search.placement import placed
    from sage_ray.search.ray_session import environment

    if os.path.exists("/dev/nvidiactl"):
        pytest.skip("this machine has GPUs")
    with environment():
        ray.init(address="local", num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False)
    try:
        machines = ray_machines()
        assert (machines.cpus, machines.gpus, machines.gpu) == (4, 2, None)
        spec, placement = placed(load_space(write_space(tmp_path, concurrency="auto")), machines)
        assert placement.device == "cpu" and placement.trials_at_once == 4
        assert "2 GPUs of the Ray cluster cannot be used" in placement.warnings[0]
        by_number = load_space(write_space(tmp_path, resources={"gpu": 1}))
        with pytest.raises(UserError, match="2 GPUs of the Ray cluster cannot be used"):
            sweep(by_number, Home(tmp_path / "home"))
        spec, placement = placed(by_number, replace(machines, gpu="NVIDIA H100"))
        assert (placement.device, placement.trials_at_once) == ("cuda", 2)
    finally:
        ray.shutdown()
