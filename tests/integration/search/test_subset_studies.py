"""Ablations over subsets of labelled images: the best arm, what status says, and the table of runs."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from design_cases import ARMS, changed, load

from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.record.run_record import RunLabels
from sage_ray.search.ablate import read_ablation
from sage_ray.search.best import best
from sage_ray.search.opening import write_study
from sage_ray.search.storage import StudyStorage
from sage_ray.search.study_folder import StudyFolder
from sage_ray.search.study_tables import export
from sage_ray.terminal.cli import call
from sage_ray.terminal.study_answers import arm_lines


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Two arms with two seeds and two subsets each, recorded by hand: full is worth .6, no_mixing .5 and more."""
    folder = tmp_path_factory.mktemp("subsets")
    tree = changed(ARMS, subsets=[0, 4], arms__dice=None, base__set={"data.split.labels": 8}, test=False)
    design, home = load(changed(tree, arms__full__label="Whole"), folder), Home(folder / "home")
    home.check_writable()
    study = StudyFolder(home, "good")
    study.path.mkdir(parents=True)
    write_study(study, design, "data", [])
    storage = StudyStorage(study.path, "good", design)
    storage.enqueue(design.fixed, design)
    for _ in range(design.trials):
        number = storage.draw(None, design).number
        arm, place = design.cells[number]
        value = 0.6 if arm.name == "full" else 0.5 + 0.01 * number
        config = design.run_configs(number, design.fixed[number].values)[0]
        run = RunFolder.create(home.runs, place.run_id, config, RunLabels(study="good", trial=number, arm=arm.name))
        report = {"epoch": 1, "phase": "pretrain", "phase_epoch": 1, "seconds": 1.0, "replayed": False}
        run.append_metrics({**report, "val/dice": value})
        run.set_state("COMPLETE", epoch=1, selected_epoch=1, test_reads=0)
        storage.tell_complete(number, [value])
    return home


def test_the_best_arm_is_chosen_over_all_its_seeds_and_subsets(home: Home) -> None:
    choice = best("good", home)
    assert choice.params["arm"] == "full" and choice.value == pytest.approx(0.6)
    assert len(choice.run_ids) == 4 and "subset" not in choice.params and set(choice.seed_values) == {0, 1}


def test_status_and_the_table_of_runs_tell_subsets_apart(home: Home, tmp_path: Path) -> None:
    result = read_ablation("good", home)
    assert "means over seeds and subsets" in arm_lines(result)[0]
    assert {(run.seed, run.subset) for run in result.runs} == {(0, 0), (0, 4), (1, 0), (1, 4)}
    assert [arm.label for arm in result.arms] == ["Whole", None] and result.arms[0].wanted == 4
    for ending in ("csv", "parquet"):
        path = export("good", tmp_path / f"runs.{ending}", home, runs=True)
        table = pd.read_csv(path) if ending == "csv" else pd.read_parquet(path)
        assert (
            sorted(table["subset"]) == [0, 0, 0, 0, 4, 4, 4, 4]
            and not table.duplicated(["arm", "seed", "subset"]).any()
        )


def test_a_report_advises_final_only_where_there_is_a_best_one(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh = Home(tmp_path / "home")
    fresh.check_writable()
    study = StudyFolder(fresh, "good")
    study.path.mkdir(parents=True)
    write_study(study, load(ARMS, tmp_path), "data", [])
    assert call(["report", "good", "--home", str(home.path), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert [words.split()[1] for words in answer["next"]] == ["final"]
    assert call(["report", "good", "--home", str(fresh.path)]) == 2
    assert "study has no finished run: good (no run has begun)" in capsys.readouterr().err
