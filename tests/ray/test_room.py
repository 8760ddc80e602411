"""Trials that fit on no node now: refused in one line, or waited for where nodes may come, and shown as such."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from node_cases import ClusterOfProcesses
from sweep_cases import ended, start, wait_until, write_space

from sage_ray.record.home import Home
from sage_ray.search.study_status import status

pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.timeout(900)]

QUICK = {"pretrain.epochs": 1, "adversarial.epochs": 2}
GOOD = {"adversarial.lambda_cycle": {"float": [0.5, 2.0]}}
HEAD_ID = "f" * 51 + "00000"
LISTS = ("setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray", "initialization")


def test_two_cpu_trials_on_one_cpu_nodes(
    nodes: ClusterOfProcesses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an autoscaler they are refused, unless the user says how long to wait for a node."""
    nodes.head(1)
    nodes.add(1)
    nodes.wait_for(2)
    home = Home(tmp_path / "home")
    path = write_space(tmp_path, QUICK, trials=1, space=GOOD, resources={"cpu": 2}, concurrency="auto")
    code, _, said = ended(start("sweep", str(path), "--home", str(home.path), "--json"))
    last = said.strip().splitlines()[-1]
    assert code == 2 and last.startswith("2-CPU trial on 1-CPU nodes: ") and "SAGE_WAIT_FOR_NODES" in last, said
    sets = ["--set", "runtime.cpus_per_worker=2", "--set", "runtime.workers=2"]
    code, _, said = ended(start("train", "--preset", "tiny_unet", *sets, "--home", str(home.path), "--json"))
    assert code == 2 and "CPU" in said.strip().splitlines()[-1], said
    monkeypatch.setenv("SAGE_WAIT_FOR_NODES", "10")
    study = start("sweep", str(path), "--home", str(home.path), "--json")
    wait_until(lambda: home.study_names() and status("tiny", home).awaits, study)
    shown = status("tiny", home)
    assert shown.awaits == "2 CPUs on one node" and (shown.running, shown.state) == (0, "running")
    nodes.add(2)
    code, found, said = ended(study)
    assert code == 0 and found["done"] == 1 and found["awaits"] is None, said
    assert "waiting for 2 CPUs on one node, at most 10 minutes" in said and "has joined and is used" in said


def test_scaling_from_no_worker_at_all(nodes: ClusterOfProcesses, tmp_path: Path) -> None:
    """The head has no CPU; the autoscaler has a kind of node with two. Three are more than it could ever have."""
    provider = {"type": "external", "module": "autoscaler_provider.ProcessNodes", "head": HEAD_ID}
    provider |= {"gcs": nodes.address, "disable_node_updaters": True, "launch_multiple": True}
    provider |= {"disable_launch_config_check": True}
    kinds = {
        "head": {"resources": {"CPU": 0}, "max_workers": 0, "node_config": {}},
        "two": {"resources": {"CPU": 2}, "min_workers": 0, "max_workers": 1, "node_config": {}},
    }
    config = {"cluster_name": "test", "max_workers": 1, "idle_timeout_minutes": 5, "provider": provider, "auth": {}}
    config |= {"available_node_types": kinds, "head_node_type": "head", "file_mounts": {}}
    config |= {f"{name}_commands": [] for name in LISTS}
    config |= {name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")}
    config |= {"file_mounts_sync_continuously": False, "upscaling_speed": 1.0}
    file = tmp_path / "autoscaler.json"
    file.write_text(json.dumps(config))
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    named = {"RAY_CLOUD_INSTANCE_ID": HEAD_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID, "PYTHONPATH": paths}
    named |= {"RAY_enable_autoscaler_v2": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    nodes.head(0, f"--autoscaling-config={file}", **named)
    nodes.wait_for(1)
    home = Home(tmp_path / "home")
    path = write_space(tmp_path, QUICK, trials=1, space=GOOD, resources={"cpu": 3}, concurrency="auto", name="three")
    code, _, said = ended(start("sweep", str(path), "--home", str(home.path), "--json"))
    assert code == 2 and "CPU" in said.strip().splitlines()[-1] and "3 CPUs" in said, said
    path = write_space(tmp_path, QUICK, trials=2, space=GOOD, resources={"cpu": 2}, concurrency="auto")
    code, found, said = ended(start("sweep", str(path), "--home", str(home.path), "--json"))
    assert code == 0 and found["done"] == 2, said
    # The node may have joined before the driver comes to wait for it.
    assert "none fits now, 2 CPUs on one node is awaited" in said, said
    assert ("waiting for 2 CPUs on one node" in said) == ("has joined and is used" in said), said
