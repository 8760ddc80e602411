"""Scores of particles in `evaluate`: true instances where the truth has them, else components; earlier readings."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sage_ray.config import ExperimentConfig, resolve
from sage_ray.data.prepare import prepare
from sage_ray.data.synth import write_dataset
from sage_ray.data.true_particles import TrueParticles
from sage_ray.errors import UserError
from sage_ray.evaluation import ledger
from sage_ray.evaluation.locked_test import evaluate, stored_test_rows
from sage_ray.evaluation.particle_scores import SIZES, particle_lines, read_sizes, sizes_of_runs
from sage_ray.evaluation.score_tables import summary
from sage_ray.imaging.model import load_model_folder
from sage_ray.imaging.splitting import split_mask
from sage_ray.metrics.definitions import IMAGE_SCORES, PARTICLE_ROWS, PARTICLE_SCORES, POOLED
from sage_ray.metrics.size_scores import score_particles
from sage_ray.record.home import Home
from sage_ray.record.run_folder import BASELINE, PER_IMAGE_SCHEMA, RunFolder
from sage_ray.runtime.launch import run
from sage_ray.sections import DataConfig
from sage_ray.terminal.cli import call

DRAWN = "synthetic://ordered?num=16&size=64&seed=0"


def config_of(path: str, **sets: object) -> ExperimentConfig:
    values = {
        "data.path": path,
        "data.image_size": [64, 64],
        "segmenter.width": 4,
        "segmenter.depth": 2,
        "pretrain.epochs": 4,
        "adversarial.epochs": 0,
        "evaluation.min_object_pixels": 5,
        "runtime.pictures": False,
        "runtime.threads": 1,
    }
    return resolve(preset="tiny_sage_gan", sets=values | sets).config


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with one finished run on drawn particles, which is never evaluated."""
    home = Home(tmp_path_factory.mktemp("particles") / "home")
    assert run(config_of(DRAWN), home, "toy", mirror=False, launcher="inline").finished
    return home


@pytest.fixture
def fresh(trained: Home, tmp_path: Path) -> Home:
    shutil.copytree(trained.path, tmp_path / "home")
    return Home(tmp_path / "home")


def test_drawn_data_are_scored_on_their_true_instances(fresh: Home) -> None:
    found = evaluate("toy", "test", fresh)
    names = [*PARTICLE_SCORES, *(f"{name}_pooled" for name in PARTICLE_SCORES if name != "count_error_abs")]
    assert list(found.scores) == [*IMAGE_SCORES, POOLED, *names] == list(found.baseline)
    folder = RunFolder.open(fresh.runs, "toy")
    data = prepare(folder.config().data, fresh.cache)
    model, truth = load_model_folder(folder.model), TrueParticles(folder.config().data, data)
    rows = []
    for row in data.split.test:
        true, pred = truth.labels(row), model.probabilities(data.images[row][None])[0] > 0.5
        assert true is not None and np.array_equal(true > 0, data.masks[row] > 0)
        rows.append(score_particles(true, split_mask(pred, 5), 5).values)
    for name in PARTICLE_SCORES:
        values = [row[name] for row in rows if math.isfinite(row[name])]
        assert found.scores[name].mean == pytest.approx(np.mean(values)) and found.scores[name].images == len(values)
        assert "particles are the instances of the truth" in found.scores[name].definition
        assert found.scores[name].definition.endswith("truth as given, at 64x64 pixels")
    total = {name: sum(row[name] for row in rows) for name in ("particles_true", "particles_pred")}
    pooled = found.scores["count_error_pooled"]
    assert pooled.mean == pytest.approx(total["particles_pred"] / total["particles_true"] - 1)
    assert pooled.low is not None and pooled.high is not None and pooled.low <= pooled.mean <= pooled.high
    assert "bootstrap draws of images" in pooled.over and "all images together" in pooled.definition
    assert not any("count as one" in note for note in found.notes)


