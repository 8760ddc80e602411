"""The whole job in a lab whose machines share nothing but a network, and the same study in a storm."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lab_cases import TWINS, Lab, answer_of, epochs, lab, until
from sweep_cases import BASE, write_space
from tiny_cases import as_sets

from sage_ray.data.synth import write_dataset
from sage_ray.evaluation import ledger
from sage_ray.record.run_folder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.timeout(900)]

AWAY_S = 30.0
EPOCHS = 42
"""Of each trial: time enough for what happens to it."""
IN_MLFLOW = """
import json, os
from mlflow import MlflowClient
client = MlflowClient()
found = {}
for run in client.search_runs([one.experiment_id for one in client.search_experiments()]):
    name = run.data.tags.get("sage.run_id", run.info.run_name)
    print(name, run.data.tags, file=__import__("sys").stderr)
    history = client.get_metric_history(run.info.run_id, "val/dice")
    found.setdefault(name, []).append([run.info.status, sorted(metric.step for metric in history)])
print(json.dumps(found))
"""
"""What MLflow's server has of all runs: how they ended, and the epochs of a score."""


@pytest.fixture(scope="module")
def place() -> Iterator[Lab]:
    with lab() as made:
        yield made


@pytest.fixture(scope="module")
def pictures(place: Lab) -> Path:
    """Images that the head has on its own disk, and no other machine."""
    folder = place.switch.hosts.parent / "made"
    write_dataset(folder, 16, 32, 3)
    there = place.switch.disk / "pictures"
    place.machine("head").call("cp", "-r", str(folder), str(there))
    return there


@pytest.fixture(scope="module")
def base(pictures: Path) -> dict[str, Any]:
    return {**BASE, "data.path": str(pictures), "adversarial.epochs": EPOCHS - 2, "runtime.snapshot_seconds": 0.0}


@pytest.fixture(scope="module")
def space(place: Lab, base: dict[str, Any]) -> str:
    dimensions = {"adversarial.lr": {"float": [1e-4, 1e-3]}, "pretrain.lr": {"categorical": [1e-3, 2e-3]}}
    return str(write_space(place.switch.hosts.parent, base, trials=4, points=[], space=dimensions))


@pytest.fixture(scope="module")
def calm(place: Lab, space: str) -> dict[str, Any]:
    """What the study is if nothing happens to it, as `status` tells it elsewhere."""
    seen = place.say("head", "calm", "doctor", "--cluster")
    assert seen["ok"], seen
    swept = place.say("head", "calm", "sweep", space, "--quiet")
    assert swept["done"] == 4 and swept["state"] == "finished"
    return place.say("laptop", "calm", "status", "tiny")


