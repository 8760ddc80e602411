"""The mirror in MLflow: real stores (sqlite, and a real server on loopback), kills, retries and absent servers."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow_cases import CONFIG, client, finish, free_port, history, make, runs, start, stop, the_run

from sage_ray.errors import UserError
from sage_ray.locks import locked
from sage_ray.record import mlflow_follower
from sage_ray.record.home import Home
from sage_ray.record.mlflow_client import MirrorUnavailable
from sage_ray.record.mlflow_follower import Follower, is_sending
from sage_ray.record.mlflow_mirror import Mirror
from sage_ray.record.mlflow_rows import SENDING_LOCK
from sage_ray.record.run_folder import RunFolder
from sage_ray.upkeep.mlflow_sync import sync


def test_a_run_is_projected_whole_and_once(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = make(home, study="s", trial=4)
    finish(folder)
    assert Mirror(home).push(folder)
    assert not Mirror(home).push(folder), "nothing is left to send"
    run = the_run(home)
    assert run.info.status == "FINISHED"
    assert history(home, run, "val/dice") == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert history(home, run, "selected/val/dice") == [(2, 0.2)]
    assert not any(name.startswith("runtime.") for name in run.data.params)
    assert run.data.params["pretrain.epochs"] == "2", "the study is gone: what differs from the preset is shown"
    tags = run.data.tags
    assert (tags["sage.study"], tags["sage.trial"], tags["sage.dirty"]) == ("s", "4", "true")
    assert (tags["sage.config_hash"], tags["mlflow.source.git.commit"]) == (CONFIG.config_hash(), "c" * 40)
    parent = client(home).get_run(tags["mlflow.parentRunId"])
    assert parent.info.run_name == "s"
    files = {p.path for p in client(home).list_artifacts(run.info.run_id)}
    assert files == {"config.yaml", "record.json", "metrics.jsonl", "pictures"}
    assert {p.path for p in client(home).list_artifacts(run.info.run_id, "pictures")} == {"pictures/curves.png"}
    assert not (tmp_path / "mlruns").exists(), "nothing is left in the working directory"
    assert not (tmp_path / "mlflow.db").exists()


def test_only_new_epochs_are_sent_and_replays_are_stored_once(home: Home) -> None:
    folder = make(home)
    mirror = Mirror(home)
    mirror.push(folder)
    (folder.path / "mlflow.json").unlink()  # as after a kill between sending and noting
    assert Mirror(home).push(folder)
    folder.append_metrics({"epoch": 4, "val/dice": 0.4})
    mirror.push(folder)
    assert len(runs(home)) == 1
    run = the_run(home)
    assert run.info.status == "RUNNING"
    assert history(home, run, "val/dice") == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)]


def test_replaced_epochs_are_sent_again(home: Home) -> None:
    folder = make(home)
    Mirror(home).push(folder)
    folder.append_metrics({"epoch": 3, "val/dice": 0.9})
    Mirror(home).push(folder)
    assert the_run(home).data.metrics["val/dice"] == 0.9


@pytest.mark.parametrize(
    ("state", "status"), [("FAIL", "FAILED"), ("PRUNED", "KILLED"), ("INTERRUPTED", "KILLED"), ("COMPLETE", "FINISHED")]
)
def test_states_and_taking_up_again(home: Home, state: Any, status: str) -> None:
    folder = make(home)
    folder.set_state(state, error="why" if state == "FAIL" else None)
    Mirror(home).push(folder)
    run = the_run(home)
    assert (run.info.status, run.data.tags["sage.state"]) == (status, state)
    assert run.data.tags.get("sage.error") == ("why" if state == "FAIL" else None)
    folder.set_state("RUNNING", attempt=2)
    Mirror(home).push(folder)
    run = the_run(home)
    assert (run.info.status, run.data.tags["sage.state"], run.data.tags["sage.attempt"]) == ("RUNNING", "RUNNING", "2")
    assert run.data.tags.get("sage.error", "") == ""


def test_nonfinite_values_are_named_and_not_stored(home: Home) -> None:
    folder = make(home, epochs=1)
    folder.append_metrics({"epoch": 2, "val/dice": float("nan"), "train/loss": float("inf"), "lr": 1.0})
    Mirror(home).push(folder)
    run = the_run(home)
    assert history(home, run, "val/dice") == [(1, 0.1)]
    assert "train/loss" not in run.data.metrics
    assert run.data.tags["sage.nonfinite"] == "val/dice@2 train/loss@2"


def test_two_homes_share_a_store_without_mixing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'shared.db'}")
    first, second = Home(tmp_path / "one"), Home(tmp_path / "two")
    for home in (first, second):
        Mirror(home).push(make(home, study="s"))
    found = runs(first)
    assert len([r for r in found if r.data.tags["sage.kind"] == "run"]) == 2
    assert len([r for r in found if r.data.tags["sage.kind"] == "study"]) == 2


def test_parent_run_is_made_once_and_closed(home: Home) -> None:
    home.check_writable()
    mirror = Mirror(home)
    first = mirror.parent_run("study", tags={"sage.note": "hello"})
    assert Mirror(home).parent_run("study", state="COMPLETE") == first
    run = client(home).get_run(first)
    assert (run.info.status, run.data.tags["sage.note"]) == ("FINISHED", "hello")


def _push_new(path: str, number: int) -> None:
    home = Home(path)
    folder = make(home, f"run-{number}", study="s")
    finish(folder)
    Mirror(home).push(folder)


def test_processes_that_start_together_make_one_store(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.check_writable()
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_push_new, args=(str(home.path), n)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(90)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    found = runs(home)
    assert sorted(r.info.run_name for r in found) == ["run-0", "run-1", "run-2", "s"]


def test_a_kill_at_any_moment_doubles_nothing(home: Home) -> None:
    folder = make(home, epochs=40, study="s")
    finish(folder)
    Mirror(home).parent_run("s")  # the store exists, so that the kills fall into the sending
    code = (
        "import sys; from pathlib import Path; from sage_ray.record.home import Home\n"
        "from sage_ray.record.mlflow_mirror import Mirror; from sage_ray.record.run_folder import RunFolder\n"
        "home = Home(sys.argv[1]); mirror = Mirror(home); mirror.client; print('ready', flush=True)\n"
        "mirror.push(RunFolder.open(home.runs, 'run-1'))"
    )
    for delay_s in (0.0, 0.02, 0.05):
        command = [sys.executable, "-c", code, str(home.path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sender:
            assert sender.stdout is not None
            assert sender.stdout.readline() == "ready\n"
            time.sleep(delay_s)
            sender.kill()
    Mirror(home).push(folder)
    assert len(runs(home)) == 2
    run = the_run(home)
    assert history(home, run, "val/dice") == [(e, e / 10) for e in range(1, 41)]
    assert run.info.status == "FINISHED"


def test_follower_mirrors_while_the_run_goes_on(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_follower, "POLL_S", 0.05)
    folder = make(home, epochs=1)
    said: list[str] = []
    follower = Follower(home, folder, said.append)
    deadline = time.monotonic() + 30
    while not (folder.path / "mlflow.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert the_run(home).info.status == "RUNNING"
    folder.append_metrics({"epoch": 2, "val/dice": 0.2})
    finish(folder)
    assert follower.close()
    assert Mirror(home).up_to_date(folder)
    assert history(home, the_run(home), "val/dice") == [(1, 0.1), (2, 0.2)]
    assert said == []


def test_an_absent_server_is_said_once_and_stalls_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr(mlflow_follower, "POLL_S", 0.05)
    folder = make(home)
    said: list[str] = []
    started = time.monotonic()
    follower = Follower(home, folder, said.append)
    finish(folder)
    time.sleep(0.3)
    assert not follower.close(timeout_s=5)
    assert time.monotonic() - started < 30  # MLflow itself would try again for minutes
    assert len(said) == 1 and "sage-ray sync" in said[0] and "127.0.0.1" in said[0]
    with pytest.raises(MirrorUnavailable):
        Mirror(home).push(folder)
    with pytest.raises(UserError, match="MLflow did not take the runs: .*127.0.0.1.*sync again"):
        sync(home)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert sync(home).sent == ["run-1"], "another store starts from nothing"
    assert the_run(home).info.status == "FINISHED"


def test_sync_sends_what_is_missing_and_closes_orphans(home: Home) -> None:
    done, dead, live = make(home, "done"), make(home, "dead"), make(home, "live")
    finish(done)
    Mirror(home).push(done)
    broken = make(home, "broken")
    (broken.path / "record.json").write_text("{")
    said: list[str] = []
    with live.lock("driver", 1):
        report = sync(home, say=said.append)
    assert (report.up_to_date, report.orphans, sorted(report.sent)) == (["done"], ["dead"], ["dead", "live"])
    assert len(said) == 1 and "damaged record" in said[0]
    outcomes = report.frame().set_index("name")["outcome"]
    assert outcomes["done"] == "up to date" and outcomes["live"] == "sent" and outcomes["broken"] == "failed"
    assert "damaged record" in report._repr_html_()
    assert dead.read().state == "INTERRUPTED"
    assert the_run(home, "dead").info.status == "KILLED"
    assert the_run(home, "live").info.status == "RUNNING"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """URI of a real `mlflow server` on loopback and a list that holds its process (stop and start it through them)."""
    port = free_port()
    started: list[subprocess.Popen[bytes]] = []
    yield f"http://127.0.0.1:{port}", started
    for process in started:
        stop(process)


@pytest.mark.timeout(240)
def test_a_real_server_that_goes_away_and_comes_back(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: tuple[str, list[subprocess.Popen[bytes]]]
) -> None:
    uri, started = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(mlflow_follower, "POLL_S", 0.1)
    folder = make(home, epochs=1, study="s")
    started.append(start(uri, tmp_path))
    follower = Follower(home, folder, lambda line: None)
    deadline = time.monotonic() + 60
    while not (folder.path / "mlflow.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert json.loads((folder.path / "mlflow.json").read_text())["lines"] == 1
    stop(started.pop())
    began = time.monotonic()
    for epoch in (2, 3):
        folder.append_metrics({"epoch": epoch, "val/dice": epoch / 10})
    # MLflow tries again for minutes.
    assert time.monotonic() - began < 20, "the training never waits for the server"
    finish(folder)
    assert not follower.close(timeout_s=1)
    started.append(start(uri, tmp_path))
    assert sync(home).sent == ["run-1"]
    assert sync(home).up_to_date == ["run-1"]
    run = the_run(home)
    assert history(home, run, "val/dice") == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert run.info.status == "FINISHED"
    assert {p.path for p in client(home).list_artifacts(run.info.run_id)} >= {"config.yaml", "record.json", "pictures"}


LEAVES = """
import sys
from pathlib import Path
from sage_ray.record.home import Home
from sage_ray.record.mlflow_follower import Follower
from sage_ray.record.run_folder import RunFolder
Follower(Home(sys.argv[1]), RunFolder(Path(sys.argv[2])), print).leave()
"""


def test_a_process_that_ends_has_sent_the_run_that_it_left(home: Home) -> None:
    """Its end would cut the sending off, and keep the run from all others until that shows."""
    folder = make(home)
    finish(folder)
    subprocess.run([sys.executable, "-c", LEAVES, str(home.path), str(folder.path)], check=True, timeout=120)
    assert the_run(home).info.status == "FINISHED"
    assert not is_sending(RunFolder(home.runs / "run-1"))


def test_who_sends_a_run_is_seen(home: Home) -> None:
    folder = make(home)
    assert not is_sending(folder)
    with locked(folder.path / SENDING_LOCK, 0.0):
        assert is_sending(folder)
    assert not is_sending(folder)
