"""Reading a locked test part: scored once, counted once, read back after; images that a model has seen are left out."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sage_ray.config import ExperimentConfig, resolve
from sage_ray.data.prepare import prepare
from sage_ray.data.synth import write_dataset
from sage_ray.errors import UserError
from sage_ray.metrics import score_image, summarise
from sage_ray.registry import ledger
from sage_ray.registry.evaluate import evaluate, score_locked_test
from sage_ray.registry.predictor import load_model_folder
from sage_ray.runtime.home import Home
from sage_ray.runtime.launch import run
from sage_ray.runtime.record import RunFolder


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
    assert {name: line.mean for name, line in found.scores.items()} == pytest.approx(
        {name: expected[name] for name in found.scores}
    )
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
