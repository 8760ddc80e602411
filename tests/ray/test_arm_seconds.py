"""An ablation with a budget in GPU-seconds, whose driver is killed once the budget is given: it stays what it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from sweep_cases import BASE, epochs_on_disk, kill, record, start, wait_until

from sage_ray.record.home import Home

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_killed_ablation_keeps_the_budget_that_follows_the_reference(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    # Phase 1 takes a small part of the seconds, so that the plain arm gets many more epochs.
    base = {"preset": "tiny_sage_gan", "set": {**BASE, "adversarial.epochs": 4}}
    timed = {"set": {"adversarial.epochs": 0}, "budget": {"of": "full", "in": "gpu_seconds"}}
    tree = {"name": "tb", "base": base, "reference": "full", "arms": {"full": {}, "timed": timed}, "concurrency": 1}
    path = tmp_path / "tb.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    process = start("ablate", str(path), "--home", str(home.path), "--quiet")
    given = home.studies / "tb" / "arm_budgets.json"
    wait_until(lambda: given.is_file() and "tb-timed-s0" in home.run_ids(), process)
    kill(process)
    budget = json.loads(given.read_text())["tb-timed-s0"]
    lines = epochs_on_disk(home, "tb-full-s0")
    assert budget["seconds"] == pytest.approx(sum(line["seconds"] for line in lines), rel=0.01)
    own = [line["seconds"] for line in lines if line["phase"] == "pretrain"]
    assert budget["epochs"] == max(1, round(budget["seconds"] / (sum(own) / len(own))))

    process = start("resume", "tb", "--home", str(home.path), "--json")
    output, errors = process.communicate(timeout=200)
    answer = json.loads(output.strip().splitlines()[-1])
    assert process.returncode == 0 and answer["ok"] and answer["done"] == 2, errors
    assert json.loads(given.read_text())["tb-timed-s0"] == budget
    assert len(epochs_on_disk(home, "tb-timed-s0")) == budget["epochs"]
    assert record(home, "tb-timed-s0")["stage_keys"]["pretrain"] == record(home, "tb-full-s0")["stage_keys"]["pretrain"]
    assert [line["replayed"] for line in epochs_on_disk(home, "tb-timed-s0")][:2] == [True, True]