def test_scores_and_sizes_are_stored_and_read_back(fresh: Home) -> None:
    first = evaluate("toy", "test", fresh)
    again = evaluate("toy", "test", fresh)
    assert not again.fresh and again.scores == first.scores and again.baseline == first.baseline
    folder = RunFolder.open(fresh.runs, "toy")
    frame = stored_test_rows(folder)
    assert set(PARTICLE_ROWS) < set(frame["score"]) and not set(SIZES) & set(frame["score"])
    assert folder.per_image_table().schema == PER_IMAGE_SCHEMA
    sizes = pd.DataFrame(read_sizes(folder))
    for checkpoint in {*frame["checkpoint"], BASELINE}:
        rows = stored_test_rows(folder, baseline=checkpoint == BASELINE)
        for side in ("true", "pred"):
            counted = rows.loc[rows["score"] == f"particles_{side}", "value"].sum()
            own = sizes[(sizes["checkpoint"] == checkpoint) & (sizes["score"] == f"diameter_{side}")]
            assert len(own) == counted and own["value"].between(2, 64).all()


def test_a_reading_of_an_earlier_release_loads_and_gets_them_without_another_count(fresh: Home) -> None:
    first = evaluate("toy", "test", fresh)
    folder = RunFolder.open(fresh.runs, "toy")
    old = [row for row in folder.per_image() if row["score"] not in PARTICLE_ROWS]
    folder.write_per_image(old)
    (folder.path / "particle_sizes.parquet").unlink()
    frame = stored_test_rows(folder)
    assert not set(PARTICLE_ROWS) & set(frame["score"]) and particle_lines(frame, "toy") == {}
    assert summary(frame, "toy") == {name: first.scores[name] for name in (*IMAGE_SCORES, POOLED)}
    again = evaluate("toy", "test", fresh)
    assert again.scores == first.scores and again.test_reads == 1 and not again.fresh
    assert len(ledger.read(fresh.path / ledger.TEST_READS)) == 1
    assert set(PARTICLE_ROWS) < set(stored_test_rows(folder)["score"]) and read_sizes(folder)


