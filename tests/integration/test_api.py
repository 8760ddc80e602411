"""sage_ray in Python: homes, files and shipped names as they come; a study as tables, in memory and in files."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from IPython.lib.pretty import pretty
from study_cases import Study, tiny_space
from sweep_cases import TOO_MUCH
from tiny_cases import SMALLEST

import sage_ray
from sage_ray.by_hand import going_on
from sage_ray.errors import Interrupted, UserError
from sage_ray.notebook_view import NotebookView
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.search.reconcile import take_up
from sage_ray.terminal.cli import call
from sage_ray.watch import SilentWatch

RESULTS = {
    "RunRecord": "sage_ray.record.run_record",
    "StudyStatus": "sage_ray.search.study_status",
    "AblationResult": "sage_ray.search.ablate",
    "FinalResult": "sage_ray.registry.final",
    "ListedStudies": "sage_ray.record.overview",
    "ReportFiles": "sage_ray.reports.study_reports",
}
"""Where results lie that their function imports for the type checker alone."""
TINY = {**SMALLEST, "pretrain.epochs": 1, "adversarial.epochs": 1, "runtime.pictures": False}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with the study `tiny`: a trial that is complete, one that diverged, one that has begun."""
    folder = tmp_path_factory.mktemp("api")
    home = Home(folder / "home")
    points = [{}, {"adversarial.lambda_cycle": TOO_MUCH}, {"adversarial.lr": 1e-4}]
    made = Study(home, tiny_space(folder, points=points), running=3)
    made.train(0)
    made.train(1)
    assert take_up(made.storage, made.folder, made.space) == [2]
    return home


def test_importing_the_package_is_quick_and_all_names_are_there() -> None:
    code = "import sys, sage_ray; sage_ray.Home; print(sorted({'torch', 'ray', 'mlflow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
    for name in sage_ray.__all__:
        found = getattr(sage_ray, name)
        assert name == "__version__" or found.__doc__, name
        assert name in dir(sage_ray)
    assert inspect.signature(sage_ray.plan).parameters["home"].default is None
    with pytest.raises(AttributeError, match="no attribute 'swep'"):
        sage_ray.swep  # noqa: B018


def test_a_study_is_a_table_of_its_trials(study: Home) -> None:
    table = sage_ray.Study("tiny", study.path).frame()
    assert list(table.columns) == [
        *("number", "state", "value", "adversarial.lambda_cycle", "adversarial.lr"),
        *("epochs", "seconds", "error", "weights_sha"),
    ]
    assert table["number"].tolist() == [0, 1, 2] and table["state"].tolist() == ["COMPLETE", "FAIL", "INTERRUPTED"]
    record = RunFolder(study.runs / "tiny-t0000-s0").read()
    first = table.iloc[0]
    assert first["weights_sha"] == record.weights_sha and first["epochs"] == 2 and first["value"] > 0
    assert "diverged" in table["error"][1] and pd.isna(table["error"][0]) and pd.isna(table["value"][2])


def test_a_study_tells_its_runs_state_and_best_trial(study: Home) -> None:
    found = sage_ray.Study("tiny", str(study.path))
    runs = found.runs()
    assert runs["run_id"].tolist() == ["tiny-t0000-s0", "tiny-t0001-s0"]
    assert 0 < runs["val/dice"][0] <= 1 and runs["seed"].tolist() == [0, 0]
    assert found.status().state == "interrupted" and found.best().trial == 0
    assert repr(found) == f"Study('tiny', home='{study.path}')"
    with pytest.raises(UserError, match="did you mean tiny"):
        sage_ray.Study("tinny", study.path)


