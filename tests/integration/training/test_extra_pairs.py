"""Training on extra pairs: every source, one GAN for two arms, resuming in the middle of it, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_cases import tiny_config

from sage_ray.apply.generate import generate
from sage_ray.config import ExperimentConfig
from sage_ray.data.lineage import Lineage, lineage_of_model, write_lineage
from sage_ray.data.prepare import PreparedData, prepare
from sage_ray.data.synth import write_dataset
from sage_ray.errors import RunStopped, UserError
from sage_ray.evaluation.locked_test import evaluate
from sage_ray.evaluation.seen_images import seen_by
from sage_ray.files import sha256_of
from sage_ray.record.home import Home
from sage_ray.record.model_reference import resolve_model
from sage_ray.record.run_folder import RunFolder
from sage_ray.runtime.launch import run
from sage_ray.search.objectives import run_objectives
from sage_ray.stages.made_pairs import MadePairs, read_pairs, write_pairs
from sage_ray.stages.store import StageStore
from sage_ray.study.file_schema import ObjectivePart
from sage_ray.training.context import LocalContext
from sage_ray.training.loop import TrainResult, run_training
from sage_ray.training.render_parts import check_renderer
from sage_ray.upkeep.stage_needs import needs_of

SMALL = (
    "pretrain.epochs=2",
    "segmenter.dropout=0",
    "runtime.pictures=false",
    "runtime.snapshot_seconds=0",
)
GAN = (
    "preset:tiny_sage_gan?pairs=13&pretrain.epochs=1&adversarial.epochs=2&segmenter.width=4&segmenter.depth=2"
    "&generator.width=4&generator.depth=2&generator.style_dim=4&discriminators.width=4&discriminators.heads=1"
    "&discriminators.head_dim=4&adversarial.freeze_epochs=0"
)


def config(pairs: str = "", share: float = 0.5, *sets: str) -> ExperimentConfig:
    given = (f"data.extra_pairs={pairs}", f"pretrain.synthetic_share={share}") if pairs else ()
    return tiny_config(*SMALL, *given, *sets, preset="tiny_attention_unet")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepare(config().data, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


def train(
    wanted: ExperimentConfig,
    data: PreparedData,
    root: Path,
    *,
    said: list[str] | None = None,
    reports: list[dict[str, Any]] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> TrainResult:
    lines, told = (said if said is not None else []), (reports if reports is not None else [])
    ctx = LocalContext(wanted.runtime, say=lines.append, on_report=told.append, should_stop=should_stop)
    return run_training(wanted, data, ctx, StageStore(root / "stages"), cache_dir=root)


@pytest.fixture(scope="module")
def generated(data: PreparedData, root: Path) -> tuple[TrainResult, list[str], list[dict[str, Any]]]:
    """A segmenter trained on generated pairs alone, whose GAN was trained for it."""
    said: list[str] = []
    reports: list[dict[str, Any]] = []
    return train(config(GAN, 1.0), data, root, said=said, reports=reports), said, reports


def facts(result: TrainResult) -> dict[str, Any]:
    assert result.extra_pairs is not None
    return result.extra_pairs.facts


def test_a_gan_is_trained_first_and_its_epochs_are_not_the_runs(
    generated: tuple[TrainResult, list[str], list[dict[str, Any]]], data: PreparedData, root: Path
) -> None:
    result, said, reports = generated
    assert [(r["epoch"], r["phase"]) for r in reports] == [(1, "pretrain"), (2, "pretrain")]
    assert any("3 epochs that are not counted as the run's own" in line for line in said)
    assert facts(result)["seconds"] > 0
    assert facts(result) == {
        **{
            "seconds": facts(result)["seconds"],
            "source": GAN,
            "pairs": 13,
            "share": 1.0,
            "maker": "generator",
            "lineage": "known",
        },
        **{"key": facts(result)["key"], "trained_epochs": 3, "stored_epochs": 0},
    }
    made = read_pairs(StageStore(root / "stages"), facts(result)["key"])
    assert made is not None and made.images.shape == (13, 32, 32)
    train_part = data.split.train
    # Masks of the training part in order, then round again with other codes.
    rows = [int(train_part[i % len(train_part)]) for i in range(13)]
    assert np.array_equal(made.masks, data.masks[rows])
    assert not np.array_equal(made.images[0], made.images[len(train_part)])
    assert made.origin["trained_on"] == [data.shas[i] for i in train_part]


def test_another_arm_of_the_seed_trains_no_gan_again(
    generated: tuple[TrainResult, list[str], list[dict[str, Any]]], data: PreparedData, root: Path
) -> None:
    mixed = train(config(GAN, 0.5), data, root)
    assert facts(mixed)["trained_epochs"] == 0 and facts(mixed)["key"] == facts(generated[0])["key"]
    assert mixed.weights_sha != generated[0].weights_sha
    # What the arm would cost by itself: as much as if it had trained the GAN.
    assert facts(mixed)["seconds"] == facts(generated[0])["seconds"]
    more = train(config(GAN.replace("pairs=13", "pairs=14"), 0.5), data, root)
    assert (facts(more)["trained_epochs"], facts(more)["stored_epochs"]) == (0, 3)


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_a_stop_in_the_middle_of_the_gan_or_after_it_changes_nothing(
    generated: tuple[TrainResult, list[str], list[dict[str, Any]]], data: PreparedData, tmp_path: Path, after: int
) -> None:
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == after

    with pytest.raises(RunStopped):
        train(config(GAN, 1.0), data, tmp_path, should_stop=should_stop)
    again = train(config(GAN, 1.0), data, tmp_path)
    assert again.weights_sha == generated[0].weights_sha
    assert facts(again)["trained_epochs"] == max(3 - after, 0)


def test_weights_that_cannot_be_had_are_asked_for_before_anything_is_trained(
    data: PreparedData, tmp_path: Path
) -> None:
    sets = ("segmenter.name=resnet34_unet", "segmenter.encoder_weights=/nowhere.safetensors")
    with pytest.raises(UserError, match="no such file of ResNet-34 weights"):
        train(config(GAN, 1.0, *sets), data, tmp_path)
    assert not list((tmp_path / "stages").glob("*"))


def test_what_a_preset_lacks_is_said_of_the_preset(tmp_path: Path) -> None:
    wanted = config(GAN, 1.0, "data.split.labels=3", "pretrain.batch_size=2")  # the preset has batches of 4
    with pytest.raises(UserError, match=r"fewer training images than one batch: data.extra_pairs=preset:tiny_sage_gan"):
        train(wanted, prepare(wanted.data, tmp_path), tmp_path)
    rendered = "preset:tiny_diffrender?render.sizes=fitted&render.sizes_table=/nowhere.csv"
    with pytest.raises(UserError, match=r"no such file: data.extra_pairs=preset:tiny_diffrender.*render.sizes_table"):
        check_renderer(config(rendered), "cpu")


def test_a_gan_that_saw_images_without_masks_says_so(tmp_path: Path) -> None:
    wanted = config(GAN, 1.0, "data.split.labels=4", "data.split.unlabelled=disc_image")
    prepared = prepare(wanted.data, tmp_path)
    result = train(wanted, prepared, tmp_path)
    assert result.extra_pairs is not None
    lineage = result.extra_pairs.lineage
    assert set(lineage.trained_on) == {prepared.shas[i] for i in prepared.split.train}
    assert set(lineage.unlabelled) == {prepared.shas[i] for i in prepared.split.unlabelled}


def test_a_share_of_nothing_is_a_run_without_extra_pairs(data: PreparedData, tmp_path: Path) -> None:
    plain = train(config(), data, tmp_path)
    assert plain.extra_pairs is None
    drawn = train(config("synthetic://ordered?num=5&seed=9", 0.25), data, tmp_path)
    assert drawn.stage_keys != plain.stage_keys and drawn.weights_sha != plain.weights_sha
    steps = {name: len([r for r in each.history if "train/loss" in r]) for name, each in (("p", plain), ("d", drawn))}
    assert steps["p"] == steps["d"]


def test_drawn_pairs_are_cut_to_the_proportion_of_the_images(data: PreparedData, tmp_path: Path) -> None:
    wide = config("synthetic://ordered?num=3&seed=9", 1.0, "data.image_size=[32,48]")
    prepared = prepare(wide.data, tmp_path)
    result = train(wide, prepared, tmp_path)
    assert result.extra_pairs is not None and result.extra_pairs.pairs.images.shape == (3, 32, 48)
    assert (facts(result)["maker"], facts(result)["lineage"]) == ("drawn", "known")


def test_pairs_of_a_stage_are_taken_by_its_key_and_resized_in_proportion(data: PreparedData, tmp_path: Path) -> None:
    store = StageStore(tmp_path / "stages")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (4, 64, 64), dtype=np.uint8)
    write_pairs(store, "0123456789abcdef", MadePairs(images, (images > 200).astype(np.uint8), None, {"maker": "own"}))
    result = train(config("stage:0123456789abcdef"), data, tmp_path)
    assert result.extra_pairs is not None and result.extra_pairs.pairs.images.shape == (4, 32, 32)
    write_pairs(store, "f" * 16, MadePairs(images[:, :48], images[:, :48] // 200, None, {"maker": "own"}))
    with pytest.raises(UserError, match=r"extra pairs of another size \(48x64\).*32x32"):
        train(config("stage:ffffffffffffffff"), data, tmp_path)
    with pytest.raises(UserError, match="no such stage of pairs"):
        train(config("stage:00"), data, tmp_path)
    met = {"maker": "own", "trained_on": [data.shas[int(data.split.test[0])]]}
    write_pairs(store, "e" * 16, MadePairs(images, images // 200, None, met))
    with pytest.raises(UserError, match="locked test"):
        train(config("stage:eeeeeeeeeeeeeeee"), data, tmp_path)


def test_a_folder_is_read_as_data_are_and_says_where_it_does_not_know(data: PreparedData, tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "pairs", num=5, size=32, seed=77)
    said: list[str] = []
    result = train(config(str(folder)), data, tmp_path, said=said)
    assert (facts(result)["pairs"], facts(result)["lineage"]) == (5, "unknown")
    assert any("nobody tells what" in line and "locked test" in line for line in said)
    write_lineage(folder, Lineage("drawn"))
    assert facts(train(config(str(folder)), data, tmp_path))["lineage"] == "known"
    write_lineage(folder, Lineage("drawn", source_masks=(data.shas[int(data.split.test[0])],)))
    with pytest.raises(UserError, match="locked test"):
        train(config(str(folder)), data, tmp_path)


def test_a_folder_with_pictures_of_the_locked_test_is_refused(data: PreparedData, tmp_path: Path) -> None:
    whole = write_dataset(tmp_path / "all", num=16, size=32, seed=0)  # the very pictures of the run's data
    with pytest.raises(UserError, match=r"hold 3 of the 3 images of the locked test part"):
        train(config(str(whole)), data, tmp_path)


def test_bad_folders_are_one_line(data: PreparedData, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    (empty / "images").mkdir(parents=True)
    unpaired = write_dataset(tmp_path / "unpaired", num=3, size=32, seed=5)
    next((unpaired / "masks").iterdir()).unlink()
    other = write_dataset(tmp_path / "other", num=3, size=32, seed=5)
    for path in [*(other / "images").iterdir(), *(other / "masks").iterdir()]:
        Image.open(path).crop((0, 0, 32, 20)).save(path)
    cases = [("nosuch", "no such folder"), ("empty", "extra pairs:"), ("unpaired", "image without mask")]
    for name, says in [*cases, ("other", r"another size \(20x32\)")]:
        with pytest.raises(UserError, match=says) as caught:
            train(config(str(tmp_path / name)), data, tmp_path)
        assert "\n" not in str(caught.value) and "data.extra_pairs" in str(caught.value)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with a finished GAN of seed 0 and a plain segmenter."""
    place = Home(tmp_path_factory.mktemp("home"))
    sets = ("generator.style_dim=4", "discriminators.heads=1", "discriminators.head_dim=4", "adversarial.epochs=1")
    gan = tiny_config(*SMALL, *sets, "pretrain.epochs=1", preset="tiny_sage_gan")
    assert run(gan, place, "gan", mirror=False, launcher="inline").finished
    assert run(config(), place, "plain", mirror=False, launcher="inline").finished
    return place


