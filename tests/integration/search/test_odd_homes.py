"""A home works under any name that a folder can have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow_cases import runs
from study_cases import Study, tiny_space

from sage_ray.analysis.setting_importance import stored_trials
from sage_ray.record.home import Home
from sage_ray.record.overview import overview
from sage_ray.search.reconcile import take_up
from sage_ray.search.study_status import status
from sage_ray.terminal.cli import call


@pytest.mark.parametrize("name", ["plain", "q?x=1#y%20z"])
def test_a_study_is_kept_shown_and_sent(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    home = Home(tmp_path / name / "home")
    study = Study(home, tiny_space(tmp_path, trials=1, points=[{}]), running=1)
    folder = study.train(0)
    take_up(study.storage, study.folder, study.space)
    assert folder.read().finished and (study.folder.path / "optuna.db").is_file()
    assert status("tiny", home).done == 1 and overview(home).studies[0].state == "finished"
    trials, maximize = stored_trials(study.folder.home, "tiny")
    assert len(trials) == 1 and maximize
    for words in (["list"], ["status", "tiny"], ["best", "tiny"], ["sync"]):
        assert call([*words, "--home", str(home.path), "--json"]) == 0, words
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["ok"]
    assert home.database is not None and home.database.is_file()
    assert {run.info.run_name for run in runs(home)} == {"tiny", "t0000-s0 of tiny"}
    assert all(list(path.glob("artifacts/*.yaml")) for path in home.artifact_root.iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {name, "tiny.yaml"}, "nothing is made elsewhere"
