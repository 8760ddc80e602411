"""What verbs say first and last: their version, the data that they train on, and advice that is not refused."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from study_cases import Study, tiny_space
from tiny_cases import SMALLEST, as_sets

from sage_ray import __version__
from sage_ray.data.synth import write_dataset
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.search.reconcile import take_up
from sage_ray.terminal.cli import call

EPOCHS = {"pretrain.epochs": 2, "adversarial.epochs": 0, "runtime.pictures": False}


def sets(**more: object) -> list[str]:
    return [word for text in as_sets({**SMALLEST, **EPOCHS, **more}) for word in ("--set", text)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with the complete run `done` and the run `cut`, which was interrupted."""
    home = Home(tmp_path_factory.mktemp("home"))
    for run_id in ("done", "cut"):
        words = ["train", "--preset", "tiny_unet", *sets(), "--run-id", run_id, "--home", str(home.path), "--quiet"]
        assert call(words) == 0
    RunFolder.open(home.runs, "cut").set_state("INTERRUPTED")
    return home


def advice(out: str) -> list[list[str]]:
    """The commands that an answer ends with, as words after `sage-ray`."""
    lines = [line.split(": ", 1)[1] for line in out.splitlines() if line.startswith(("next: ", "  or: "))]
    return [shlex.split(line)[1:] for line in lines]


def test_the_version_is_told_without_a_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["--version"]) == 0
    assert capsys.readouterr().out == f"sage-ray {__version__}\n"


def test_training_begins_with_its_data_drawn_ones_named_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ["--home", str(tmp_path / "home")]
    assert call(["train", "--preset", "tiny_unet", *sets(), *home]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("data: drawn particles, no micrographs (synthetic://ordered?num=16&size=32&seed=0;")
    assert first.endswith(": 16 images, 11 train, 2 validation, 3 locked test")


def test_training_and_planning_on_a_folder_begin_with_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "mine", 12, 32, 1)
    own = sets(**{"data.path": str(tmp_path / "mine"), "data.split.folds": 3, "data.split.fold": 1})
    home = ["--home", str(tmp_path / "home")]
    for words in (["train", "--preset", "tiny_unet", *own], ["plan", "search_tiny", *own]):
        assert call([*words, *home]) == 0
        first = capsys.readouterr().out.splitlines()[0]
        assert first.startswith(f"data: {tmp_path / 'mine'}: 12 images, ") and first.endswith(", fold 1 of 3"), first


def test_crops_are_counted_by_micrograph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "mine", 12, 32, 1)
    for folder in ("images", "masks"):
        for number, path in enumerate(sorted((tmp_path / "mine" / folder).iterdir())):
            path.rename(path.with_name(f"m{number // 2}_{number % 2}{path.suffix}"))
    own = sets(**{"data.path": str(tmp_path / "mine"), "data.split.group": r"^(m\d+)_"})
    assert call(["train", "--preset", "tiny_unet", *own, "--home", str(tmp_path / "home")]) == 0
    assert ": 12 images of 6 micrographs, " in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize("run_id", ["done", "cut"])
def test_the_advice_of_a_runs_status_is_not_refused(
    finished: Home, run_id: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["status", run_id, "--home", str(finished.path)]) == 0
    given = advice(capsys.readouterr().out)
    assert given
    write_dataset(tmp_path / "new", 1, 32, 3)
    places = {"IMAGES": str(tmp_path / "new" / "images"), "OUT": str(tmp_path / "out")}
    for words in given:
        code = call([places.get(word, word) for word in words])
        assert code == 0, (words, capsys.readouterr().err)


@pytest.mark.parametrize("trials", [1, 3], ids=["finished", "interrupted"])
def test_status_of_a_study_waits_for_neither_torch_nor_ray(home: Home, tmp_path: Path, trials: int) -> None:
    study = Study(home, tiny_space(tmp_path, trials=trials, points=[{}]), running=1)
    study.train(0)
    take_up(study.storage, study.folder, study.space)
    code = (
        "import sys; from sage_ray.terminal.cli import call; code = call(sys.argv[1:]); "
        "print(code, sorted({'torch', 'ray', 'mlflow', 'scipy'} & set(sys.modules)))"
    )
    words = ["status", "tiny", "--home", str(home.path)]
    said = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "0 []", said
    assert f"1 of {trials} done" in said


@pytest.mark.parametrize(
    "words", [["list"], ["sweep", "search_tiny"], ["train", "--preset", "tiny_unet"], ["status", "x"]]
)
def test_a_home_at_an_address_that_is_none_is_refused_before_anything_is_made(
    tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call([*words, "--home", "s3:/bucket/sage"]) == 2
    monkeypatch.setenv("SAGE_HOME", "ftp://bucket/sage")
    assert call(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "write s3://BUCKET/PREFIX" in lines[0] and "no such kind of store" in lines[1]
    assert not list(tmp_path.iterdir())