def test_a_model_makes_pairs_once_for_all_seeds_and_the_record_says_so(home: Home) -> None:
    first = run(config("gan?pairs=6"), home, "first", mirror=False, launcher="inline")
    second = run(config("gan?pairs=6", 0.5, "seed=1"), home, "second", mirror=False, launcher="inline")
    assert first.finished and second.finished
    assert first.extra_pairs is not None and second.extra_pairs is not None
    assert first.extra_pairs["key"] == second.extra_pairs["key"] == first.pair_stages["pairs"]
    assert first.extra_pairs["lineage"] == "known" and first.extra_pairs["pairs"] == 6
    told = json.loads((RunFolder(home.runs / "first").artifacts / "extra_pairs.json").read_text())
    assert len(told["made_from"]["trained_on"]) == 11 == len(told["made_from"]["source_masks"])
    # The stage of the pairs is one that the home needs for as long as its runs are there.
    assert first.extra_pairs["key"] in needs_of(home, StageStore(home.stage_store)).stages


def test_what_is_trained_first_is_told_timed_and_counted_where_it_is_trained(home: Home) -> None:
    told: list[dict[str, Any]] = []
    doing: list[str | None] = []
    waits: list[int] = []

    def heard(progress: dict[str, Any]) -> None:
        told.append(progress)
        doing.append(RunFolder(home.runs / "spends").read().makes_pairs)

    hooks: dict[str, Any] = {"on_maker": heard, "on_waiting": lambda: waits.append(len(told))}
    first = run(config(GAN, 1.0, "seed=3"), home, "spends", mirror=False, launcher="inline", **hooks)
    assert [(p["phase"], p["epoch"], p["epochs"]) for p in told] == [
        *(("pretrain", 1, 3), ("adversarial", 2, 3), ("adversarial", 3, 3)),
        *(("pairs", 3, 3), ("pairs", 3, 3)),
    ]
    assert doing[:4] == [
        *(f"trains preset tiny_sage_gan first, epoch {e} of 3" for e in (1, 2, 3)),
        "makes its extra pairs",
    ]
    assert waits[0] == 0, "a sign of life within the first epoch: an epoch of a GAN may take an hour"
    spent = sum(progress["seconds"] for progress in told)
    assert first.pair_seconds_spent == pytest.approx(spent, abs=0.01) == pytest.approx(first.pair_seconds, abs=0.01)
    assert first.makes_pairs is None and 0 < first.pair_seconds_spent < first.seconds

    second = run(config(GAN, 0.5, "seed=3"), home, "takes", mirror=False, launcher="inline")
    assert (second.pair_seconds, second.pair_seconds_spent) == (first.pair_seconds, 0.0)
    epochs = [report for report in RunFolder(home.runs / "takes").metrics()]
    seconds = sum(report["seconds"] for report in epochs)
    objective = ObjectivePart(metric="gpu_seconds")
    (cost,) = run_objectives(epochs, config(GAN), [objective], second.pair_seconds)
    assert cost == pytest.approx(seconds + first.pair_seconds), "as if nothing had been reused"


