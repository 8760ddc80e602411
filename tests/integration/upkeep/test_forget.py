"""forget: what a study, a run or a final training alone owns goes, all else stays, and its name is free again."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from study_cases import Study, tiny_space
from tiny_cases import tiny_config

from sage_ray.config import ExperimentConfig
from sage_ray.errors import UserError
from sage_ray.evaluation.locked_test import evaluate, score_locked_test
from sage_ray.record.home import Home
from sage_ray.record.mlflow_client import connect, find_experiment
from sage_ray.record.mlflow_mirror import Mirror
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunLabels
from sage_ray.registry.final_plan import FinalPlan, declare, make_plan
from sage_ray.registry.register import register
from sage_ray.runtime.launch import run
from sage_ray.search.study_folder import StudyFolder, is_ablation
from sage_ray.study.design_schema import FINAL_ARM
from sage_ray.terminal.cli import call
from sage_ray.upkeep.forget import ForgetReport, forget
from sage_ray.upkeep.garbage import collect_garbage

SETS = ("pretrain.epochs=1", "adversarial.epochs=1", "runtime.pictures=false")


def tiny(*sets: str) -> ExperimentConfig:
    return tiny_config(*SETS, *sets)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the open study `tiny`: one trial of it is complete, and shares its phase 1 with the run `shared`.

    All of it is in the home's MLflow; the run `alone` has nothing in common with it.
    """
    folder = tmp_path_factory.mktemp("trained")
    home = Home(folder / "home")
    space = tiny_space(folder)
    study = Study(home, space, running=2)
    study.train(0)
    run(space.base.with_values({"seed": 0, "adversarial.lambda_cycle": 7.0}), home, "shared", mirror=False)
    run(tiny("seed=5"), home, "alone", mirror=False)
    mirror = Mirror(home)
    for run_id in home.run_ids():
        mirror.push(RunFolder(home.runs / run_id))
    return home.path


@pytest.fixture
def mine(trained: Path, tmp_path: Path) -> Home:
    """A copy of it for one test."""
    shutil.copytree(trained, tmp_path / "home")
    connect(Home(tmp_path / "home"))  # its database follows the copy when it is first opened
    return Home(tmp_path / "home")


RUN = "tiny-t0000-s0"


