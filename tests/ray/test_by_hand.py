"""A sweep as a notebook may start it: by shipped name, in a thread that is not the main one, with printed progress."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_cases import SMALLEST

import sage_ray
from sage_ray.stages.store import StageStore

pytestmark = pytest.mark.ray

CODE = """
import json, sys, threading
import sage_ray
sys.ps1 = "In : "
def work():
    found = sage_ray.sweep("search_tiny.yaml", home={home!r}, name="by_hand", sets=json.loads({sets!r}))
    print("ended", found.state, found.done)
thread = threading.Thread(target=work)
thread.start()
thread.join(200)
"""


def test_a_sweep_from_a_thread_prints_lines_and_leaves_the_ends_of_its_stages(tmp_path: Path) -> None:
    own = {"pretrain.epochs": 2, "adversarial.epochs": 2, "runtime.pictures": False, "runtime.snapshot_seconds": 0}
    sets = {**SMALLEST, **own, "trials": 2, "concurrency": 1, "seeds": [0]}
    home = tmp_path / "home"
    code = CODE.format(home=str(home), sets=json.dumps(sets))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    lines = done.stdout.splitlines()
    assert lines[-1] == "ended finished 2", done.stdout + done.stderr
    assert lines[0].startswith("data: drawn particles") and any("trial 1 COMPLETE" in line for line in lines)
    study = sage_ray.Study("by_hand", home)
    assert study.frame()["state"].tolist() == ["COMPLETE", "COMPLETE"]
    store = StageStore(home / "stages")
    records = [sage_ray.status(run_id, home) for run_id in study.runs()["run_id"]]
    keys = {key for record in records for key in record.stage_keys.values()}
    assert keys and all(store.epochs(key) == [2] for key in keys)