def test_what_was_spent_before_a_stop_is_counted_after_it(home: Home) -> None:
    asked: list[int] = []
    wanted = config(GAN, 1.0, "seed=4")
    stopped = {"should_stop": lambda: asked.append(1) is None and len(asked) == 2}
    begun = run(wanted, home, "halves", mirror=False, launcher="inline", **stopped)
    assert begun.state == "PRUNED" and begun.pair_seconds_spent > 0 and begun.makes_pairs is None
    ended = run(wanted, home, "halves", mirror=False, launcher="inline")
    assert ended.extra_pairs is not None and ended.extra_pairs["trained_epochs"] == 1
    assert begun.pair_seconds_spent < ended.pair_seconds_spent == pytest.approx(ended.pair_seconds, abs=0.01)


def test_rendered_pairs_cost_their_epochs_and_their_rendering(data: PreparedData, tmp_path: Path) -> None:
    rendered = "preset:tiny_diffrender?pairs=4&render.engine=shader&render.epochs=2"
    told: list[dict[str, Any]] = []
    wanted = config(rendered, 0.5)
    ctx = LocalContext(wanted.runtime, on_maker=told.append)
    result = run_training(wanted, data, ctx, StageStore(tmp_path / "stages"), cache_dir=tmp_path)
    assert [(p["phase"], p["epoch"]) for p in told] == [("render", 1), ("render", 2), ("pairs", 2)]
    assert facts(result)["seconds"] == pytest.approx(sum(p["seconds"] for p in told), abs=0.01)
    assert told[-1]["seconds"] > 0


