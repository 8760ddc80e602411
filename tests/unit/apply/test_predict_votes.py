"""`predict --seeds all`: tables, pictures and ranks of a vote, in bands and whole, and models that cannot vote."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from model_cases import make_folder, make_voting_folder, micrograph
from PIL import Image

from sage_ray.apply import particle_measure
from sage_ray.apply.loaded_model import load_votes_for_use
from sage_ray.apply.predict import Prediction, predict
from sage_ray.errors import UserError
from sage_ray.imaging.seed_votes import load_seed_votes
from sage_ray.record.home import Home
from sage_ray.terminal.model_answers import segmented

SIZE = (32, 32)
SEEDS = (3, 9, 5)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "m"
    return make_voting_folder(folder, SEEDS, SIZE, native_size=SIZE, crop_bottom=4, weights_sha="ab")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number, shape in enumerate(((60, 70), (36, 32), (90, 50))):
        Image.fromarray(micrograph(*shape, seed=number)).save(folder / f"i{number}.png")
    return folder


def test_particles_have_a_disagreement_and_images_are_ranked_by_doubt(
    model: Path, images: Path, tmp_path: Path, home: Home
) -> None:
    out = tmp_path / "out"
    result = predict(model, images, out, home=home, seeds="all")
    votes = load_seed_votes(model)
    table, rows = pd.read_csv(out / "particles.csv"), pd.read_csv(out / "images.csv").set_index("image")
    doubts = {}
    for path in sorted(images.iterdir()):
        grey = np.asarray(Image.open(path))
        alone = [model.predict_mask(grey) for model in votes.models.values()]
        mean = np.mean([probability for probability, _ in alone], axis=0)
        spread = np.std([probability for probability, _ in alone], axis=0)
        mask = np.asarray(Image.open(out / "masks" / path.name)) > 0
        assert np.array_equal(mask, mean > 0.5) and mask.any() and not mask[-4:].any()
        dice = [2 * (own & mask).sum() / (own.sum() + mask.sum()) for _, own in alone]
        doubts[path.name] = 1 - np.mean(dice)
        assert rows.loc[path.name, "doubt"] == pytest.approx(doubts[path.name], abs=1e-5)
        labels = tifffile.imread(out / "labels" / f"{path.stem}.tif")
        for row in table[table["image"] == path.name].itertuples():
            pixels = labels == row.label
            assert row.disagreement == pytest.approx(spread[pixels].mean(), rel=1e-3)
            assert row.confidence == pytest.approx(mean[pixels].mean(), rel=1e-5)
        drawn = np.asarray(Image.open(out / "doubt" / path.name))
        assert drawn.shape == grey.shape and np.abs(drawn - 510 * spread).max() < 0.6
    order = sorted(doubts, key=lambda name: -doubts[name])
    assert doubts[order[0]] > doubts[order[-1]] and list(rows.sort_values("doubt_rank").index) == order
    assert list(rows["doubt_rank"].sort_values()) == [1, 2, 3]
    assert [one.image for one in result.doubtful] == order and result.seeds == SEEDS
    described = json.loads((out / "particles.json").read_text())["columns"]
    assert list(described) == list(table.columns) and "seeds that voted" in described["disagreement"]["meaning"]
    facts = json.loads((out / "prediction.json").read_text())
    assert facts["vote"]["seeds"] == [3, 9, 5] and facts["vote"]["registered_seed"] == 3
    assert facts["vote"]["rule"] == "mean probability > 0.5" and {f"doubt/{n}" for n in order} < set(facts["written"])


def test_nothing_of_a_vote_is_left_by_a_call_without_one(model: Path, images: Path, tmp_path: Path, home: Home) -> None:
    out = tmp_path / "out"
    predict(model, images, out, home=home, seeds="all")
    result = predict(model, images, out, home=home)
    assert (result.seeds, result.doubtful, "doubt" in result.files) == ((), (), False)
    assert not list((out / "doubt").glob("*")) and "doubt" not in pd.read_csv(out / "images.csv")
    assert "disagreement" not in pd.read_csv(out / "particles.csv")
    assert json.loads((out / "prediction.json").read_text())["vote"] is None
    grey = np.asarray(Image.open(images / "i0.png"))
    registered = load_seed_votes(model).registered.predict_mask(grey)[1]
    assert np.array_equal(np.asarray(Image.open(out / "masks" / "i0.png")) > 0, registered)


def test_a_vote_in_bands_is_that_on_the_whole_image(
    model: Path, tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "wide.tif", micrograph(140, 120))
    found = {}
    for name, limit in (("whole", 64_000_000), ("streamed", 10_000)):
        monkeypatch.setattr("sage_ray.data.images.MAX_PIXELS", limit)
        found[name] = predict(model, tmp_path / "wide.tif", tmp_path / name, home=home, seeds="all")
        if limit == 10_000:
            monkeypatch.setattr(particle_measure, "PREVIEW_SIDE", 50)
            predict(model, tmp_path / "wide.tif", tmp_path / "small", home=home, seeds="all")
    assert found["whole"].doubtful == found["streamed"].doubtful and found["whole"].particles > 0
    tables = [pd.read_csv(tmp_path / name / "particles.csv") for name in found]
    pd.testing.assert_frame_equal(*tables)
    drawn = [np.asarray(Image.open(tmp_path / name / "doubt" / "wide.png")) for name in ("whole", "streamed", "small")]
    assert np.array_equal(drawn[0], drawn[1]) and np.array_equal(drawn[0][::3, ::3], drawn[2])


def test_what_is_printed_names_the_doubtful_and_claims_no_score(
    model: Path, images: Path, tmp_path: Path, home: Home
) -> None:
    result = predict(model, images, tmp_path / "out", home=home, seeds="all")
    text = "\n".join(segmented(result, tmp_path / "out").lines)
    assert "vote of seeds 3, 9, 5: mean probability > 0.5. The vote has no score: all scores of this model" in text
    assert f"most doubtful: {result.doubtful[0].image} ({result.doubtful[0].doubt:.2f}), " in text and "doubt/" in text
    alike = Prediction(result.model, result.out, 1, 0, 0, 0.0, {}, seeds=(1, 2))
    assert "the seeds give the same mask of each image" in segmented(alike, result.out).lines


def test_models_of_one_seed_and_other_choices_are_refused_before_anything_is_written(
    model: Path, images: Path, tmp_path: Path, home: Home
) -> None:
    lone = make_folder(tmp_path / "lone", SIZE)
    run = home.runs / "r" / "artifacts" / "model"
    make_folder(run, SIZE)
    record = {"run_id": "r", "config_hash": "0" * 16, "seed": 1, "state": "COMPLETE"}
    (home.runs / "r" / "record.json").write_text(json.dumps(record))
    for named, seeds, words in (
        (lone, "all", f"model of one seed has nobody to vote: {lone}: leave the option out"),
        ("r", "all", "run of one seed has nobody to vote: r: leave --seeds out, or name a model that"),
        (model, "3", "no such choice of seeds: --seeds 3: write all"),
        (model, "", "no such choice of seeds"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            predict(named, images, tmp_path / "out", home=home, seeds=seeds)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    # The home knows which final training the run is a seed of.
    home.finals.mkdir(parents=True, exist_ok=True)
    (home.finals / "final-x.json").write_text("{}")
    (home.runs / "r" / "record.json").write_text(json.dumps(record | {"parent": "final-x"}))
    with pytest.raises(UserError, match="give final-x or its models:/NAME@ALIAS"):
        predict("r", images, tmp_path / "out", home=home, seeds="all")
    with pytest.raises(UserError, match="final training has no model: final-x: `sage-ray resume final-x` goes on"):
        predict("final-x", images, tmp_path / "out", home=home, seeds="all")
    folder = make_voting_folder(home.finals / "final-x" / "package" / "artifacts" / "model", SEEDS, SIZE)
    (folder.parent.parent / "MLmodel").write_text("")
    assert predict("final-x", images, tmp_path / "out", home=home, seeds="all").seeds == SEEDS
    assert load_votes_for_use(home.finals / "final-x", home)[1].seeds == SEEDS