def write_truth(folder: Path, *, numbered: bool) -> Path:
    """Pairs of squares that touch in twos, as label maps or as 0 and 255."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for index in range(4):
        labels = np.zeros((64, 64), np.uint8)
        for number, (row, column) in enumerate(((8, 8), (8, 22), (40, 8), (40, 22)), start=1):
            labels[row : row + 12, column : column + 14] = number
        grey = (90 + 100 * (labels > 0) + rng.normal(0, 6, labels.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(grey).save(folder / "images" / f"a{index}.png")
        Image.fromarray(labels if numbered else (labels > 0) * np.uint8(255)).save(folder / "masks" / f"a{index}.png")
    return folder


def test_touching_labels_are_scored_otherwise_than_their_components(fresh: Home, tmp_path: Path) -> None:
    numbered = evaluate("toy", write_truth(tmp_path / "numbered", numbered=True), fresh)
    binary = evaluate("toy", write_truth(tmp_path / "binary", numbered=False), fresh)
    # Otsu finds each pair of squares as one rectangle, which is right for a truth of components alone.
    assert binary.baseline["instance_ap_50"].mean == 1 and binary.baseline["count_error"].mean == 0
    assert numbered.baseline["count_error"].mean == pytest.approx(-0.5)
    assert numbered.baseline["instance_ap_50"].mean < 0.5
    assert numbered.baseline["f1_object_50"].mean == binary.baseline["f1_object_50"].mean
    definitions = [each.scores["count_error"].definition for each in (numbered, binary)]
    assert "instances of the truth" in definitions[0] and "4-connected components of truth" in definitions[1]
    assert any("the truth has no instance numbers" in note for note in binary.notes) and not numbered.notes


def test_true_instances_keep_their_numbers_through_cutting_resizing_and_a_rule(tmp_path: Path) -> None:
    folder = write_truth(tmp_path / "data", numbered=True)
    settings = DataConfig(path=str(folder), image_size=(20, 32), crop_bottom=24, foreground="1..9 ignore 2")
    data = prepare(settings, tmp_path / "cache")
    labels = TrueParticles(settings, data).labels(0)
    assert labels is not None and labels.shape == (20, 32) and len(np.unique(labels)) == 2
    np.testing.assert_array_equal(labels > 0, data.masks[0] > 0)
    shutil.rmtree(folder)
    gone = TrueParticles(settings, data)
    assert gone.labels(0) is None and not gone.at_hand and not gone.are_numbered(range(4))


def test_masks_of_other_data_are_read_as_their_rule_says(fresh: Home, tmp_path: Path) -> None:
    folder = write_truth(tmp_path / "data", numbered=True)
    found = evaluate("toy", folder, fresh, foreground="1,3", baseline=False)
    assert "masks are read with data.foreground='1,3'" in found.notes[0]
    assert "particles being mask values 1,3" in found.scores["dice"].definition
    other = evaluate("toy", folder, fresh, baseline=False)
    assert other.fresh and other.scores["dice"].mean != found.scores["dice"].mean
    for rule, data, what in (("1-3", folder, "bad rule of data.foreground"), ("1", "test", "rule for the locked test")):
        with pytest.raises(UserError, match=what):
            evaluate("toy", data, fresh, foreground=rule)


def test_a_model_scores_other_data_by_its_rule_where_that_finds_particles(tmp_path: Path) -> None:
    training = write_dataset(tmp_path / "training", 12, 64, 1)
    for path in (training / "masks").iterdir():
        mask = np.asarray(Image.open(path)) // 255
        mask[:, -1] = 255
        Image.fromarray(mask).save(path)
    home = Home(tmp_path / "home")
    ruled = config_of(str(training), **{"data.foreground": "1 ignore 255", "pretrain.epochs": 1})
    assert run(ruled, home, "ruled", mirror=False, launcher="inline").finished
    own = evaluate("ruled", "test", home, baseline=False)
    assert "particles being mask values 1 ignore 255" in own.scores["dice"].definition
    usual = evaluate("ruled", write_dataset(tmp_path / "usual", 4, 64, 9), home, baseline=False)
    assert any("finds no particle in these masks" in note for note in usual.notes)
    assert "mask values" not in usual.scores["dice"].definition


def test_the_verb_shows_them_and_tells_them_as_json(fresh: Home, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "toy", "--home", str(fresh.path)]
    assert call(words) == 0
    shown = capsys.readouterr().out.splitlines()
    start = next(
        place for place, line in enumerate(shown) if line.startswith("one by one: particles are the instances")
    )
    assert "mean over images" in shown[start + 1] and "all images pooled" in shown[start + 1]
    assert all(len(line) <= 80 for line in shown[start + 1 : start + 2 + 2 * len(PARTICLE_SCORES)])
    assert [line.split()[0] for line in shown[start + 2 : start + 2 + len(PARTICLE_SCORES)]] == list(PARTICLE_SCORES)
    assert call([*words, "--json", "--quiet"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    for name in ("instance_ap_50", "count_error", "diameter_bias", "size_wasserstein", "size_ks", "size_ks_pooled"):
        line = answer["scores"][name]
        assert line["definition"] and line["images"] >= 1 and line["low"] <= line["mean"] <= line["high"]


def test_seeds_are_crossed_with_images_and_a_version_without_sizes_has_the_means_alone(fresh: Home) -> None:
    evaluate("toy", "test", fresh)
    folder = RunFolder.open(fresh.runs, "toy")
    rows, sizes = stored_test_rows(folder), sizes_of_runs([folder])
    assert set(sizes["score"]) <= set(SIZES) and set(sizes["seed"]) == {0} and BASELINE not in set(sizes["checkpoint"])
    one = particle_lines(pd.concat([rows, sizes]), "toy")
    other = [frame.assign(seed=1) for frame in (rows, sizes)]
    both = particle_lines(pd.concat([rows, sizes, *other]), "toy")
    for name, line in both.items():
        assert (line.mean, line.seeds) == (pytest.approx(one[name].mean), 2)
    assert both["size_ks_pooled"].over.endswith("bootstrap draws of images and seeds")
    assert list(particle_lines(rows, "toy")) == [name for name in one if not name.endswith("_pooled")]


def test_crops_of_one_micrograph_are_one_cluster(fresh: Home) -> None:
    evaluate("toy", "test", fresh)
    folder = RunFolder.open(fresh.runs, "toy")
    frame = pd.concat([stored_test_rows(folder), sizes_of_runs([folder])])
    lines = particle_lines(frame.assign(group="one"), "toy")
    assert lines["count_error"].low is None and "crops of one micrograph" in lines["count_error"].over
    assert lines["count_error_pooled"].low is None and lines["count_error_pooled"].micrographs == 1
    names = {sha: str(place // 2) for place, sha in enumerate(sorted(frame["image_sha"].unique()))}
    paired = particle_lines(frame.assign(group=frame["image_sha"].map(names)), "toy")
    assert paired["count_error"].micrographs == 2 and "draws of micrographs" in paired["count_error_pooled"].over
