"""An ablation whose driver is killed: nothing lost or doubled, phase 1 shared, the locked test read once a run."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml
from sweep_cases import BASE, epochs_on_disk, kill, record, start, wait_until

from sage_ray.record.home import Home

pytestmark = pytest.mark.ray

EPOCHS = 14
ARMS = {
    "full": {},
    "soft": {"set": {"adversarial.mask_path": "soft"}},
    "perceptual": {"set": {"adversarial.perceptual": "vgg19"}, "not_run": "no weights"},
}
RUNS = [f"ab-{arm}-s{seed}" for arm in ("full", "soft") for seed in (0, 1)]


def test_killed_ablation_goes_on_shares_phase_1_and_reads_the_test_once(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    base = {"preset": "tiny_sage_gan", "set": {**BASE, "adversarial.epochs": EPOCHS - 2}}
    tree = {"name": "ab", "base": base, "reference": "full", "arms": ARMS, "seeds": [0, 1], "concurrency": 1}
    path = tmp_path / "ab.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    process = start("ablate", str(path), "--home", str(home.path), "--quiet")
    wait_until(lambda: len(epochs_on_disk(home, "ab-full-s1")) >= 5, process)
    kill(process)
    before = {run_id: epochs_on_disk(home, run_id) for run_id in home.run_ids()}
    assert set(before) == {"ab-full-s0", "ab-full-s1"} and len(before["ab-full-s1"]) < EPOCHS

    process = start("resume", "ab", "--home", str(home.path), "--json")
    output, errors = process.communicate(timeout=200)
    answer = json.loads(output.strip().splitlines()[-1])
    assert process.returncode == 0 and answer["ok"], errors
    assert (answer["verb"], answer["study"], answer["state"], answer["done"]) == ("resume", "ab", "finished", 4)
    assert [(arm["arm"], arm["done"], arm["tested"]) for arm in answer["arms"]] == [
        ("full", 2, 2),
        ("soft", 2, 2),
        ("perceptual", 0, 0),
    ]
    assert answer["states"] == {"COMPLETE": 4} and answer["not_run"] == {"perceptual": "no weights"}
    assert sorted(run["run_id"] for run in answer["runs"]) == home.run_ids() == RUNS

    trained: Counter[str] = Counter()
    for run_id in RUNS:
        lines = epochs_on_disk(home, run_id)
        assert [line["epoch"] for line in lines] == list(range(1, EPOCHS + 1))
        assert lines[: len(before.get(run_id, []))] == before.get(run_id, [])
        told = record(home, run_id)
        assert (told["state"], told["arm"], told["study"], told["test_reads"]) == ("COMPLETE", run_id[3:7], "ab", 1)
        for line in lines:
            trained[f"{line['phase']} s{told['seed']}"] += not line["replayed"]
    # Each seed has one phase 1, of the arm that comes first, and a phase 2 for each arm.
    assert trained == {"pretrain s0": 2, "pretrain s1": 2, "adversarial s0": 24, "adversarial s1": 24}
    assert record(home, "ab-full-s0")["attempt"] == 1 and record(home, "ab-full-s1")["attempt"] == 2
    keys = [record(home, run_id)["stage_keys"] for run_id in ("ab-full-s1", "ab-soft-s1")]
    assert keys[0]["pretrain"] == keys[1]["pretrain"] and keys[0]["adversarial"] != keys[1]["adversarial"]
    readers = [json.loads(line)["reader"] for line in (home.path / "test_reads.jsonl").read_text().splitlines()]
    assert sorted(readers) == RUNS
