"""Nodes of a cluster that cannot run a trial: named before the study, left out while it goes on, nothing is lost."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest
from machine_cases import need_own_disks
from node_cases import BREAKS, ClusterOfProcesses
from sweep_cases import ended, start, wait_until, write_space

from sage_ray.record.home import Home
from sage_ray.search.best import best
from sage_ray.search.storage import read_rows
from sage_ray.search.study_status import status

pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.timeout(900)]

QUICK = {"pretrain.epochs": 1, "adversarial.epochs": 2}
GOOD = {"adversarial.lambda_cycle": {"float": [0.5, 2.0]}}


def files_with(folder: Path, text: bytes) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text in path.read_bytes()]


def test_a_home_on_the_disk_of_the_head_alone(
    nodes: ClusterOfProcesses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second node has another disk at the home's path: no study begins, and the check names the node."""
    need_own_disks()
    home = Home(tmp_path / "home")
    home.path.mkdir()
    database = tmp_path / "shared" / "runs.db"
    database.parent.mkdir()
    # What nodes have of their own does not count: runs go where the driver's go.
    node_has = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/nodes-own.db", "MLFLOW_EXPERIMENT_NAME": "of-the-node"}
    nodes.head(1, **node_has)
    other = nodes.add(1, own_disk=home.path, **node_has)
    nodes.wait_for(2)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "never-to-be-written")
    code, found, said = ended(start("doctor", "--cluster", "--home", str(home.path), "--json"))
    assert code == 1 and [node["ok"] for node in found["nodes"]].count(False) == 1, said
    assert "another disk lies at" in said and said.count("WRONG") == 1
    path = write_space(tmp_path, QUICK, trials=2, space=GOOD, concurrency="auto")
    code, _, said = ended(start("sweep", str(path), "--home", str(home.path), "--json"))
    last = said.strip().splitlines()[-1]
    assert code == 2 and "home is not the driver's: another disk lies at" in last and "node " in last, said
    assert not home.run_ids() and status("tiny", home).trials == ()
    nodes.end(other)
    code, found, said = ended(start("resume", "tiny", "--home", str(home.path), "--json"))
    assert code == 0 and found["done"] == 2, said
    with sqlite3.connect(database) as store:
        sent = {run for (run,) in store.execute("select value from tags where key = 'sage.run_id'")}
        experiments = {name for (name,) in store.execute("select name from experiments")}
    assert set(home.run_ids()) <= sent and "of-the-node" not in experiments
    assert not (home.path / "mlflow.db").exists() and not (tmp_path / "nodes-own.db").exists()
    for folder in (home.path, nodes.temp):
        assert not files_with(folder, b"never-to-be-written"), "a secret is in no file of the home or of Ray"
    assert not (home.path / ".nodes").exists()


def test_a_node_that_breaks_is_left_out_and_its_trials_go_elsewhere(nodes: ClusterOfProcesses, tmp_path: Path) -> None:
    """A library of one node is broken, which its check does not meet: what is trained there fails."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(f"MODULE = 'sympy'\n{BREAKS}")
    paths = os.pathsep.join(filter(None, [str(broken), os.environ.get("PYTHONPATH", "")]))
    nodes.head(1)
    nodes.add(1, PYTHONPATH=paths)
    nodes.wait_for(2)
    home = Home(tmp_path / "home")
    path = write_space(tmp_path, QUICK, trials=4, space=GOOD, concurrency="auto")
    code, found, said = ended(start("sweep", str(path), "--home", str(home.path), "--json"))
    assert code == 0 and (found["done"], found["failed"]) == (4, 0), said
    assert said.count("is left out of this study") == 1 and "cannot open shared object file" in said
    assert all(row.stalls == 0 for row in read_rows(home.studies / "tiny", "tiny"))
    assert best("tiny", home).trial in range(4)


def test_no_node_left_stops_the_study_which_goes_on_later(nodes: ClusterOfProcesses, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(f"MODULE = 'sympy'\n{BREAKS}")
    paths = os.pathsep.join(filter(None, [str(broken), os.environ.get("PYTHONPATH", "")]))
    nodes.head(0)
    bad = nodes.add(1, PYTHONPATH=paths)
    nodes.wait_for(2)
    home = Home(tmp_path / "home")
    path = write_space(tmp_path, QUICK, trials=2, space=GOOD, concurrency="auto")
    code, _, said = ended(start("sweep", str(path), "--home", str(home.path), "--json"))
    assert code == 1 and "no node is left for trials" in said and "cannot open shared object file" in said, said
    assert {trial.state for trial in status("tiny", home).trials} <= {"INTERRUPTED"}, "no trial has failed"
    nodes.end(bad)
    nodes.add(1)
    nodes.wait_for(2)
    code, found, said = ended(start("resume", "tiny", "--home", str(home.path), "--json"))
    assert code == 0 and (found["done"], found["failed"]) == (2, 0), said


def test_a_bad_node_that_joins_gets_no_trial(nodes: ClusterOfProcesses, tmp_path: Path) -> None:
    """Another disk lies at the home's path on a node that joins while the study is run."""
    need_own_disks()
    nodes.head(1)
    home = Home(tmp_path / "home")
    home.path.mkdir()
    path = write_space(tmp_path, {"adversarial.epochs": 28}, trials=6, space=GOOD, concurrency="auto")
    study = start("sweep", str(path), "--home", str(home.path), "--json")
    wait_until(lambda: home.run_ids(), study)
    nodes.add(1, own_disk=home.path)
    code, found, said = ended(study)
    assert code == 0 and found["done"] == 6, said
    assert "is left out" in said and "another disk lies at" in said, said
    assert {trial["attempts"] for trial in found["trials"]} == {1}, "none was begun there"


def test_a_cluster_that_wants_a_token_is_named(nodes: ClusterOfProcesses, tmp_path: Path) -> None:
    nodes.head(1, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="a" * 40)
    code, _, said = ended(start("doctor", "--cluster", "--home", str(tmp_path / "home"), "--json"))
    last = said.strip().splitlines()[-1]
    assert code == 2 and "wants a token" in last and "RAY_AUTH_MODE=token" in last, said
