"""A sweep on Ray Tune: states, objectives, records and storage agree; a finished study is left alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import ray
from mlflow_cases import runs
from sweep_cases import TOO_MUCH, record, start, write_space

from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.record.overview import Overview, overview
from sage_ray.record.run_folder import RunFolder
from sage_ray.search.driver import resume, sweep
from sage_ray.search.planned_taken import planned_and_taken
from sage_ray.search.study_status import status, stop, trial_config
from sage_ray.study.objective import reduce_reports
from sage_ray.study.space import load_space
from sage_ray.terminal.shell import plain

pytestmark = pytest.mark.ray


class Seen:
    """Keeps what a sweep shows."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.states: set[str] = set()

    def update(self, state: Any) -> None:
        self.states |= {trial.state for trial in state.trials}

    def line(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, Path, Seen]]:
    """One study with a good base, a diverging point, a good point and a poor one, two seeds each, ASHA from epoch 3."""
    folder = tmp_path_factory.mktemp("swept")
    home, seen = Home(folder / "home"), Seen()
    path = write_space(
        folder,
        seeds=[0, 1],
        points=[
            {},
            {"adversarial.lambda_cycle": TOO_MUCH},
            {"adversarial.lambda_cycle": 2.0},
            {"adversarial.lr": 1e-5},
        ],
        trials=4,
        concurrency=1,
        scheduler={"name": "asha", "grace_epochs": 3, "reduction_factor": 1.5},
    )
    state = sweep(load_space(path), home, watch=seen)
    assert state.state == "finished" and not ray.is_initialized()
    yield home, path, seen


def test_states_are_exact_and_agree_everywhere(swept: tuple[Home, Path, Seen]) -> None:
    home, _, seen = swept
    state = status("tiny", home)
    stored = optuna.load_study(study_name="tiny", storage=f"sqlite:///{home.studies}/tiny/optuna.db").trials
    assert [t.number for t in state.trials] == [0, 1, 2, 3]
    # Optuna is told that a trial diverged by a constraint that it violates, so that its samplers keep away.
    told = {"FAIL": "PRUNED"}
    assert [told.get(t.state, t.state) for t in state.trials] == [t.state.name for t in stored]
    assert [t.constraints for t in stored] == [{}, {"diverged": 1.0}, {}, {}] and stored[1].values is None
    spent = planned_and_taken("tiny", home)
    assert spent is not None and spent.epochs < spent.needed_epochs  # phase 1 is trained once a seed
    assert spent.epochs <= spent.planned_epochs and spent.planned_hours is None  # no run was there to go by
    assert state.trials[0].state == "COMPLETE" and state.trials[1].state == "FAIL"
    assert state.failed == 1 and state.done + state.pruned == 3
    assert "diverged" in (state.trials[1].error or "") and "epoch" in (state.trials[1].error or "")
    assert "RUNNING" in seen.states
    for trial in state.trials:
        found = record(home, f"tiny-t{trial.number:04d}-s0")
        assert found["state"] == trial.state, found["error"]
    assert (home.runs / "tiny-t0001-s0" / "error.txt").read_text().strip()
    log = (home.runs / "tiny-t0001-s0" / "log.txt").read_text()
    assert "data: drawn particles" in log and "attempt 1 on CPU" in log and "RUNNING -> FAIL: diverged" in log


def test_mlflow_knows_how_each_trial_has_ended(swept: tuple[Home, Path, Seen]) -> None:
    """Also of one that its scheduler stopped last: its process ends with the study, and may be sending just then."""
    home, _, _ = swept
    told = {run.data.tags["sage.run_id"]: run.info.status for run in runs(home) if "sage.run_id" in run.data.tags}
    ended = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
    states = {run.run_id: run.state for trial in status("tiny", home).trials for run in trial.runs}
    assert {name: ended[state] for name, state in states.items() if (home.runs / name).is_dir()} == told


def test_poorest_point_is_pruned_at_its_step(swept: tuple[Home, Path, Seen]) -> None:
    home, _, _ = swept
    stored = optuna.load_study(study_name="tiny", storage=f"sqlite:///{home.studies}/tiny/optuna.db").trials
    at_rung = {t.number: t.intermediate_values[3] for t in stored if 3 in t.intermediate_values}
    pruned = [t for t in stored if t.state == optuna.trial.TrialState.PRUNED and not t.constraints]
    assert len(at_rung) == 3
    for trial in pruned:
        assert trial.last_step == 3 and at_rung[trial.number] < max(at_rung.values())
        assert record(home, f"tiny-t{trial.number:04d}-s0")["epoch"] == 3
        assert not (home.runs / f"tiny-t{trial.number:04d}-s1").exists()
    poorest = min(at_rung, key=at_rung.__getitem__)
    assert poorest == 0 or poorest in {t.number for t in pruned}


def test_value_is_the_mean_over_seeds_of_the_plateau(swept: tuple[Home, Path, Seen]) -> None:
    home, path, _ = swept
    objective = load_space(path).objective
    for trial in status("tiny", home).trials:
        if trial.state != "COMPLETE":
            continue
        runs = [RunFolder.open(home.runs, f"tiny-t{trial.number:04d}-s{seed}") for seed in (0, 1)]
        assert [run.read().state for run in runs] == ["COMPLETE", "COMPLETE"]
        assert trial.value == statistics.fmean(reduce_reports(run.metrics(), objective) for run in runs)
        assert trial.weights_sha == runs[0].read().weights_sha and trial.epoch == 5


