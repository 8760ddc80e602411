"""Homes of earlier releases at another path: they are resumed, extended, evaluated, compared, predicted with.

`tests/data/home-COMMIT.tar.xz` was made by scripts/release_home.py with the code of that commit, under a path that does
not exist here. The tests of one archive share one unpacked home, and each goes on with another part of it.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sage_ray.analysis import components
from sage_ray.data.synth import write_dataset
from sage_ray.record.home import Home
from sage_ray.record.model_versions import list_versions
from sage_ray.record.run_folder import RunFolder
from sage_ray.terminal.cli import call

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("connected")]

ARCHIVES = sorted((Path(__file__).parent.parent / "data").glob("home-*.tar.xz"))
Sage = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Unpacked:
    """A home of before where it lies now, and a copy of it that nothing has touched."""

    home: Home
    untouched: Home


@pytest.fixture(scope="module", params=ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.xz"))
def old(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Unpacked:
    place = tmp_path_factory.mktemp("moved") / "to another disk"
    with tarfile.open(request.param) as tar:
        tar.extractall(place, filter="data")
    shutil.copytree(place / "home", place / "untouched")
    return Unpacked(Home(place / "home"), Home(place / "untouched"))


@pytest.fixture
def sage(old: Unpacked, capsys: pytest.CaptureFixture[str]) -> Sage:
    """Run a verb on the home; returns its JSON."""

    def run(*words: str | Path) -> dict[str, Any]:
        code = call([*map(str, words), "--home", str(old.home.path), "--json", "--quiet"])
        out, err = capsys.readouterr()
        assert code == 0, err
        answer: dict[str, Any] = json.loads(out.splitlines()[-1])
        return answer

    return run


def epochs(home: Home, run_id: str) -> list[dict[str, Any]]:
    return RunFolder.open(home.runs, run_id).metrics()


def scores(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k.startswith(("val/", "train/"))} for line in lines]


def test_an_archive_is_there() -> None:
    assert ARCHIVES


def test_what_it_holds_is_listed(old: Unpacked, sage: Sage) -> None:
    answer = sage("list")
    assert {study["study"]: study["state"] for study in answer["studies"]} == {
        "old-search": "finished",
        "old-paused": "interrupted",
        "old-ablation": "finished",
    }
    assert len(answer["finals"]) == 2
    assert {run["run_id"]: run["state"] for run in answer["runs"]} == {"old-run": "INTERRUPTED"}


def test_an_interrupted_run_goes_on_from_its_last_snapshot(old: Unpacked, sage: Sage) -> None:
    before = epochs(old.untouched, "old-run")
    answer = sage("resume", "old-run")
    assert answer["state"] == "COMPLETE" and answer["epoch"] == 63
    assert answer["reused_epochs"] == len(before) > 3
    assert scores(epochs(old.home, "old-run"))[: len(before)] == scores(before)


def test_an_interrupted_search_goes_on_with_its_trial(old: Unpacked, sage: Sage) -> None:
    before = {trial: epochs(old.untouched, f"old-paused-t{trial:04d}-s0") for trial in (0, 1, 2)}
    answer = sage("resume", "old-paused")
    assert answer["state"] == "finished" and answer["done"] == 4
    for trial, lines in before.items():
        assert scores(epochs(old.home, f"old-paused-t{trial:04d}-s0"))[: len(lines)] == scores(lines)
    assert RunFolder.open(old.home.runs, "old-paused-t0002-s0").read().reused_epochs == len(before[2])


def test_a_finished_search_takes_more_trials(old: Unpacked, sage: Sage, tmp_path: Path) -> None:
    folder = old.home.studies / "old-search"
    for name in ("space.yaml", "base.yaml"):
        shutil.copy(folder / name, tmp_path / name)
    before = {run: old.untouched.runs / run for run in old.untouched.run_ids() if run.startswith("old-search-")}
    answer = sage("sweep", tmp_path / "space.yaml", "--set", "trials=4")
    assert answer["state"] == "finished" and len(answer["trials"]) == 4
    for run_id, folder in before.items():
        record = RunFolder.open(old.home.runs, run_id).read()
        assert record.weights_sha == RunFolder(folder).read().weights_sha
    assert not (old.untouched.runs / "old-search-t0003-s0").exists()
    assert RunFolder.open(old.home.runs, "old-search-t0003-s0").read().epoch >= 4


def test_a_finished_ablation_is_returned_without_training_or_reading_the_test(old: Unpacked, sage: Sage) -> None:
    answer = sage("resume", "old-ablation")
    assert answer["state"] == "finished" and answer["done"] == 4
    for run_id in (run for run in old.home.run_ids() if run.startswith("old-ablation-")):
        now = RunFolder.open(old.home.runs, run_id).read()
        was = RunFolder.open(old.untouched.runs, run_id).read()
        assert (now.weights_sha, now.attempt, now.test_reads) == (was.weights_sha, was.attempt, 1)


@pytest.mark.parametrize("study", ["old-search", "old-ablation", "old-paused"])
def test_studies_are_reported(study: str, sage: Sage) -> None:
    assert Path(sage("report", study)["paths"]["report"]).stat().st_size > 500


def test_tables_are_made_of_its_runs(old: Unpacked, script: Callable[..., int], tmp_path: Path) -> None:
    words = ("--study", "old-ablation", "--home", old.untouched.path, "--out", tmp_path)
    assert script(components, *words) == 0
    table = (tmp_path / "component_ablation.md").read_text()
    assert "| full (reference) | 2 |" in table and "| no_mixing | 2 |" in table and "Locked test images" in table


def test_its_champion_predicts_and_is_evaluated(old: Unpacked, sage: Sage, tmp_path: Path) -> None:
    write_dataset(tmp_path / "new", 2, 32, 7)
    answer = sage("predict", "models:/sage-gan@champion", tmp_path / "new" / "images", "-o", tmp_path / "out")
    assert answer["images"] == 2
    (run_id,) = [run for run in old.home.run_ids() if run.startswith("final-old-search") and run.endswith("-s0")]
    frame = pd.DataFrame(RunFolder.open(old.untouched.runs, run_id).per_image())
    told = frame[(frame["part"] == "test") & (frame["score"] == "dice")]["value"].mean()
    shown = sage("evaluate", "models:/sage-gan@champion")
    assert shown["scores"]["dice"]["mean"] == pytest.approx(told, abs=1e-12)
    assert RunFolder.open(old.home.runs, run_id).read().test_reads == 1


def test_its_versions_are_compared_and_a_new_one_joins_them_in_this_home_alone(old: Unpacked, sage: Sage) -> None:
    compared = sage("compare")
    assert [row["version"] for row in compared["versions"]] == [1, 2]
    assert compared["versions"][1]["verdict"] in ("supported", "refuted", "undecided")
    run = next(folder for folder in old.home.run_ids() if folder.startswith("final-config") and folder.endswith("-s0"))
    settings = RunFolder.open(old.home.runs, run).path / "config.yaml"
    made = sage("final", "-c", settings, "--set", "adversarial.epochs=2", "--seeds", "0")
    versions = list_versions(old.home)
    assert [entry.version for entry in versions] == [1, 2, 3] and made["version"] == 3
    root = old.home.artifact_root.as_uri()
    assert all(entry.source.startswith(f"{root}/") for entry in versions), versions


def test_what_mlflow_has_is_not_sent_to_another_place(old: Unpacked, sage: Sage) -> None:
    sage("sync")
    assert sage("sync")["sent"] == []
    places = {path.name for path in old.home.artifact_root.iterdir()}
    assert {path.name for path in old.untouched.artifact_root.iterdir()} <= places