def test_the_whole_job(place: Lab, calm: dict[str, Any], base: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert [trial["state"] for trial in calm["trials"]] == ["COMPLETE"] * 4
    home, short = place.enter("calm", monkeypatch), {**base, "adversarial.epochs": 3}
    design = {"name": "ab", "base": {"preset": "tiny_sage_gan", "set": short}, "reference": "full", "seeds": [5]}
    design["arms"] = {"full": {}, "soft": {"set": {"adversarial.mask_path": "soft"}}}
    path = place.switch.hosts.parent / "ab.yaml"
    path.write_text(yaml.safe_dump(design))
    ablated = place.say("head", "calm", "ablate", str(path), "--quiet")
    assert [arm["tested"] for arm in ablated["arms"]] == [1, 1]

    sets = [word for text in as_sets({**short, "runtime.workers": 2}) for word in ("--set", text)]
    train = place.start("head", "calm", "train", "--preset", "tiny_sage_gan", "--run-id", "two", *sets, "--quiet")
    until(lambda: place.trainers("head") and place.trainers("first"), train)
    assert answer_of(train)["state"] == "COMPLETE"

    final = place.say("head", "calm", "final", "tiny", "--seeds", "1", "--quiet")
    assert final["version"] == 1 and [run["state"] for run in final["runs"]] == ["COMPLETE"]
    assert place.say("laptop", "calm", "promote", "--quiet")["champion"] == 1
    images, out = place.switch.hosts.parent / "made" / "images", place.switch.disk / "out"
    words = ("predict", "models:/sage-gan@champion", str(images), "-o", str(out), "--quiet")
    assert place.say("laptop", "calm", *words)["images"] == 16
    assert "images.csv" in place.machine("laptop").call("ls", str(out))

    reads = ledger.read(home.path / ledger.TEST_READS)
    assert sorted(row["reader"] for row in reads) == sorted(["ab-full-s5", "ab-soft-s5", f"{final['final_id']}-s1"])


def test_a_storm_changes_nothing(place: Lab, calm: dict[str, Any], space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3, Postgres and MLflow cut off for half a minute each, then a node and the driver killed."""
    sweep = place.start("head", "storm", "sweep", space, "--quiet")
    home = place.enter("storm", monkeypatch)

    def trained() -> int:
        return sum(len(epochs(home, run_id)) for run_id in home.run_ids())

    until(lambda: trained() >= 4, sweep)
    for server in ("s3", "postgres", "mlflow"):
        with place.machine(server).unplugged():
            time.sleep(AWAY_S)
        before = trained()
        until(lambda since=before: trained() > since, sweep)
    until(lambda: place.trainers("first"), sweep)
    before = trained()
    until(lambda: trained() >= before + 4, sweep)
    place.switch.kill("first")
    place.add_node("second")
    until(lambda: place.trainers("second"), sweep)
    before = trained()
    until(lambda: trained() >= before + 4, sweep)
    sweep.signal_it(signal.SIGKILL)
    sweep.communicate(timeout=60)
    until(lambda: not place.trainers("head") and not place.trainers("second"), limit_s=60)

    resumed = place.say("head", "storm", "resume", "tiny", "--quiet")
    assert resumed["done"] == 4 and resumed["state"] == "finished"
    found = place.say("laptop", "storm", "status", "tiny")
    facts = ("number", "state", "params", "value", "weights_sha", "epoch")
    assert [[trial[fact] for fact in facts] for trial in found["trials"]] == [
        [trial[fact] for fact in facts] for trial in calm["trials"]
    ]
    assert home.run_ids() == [f"tiny-t{number:04d}-s0" for number in range(4)]
    for run_id in home.run_ids():
        assert [line["epoch"] for line in epochs(home, run_id)] == list(range(1, EPOCHS + 1))
    assert max(trial["attempts"] for trial in found["trials"]) > 1
    until(lambda: not place.trainers("head") and not place.trainers("second"), limit_s=60)

    place.say("laptop", "storm", "sync", "--quiet")
    told = place.machine("laptop").start([sys.executable, "-c", IN_MLFLOW], place.variables("storm"))
    every = list(range(1, EPOCHS + 1))
    in_both_homes = {name: [["FINISHED", every]] * 2 for name in home.run_ids()} | {"tiny": [["FINISHED", []]] * 2}
    found = answer_of(told)
    assert {name: found[name] for name in in_both_homes} == in_both_homes


def test_containers_of_one_host_name_with_equal_process_ids(
    place: Lab, base: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two machines that cannot be told apart share phase 1: one trains it, the other waits for it."""
    host, home = "container", place.enter("twins", monkeypatch)
    for name in TWINS:
        place.switch.add(name, host=host)
    values = {**base, "data.path": "synthetic://ordered?num=16&size=32&seed=0", "adversarial.epochs": 2}
    sets = [word for text in as_sets({**values, "pretrain.epochs": 20}) for word in ("--set", text)]
    commands = [
        place.start(name, "twins", "train", "--preset", "tiny_sage_gan", "--run-id", name, *sets, "--quiet")
        for name in TWINS
    ]
    assert [answer_of(command)["state"] for command in commands] == ["COMPLETE"] * 2
    runs = [RunFolder(home.runs / name).read() for name in TWINS]
    assert runs[0].weights_sha == runs[1].weights_sha
    assert sorted(run.reused_epochs for run in runs) == [0, 22] or sum(run.reused_epochs for run in runs) >= 20