def test_phase_1_is_computed_once_a_seed(swept: tuple[Home, Path, Seen]) -> None:
    home, _, _ = swept
    keys = {record(home, f"tiny-t{n:04d}-s0")["stage_keys"].get("pretrain") for n in (0, 2)}
    reused = [record(home, f"tiny-t{n:04d}-s0")["reused_epochs"] for n in (0, 2)]
    assert len(keys - {None}) == 1 and reused[0] == 0
    assert reused[1] >= 2 or record(home, "tiny-t0002-s0")["state"] == "PRUNED"


def test_trial_0_is_the_untuned_base(swept: tuple[Home, Path, Seen]) -> None:
    home, path, _ = swept
    base = load_space(path).base
    assert RunFolder.open(home.runs, "tiny-t0000-s0").config().identity() == base.identity()
    assert trial_config("tiny", home, 2).adversarial.lambda_cycle == 2.0
    with pytest.raises(UserError, match="trials 0 to 3"):
        trial_config("tiny", home, 9)


def test_finished_study_is_left_as_it_is(swept: tuple[Home, Path, Seen]) -> None:
    home, path, _ = swept
    before = status("tiny", home)
    stamps = {p: p.stat().st_mtime_ns for p in home.runs.glob("*/record.json")}
    assert sweep(load_space(path), home) == before
    assert resume("tiny", home) == before
    assert {p: p.stat().st_mtime_ns for p in home.runs.glob("*/record.json")} == stamps


def test_name_taken_by_another_space_is_refused(swept: tuple[Home, Path, Seen], tmp_path: Path) -> None:
    home, path, _ = swept
    with pytest.raises(UserError, match="another space: tiny: objective.reduce was plateau, is last"):
        sweep(load_space(path, ["objective.reduce=last"]), home)
    with pytest.raises(UserError, match=r"seeds \[1\] would be left out"):
        sweep(load_space(path, ["seeds=[0]"]), home)
    with pytest.raises(UserError, match="3 trials, but 4 have begun"):
        resume("tiny", home, sets=["trials=3", "points=[]"])
    with pytest.raises(UserError, match="did you mean tiny"):
        resume("tinny", home)
    with pytest.raises(UserError, match="not running"):
        stop("tiny", home)
    seen, now = overview(home).studies, status("tiny", home)
    assert [plain(line) for line in seen] == [{name: getattr(now, name) for name in plain(seen[0])}]
    assert overview(Home(tmp_path)) == Overview((), (), ())


def test_study_and_its_runs_are_in_mlflow(swept: tuple[Home, Path, Seen]) -> None:
    home, _, _ = swept
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=home.mlflow_uri)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    parents = {r.info.run_id: r for r in runs if r.data.tags.get("sage.kind") == "study"}
    children = [r for r in runs if r.data.tags.get("sage.kind") == "run"]
    assert len(parents) == 1
    (parent,) = parents.values()
    assert parent.info.status == "FINISHED" and parent.data.metrics["trials/wanted"] == 4
    assert len(children) == len(list(home.runs.iterdir()))
    assert {r.data.tags["mlflow.parentRunId"] for r in children} == set(parents)


@pytest.mark.parametrize(
    ("sets", "environment", "words"),
    [
        (["resources.cpu=4000"], {}, "too few CPUs"),
        ([], {"RAY_ADDRESS": "127.0.0.1:1"}, "RAY_ADDRESS=127.0.0.1:1"),
        ([], {"RAY_ADDRESS": "ray://127.0.0.1:1"}, "Ray client"),
        (["data.path=no/such/folder"], {}, "no/such/folder"),
    ],
)
def test_bad_surroundings_are_refused_before_training(
    home: Home,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sets: list[str],
    environment: dict[str, str],
    words: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as caught:
        sweep(load_space(write_space(tmp_path), sets), home)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not list(home.path.glob("runs/*"))


def test_gpu_asked_for_where_none_is_exits_2(tmp_path: Path) -> None:
    process = start("sweep", str(write_space(tmp_path)), "--home", str(tmp_path / "home"), "--set", "resources.gpu=1")
    _, errors = process.communicate(timeout=120)
    lines = errors.strip().splitlines()
    assert process.returncode == 2 and len(lines) == 1 and lines[0].startswith("no GPU: resources.gpu=1"), errors


@pytest.mark.slow
def test_trial_of_two_workers_nests_ray_train(home: Home, tmp_path: Path) -> None:
    base = {"segmenter.norm": "group", "generator.norm": "group", "discriminators.norm": "group"}
    path = write_space(tmp_path, base=base, resources={"cpu": 1, "workers": 2}, trials=2)
    state = sweep(load_space(path, ["concurrency=1"]), home)
    assert (state.done, state.failed) == (2, 0)
    assert record(home, "tiny-t0000-s0")["numerics"]["workers"] == 2
    assert [trial.epoch for trial in state.trials] == [5, 5]