def test_a_model_without_generator_and_one_that_knows_the_validation_part_are_refused(home: Home) -> None:
    with pytest.raises(UserError, match="model without generator"):
        run(config("plain"), home, "no", mirror=False, launcher="inline")
    with pytest.raises(UserError, match=r"extra pairs come from \d of the 2 images of the validation part"):
        run(config("gan", 0.5, "data.split.seed=5"), home, "seen", mirror=False, launcher="inline")
    with pytest.raises(UserError, match="no such model"):
        run(config("gam"), home, "none", mirror=False, launcher="inline")


def test_a_run_does_not_go_on_with_other_pairs_than_it_began_with(home: Home, tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "pairs", num=5, size=32, seed=77)
    stops = iter([False, True])
    wanted = config(str(folder))
    begun = run(wanted, home, "changed", mirror=False, launcher="inline", should_stop=lambda: next(stops))
    assert begun.state == "PRUNED" and begun.extra_pairs is not None
    write_dataset(folder, num=5, size=32, seed=78)
    with pytest.raises(UserError, match="extra pairs have changed since the run began"):
        run(wanted, home, "changed", mirror=False, launcher="inline")


def test_a_run_whose_pairs_do_not_fit_leaves_nothing(home: Home, tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "pairs", num=3, size=32, seed=5)
    for path in [*(folder / "images").iterdir(), *(folder / "masks").iterdir()]:
        Image.open(path).crop((0, 0, 32, 20)).save(path)
    with pytest.raises(UserError, match=r"another size \(20x32\)"):
        run(config(str(folder)), home, "unfit", mirror=False, launcher="inline")
    assert not (home.runs / "unfit").exists()