def files(home: Home) -> dict[str, tuple[int, int]]:
    # home.json notes where the home was last opened, whatever for.
    left_out = (".leases", ".sessions", "home.json")
    found = (p for p in home.path.rglob("*") if p.is_file() and not any(part in p.parts for part in left_out))
    return {str(path.relative_to(home.path)): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


def in_mlflow(home: Home) -> set[str]:
    """Names of the runs that MLflow lists."""
    client = connect(home)
    experiment = find_experiment(client)
    assert experiment is not None
    return {
        str(found.data.tags.get("sage.run_id", found.info.run_name))
        for found in client.search_runs([experiment.experiment_id])
    }


def test_a_dry_run_says_what_goes_and_changes_nothing(mine: Home) -> None:
    before = files(mine)
    found = forget("tiny", mine)
    assert files(mine) == before and found.dry_run and found.freed_gb == 0
    assert (found.kind, found.runs) == ("study", [RUN])
    whats = " ".join(item.what for item in found.items)
    assert " ".join(found.frame()["what"]) == whats and "nothing was removed" in found._repr_html_()
    assert (
        "studies/tiny" in whats and RUN in whats and "1 that nothing else needs" in whats and "2 runs in MLf" in whats
    )
    shared = RunFolder(mine.runs / "shared").read().stage_keys["pretrain"]
    assert found.kept == [f"stage {shared}: run shared has it too"]


def test_a_study_goes_with_all_that_it_alone_owns_and_its_name_is_free(mine: Home, tmp_path: Path) -> None:
    (mine.path / "ray" / RUN).mkdir(parents=True)
    keys = RunFolder(mine.runs / RUN).read().stage_keys
    before = files(mine)
    assert in_mlflow(mine) == {"tiny", RUN, "shared", "alone"}
    done = forget("tiny", mine, remove=True)
    gone = {name: size for name, (size, _) in before.items() if name not in files(mine)}
    assert sum(gone.values()) / 1e9 == pytest.approx(done.freed_gb, abs=1e-6) and done.freed_gb == done.gb > 0
    own = ("studies/tiny/", f"runs/{RUN}/", f"stages/{keys['adversarial']}/", "mlartifacts/")
    assert all(name.startswith(own) for name in gone), gone
    assert not (mine.studies / "tiny").exists() and not (mine.path / "ray" / RUN).exists()
    assert not (mine.path / ".forgotten").exists()
    assert in_mlflow(mine) == {"shared", "alone"}
    # The name is taken up by another study, whose run has the id of the one before and another config.
    again = Study(mine, tiny_space(tmp_path, space={"adversarial.lr": {"float": [1e-5, 1e-3]}}), running=1)
    second = again.train(0)
    assert second.run_id == RUN and Mirror(mine).push(second) and in_mlflow(mine) >= {"tiny", RUN}
    with pytest.raises(UserError, match="no such study"):
        forget("nothing", mine)


def test_runs_without_their_study_are_forgotten_by_its_name(mine: Home) -> None:
    shutil.rmtree(mine.studies / "tiny")
    with pytest.raises(UserError, match="another config"):
        run(tiny("seed=9"), mine, RUN, mirror=False)
    done = forget("tiny", mine, remove=True)
    assert (done.kind, done.runs) == ("study", [RUN]) and RUN not in mine.run_ids()
    assert run(tiny("seed=9"), mine, RUN, mirror=False).finished
    # MLflow alone has something left of a study that was removed by hand.
    shutil.rmtree(mine.runs / "alone")
    with pytest.raises(UserError, match=r"no such study, run or final training: alnoe"):
        forget("alnoe", mine)


def test_a_single_run_goes_by_itself_and_that_of_a_study_does_not(mine: Home) -> None:
    done = forget("alone", mine, remove=True)
    assert (done.kind, done.runs) == ("run", ["alone"]) and "alone" not in mine.run_ids()
    assert "alone" not in in_mlflow(mine) and "tiny" in in_mlflow(mine)
    with pytest.raises(UserError, match="run of a study: tiny-t0000-s0: forget the whole of it"):
        forget(RUN, mine, remove=True)
    (mine.runs / "shared" / "record.json").write_text("{")
    assert forget("shared", mine, remove=True).runs == ["shared"] and mine.run_ids() == [RUN]


def test_what_runs_is_refused(mine: Home) -> None:
    before = files(mine)
    with StudyFolder(mine, "tiny").driver_lock(), pytest.raises(UserError, match="sage-ray stop tiny"):
        forget("tiny", mine, remove=True)
    with RunFolder(mine.runs / RUN).lock("writer", 1), pytest.raises(UserError, match="run is being computed"):
        forget("tiny", mine, remove=True)
    assert files(mine) == before


def test_weights_that_unfinished_work_starts_from_are_kept(mine: Home) -> None:
    config = tiny("pretrain.checkpoint=alone", "pretrain.epochs=0")
    run(config, mine, "cut", should_stop=lambda: True, mirror=False)
    with pytest.raises(UserError, match=r"run is needed: alone: let run cut finish"):
        forget("alone", mine, remove=True)
    forget("cut", mine, remove=True)
    assert forget("alone", mine, remove=True).runs == ["alone"]


@pytest.mark.parametrize(
    ("name", "said"),
    [("tinny", "did you mean tiny"), ("alon", "did you mean alone"), ("../runs", "no such"), ("", "no such")],
)
def test_an_unknown_name_is_one_line_with_the_nearest(
    mine: Home, name: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(mine)
    assert call(["forget", name, "--yes", "--home", str(mine.path)]) == 2
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1 and files(mine) == before


def test_stages_that_an_open_study_begins_with_stay(mine: Home, tmp_path: Path) -> None:
    Study(mine, tiny_space(tmp_path, name="other"), running=0)
    found = forget("tiny", mine)
    assert len(found.kept) == 2 and any("study other has it too" in line for line in found.kept)
    assert not any("stages/" in item.what for item in found.items)


def test_mlflow_that_is_away_is_said_and_the_same_call_ends_it_later(
    mine: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = mine.mlflow_uri
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    done = forget("tiny", mine, remove=True)
    assert any("not reached" in line and "127.0.0.1:9" in line for line in done.kept) and RUN not in mine.run_ids()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", own)
    assert "tiny" in in_mlflow(mine)
    again = forget("tiny", mine, remove=True)
    assert [item.what for item in again.items] == ["2 runs in MLflow (deleted there)"]
    assert in_mlflow(mine) == {"shared", "alone"}


def test_runs_of_another_experiment_than_the_usual_one_are_found(mine: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine alone")
    alone = RunFolder(mine.runs / "alone")
    assert Mirror(mine).push(alone) and in_mlflow(mine) == {"alone"}
    report = forget("alone", mine, remove=True)
    assert in_mlflow(mine) == set() and any("1 run in MLflow" in item.what for item in report.items)


def test_no_password_is_told_of_a_server_that_is_away(mine: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ana:quite-secret@127.0.0.1:9")
    told = "\n".join(forget("tiny", mine).kept)
    assert "not reached" in told and "127.0.0.1:9" in told and "quite-secret" not in told


def test_a_server_that_two_homes_share_keeps_what_the_other_has(
    mine: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/shared.db")
    other = Home(tmp_path / "other")
    shutil.copytree(mine.runs / RUN, other.runs / RUN)
    for home in (mine, other):
        Mirror(home).push(RunFolder(home.runs / RUN))
    forget("tiny", mine, remove=True)
    assert in_mlflow(other) == {"tiny", RUN} and not Mirror(other).push(RunFolder(other.runs / RUN))


def test_a_call_that_is_killed_anywhere_is_finished_by_the_next(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies before its first, second, ... removal; none leaves anything behind in the end."""
    kills = 0
    monkeypatch.setenv("SAGE_LEASE_SECONDS", "1")
    for number in range(40):
        home = Home(tmp_path / str(number))
        shutil.copytree(trained, home.path)
        (home.path / "mlflow.db").unlink()
        if not _dies_at(number, lambda home=home: forget("tiny", home, remove=True)):  # type: ignore[misc]
            break
        kills += 1
        time.sleep(1.2)  # until it shows
        if (home.studies / "tiny").exists() or RUN in home.run_ids() or (home.path / ".forgotten").exists():
            forget("tiny", home, remove=True)
        assert home.run_ids() == ["alone", "shared"] and not (home.studies / "tiny").exists()
        assert not (home.path / ".forgotten").exists()
        assert not collect_garbage(home).items or {i.kind for i in collect_garbage(home).items} == {"snapshots"}
        shutil.rmtree(home.path)
    assert 4 <= kills < 40


def _dies_at(number: int, work: Callable[[], ForgetReport]) -> bool:
    """Whether a child process died at its `number`th call that moves or removes a whole thing."""
    child = os.fork()
    if child == 0:
        count = 0

        def watched(real: Callable[..., Any]) -> Callable[..., Any]:
            def call_it(*args: Any, **kwargs: Any) -> Any:
                nonlocal count
                count += 1
                if count > number:
                    os._exit(9)
                return real(*args, **kwargs)

            return call_it

        os.replace, shutil.rmtree = watched(os.replace), watched(shutil.rmtree)
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    _, state = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(state)
    assert code in (0, 9), code
    return code == 9


def test_a_name_used_again_is_counted_by_itself_in_the_ledger(home: Home) -> None:
    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in (home.path / "test_reads.jsonl").read_text().splitlines()]

    run(tiny(), home, "again", mirror=False)
    evaluate("again", "test", home, baseline=False)
    first = lines()
    done = forget("again", home, remove=True)
    assert any("1 reading of a locked test" in line for line in done.kept) and lines() == first
    # Made anew, with other weights: its reading is one more, and a repeated look is none.
    run(tiny("seed=3"), home, "again", mirror=False)
    folder = RunFolder(home.runs / "again")
    folder.update(created="2099-01-01T00:00:00Z")  # a second later would do; this test is quicker than that
    score_locked_test("again", home, purpose="t")
    found = evaluate("again", "test", home, baseline=False)
    assert [(row["reader"], row["read"]) for row in lines()] == [("again", 1), ("again", 2)]
    assert folder.read().test_reads == 1 and (found.test_reads, found.test_reads_of_home) == (1, 2)
    assert lines()[0]["weights_sha"] != lines()[1]["weights_sha"]
    # A kill between record and ledger is mended, though the forgotten run of that name stands in the ledger.
    (home.path / "test_reads.jsonl").write_text(json.dumps(first[0]) + "\n")
    score_locked_test("again", home, purpose="t")
    assert len(lines()) == 2


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, FinalPlan]:
    """A home with a study, and a final training of it that is registered."""
    folder = tmp_path_factory.mktemp("registered")
    home = Home(folder / "home")
    study = Study(home, tiny_space(folder), running=1)
    study.train(0)
    plan = make_plan(tiny("pretrain.schedule.rule=constant", "adversarial.schedule.rule=constant"), home,
                     trial="best", seeds=(0,), model_name="toy")  # fmt: skip
    plan = declare(plan.model_copy(update={"study": "tiny", "source": "tiny"}), home)
    labels = RunLabels(study="tiny", trial=0, arm=FINAL_ARM, parent=plan.final_id)
    assert run(plan.run_config(0), home, plan.run_id(0), labels=labels, mirror=False).finished
    register(plan, home, score_locked_test(plan.run_id(0), home, purpose="final"))
    return home, plan


def test_what_is_registered_stays_and_is_named(registered: tuple[Home, FinalPlan], tmp_path: Path) -> None:
    home, plan = registered
    before = files(home)
    for name in (plan.final_id, plan.run_id(0)):
        with pytest.raises(UserError, match=r"models:/toy/1|forget the whole of it"):
            forget(name, home, remove=True)
    assert files(home) == before
    done = forget("tiny", home, remove=True)
    assert done.runs == [RUN] and home.run_ids() == [plan.run_id(0)]
    assert f"final training {plan.final_id}: registered as models:/toy/1" in done.kept
    assert evaluate("models:/toy/1", "test", home, baseline=False).test_reads == 1
    assert not is_ablation("tiny", home) and plan.final_id in home.final_ids()


def test_a_final_training_without_a_version_goes(registered: tuple[Home, FinalPlan], tmp_path: Path) -> None:
    home, plan = registered
    second = declare(make_plan(plan.run_config(0), home, trial="best", seeds=(4, 5), model_name="toy"), home)
    labels = RunLabels(arm=FINAL_ARM, parent=second.final_id)
    run(second.run_config(4), home, second.run_id(4), labels=labels, mirror=False)
    done = forget(second.final_id, home, remove=True)
    assert (done.kind, done.runs) == ("final", [second.run_id(4)])
    assert home.final_ids() == [plan.final_id] and home.run_ids() == [plan.run_id(0)]


def test_the_verb_is_a_dry_run_without_yes(mine: Home, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--home", os.fspath(mine)]
    assert call(["forget", "tiny", *where]) == 0
    out = capsys.readouterr().out
    assert "nothing was removed" in out and f"sage-ray forget tiny --yes --home {mine.path}" in out
    assert call(["forget", "tiny", "--yes", "--json", *where]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["ok"] and not answer["dry_run"] and answer["freed_gb"] == answer["gb"] and answer["runs"] == [RUN]
