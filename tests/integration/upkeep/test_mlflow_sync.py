"""sync brings MLflow to what a home holds, whatever MLflow has lost: runs, studies and final trainings."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import ViewType
from mlflow_cases import client, finish, free_port, history, make, runs, start, stop, the_run
from study_cases import Study, tiny_space

from sage_ray.record import mlflow_client, mlflow_mirror
from sage_ray.record.home import Home
from sage_ray.record.mlflow_mirror import Mirror
from sage_ray.record.run_folder import RunFolder
from sage_ray.search.parent_run import ParentRun
from sage_ray.search.reconcile import take_up
from sage_ray.search.study_status import status
from sage_ray.study.objective import reduce_reports
from sage_ray.terminal.cli import call
from sage_ray.upkeep.mlflow_sync import sync
from sage_ray.watch import SilentWatch


def parent_of(home: Home, name: str) -> Any:
    (found,) = [run for run in runs(home) if run.info.run_name == name and run.data.tags["sage.kind"] != "run"]
    return found


def purge(database: Path, run_id: str) -> None:
    """Take a run out of a database for good, as `mlflow gc` does."""
    with closing(sqlite3.connect(database)) as connection:
        for table in ("latest_metrics", "metrics", "params", "tags", "runs"):
            connection.execute(f"DELETE FROM {table} WHERE run_uuid = ?", (run_id,))
        connection.commit()


def three(home: Home) -> list[RunFolder]:
    folders = [make(home, f"run-{number}") for number in range(3)]
    for folder in folders:
        finish(folder)
    assert len(sync(home).sent) == 3
    return folders


def test_a_store_that_lost_its_database_gets_everything_again(home: Home) -> None:
    three(home)
    assert sync(home).up_to_date == ["run-0", "run-1", "run-2"], "the good twin: nothing is sent twice"
    for run in runs(home):  # MLflow holds its database open in this process, so it cannot just be unlinked
        purge(home.path / "mlflow.db", run.info.run_id)
    report = sync(home)
    assert (report.sent, report.up_to_date, report.failed) == (["run-0", "run-1", "run-2"], [], {})
    assert history(home, the_run(home, "run-1"), "val/dice") == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert sync(home).sent == []


def test_one_run_that_was_deleted_or_purged_comes_back_and_the_others_are_left(home: Home) -> None:
    three(home)
    deleted, purged = (the_run(home, name).info.run_id for name in ("run-0", "run-1"))
    client(home).delete_run(deleted)
    purge(home.path / "mlflow.db", purged)
    report = sync(home)
    assert (report.sent, report.up_to_date) == (["run-0", "run-1"], ["run-2"])
    assert the_run(home, "run-0").info.run_id == deleted, "it is taken out of the trash"
    assert the_run(home, "run-1").info.run_id != purged
    assert the_run(home, "run-1").info.status == "FINISHED"
    assert sync(home).sent == []


def test_the_experiment_comes_back_from_the_trash(home: Home) -> None:
    three(home)
    c = client(home)
    c.delete_experiment(mlflow_client.experiment_id(c, home))
    with pytest.raises(mlflow_client.MirrorUnavailable, match="was deleted; `sage-ray sync` restores it"):
        _ = Mirror(home).client
    assert sync(home).failed == {} and len(runs(home)) == 3


def test_a_database_restored_from_a_backup_is_completed(home: Home, tmp_path: Path) -> None:
    folder = make(home)
    Mirror(home).push(folder)
    shutil.copy(home.path / "mlflow.db", tmp_path / "backup.db")
    finish(folder)
    Mirror(home).push(folder)
    shutil.copy(tmp_path / "backup.db", home.path / "mlflow.db")
    assert the_run(home).info.status == "RUNNING"
    assert sync(home).sent == ["run-1"] and the_run(home).info.status == "FINISHED"


def test_many_runs_are_asked_for_in_few_calls(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_mirror, "RUNS_AT_ONCE", 2)
    three(home)
    there = Mirror(home).stored_runs([run.info.run_id for run in runs(home)])
    assert sorted(run.info.run_name for run in there.values()) == ["run-0", "run-1", "run-2"]


def test_what_is_refused_is_named_and_keeps_nothing_else(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    folders = three(home)
    bad = folders[1]
    stored = the_run(home, "run-1").info.run_id
    with closing(sqlite3.connect(home.path / "mlflow.db")) as connection:
        refuse = f"BEFORE UPDATE ON runs WHEN NEW.run_uuid = '{stored}' BEGIN SELECT RAISE(ABORT, 'not this one'); END"
        connection.execute("UPDATE runs SET status = 'RUNNING'")
        connection.execute(f"CREATE TRIGGER refuse {refuse}")
        connection.commit()
    assert call(["sync", "--home", str(home.path), "--json"]) == 1
    out, err = capsys.readouterr()
    answer = json.loads(out.splitlines()[-1])
    assert answer["sent"] == ["run-0", "run-2"] and list(answer["failed"]) == [bad.run_id]
    assert "run-1" in err and "Traceback" not in err and len(err.splitlines()) == 1
    assert the_run(home, "run-2").info.status == "FINISHED"


def finished_study(home: Home, tmp_path: Path, trials: int = 1) -> Study:
    study = Study(home, tiny_space(tmp_path, trials=trials, points=[{}]), running=1)
    study.train(0)
    take_up(study.storage, study.folder, study.space)
    return study


def test_a_study_that_is_finished_is_closed_with_its_best_trial_and_its_files(home: Home, tmp_path: Path) -> None:
    study = finished_study(home, tmp_path)
    Mirror(home).parent_run("tiny")  # as its driver left it, when it was killed
    assert parent_of(home, "tiny").info.status == "RUNNING"
    report = sync(home)
    assert report.parents == ["tiny"] and report.sent == ["tiny-t0000-s0"]
    parent, child = parent_of(home, "tiny"), the_run(home, "tiny-t0000-s0")
    value = reduce_reports(RunFolder(home.runs / "tiny-t0000-s0").metrics(), study.space.objective)
    assert parent.info.status == "FINISHED" and parent.data.metrics["best/objective"] == pytest.approx(value)
    tags = parent.data.tags
    assert (tags["sage.best_trial"], parent.data.metrics["trials/complete"]) == ("0", 1)
    assert tags["sage.best/adversarial.lambda_cycle"] == "1.0"
    files = {file.path for file in client(home).list_artifacts(parent.info.run_id)}
    assert files == {"space.yaml", "base.yaml", "study.json"}
    assert child.data.metrics["objective"] == pytest.approx(value)
    assert [step for step, _ in history(home, child, "objective")] == [1, 2]
    assert sync(home).parents == []


def test_a_study_that_nobody_drives_is_closed_and_one_that_is_driven_is_left(home: Home, tmp_path: Path) -> None:
    study = finished_study(home, tmp_path, trials=3)
    ParentRun(study.folder, SilentWatch()).say("RUNNING", status("tiny", home))
    with study.folder.driver_lock():
        sync(home)
        assert parent_of(home, "tiny").info.status == "RUNNING"
        assert sync(home).parents == []
    assert sync(home).parents == ["tiny"]
    parent = parent_of(home, "tiny")
    assert (parent.info.status, parent.data.tags["sage.state"]) == ("KILLED", "INTERRUPTED")


def test_a_purged_parent_is_made_again_and_holds_its_runs(home: Home, tmp_path: Path) -> None:
    finished_study(home, tmp_path)
    sync(home)
    before = parent_of(home, "tiny").info.run_id
    purge(home.path / "mlflow.db", before)
    report = sync(home)
    assert report.parents == ["tiny"]
    parent = parent_of(home, "tiny")
    assert parent.info.run_id != before and parent.info.status == "FINISHED"
    assert the_run(home, "tiny-t0000-s0").data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert client(home).list_artifacts(parent.info.run_id)
    client(home).delete_run(parent.info.run_id)
    assert sync(home).parents == ["tiny"]
    assert parent_of(home, "tiny").info.run_id == parent.info.run_id, "from the trash"
    assert sync(home).parents == []


def test_the_run_of_a_study_that_is_gone_is_not_left_running(home: Home) -> None:
    finish(make(home, study="lost"))
    assert sync(home).parents == ["lost"]
    assert parent_of(home, "lost").info.status == "KILLED"
    assert sync(home).parents == []


def test_the_best_trial_so_far_is_told_while_the_study_goes_on(home: Home, tmp_path: Path) -> None:
    study = finished_study(home, tmp_path, trials=3)
    parent = ParentRun(study.folder, SilentWatch())
    parent.say("RUNNING", status("tiny", home))
    parent._thread.join(60)  # type: ignore[union-attr]
    parent.watching().update(status("tiny", home))
    parent._thread.join(60)  # type: ignore[union-attr]
    run = parent_of(home, "tiny")
    assert run.info.status == "RUNNING" and run.data.tags["sage.best_trial"] == "0"
    assert history(home, run, "best/objective")[0][0] == 1, "its step is the number of trials that have ended"


def test_a_run_of_its_own_and_a_final_have_no_objective(home: Home, tmp_path: Path) -> None:
    finished_study(home, tmp_path)
    alone, last = make(home, "alone"), make(home, "last", study="tiny", parent="final-1")
    for folder in (alone, last):
        finish(folder)
        Mirror(home).push(folder)
    for name in ("alone", "last"):
        assert "objective" not in the_run(home, name).data.metrics


def test_another_experiment_holds_runs_and_parents(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished_study(home, tmp_path)
    sync(home)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "particles")
    report = sync(home)
    assert (report.sent, report.parents) == (["tiny-t0000-s0"], ["tiny"])
    c = client(home)
    ours = c.get_experiment_by_name("particles").experiment_id
    assert {run.info.run_name for run in c.search_runs([ours])} == {"tiny", "t0000-s0 of tiny"}
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", ours)
    assert mlflow_client.experiment_id(c, home) == ours
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "4711")
    with pytest.raises(mlflow_client.MirrorUnavailable, match="no experiment 4711"):
        mlflow_client.experiment_id(c, home)


@pytest.mark.timeout(240)
def test_two_copies_share_a_server_and_a_store_that_was_emptied_is_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home, copy = Home(tmp_path / "home"), Home(tmp_path / "copy")
    uri = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.replace("://", "://ann:s3cret-word@"))
    (tmp_path / "server").mkdir()
    server = start(uri, tmp_path / "server")
    try:
        finished_study(home, tmp_path)
        assert call(["sync", "--home", str(home.path)]) == 0
        shutil.copytree(home.path, copy.path)
        assert call(["sync", "--home", str(copy.path)]) == 0
        out, err = capsys.readouterr()
        assert "is a copy of" in out + err and "s3cret-word" not in out + err and "View run" not in out
        parents = [run for run in runs(home) if run.info.run_name == "tiny"]
        assert len(parents) == 2 and len(runs(home)) == 4
        for place in (home, copy):
            assert call(["sync", "--home", str(place.path)]) == 0
            assert "0 runs sent, 1 up to date" in capsys.readouterr().out
            texts = [path.read_text() for path in place.path.rglob("*.json")]
            assert not any("s3cret" in text for text in texts)
        for run in runs(home):
            purge(tmp_path / "server" / "server.db", run.info.run_id)
        assert call(["sync", "--home", str(home.path)]) == 0
        assert "1 runs sent" in capsys.readouterr().out
        assert {run.info.run_name for run in runs(home)} == {"tiny", "t0000-s0 of tiny"}
    finally:
        stop(server)


def test_a_home_restores_its_own_runs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'shared.db'}")
    first, second = Home(tmp_path / "one"), Home(tmp_path / "two")
    for home in (first, second):
        finish(make(home, study="s"))
        sync(home)
    everything = client(first).search_runs([runs(first)[0].info.experiment_id], run_view_type=ViewType.ALL)
    client(second).delete_run(next(run for run in everything if run.data.tags["sage.kind"] == "run").info.run_id)
    assert len(sync(first).sent) + len(sync(second).sent) == 1
    assert len(runs(first)) == 4
