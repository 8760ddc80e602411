"""Reading a locked test part: scored once, counted once, read back after; images that a model has seen are left out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sage_ray.config import ExperimentConfig, resolve
from sage_ray.data.prepare import prepare
from sage_ray.data.synth import write_dataset
from sage_ray.errors import UserError
from sage_ray.evaluation import ledger
from sage_ray.evaluation.locked_test import Evaluation, evaluate, score_locked_test
from sage_ray.imaging.model import load_model_folder
from sage_ray.metrics.image_scores import score_image, summarise
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.runtime.launch import run
from sage_ray.statistics import mean_interval


def tiny(path: str, **sets: object) -> ExperimentConfig:
    values = {
        "data.path": path,
        "data.image_size": [32, 32],
        "segmenter.width": 4,
        "segmenter.depth": 2,
        "pretrain.epochs": 1,
        "adversarial.epochs": 0,
        "runtime.pictures": False,
        "runtime.threads": 1,
        **sets,
    }
    return resolve(preset="tiny_sage_gan", sets=values).config


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with one finished run on a folder of 20 drawn pairs."""
    root = tmp_path_factory.mktemp("evaluate")
    write_dataset(root / "data", 20, 32, 0)
    home = Home(root / "home")
    record = run(tiny(str(root / "data")), home, "toy", mirror=False, launcher="inline")
    assert record.finished and record.test_reads == 0
    return home


@pytest.fixture
def fresh(trained: Home, tmp_path: Path) -> Home:
    """A copy of that home, so that tests do not count each other's reads."""
    shutil.copytree(trained.path, tmp_path / "home")
    return Home(tmp_path / "home")


def data_of(home: Home) -> Path:
    return Path(RunFolder.open(home.runs, "toy").config().data.path)


def reads(home: Home) -> list[dict]:
    return ledger.read(home.path / ledger.TEST_READS)


def test_locked_test_is_scored_once_and_read_back(fresh: Home) -> None:
    first = evaluate("toy", "test", fresh)
    assert first.fresh and first.part == "locked test" and first.images == 4 and first.test_reads == 1
    again = evaluate("toy", None, fresh)
    assert not again.fresh and again.scores == first.scores and again.test_reads == 1
    assert len(reads(fresh)) == 1
    record = RunFolder.open(fresh.runs, "toy").read()
    assert record.test_reads == 1
    row = reads(fresh)[0]
    assert (row["reader"], row["images"], row["split_id"]) == ("toy", 4, record.split_id)
    assert row["weights_sha"] == record.weights_sha and "@" in row["who"]
    frame = score_locked_test("toy", fresh, purpose="final")
    assert set(frame["score"]) >= {"dice", "tp", "f1_object_50"} and set(frame["seed"]) == {0}
    assert len(reads(fresh)) == 1


def test_scores_are_those_of_the_stored_weights(fresh: Home) -> None:
    found = evaluate("toy", "test", fresh)
    run_folder = RunFolder.open(fresh.runs, "toy")
    data = prepare(run_folder.config().data, fresh.cache)
    model = load_model_folder(run_folder.model)
    rows = [
        score_image(p > 0.5, data.masks[i], min_object_pixels=15, boundary_tolerance=2.0)
        for i, p in zip(data.split.test, model.probabilities(data.images[data.split.test]), strict=True)
    ]
    expected = summarise(rows)
    assert {name: found.scores[name].mean for name in expected} == pytest.approx(expected)
    assert found.scores["dice"].low is not None and found.scores["f1_pixel"].low is None
    assert found.baseline["dice"].images == 4
    assert found.gain is not None and found.gain.mean == pytest.approx(
        found.scores["dice"].mean - found.baseline["dice"].mean
    )
    assert "truth as given" in found.scores["dice"].definition and "32x32" in found.scores["dice"].definition


def test_kill_between_scores_and_count_is_mended(fresh: Home) -> None:
    evaluate("toy", "test", fresh)
    folder = RunFolder.open(fresh.runs, "toy")
    folder.update(test_reads=0)
    (fresh.path / ledger.TEST_READS).unlink()
    again = evaluate("toy", "test", fresh)
    assert not again.fresh and again.test_reads == 1
    assert folder.read().test_reads == 1 and len(reads(fresh)) == 1


def test_own_data_folder_gives_the_locked_part_alone(fresh: Home) -> None:
    found = evaluate("toy", data_of(fresh), fresh)
    assert (found.part, found.images, found.test_reads) == ("locked test", 4, 1)
    assert "16 of 20 images left out" in found.notes[0]
    assert evaluate("toy", "test", fresh).scores == found.scores


