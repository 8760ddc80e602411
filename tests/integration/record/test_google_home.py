"""A home in a bucket of Google's store, which changes an object only so often: trained here, used elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bucket_cases import HomeInBucket
from mlflow_cases import free_port
from s3_cases import S3Server
from tiny_cases import SMALLEST, as_sets, tiny_config

from sage_ray.data.synth import write_dataset
from sage_ray.errors import UserError
from sage_ray.record import home
from sage_ray.runtime.launch import run

QUICK = {**SMALLEST, "pretrain.epochs": 2, "adversarial.epochs": 2, "runtime.pictures": False}


@pytest.fixture
def place(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HomeInBucket]:
    """A lab whose MLflow server is away."""
    s3.google_pace_s = 0.2  # Google's own is a second
    server = f"http://127.0.0.1:{free_port()}"
    yield HomeInBucket(s3, None, tmp_path.name, tmp_path / "machines", scheme="gs", mlflow=server).enter(monkeypatch)
    s3.google_pace_s = 0.0


def test_what_one_machine_has_trained_another_one_uses(
    place: HomeInBucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(*as_sets(QUICK))
    first = run(config, place.home, "r", mirror=False)
    assert first.state == "COMPLETE" and place.address.startswith("gs://")
    place.on("second", monkeypatch)
    assert [found["run_id"] for found in place.say(capsys, "list")["runs"]] == ["r"]
    answer = place.say(capsys, "status", "r")
    assert answer["home"] == place.address and answer["paths"]["run"] == f"{place.address}/runs/r"
    assert [line["epoch"] for line in place.epochs("r")] == [1, 2, 3, 4]
    again = run(config, place.home, "again", mirror=False)
    assert (again.weights_sha, again.reused_epochs) == (first.weights_sha, 4), "stages are shared by all machines"
    write_dataset(tmp_path / "new", 2, 32, 7)
    assert place.say(capsys, "predict", "r", tmp_path / "new" / "images", "-o", tmp_path / "out")["images"] == 2
    read = place.say(capsys, "evaluate", "r")["readings"]
    place.on("third", monkeypatch)
    assert place.say(capsys, "evaluate", "r")["readings"] == read
    assert (read["total"], read["by_other_homes"], read["stores"]) == (1, 0, ["gs://stages"])


@pytest.mark.parametrize("installed", [False, True])
def test_mlflow_in_a_database_needs_a_package_of_google(
    place: HomeInBucket, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://sage@127.0.0.1:9/mlflow")
    monkeypatch.setattr(home, "find_spec", lambda name: object() if installed else None)
    if installed:
        place.home.check_writable()
        return
    with pytest.raises(UserError, match="google-cloud-storage is not installed") as refused:
        place.home.check_writable()
    assert "or set MLFLOW_TRACKING_URI to an MLflow server" in refused.value.mend
