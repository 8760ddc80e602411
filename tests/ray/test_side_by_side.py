"""Seeds of a final training side by side, and scores where the GPUs are."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
import ray
from tiny_cases import tiny_config

from sage_ray.errors import UserError
from sage_ray.evaluation import ledger
from sage_ray.evaluation.locked_test import score_locked_test
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunLabels
from sage_ray.runtime.launch import run
from sage_ray.runtime.near_gpus import near_gpus
from sage_ray.runtime.ray_cluster import connect, disconnect
from sage_ray.runtime.side_by_side import Job, run_side_by_side

pytestmark = pytest.mark.ray


def job(seed: int, *sets: str) -> Job:
    config = tiny_config("pretrain.epochs=2", "adversarial.epochs=2", f"seed={seed}", *sets)
    return Job(f"r-s{seed}", config, RunLabels())


def test_runs_go_side_by_side_as_far_as_they_fit_and_one_that_fails_keeps_no_other_from_its_end(home: Home) -> None:
    disconnect()
    connect(num_cpus=2)
    jobs = [job(0), job(1, "pretrain.lr=1e30"), job(2), job(3)]
    seen: dict[str, list[int]] = {each.run_id: [] for each in jobs}
    said: list[str] = []
    both = threading.Barrier(2, timeout=100)

    def meet(told: Job, report: dict[str, Any]) -> None:
        seen[told.run_id].append(report["epoch"])
        if report["epoch"] == 1:
            both.wait()  # of two that trained one after the other, the first would wait in vain

    try:
        records = run_side_by_side(jobs[::2], home, on_report=meet, say=said.append)
        assert [record.run_id for record in records] == ["r-s0", "r-s2"]
        assert seen["r-s0"] == seen["r-s2"] == [1, 2, 3, 4]
        alone = run(jobs[0].config, Home(home.path / "alone"), "alone", mirror=False)
        assert alone.weights_sha == records[0].weights_sha, "company changes nothing"

        ended = run_side_by_side(jobs, home, on_report=lambda j, report: None, say=said.append)
        # The first is there already; the second fails in its first epoch, beside the third, which is there too.
        assert [(record.run_id, record.state) for record in ended][:2] == [("r-s0", "COMPLETE"), ("r-s1", "FAIL")]
        assert records[0] == ended[0]
    finally:
        disconnect()
    again = run_side_by_side(jobs[::2], home, on_report=lambda j, report: None, say=said.append)
    assert again == records and not ray.is_initialized(), "what is finished needs no Ray"


def where(*words: Any) -> tuple[int, tuple[Any, ...], list[float]]:
    """Process, arguments, and share of GPUs of a call."""
    return os.getpid(), words, [float(ray.get_runtime_context().get_assigned_resources().get("GPU", 0))]


def refuse() -> None:
    raise UserError("what", "where", "mend")


def test_work_goes_where_the_gpus_are_if_there_are_none_here(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray is told of a GPU that is none, so that a task in its place computes on the CPU."""
    config = tiny_config("pretrain.epochs=1", "adversarial.epochs=1")
    trained = run(config, home, "r", mirror=False)
    on_gpus = config.with_values({"runtime.device": "cuda", "runtime.gpus_per_worker": 0.5})
    here = Path(__file__).parent  # the workers import this module by its name
    monkeypatch.setenv("PYTHONPATH", f"{here}{os.pathsep}{here.parent}")
    disconnect()
    connect(num_cpus=1, num_gpus=1)
    try:
        with near_gpus(on_gpus, home) as near:
            process, words, share = near.call(where, 1, "two")
            assert process != os.getpid() and words == (1, "two") and share == [0.5]
            with pytest.raises(UserError, match="what: where: mend"):
                near.call(refuse)
            frame = near.call(score_locked_test, "r", home, purpose="final f")
        assert ray.is_initialized(), "whoever was connected stays so"
    finally:
        disconnect()
    assert (
        set(frame["part"]) == {"test"} and RunFolder(home.runs / "r").read().test_reads == trained.test_reads + 1 == 1
    )
    (read,) = ledger.read(home.path / ledger.TEST_READS)
    assert read["reader"] == "r" and read["purpose"] == "final f"
    for plain in (config, None):
        with near_gpus(plain, home) as near:
            assert near.call(os.getpid) == os.getpid()
    assert not ray.is_initialized()