def test_images_of_a_folder_count_as_seen_by_what_was_trained_on_them(home: Home, tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "pairs", num=5, size=32, seed=77)
    run(config(str(folder)), home, "folder", mirror=False, launcher="inline")
    shas = {sha256_of(path) for path in (folder / "images").iterdir()}
    model = resolve_model("folder", home)
    assert shas < seen_by(model, home)[0]
    known = lineage_of_model(model.folder)
    assert shas < set(known.trained_on) and not known.known
    result = evaluate("folder", None, home, baseline=False)
    assert any("extra pairs of unknown lineage" in note for note in result.notes)


def test_generate_tells_what_its_pairs_come_from(home: Home, data: PreparedData, tmp_path: Path) -> None:
    source = write_dataset(tmp_path / "source", num=16, size=32, seed=0)
    made = generate("gan", source, tmp_path / "made", home=home)
    table = made.frame()
    assert len(table) == 16 and all((made.out / path).is_file() for path in [*table["image"], *table["mask"]])
    assert "16 pairs from 16 masks" in made._repr_html_()
    told = json.loads((tmp_path / "made" / "lineage.json").read_text())
    assert len(told["trained_on"]) == 11 and len(told["source_masks"]) == 16 and len(told["source_mask_files"]) == 16
    # All masks of the data were shown, those of the locked test too: their pixels are known without any notes.
    (tmp_path / "made" / "lineage.json").unlink()
    with pytest.raises(UserError, match="show 3 masks of the locked test part"):
        train(config(str(tmp_path / "made")), data, tmp_path)


def test_lineage_is_checked_before_anything_is_made(data: PreparedData, home: Home, tmp_path: Path) -> None:
    moved = replace(data, split=replace(data.split, train=data.split.test, test=data.split.train))
    wanted = config(f"model:{home.runs / 'gan' / 'artifacts' / 'model'}", 0.5, "pretrain.batch_size=2")
    with pytest.raises(UserError, match="locked test"):
        train(wanted, moved, tmp_path)
    assert not list((tmp_path / "stages").glob("*"))