def test_homes_are_objects_folders_or_the_usual_one(study: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGE_HOME", str(study.path))
    for home in ([study], [study.path], [str(study.path)], [None], []):
        assert sage_ray.status("tiny", *home).done == 1
        assert sage_ray.best("tiny", *home).trial == 0
        assert [s.study for s in sage_ray.list_studies(*home)] == ["tiny"]
        assert sage_ray.list_studies(*home).frame()["state"].tolist() == ["interrupted"]
    assert sage_ray.status("tiny-t0000-s0").finished
    with pytest.raises(UserError, match="did you mean tiny"):
        sage_ray.status("tinyy")
    with pytest.raises(UserError, match="study is not running"):
        sage_ray.stop("tiny")
    with pytest.raises(UserError, match="go on with the whole of it"):
        sage_ray.resume("tiny-t0000-s0")
    assert sage_ray.forget("tiny").dry_run and study.study_names() == ["tiny"]


@pytest.mark.parametrize("given", ["search_tiny", "search_tiny.yaml", "object", "path"])
def test_plans_take_shipped_names_files_and_objects(given: str, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    space: Any = {"object": sage_ray.load_space("search_tiny"), "path": own}.get(given, given)
    own.write_text(Path(sage_ray.load_space("search_tiny").source).read_text())
    plan = sage_ray.plan(space, tmp_path / "home")
    assert plan.trials == sage_ray.load_space("search_tiny").trials and plan.kind == "sweep"
    if given != "object":
        for sets in ({"trials": 3}, ["trials=3"], "trials=3"):
            assert sage_ray.plan(space, tmp_path / "home", sets=sets).trials == 3
    assert not (tmp_path / "home" / "runs").exists()


def test_a_file_that_is_not_there_is_no_shipped_one(tmp_path: Path) -> None:
    for name in (str(tmp_path / "search_tiny.yaml"), "search_tyni.yaml"):
        with pytest.raises(UserError):
            sage_ray.plan(name, tmp_path)
    with pytest.raises(UserError, match="nothing to set"):
        sage_ray.plan(sage_ray.load_space("search_tiny"), tmp_path, sets=["trials=3"])


def test_training_takes_a_preset_a_file_or_a_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = str(tmp_path / "home")
    first = sage_ray.train("tiny_sage_gan", home, sets=TINY, mirror=False)
    again = sage_ray.train(Path(home) / "runs" / first.run_id / "config.yaml", home, first.run_id, mirror=False)
    config = sage_ray.resolve("tiny_sage_gan", sets=TINY).config
    third = sage_ray.train(config, home, first.run_id, watch=SilentWatch(), mirror=False)
    assert first.finished and first == again == third and first.run_id.startswith("tiny_sage_gan-")
    assert sage_ray.resume(first.run_id, home) == first
    assert capsys.readouterr().out == "", "a script stays silent"


def test_progress_is_printed_where_python_is_used_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    sage_ray.train("tiny_unet", tmp_path, sets={**TINY, "adversarial.epochs": 0}, mirror=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("data: drawn particles") and any("dice" in line for line in lines[1:])


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_trials_and_runs_are_exported(
    study: Home, tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / f"trials.{ending}"
    words = ["export", "tiny", "-o", str(path), "--home", str(study.path)]
    assert call([*words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["paths"]["table"] == str(path) and answer["rows"] == "trials"
    read = {"csv": pd.read_csv, "parquet": pd.read_parquet}[ending]
    whole = sage_ray.Study("tiny", study).frame()
    stored = read(path)  # type: ignore[operator]
    assert list(stored.columns) == list(whole.columns) and stored["state"].tolist() == whole["state"].tolist()
    assert stored["adversarial.lr"].tolist() == pytest.approx(whole["adversarial.lr"].tolist())
    assert call([*words, "--runs"]) == 0
    assert read(path)["run_id"].tolist() == ["tiny-t0000-s0", "tiny-t0001-s0"]  # type: ignore[operator]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tiny", "-o", "trials.xlsx"], ".csv or .parquet"),
        (["tinny", "-o", "trials.csv"], "did you mean tiny"),
        (["tiny", "-o", "file/trials.csv"], "cannot be written"),
    ],
)
def test_an_export_that_cannot_be_is_one_line(
    study: Home, words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    assert call(["export", *words, "--home", str(study.path)]) == 2
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1


def test_mixed_and_listed_parameters_reach_both_formats(study: Home, tmp_path: Path) -> None:
    from sage_ray.search.study_tables import _cell, _of_one_kind

    table = pd.DataFrame({"a": [1, "x", None], "b": [[1, 2], [3], None]}, dtype=object)
    for column in table:
        table[column] = [_cell(value) for value in table[column]]
    _of_one_kind(table).to_parquet(tmp_path / "t.parquet")
    assert pd.read_parquet(tmp_path / "t.parquet")["b"].tolist()[:2] == ["[1, 2]", "[3]"]


def test_results_are_tables_in_a_notebook_and_bad_input_is_one_line(study: Home) -> None:
    found = sage_ray.status("tiny", study)
    for result, rows in ((found, 3), (sage_ray.best("tiny", study), 1), (sage_ray.plan("search_tiny", study), 7)):
        page = result._repr_html_()
        assert len(result.frame()) >= rows and page.count("<tr>") == len(result.frame()) + 1
        assert result.headline() in page.replace("&#x27;", "'")
    assert "tiny interrupted: 1 of 4 trials complete, 0 pruned, 1 failed" in found._repr_html_()
    assert "val/dice" in sage_ray.status("tiny-t0000-s0", study)._repr_html_()
    assert ">nan<" not in found._repr_html_()
    lines = pretty(found).splitlines()
    assert lines[0] == found.headline() and "adversarial.lr" in lines[1] and max(map(len, lines)) < 200
    with pytest.raises(UserError) as refused:
        sage_ray.sweep("serch_tiny", study)
    assert refused.value._render_traceback_() == [f"UserError: {refused.value}"]


def test_whatever_a_function_finds_is_a_table() -> None:
    others = {"resolve": "Resolved", "load_space": "Space", "load_design": "Design", "export": "Path"}
    for name in set(sage_ray.__all__) - {
        "__version__",
        "ExperimentConfig",
        "Home",
        "UserError",
        "Interrupted",
        "Study",
    }:
        work = inspect.unwrap(getattr(sage_ray, name))
        for told in str(inspect.signature(work).return_annotation).split(" | "):
            if others.get(name) != told:
                module = inspect.getmodule(work)
                found = getattr(module, told, None) or getattr(import_module(RESULTS[told]), told)
                assert issubclass(found, NotebookView), (name, told)


def test_an_interrupted_call_says_how_to_go_on(study: Home) -> None:
    for name, home, told in (
        ("tiny", study, f"sage_ray.resume('tiny', {str(study.path)!r})"),
        ("tiny", str(study.path), f"sage_ray.resume('tiny', {str(study.path)!r})"),
        ("other", study, "nothing was begun"),
        (None, study, "nothing was begun"),
    ):
        with pytest.raises(KeyboardInterrupt, match=re.escape(told)) as stopped, going_on(lambda: name, home):  # noqa: B023
            raise KeyboardInterrupt
        assert isinstance(stopped.value, Interrupted) and not isinstance(stopped.value, Exception)
        assert len(stopped.value._render_traceback_()) == 1
