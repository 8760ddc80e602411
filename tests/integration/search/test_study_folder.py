"""Studies on disk without Ray: plan, reconciliation with real runs, status, and the ways to end a sweep."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from ray.tune.experiment import Trial
from study_cases import Study, tiny_space
from sweep_cases import TOO_MUCH, write_space

from sage_ray.errors import UserError
from sage_ray.leases import BEATS, Lease, lease_s
from sage_ray.locks import lease_of
from sage_ray.record.home import Home
from sage_ray.record.overview import ListedStudy, overview
from sage_ray.record.run_record import State
from sage_ray.search import halt as halt_module
from sage_ray.search import trainable
from sage_ray.search.halt import INTERRUPTED, LOST, OUT_OF_TIME, STOPPED, Halt, HaltStopper, signals
from sage_ray.search.plan import plan
from sage_ray.search.reconcile import settle, take_up
from sage_ray.search.study_folder import StudyFolder
from sage_ray.search.study_status import status, trial_config
from sage_ray.search.tune_run import make_task
from sage_ray.study.objective import reduce_reports
from sage_ray.study.space import load_space


def held(folder: Path) -> Lease:
    """The lease of a study, as its driver holds it."""
    lease = lease_of(folder / ".driver.lock")
    assert lease.take(0) or not lease.lost()
    return lease


def test_runs_that_ended_untold_are_told_from_their_records(home: Home, tmp_path: Path) -> None:
    space = tiny_space(tmp_path, points=[{}, {"adversarial.lambda_cycle": TOO_MUCH}, {"adversarial.lambda_cycle": 2.0}])
    study = Study(home, space, running=3)
    complete, failed = study.train(0), study.train(1)
    stamps = [f.path.joinpath("record.json").stat().st_mtime_ns for f in (complete, failed)]
    assert take_up(study.storage, study.folder, space) == [2]
    assert study.states() == ["COMPLETE", "FAIL", "RUNNING"]
    row = study.storage.row(0)
    assert row.value == reduce_reports(complete.metrics(), space.objective) and sorted(row.reports) == [1, 2]
    assert "diverged" in (study.storage.row(1).error or "")
    assert [f.path.joinpath("record.json").stat().st_mtime_ns for f in (complete, failed)] == stamps
    assert take_up(study.storage, study.folder, space) == [2]


def test_trial_with_a_seed_missing_goes_on(home: Home, tmp_path: Path) -> None:
    space = tiny_space(tmp_path, seeds=[0, 1])
    study = Study(home, space, running=1)
    study.train(0, seed=0)
    assert take_up(study.storage, study.folder, space) == [0]
    second = study.train(0, seed=1)
    assert take_up(study.storage, study.folder, space) == []
    values = [reduce_reports(f.metrics(), space.objective) for f in study.folder.run_folders(space, 0)]
    assert second.read().seed == 1 and study.storage.row(0).value == pytest.approx(sum(values) / 2)


def test_records_follow_the_storage_once_nobody_computes(home: Home, tmp_path: Path) -> None:
    space = tiny_space(tmp_path)
    study = Study(home, space, running=3)
    folders = [study.train(n, should_stop=lambda: True) for n in range(3)]
    for folder in folders:
        folder.set_state("RUNNING")
    study.storage.report(0, 1, 0.5)
    study.storage.tell_pruned(0)
    study.storage.tell_failed(1, "its process died")
    changed = settle(study.storage, study.folder, space)
    assert [f.read().state for f in folders] == ["PRUNED", "FAIL", "INTERRUPTED"] and len(changed) == 3
    assert folders[1].read().error == "its process died"
    with folders[2].lock("writer", 1):
        folders[2].set_state("RUNNING")
        assert settle(study.storage, study.folder, space) == []


@pytest.mark.parametrize(("says", "state"), [("PRUNED", "INTERRUPTED"), ("COMPLETE", "COMPLETE")])
def test_processes_that_are_leaving_are_waited_for(home: Home, tmp_path: Path, says: State, state: str) -> None:
    space = tiny_space(tmp_path)
    study = Study(home, space, running=1)
    folder = study.train(0, should_stop=lambda: True)
    folder.set_state("RUNNING")
    held = threading.Event()

    def leave() -> None:
        with folder.lock("writer", 1):
            held.set()
            time.sleep(0.4)
            folder.set_state(says)

    leaving = threading.Thread(target=leave)
    leaving.start()
    assert held.wait(10)
    assert settle(study.storage, study.folder, space) == [] and folder.read().state == "RUNNING"
    changed = settle(study.storage, study.folder, space, patience_s=30)
    leaving.join()
    assert folder.read().state == state and len(changed) == (says != state)


def test_status_joins_storage_and_records(home: Home, tmp_path: Path) -> None:
    space = tiny_space(tmp_path)
    study = Study(home, space, running=2)
    folder = study.train(0)
    take_up(study.storage, study.folder, space)
    state = status("tiny", home)
    assert (state.done, state.running, state.target, state.epochs, state.state) == (1, 0, 4, 2, "interrupted")
    assert (state.interrupted, state.died) == (1, False), "nobody has run it yet"
    first = state.trials[0]
    assert (first.state, first.epoch, first.weights_sha) == ("COMPLETE", 2, folder.read().weights_sha)
    assert first.params == {"adversarial.lambda_cycle": 1.0, "adversarial.lr": 0.001}
    assert trial_config("tiny", home, 0) == space.config({}, 0)
    (line,) = overview(home).studies
    assert all(getattr(line, name) == getattr(state, name) for name in ListedStudy.__dataclass_fields__)
    with study.folder.driver_lock():
        assert status("tiny", home).state == "running"
        with pytest.raises(UserError, match="study is being run"), StudyFolder(home, "tiny").driver_lock():
            raise AssertionError("two drivers")
    with pytest.raises(UserError, match="did you mean tiny"):
        status("tinny", home)


def test_plan_counts_shared_stages_once(home: Home, tmp_path: Path) -> None:
    budgets = {"pretrain.epochs": {"categorical": [1, 2]}, "adversarial.epochs": {"categorical": [1, 3]}}
    path = write_space(tmp_path, space=budgets, points=[], sampler={"name": "grid"}, trials=None, seeds=[0, 1])
    result = plan(load_space(path), home)
    assert (result.trials, result.runs, result.exact) == (4, 8, True)
    # Each seed: one phase 1 of 2 epochs serves both, and each of the two hand-offs has a phase 2 of 3 epochs.
    assert (result.stages, result.epochs_without_reuse, result.epochs_with_reuse) == (6, 28, 16)
    assert result.epochs_stored == 0 and not home.runs.exists()


def test_plan_sees_what_is_stored(home: Home, tmp_path: Path) -> None:
    space = tiny_space(tmp_path)
    before = plan(space, home)
    study = Study(home, space, running=1)
    study.train(0)
    after = plan(space, home)
    assert (before.epochs_stored, after.epochs_stored) == (0, 2) and after.exact
    assert after.epochs_with_reuse == before.epochs_with_reuse and "whatever the scores are" in after.note
    learned = plan(tiny_space(tmp_path, name="learned", sampler={"name": "tpe"}), home)
    assert not learned.exact and "simulated draw" in learned.note and "tpe will choose others" in learned.note


def trial(status: str) -> Trial:
    """A trial of Tune's in a state."""
    made = Trial("run_trial", stub=True)
    made.set_status(status)
    return made