def test_other_data_are_scored_whole_and_cost_no_read(fresh: Home, tmp_path: Path) -> None:
    found = evaluate("toy", "synthetic://ordered?num=6&size=32&seed=77", fresh)
    assert (found.part, found.images, found.test_reads, found.notes) == ("all images", 6, 0, [])
    assert reads(fresh) == [] and RunFolder.open(fresh.runs, "toy").read().test_reads == 0
    assert found.per_image.is_file() and found.per_image.parent.name == "evaluations"
    again = evaluate("toy", "synthetic://ordered?num=6&size=32&seed=77", fresh)
    assert not again.fresh and again.scores == found.scores


def test_seen_images_under_new_names_are_left_out(fresh: Home, tmp_path: Path) -> None:
    mixed = write_dataset(tmp_path / "mixed", 5, 32, 99)
    config = RunFolder.open(fresh.runs, "toy").config().data
    data = prepare(config, fresh.cache)
    source = data_of(fresh)
    for n, index in enumerate(data.split.train[:3]):
        image, mask = data.files[index]
        shutil.copy(source / "images" / image, mixed / "images" / f"renamed{n}.png")
        shutil.copy(source / "masks" / mask, mixed / "masks" / f"renamed{n}.png")
    found = evaluate("toy", mixed, fresh)
    assert (found.part, found.images) == ("unseen images", 5)
    assert "3 of 8 images left out" in found.notes[0]
    for path in mixed.rglob("*.png"):
        if not path.name.startswith("renamed"):
            path.unlink()
    with pytest.raises(UserError, match="the model was trained on every image"):
        evaluate("toy", mixed, fresh)


