"""Homes in a bucket: a study that is killed on one machine goes on on others. Several nodes with one: test_lab.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bucket_cases import HomeInBucket
from postgres_cases import PostgresServer
from s3_cases import S3Server
from sweep_cases import EPOCHS, ended, kill, long_space, wait_until

from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.search.driver import sweep
from sage_ray.search.study_status import status, stop
from sage_ray.study.space import load_space

pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture
def place(
    s3_of_module: S3Server,
    postgres: PostgresServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[HomeInBucket]:
    yield HomeInBucket(s3_of_module, postgres, "killed", tmp_path / "machines").enter(monkeypatch)


def test_a_study_goes_on_on_another_machine_with_nothing_lost_or_doubled(
    place: HomeInBucket, tmp_path: Path, connected: None
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
    assert answer["path"] == f"{place.address}/studies/tiny"
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