def test_halt_by_stop_file_and_by_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    stop = tmp_path / "stop"
    lease = held(tmp_path)
    halt = Halt(stop, None, lines.append, lease, snapshot_seconds=60)
    assert not HaltStopper(halt).stop_all() and not HaltStopper(halt)("trial", {})
    stop.touch()
    assert not HaltStopper(halt).stop_all() and halt.reason == STOPPED and len(lines) == 1
    assert "end at their epoch, or after 90 s" in lines[0]
    halt.look([trial("RUNNING"), trial("TERMINATED"), trial("PENDING")])
    assert not HaltStopper(halt).stop_all(), "one still trains"
    halt.look([trial("TERMINATED"), trial("PENDING")])
    assert HaltStopper(halt).stop_all()
    stop.unlink()
    assert halt.check() and not stop.exists()
    late = Halt(stop, 1e-9, lines.append, lease)
    assert late.check() and late.reason == OUT_OF_TIME and stop.exists() and len(lines) == 2
    late.look([trial("RUNNING")])
    monkeypatch.setattr(halt_module, "MARGIN_S", 0.0)
    hung = Halt(stop, None, lines.append, lease)
    hung.look([trial("RUNNING")])
    assert not late.over() and hung.over(), "one that hangs is not waited for without end"


def test_a_driver_that_lost_its_study_ends_and_leaves_the_stop_file_alone(tmp_path: Path) -> None:
    lease = held(tmp_path)
    halt = Halt(tmp_path / "stop", None, print, lease)
    look_s = 1.1 * lease_s() / BEATS
    time.sleep(look_s)
    assert not halt.check()
    # Its sign of life is taken away, as by somebody who took this process for dead; it may just be writing it anew.
    sessions = tmp_path / ".sessions"
    while found := [path for path in sessions.iterdir() if path.name.isalnum()]:
        for session in found:
            session.unlink(missing_ok=True)
        time.sleep(look_s)
    assert held(tmp_path) is not lease
    time.sleep(look_s)
    assert halt.check() and halt.reason == LOST and not (tmp_path / "stop").exists()


def test_no_run_of_a_trial_begins_once_the_study_is_to_stop(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study(home, tiny_space(tmp_path, points=[], seeds=[0, 1]), running=0)
    told: list[dict[str, Any]] = []

    def report(result: dict[str, Any]) -> None:
        told.append(result)
        if result.get("step") == study.space.base.num_epochs:  # the last epoch of the first seed, which is whole
            study.folder.stop_path.touch()

    monkeypatch.setattr(trainable.tune, "report", report)
    trainable.run_trial({"task": make_task(study.storage.draw(None, study.space), study.space, study.folder)})
    assert told[-1].get("trial_halted") == 1
    (run_id,) = home.run_ids()
    assert run_id.endswith("-s0")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_halt_by_signal_then_at_once(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    halt = Halt(tmp_path / "stop", None, lambda line: None, held(tmp_path))
    with signals(halt):
        os.kill(os.getpid(), number)
        assert halt.check() and halt.reason == INTERRUPTED
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before
