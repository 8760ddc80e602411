"""`fidelity`: judged by who has seen neither; planted truths through the whole of it; what is refused, and when."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from sage_ray.config import ExperimentConfig, resolve
from sage_ray.data.prepare import PreparedData, prepare
from sage_ray.errors import UserError
from sage_ray.evaluation import scored_images
from sage_ray.evaluation.fidelity import CycleFidelity, fidelity
from sage_ray.evaluation.judge import judge_config, real_data, trained_judge
from sage_ray.evaluation.run_pairs import pairs_of_run
from sage_ray.imaging.model import Model
from sage_ray.metrics import generation
from sage_ray.metrics.definitions import SET_SUMMARIES
from sage_ray.record.home import Home
from sage_ray.record.model_reference import resolve_model
from sage_ray.record.run_folder import RunFolder
from sage_ray.runtime.launch import run
from sage_ray.terminal.cli import app

RUN = "gan-A"
RENDERED = "rendered-A"


def tiny(part: str, **sets: object) -> ExperimentConfig:
    values = {
        "data.path": "synthetic://ordered?num=36&size=32&seed=3", "data.image_size": [32, 32], "data.split.part": part,
        "segmenter.width": 4, "segmenter.depth": 2, "generator.width": 4, "generator.depth": 2,
        "discriminators.width": 4, "pretrain.epochs": 1, "adversarial.epochs": 1, "runtime.pictures": False,
        "runtime.threads": 1, **sets,
    }  # fmt: skip
    return resolve(preset="tiny_sage_gan", sets=values).config


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with a generator of part A, one of all images, and the judge of both."""
    place = Home(tmp_path_factory.mktemp("fidelity") / "home")
    for part, run_id in (("A", RUN), ("all", "gan-all")):
        assert run(tiny(part), place, run_id, mirror=False, launcher="inline").finished
    config = tiny("A")
    trained_judge(config, real_data(config.data, "B"), place, epochs=2, mirror=False)
    values = {
        "data": tiny("A").data, "segmenter.name": "unet", "segmenter.width": 4, "segmenter.depth": 2,
        "discriminators.width": 4, "render.epochs": 1, "render.pairs": 12, "render.scenes": 2, "pretrain.epochs": 1,
        "runtime.threads": 1, "runtime.pictures": False,
    }  # fmt: skip
    data = values.pop("data")
    config = resolve(preset="tiny_diffrender", sets=values).config.with_sections(data=data)
    assert run(config, place, RENDERED, mirror=False, launcher="inline").finished
    return place


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "PERMUTATIONS", 99)
    monkeypatch.setattr(generation, "SUBSAMPLES", 50)


def judged(home: Home, model: str | Path = RUN, **options: object) -> CycleFidelity:
    return fidelity(model, home, **{"judge_epochs": 2, "draws": 2, "mirror": False, **options})  # type: ignore[arg-type]


def part_c(home: Home) -> PreparedData:
    return prepare(real_data(tiny("A").data, "C"), home.cache)


def test_scores_pictures_and_rows_of_part_generated(home: Home) -> None:
    found = judged(home)
    data = part_c(home)
    shas = {data.shas[i] for i in [*data.split.train, *data.split.validation]}
    assert found.images == len(shas) and found.part == "C" and found.draws == 2
    assert set(found.scores) >= {"fidelity", "ceiling", "null", "collusion", "ssim", "spectrum", "grey_inside"}
    per_mask = pd.read_parquet(found.per_mask)
    assert set(per_mask["image_sha"]) == shas and per_mask["seed"].nunique() == 2 * len(shas)
    rows = [row for row in RunFolder.open(home.runs, RUN).per_image() if row["part"] == "generated"]
    values = [row["value"] for row in rows if row["score"] == "fidelity"]
    assert np.mean(values) == pytest.approx(found.scores["fidelity"].mean)
    own = per_mask[per_mask["score"] == "fidelity"].groupby("image_sha")["value"].mean()
    assert own.mean() == pytest.approx(np.mean(values))
    for row in rows:
        assert str(len(shas)) in row["definition"] and row["definition"].endswith("at 32x32 pixels")
    assert found.judge["weights_sha"][:16] in found.scores["fidelity"].definition
    assert found.judge["weights_sha"][:16] in found.distances.definitions["mmd"]
    assert {path.name for path in found.pictures.values()} == {"worst.png", "colluding.png"}
    assert all(path.is_file() for path in found.pictures.values())
    table = found.frame().set_index("score")
    assert set(found.scores) | set(found.differences) < set(table.index) and table.loc["mmd", "definition"]
    assert table.loc["fidelity", "mean"] == found.scores["fidelity"].mean
    assert "fidelity" in found._repr_html_() and found.judge["text"] in found.headline()
    # The judge is a run that is trained once, and nothing depends on the day.
    again = judged(home)
    assert again.scores == found.scores and again.distances == found.distances
    assert sum(name.startswith("judge-") for name in home.run_ids()) == 1