def test_changed_training_data_are_refused(fresh: Home, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(data_of(fresh), moved)
    folder = RunFolder.open(fresh.runs, "toy")
    config = folder.path / "config.yaml"
    config.write_text(config.read_text().replace(str(data_of(fresh)), str(moved)))
    assert evaluate("toy", "test", fresh).images == 4
    picture = next((moved / "images").glob("*.png"))
    Image.fromarray(255 - np.asarray(Image.open(picture))).save(picture)
    with pytest.raises(UserError, match="data have changed since the training"):
        evaluate("toy", "test", fresh)


def test_bad_requests_are_one_line(fresh: Home, tmp_path: Path) -> None:
    folder = tmp_path / "alone"
    shutil.copytree(RunFolder.open(fresh.runs, "toy").model, folder)
    with pytest.raises(UserError, match="model has no test part of its own"):
        evaluate(folder, "test", fresh)
    outside = evaluate(folder, "synthetic://ordered?num=3&size=32&seed=5", fresh)
    assert outside.images == 3 and "training data are not at hand" in outside.notes[0]
    with pytest.raises(UserError, match="no such model: toi: did you mean toy"):
        evaluate("toi", "test", fresh)
    with pytest.raises(UserError, match="no such folder"):
        evaluate("toy", tmp_path / "nowhere", fresh)
    path = str(data_of(fresh))
    whole = tiny(path, **{"data.split.test": 0.0})
    run(whole, fresh, "untested", mirror=False, launcher="inline")
    with pytest.raises(UserError, match="no locked test part"):
        evaluate("untested", "test", fresh)


def test_one_image_has_scores_without_an_interval(fresh: Home) -> None:
    found = evaluate("toy", "synthetic://ordered?num=1&size=32&seed=3", fresh)
    assert found.scores["dice"].low is None and "one image" in found.scores["dice"].over
    assert found.gain is not None and found.gain.low is None


def test_one_image_is_shown_in_a_terminal(fresh: Home) -> None:
    words = ["evaluate", "toy", "synthetic://ordered?num=1&size=32&seed=3", "--home", str(fresh.path)]
    command = [sys.executable, "-m", "sage_ray", *words]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert "one image: no interval; scored in fp32" in shown.stdout and "Dice, model minus Otsu:" in shown.stdout
    told = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    answer = json.loads(told.stdout.splitlines()[-1])
    assert answer["scoring"] == "fp32" and answer["gain"]["low"] is None and answer["images"] == 1


def test_a_locked_test_of_one_image_is_counted_once(fresh: Home) -> None:
    alone = tiny(str(data_of(fresh)), **{"data.split.test": 0.01})
    run(alone, fresh, "alone", mirror=False, launcher="inline")
    found = evaluate("alone", "test", fresh)
    assert (found.images, found.test_reads, found.scores["dice"].low) == (1, 1, None)
    assert RunFolder.open(fresh.runs, "alone").read().test_reads == 1 and len(reads(fresh)) == 1


class Broken(Exception):
    pass


def test_what_cannot_be_shown_is_not_counted(fresh: Home) -> None:
    seen: list[Evaluation] = []

    def fail(result: Evaluation) -> None:
        seen.append(result)
        raise Broken

    with pytest.raises(Broken):
        evaluate("toy", "test", fresh, tell=fail)
    folder = RunFolder.open(fresh.runs, "toy")
    assert folder.read().test_reads == 0 and reads(fresh) == []
    assert not [row for row in folder.per_image() if row["part"] == "test"]
    assert (seen[0].test_reads, seen[0].test_reads_of_home) == (1, 1)
    # What is told is what will have been counted by the time it is shown.
    told: list[int] = []
    evaluate("toy", "test", fresh, tell=lambda result: told.append(len(reads(fresh)) - result.test_reads))
    assert told == [-1] and folder.read().test_reads == 1 and len(reads(fresh)) == 1


def test_a_shown_reading_was_counted_before(fresh: Home) -> None:
    """Killed while it prints, the verb has counted: the text is whole first, the count second, the print last."""
    script = (
        "import os, sys\nfrom sage_ray.terminal.cli import main\n"
        "class Killed:\n    def write(self, text):\n        os._exit(9)\n    def flush(self): ...\n"
        "    def isatty(self): return False\n"
        "sys.stdout = Killed()\nsys.argv = ['sage-ray', 'evaluate', 'toy', '--quiet', '--home', sys.argv[1]]\nmain()\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(fresh.path)], capture_output=True, text=True, check=False)
    assert ended.returncode == 9, ended.stderr
    assert RunFolder.open(fresh.runs, "toy").read().test_reads == 1 and len(reads(fresh)) == 1


@pytest.fixture(scope="module")
def cropped(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with a run on 24 crops of 8 micrographs, one to five of each."""
    root = tmp_path_factory.mktemp("cropped")
    folder = write_dataset(root / "data", 24, 32, 1)
    owners = [0, 0, 0, 1, 2, 2, 3, 3, 3, 3, 3, 4, 4, 5, 5, 5, 5, 6, 6, 6, 7, 7, 7, 7]
    for part in ("images", "masks"):
        for number, path in enumerate(sorted((folder / part).iterdir())):
            path.rename(path.with_name(f"m{owners[number]}_crop{number:02d}{path.suffix}"))
    home = Home(root / "home")
    sets = {"data.split.group": r"^(m\d+)", "data.split.test": 0.4, "pretrain.batch_size": 2}
    assert run(tiny(str(folder), **sets), home, "crops", mirror=False, launcher="inline").finished
    return home


def test_crops_count_as_their_micrographs(cropped: Home) -> None:
    found = evaluate("crops", "test", cropped)
    frame = pd.DataFrame(RunFolder.open(cropped.runs, "crops").per_image())
    dice = frame[(frame["score"] == "dice") & (frame["part"] == "test") & (frame["checkpoint"] != "otsu")]
    groups = dice["group"].tolist()
    assert 2 <= len(set(groups)) < len(groups) == found.images and set(frame["group"].str[0]) == {"m"}
    line = found.scores["dice"]
    expected = mean_interval(dice["value"].to_numpy(), groups=groups)
    assert line.mean == pytest.approx(dice["value"].mean()) and line.high == pytest.approx(min(expected.high, 1.0))
    assert line.over.startswith(f"{len(set(groups))} micrographs ({len(groups)} images)")
    assert line.micrographs == len(set(groups)) and found.gain is not None and "micrographs" in found.gain.over


def test_crops_of_other_data_are_known_by_name(cropped: Home, tmp_path: Path) -> None:
    other = write_dataset(tmp_path / "other", 5, 32, 55)
    for part in ("images", "masks"):
        for number, path in enumerate(sorted((other / part).iterdir())):
            path.rename(path.with_name(f"{'m7' if number < 3 else 'x'}_{number}{path.suffix}"))
    # Three crops of m7, and two whose names say nothing.
    assert evaluate("crops", other, cropped).scores["dice"].over.startswith("3 micrographs (5 images)")


def test_scores_of_before_get_their_micrographs_from_the_manifest(cropped: Home, tmp_path: Path) -> None:
    shutil.copytree(cropped.path, tmp_path / "home")
    home = Home(tmp_path / "home")
    now = evaluate("crops", "test", home).scores["dice"]
    folder = RunFolder.open(home.runs, "crops")
    rows = pq.read_table(folder.per_image_path)
    pq.write_table(rows.drop_columns("group"), folder.per_image_path)
    assert evaluate("crops", "test", home).scores["dice"] == now
    assert {row["group"] for row in folder.per_image()} == set(rows["group"].to_pylist())


def test_copies_of_one_picture_in_a_group_are_scored(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "data", 10, 32, 2)
    for part in ("images", "masks"):
        for number, path in enumerate(sorted((folder / part).iterdir())):
            path.rename(path.with_name(f"m{number}_a{path.suffix}"))
            shutil.copy(folder / part / f"m{number}_a{path.suffix}", folder / part / f"m{number}_b{path.suffix}")
    home = Home(tmp_path / "home")
    config = tiny(str(folder), **{"data.split.group": r"^(m\d+)", "data.split.test": 0.3})
    assert run(config, home, "copies", mirror=False, launcher="inline").finished
    found = evaluate("copies", "test", home)
    assert found.images == 2 * found.scores["dice"].micrographs
