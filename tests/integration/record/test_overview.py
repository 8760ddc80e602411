"""`sage-ray list`: quick, light, and the same as what the studies themselves say."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from sage_ray.files import write_json
from sage_ray.record.home import Home
from sage_ray.record.overview import overview

LISTED = """
import sys
from sage_ray.terminal.cli import call

code = call(["list", "--home", sys.argv[1]])
heavy = sorted({"torch", "ray", "optuna", "mlflow", "pandas", "pyarrow"} & set(sys.modules))
sys.exit(code if not heavy else f"imported {heavy}")
"""


def many(home: Home, runs: int, studies: int) -> None:
    """Files of a home with single runs and with studies that were never begun."""
    home.check_writable()
    for number in range(runs):
        folder = home.runs / f"run-{number:04d}"
        folder.mkdir(exist_ok=True)
        write_json(folder / "record.json", {"run_id": folder.name, "state": "COMPLETE", "epoch": 3}, durable=False)
    for number in range(studies):
        folder = home.studies / f"study-{number:03d}"
        folder.mkdir(exist_ok=True)
        write_json(folder / "study.json", {"kind": "sweep", "trials": 5}, durable=False)


def test_a_large_home_is_listed_within_a_second_of_processor_time(home: Home) -> None:
    many(home, runs=500, studies=50)
    started = time.process_time()
    found = overview(home)
    spent = time.process_time() - started
    assert len(found.runs) == 500 and len(found.studies) == 50
    assert spent < 0.7, f"{spent:.2f} s"


def test_studies_on_a_server_are_listed_without_asking_it(home: Home) -> None:
    many(home, runs=0, studies=30)
    for folder in home.studies.iterdir():
        # An address that never answers: one look at it would take ten seconds.
        address = "postgresql://sage@192.0.2.1/optuna" if folder.name != "study-001" else "journal"
        write_json(folder / "study.json", {"kind": "sweep", "trials": 5, "storage": address}, durable=False)
        write_json(folder / "counts.json", {"COMPLETE": 3, "FAIL": 1, "PRUNED": 1}, durable=False)
    (home.studies / "study-002" / "counts.json").write_text("no json")
    (home.studies / "study-003" / "counts.json").unlink()
    started = time.monotonic()
    found = {study.study: study for study in overview(home).studies}
    assert time.monotonic() - started < 2.0
    sound = [study for name, study in found.items() if name not in ("study-002", "study-003")]
    assert {(s.state, s.done, s.pruned, s.failed, s.running) for s in sound} == {("finished", 3, 1, 1, 0)}
    assert (found["study-002"].state, found["study-003"].state) == ("damaged", "interrupted")


def test_list_imports_nothing_heavy(home: Home) -> None:
    many(home, runs=1, studies=1)
    done = subprocess.run(
        [sys.executable, "-c", LISTED, str(home.path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "study study-000: interrupted, 0 of 5 done" in done.stdout and "run   run-0000: COMPLETE" in done.stdout


@pytest.mark.parametrize(
    ("facts", "tree", "target"),
    [
        ({"kind": "sweep"}, {"trials": 7}, 7),
        ({"kind": "ablation", "arms": [{"not_run": None}, {"not_run": "no weights"}, {"not_run": None}]}, {}, 2),
        ({"kind": "ablation", "arms": [{"not_run": None}]}, {"seeds": [0, 1, 2], "folds": [0, 1]}, 6),
    ],
)
def test_the_trials_of_a_study_of_the_first_release_are_counted(
    home: Home, facts: dict[str, object], tree: dict[str, object], target: int
) -> None:
    folder = home.studies / "old"
    folder.mkdir(parents=True)
    write_json(folder / "study.json", facts)
    (folder / ("design.yaml" if facts["kind"] == "ablation" else "space.yaml")).write_text(yaml.safe_dump(tree))
    assert overview(home).studies[0].target == target


@pytest.mark.parametrize("damage", ["", "[]", "{", "{}"])
def test_what_is_damaged_is_left_out(home: Home, damage: str) -> None:
    for path in (home.studies / "bad" / "study.json", home.runs / "bad" / "record.json"):
        path.parent.mkdir(parents=True)
        Path(path).write_text(damage)
    many(home, runs=1, studies=1)
    found = overview(home)
    assert [study.study for study in found.studies] == ["study-000"]
    assert [run.run_id for run in found.runs] == ["run-0000"]


def test_a_study_whose_storage_is_lost_is_named_and_hides_no_other(home: Home) -> None:
    many(home, runs=1, studies=3)
    for number, content in ((0, None), (1, b"no database")):
        folder = home.studies / f"study-{number:03d}"
        run = home.runs / f"{folder.name}-t0000-s0"
        run.mkdir()
        write_json(run / "record.json", {"run_id": run.name, "study": folder.name, "state": "COMPLETE", "epoch": 3})
        if content is not None:
            (folder / "optuna.db").write_bytes(content)
    found = {study.study: study.state for study in overview(home).studies}
    assert found == {"study-000": "damaged", "study-001": "damaged", "study-002": "interrupted"}