def test_judge_and_generator_and_scores_share_no_image_and_no_test_image(home: Home) -> None:
    config = tiny("A")
    own = prepare(config.data, home.cache)
    judge = prepare(real_data(config.data, "B"), home.cache)
    scored = part_c(home)
    used = [{*data.split.train, *data.split.validation} for data in (own, judge, scored)]
    assert not (used[0] & used[1] or used[0] & used[2] or used[1] & used[2])
    assert not set(own.split.test) & set.union(*used) and len(own.split.test) == 7
    made = judge_config(config, real_data(config.data, "B"), 8)
    assert made.segmenter.name == "residual_unet" and made.adversarial.epochs == 0 and made.seed != config.seed


def test_a_generator_that_copies_the_real_partner_reaches_the_ceiling(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = part_c(home)
    real = {data.shas[i]: np.array(data.images[i]) for i in range(len(data.shas))}

    def copies(model: object, masks: object, shas: list[str], *, draws: int, **_: object) -> np.ndarray:
        return np.array([[real[sha]] * draws for sha in shas])

    monkeypatch.setattr(scored_images, "drawn_images", copies)
    found = judged(home)
    assert found.scores["fidelity"].mean == found.scores["ceiling"].mean
    assert found.scores["collusion"].mean == pytest.approx(0) and found.scores["ssim"].mean == pytest.approx(1)
    assert found.distances.mmd.p_value > 0.5 and found.differences["below_ceiling"].high == pytest.approx(0)


def test_a_generator_that_ignores_its_mask_has_the_null(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    always = np.array(part_c(home).images[0])
    monkeypatch.setattr(Model, "generate", lambda self, mask, seed: always)
    found = judged(home)
    assert found.scores["fidelity"].mean == pytest.approx(found.scores["null"].mean)


def test_a_system_without_a_segmenter_has_no_collusion(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scored_images, "has_segmenter", lambda model: False)
    found = judged(home)
    assert "collusion" not in found.scores and set(found.pictures) == {"worst"}
    assert any("no segmenter of its own" in note for note in found.notes)


def test_a_generator_of_all_images_is_refused_or_said_everywhere(home: Home) -> None:
    before = set(home.run_ids())
    with pytest.raises(UserError, match=r"has learned from 10 of the 10 images .*part=all.*data.split.part=A"):
        judged(home, "gan-all")
    assert set(home.run_ids()) == before
    found = judged(home, "gan-all", allow_seen=True)
    assert all("10 of which the generator has learned from" in line.definition for line in found.scores.values())
    assert "10 of which the generator has learned from" in found.distances.definitions["mmd"]
    assert "flatter" in found.notes[0]
    other = judged(home, "gan-all", data="synthetic://ordered?num=45&size=32&seed=9")
    assert "learned from" not in other.scores["fidelity"].definition and other.images == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": "inception", "feature_weights": "nothing.pth"}, "no such file of Inception weights"),
        ({"features": "vgg"}, "no such features"),
        ({"feature_weights": "dinov2.pth"}, "weights for the judge's features, .*: dinov2.pth: name the network"),
        ({"lpips": "nothing.pth"}, "no such file of VGG19 weights: nothing.pth: give a file with --lpips"),
        ({"draws": 0}, "bad number"),
        ({"data": "synthetic://ordered?num=12&size=32&seed=1"}, "fewer than 8 images"),
        ({"data": "synthetic://ordered?num=60&size=32&seed=3"}, "locked test"),  # holds the generator's own images
        ({"judge": RUN}, "own architecture"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(home: Home, options: dict, message: str) -> None:
    before = set(home.run_ids())
    with pytest.raises(UserError, match=message):
        judged(home, **options)
    assert set(home.run_ids()) == before


def test_models_that_cannot_be_judged_are_refused(home: Home, tmp_path: Path) -> None:
    shutil.copytree(RunFolder.open(home.runs, RUN).model, tmp_path / "bare")
    with pytest.raises(UserError, match="training images of the model are not known"):
        judged(home, tmp_path / "bare")
    # A segmenter of nobody knows where: what it was trained on may be among the scored images.
    run_id = "gan-of-a-file"
    file = RunFolder.open(home.runs, RUN).model / "segmenter.safetensors"
    shutil.copy(file, tmp_path / file.name)
    config = tiny("A", **{"pretrain.epochs": 0, "pretrain.checkpoint": str(tmp_path / file.name)})
    assert run(config, home, run_id, mirror=False, launcher="inline").finished
    with pytest.raises(UserError, match=r"not known.*pretrain.checkpoint"):
        judged(home, run_id)
    judge = next(name for name in home.run_ids() if name.startswith("judge-"))
    with pytest.raises(UserError, match="model without generator"):
        judged(home, judge)


def test_the_verb_answers_in_words_and_in_json(home: Home) -> None:
    judge = next(name for name in home.run_ids() if name.startswith("judge-"))
    command = ["fidelity", RUN, "--judge", judge, "--draws", "1", "--home", str(home.path)]
    told = CliRunner().invoke(app, command, standalone_mode=False)
    assert "cycle fidelity" in told.output and "two real halves" in told.output
    found = CliRunner().invoke(app, [*command, "--json", "--quiet"], standalone_mode=False)
    answer = json.loads(found.output.splitlines()[-1])
    assert answer["scores"]["fidelity"]["low"] is not None and answer["distances"]["mmd"]["p_value"] <= 1
    for name in ("fidelity", "ceiling", "collusion", "null"):
        assert answer[name] == answer["scores"][name] and answer[name]["low"] <= answer[name]["mean"]


def test_a_run_that_was_trained_on_rendered_pairs_has_those_judged(home: Home) -> None:
    ref, learned = resolve_model(RENDERED, home), prepare(tiny("A").data, home.cache)
    config = ref.config(home)
    pairs = None if config is None else pairs_of_run(ref, config, home)
    # The adversary has seen these without their masks: they are no images to compare with.
    assert pairs is not None and pairs.seen == {learned.shas[row] for row in learned.split.train}
    before = RunFolder.open(home.runs, RENDERED).per_image()
    found = judged(home, RENDERED)
    assert not found.paired and found.images == 12 and found.real_images == 10 and found.draws == 1
    assert set(found.scores) == {"fidelity", "null"} and set(found.differences) == {"above_null"}
    assert "12 pairs rendered by shader" in found.scores["fidelity"].definition
    assert found.distances.mmd.num_groups == 22 and set(found.distances.summaries) == set(SET_SUMMARIES)
    assert set(found.pictures) == {"worst"} and found.judge_on_real.images == 10
    assert any("no real partners" in note for note in found.notes)
    # They are no scores of the real images that the runs of a study share.
    assert RunFolder.open(home.runs, RENDERED).per_image() == before
    assert (
        json.loads((RunFolder.open(home.runs, RENDERED).artifacts / "fidelity/fidelity.json").read_text())["images"]
        == 12
    )
    told = CliRunner().invoke(
        app, ["fidelity", RENDERED, "--judge-epochs", "2", "--home", str(home.path), "--json", "--quiet"],
        standalone_mode=False,
    )  # fmt: skip
    answer = json.loads(told.output.splitlines()[-1])
    assert answer["collusion"] is None and answer["ceiling"] is None and answer["fidelity"]["low"] is not None
    with pytest.raises(UserError, match="judge was trained on generated images"):
        judged(home, judge=RENDERED)
