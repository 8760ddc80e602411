"""Homes in a bucket: a study killed on one machine goes on on others; a lab of two nodes with disks of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from bucket_cases import Lab
from node_cases import ClusterOfProcesses, need_own_disks
from postgres_cases import PostgresServer
from s3_cases import S3Server
from sweep_cases import BASE, EPOCHS, ended, kill, long_space, wait_until, write_space
from tiny_cases import as_sets

from sage_ray.data.synth import write_dataset
from sage_ray.evaluation import ledger
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.search.driver import sweep
from sage_ray.search.study_status import status, stop
from sage_ray.study.space import load_space

pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture
def place(
    request: pytest.FixtureRequest,
    s3_of_module: S3Server,
    postgres: PostgresServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Lab]:
    name = "killed" if "machine" in request.node.name else "nodes"
    yield Lab(s3_of_module, postgres, name, tmp_path / "machines").enter(monkeypatch)


def test_a_study_goes_on_on_another_machine_with_nothing_lost_or_doubled(
    place: Lab, tmp_path: Path, connected: None
) -> None:
    path = long_space(tmp_path, 0)
    alone = sweep(load_space(path), Home(tmp_path / "folder"))
    process = place.start("first", "sweep", str(path), "--quiet")
    wait_until(lambda: len(place.epochs("tiny-t0001-s0")) >= 6, process)
    kill(process)
    before = {run_id: place.epochs(run_id) for run_id in place.home.run_ids()}
    assert status("tiny", place.home).state == "interrupted"

    process = place.start("second", "resume", "tiny", "--quiet")
    wait_until(lambda: len(place.epochs("tiny-t0001-s0")) >= len(before["tiny-t0001-s0"]) + 3, process)
    stop("tiny", place.home)
    code, answer, errors = ended(process)
    assert code == 130 and answer["state"] == "interrupted", errors

    code, answer, errors = ended(place.start("third", "resume", "tiny", "--quiet"))
    assert code == 0 and answer["done"] == 3, errors
    found = status("tiny", place.home)
    assert [trial.weights_sha for trial in found.trials] == [trial.weights_sha for trial in alone.trials]
    assert [trial.params for trial in found.trials] == [trial.params for trial in alone.trials]
    for trial in found.trials:
        lines = place.epochs(trial.runs[0].run_id)
        assert [line["epoch"] for line in lines] == list(range(1, EPOCHS + 1))
        known = before.get(trial.runs[0].run_id, [])
        assert lines[: len(known)] == known
    again = RunFolder(place.home.runs / "tiny-t0001-s0").read()
    assert again.attempt == 3 and again.reused_epochs >= len(before["tiny-t0001-s0"])


def test_two_nodes_that_share_no_disk(place: Lab, nodes: ClusterOfProcesses, tmp_path: Path) -> None:
    """The images are on the driver's disk alone, and neither node sees what the other keeps."""
    need_own_disks()
    disk, pictures = tmp_path / "disk", tmp_path / "disk" / "pictures"
    write_dataset(pictures, 16, 32, 3)
    base = {**BASE, "data.path": str(pictures), "runtime.snapshot_seconds": 0.0}
    space = write_space(tmp_path, base, trials=4, points=[], space={"adversarial.lr": {"float": [1e-4, 1e-3]}})
    nodes.head(1)
    nodes.add(1, own_disk=disk, SAGE_CACHE_DIR=str(disk / "cache"))
    nodes.wait_for(2)

    code, swept, errors = ended(place.start("driver", "sweep", str(space), "--quiet"))
    assert code == 0 and swept["done"] == 4, errors
    found = status("tiny", place.home)
    runs = [RunFolder(place.home.runs / trial.runs[0].run_id) for trial in found.trials]
    assert [run.read().state for run in runs] == ["COMPLETE"] * 4
    assert all([line["epoch"] for line in run.metrics()] == [1, 2, 3, 4, 5] for run in runs)
    times = [[line["time_ms"] for line in run.metrics()] for run in runs]
    assert any(a[0] < b[-1] and b[0] < a[-1] for a, b in zip(times, times[1:], strict=False)), "both nodes train"

    design = {"name": "ab", "base": {"preset": "tiny_sage_gan", "set": base}, "reference": "full", "seeds": [5]}
    design["arms"] = {"full": {}, "soft": {"set": {"adversarial.mask_path": "soft"}}}
    (tmp_path / "ab.yaml").write_text(yaml.safe_dump(design))
    code, ablated, errors = ended(place.start("driver", "ablate", str(tmp_path / "ab.yaml"), "--quiet"))
    assert code == 0 and [arm["tested"] for arm in ablated["arms"]] == [1, 1], errors

    sets = [word for text in as_sets({**base, "runtime.workers": 2}) for word in ("--set", text)]
    words = ("train", "--preset", "tiny_sage_gan", "--run-id", "two", *sets, "--quiet")
    code, trained, errors = ended(place.start("driver", *words))
    assert code == 0 and trained["state"] == "COMPLETE", errors

    code, answer, errors = ended(place.start("driver", "final", "tiny", "--seeds", "0,1", "--quiet"))
    assert code == 0 and answer["version"] == 1, errors
    assert {run["state"] for run in answer["runs"]} == {"COMPLETE"}
    code, promoted, errors = ended(place.start("driver", "promote", "--quiet"))
    assert code == 0 and promoted["champion"] == 1, errors
    images, out = str(pictures / "images"), str(tmp_path / "out")
    words = ("predict", "models:/sage-gan@champion", images, "-o", out, "--quiet")
    code, predicted, errors = ended(place.start("elsewhere", *words))
    assert code == 0 and predicted["images"] == 16, errors

    reads = ledger.read(place.home.path / ledger.TEST_READS)
    finals = [f"{answer['final_id']}-s{seed}" for seed in (0, 1)]
    assert sorted(row["reader"] for row in reads) == sorted(["ab-full-s5", "ab-soft-s5", *finals])
