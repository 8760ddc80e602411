"""The stage of rendering: keyed, resumed to the same bits, reused, and the pairs that a segmenter then learns from."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_cases import tiny_config
from torch import Tensor
from two_workers import run_two_workers

from sage_ray.config import ExperimentConfig
from sage_ray.data.prepare import PreparedData, prepare
from sage_ray.errors import RunStopped, StageBusy, UserError
from sage_ray.rendering.path_tracer import missing_for_mitsuba
from sage_ray.stages.keys import stage_keys
from sage_ray.stages.lease import stage_lease
from sage_ray.stages.made_pairs import MadePairs, read_pairs
from sage_ray.stages.render_keys import render_stage_key, rendered_pairs_key
from sage_ray.stages.store import StageStore
from sage_ray.training.context import LocalContext, Report
from sage_ray.training.loop import TrainResult, run_training
from sage_ray.training.render_parts import check_renderer
from sage_ray.training.render_stage import rendered_pairs, renumbered, stored_pairs

FEW = ("render.epochs=3", "render.scenes=3", "render.pairs=6", "render.particles=[3, 6]", "pretrain.epochs=2")


def rendering(*sets: str) -> ExperimentConfig:
    return tiny_config(*FEW, *sets, preset="tiny_diffrender")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepare(rendering().data, tmp_path_factory.mktemp("cache"))


class Run:
    """A training in a folder of its own, which may be stopped after an epoch."""

    def __init__(self, folder: Path, config: ExperimentConfig, stop_after: int | None = None) -> None:
        self.store, self.reports, self.config, self.folder = StageStore(folder / "stages"), [], config, folder
        self.stop_after = stop_after

    def __call__(self, data: PreparedData) -> TrainResult:
        context = LocalContext(
            self.config.runtime,
            on_report=self.reports.append,
            should_stop=lambda: self.stop_after is not None and self.reports[-1]["epoch"] >= self.stop_after,
        )
        return run_training(self.config, data, context, self.store, cache_dir=self.folder / "cache")

    reports: list[Report]


def pairs_of(run: Run, result: TrainResult) -> MadePairs:
    found = read_pairs(run.store, rendered_pairs_key(run.config, result.stage_keys["render"]))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def whole(data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, TrainResult]:
    run = Run(tmp_path_factory.mktemp("whole"), rendering())
    return run, run(data)


def test_rendering_comes_first_and_its_pairs_train_the_segmenter(
    whole: tuple[Run, TrainResult], data: PreparedData
) -> None:
    run, result = whole
    assert [(r["epoch"], r["phase"], r["phase_epoch"]) for r in run.reports] == [
        *((epoch, "render", epoch) for epoch in (1, 2, 3)),
        *((epoch + 3, "pretrain", epoch) for epoch in (1, 2)),
    ]
    assert list(result.stage_keys) == ["render", "pretrain"] and result.epoch == 5 and result.reused_epochs == 0
    assert 0 <= run.reports[-1]["val/dice"] <= 1 and "val/dice" not in run.reports[0]
    assert 0.01 <= run.reports[2]["train/material_particle_base_color"] <= 1
    assert result.history[0]["phase"] == "render" and len(result.per_image) > 0
    pairs = pairs_of(run, result)
    assert pairs.images.shape == pairs.masks.shape == (6, 32, 32) and pairs.instances is not None
    assert np.array_equal(pairs.masks, pairs.instances > 0)
    for picture, numbers in zip(pairs.images, pairs.instances, strict=True):
        assert set(np.unique(numbers)) == set(range(numbers.max() + 1))
        assert numbers.max() >= 1 and picture.std() > 1
    shas = {data.shas[row] for row in data.split.train}
    assert set(pairs.origin["trained_on"]) == shas and pairs.origin["source_masks"] == []
    assert pairs.origin["maker"] == "renderer"


@pytest.mark.parametrize("stop_after", [2, 3, 4])
def test_a_run_that_is_stopped_goes_on_to_the_same_bits(
    whole: tuple[Run, TrainResult], data: PreparedData, tmp_path: Path, stop_after: int
) -> None:
    first, expected = whole
    with pytest.raises(RunStopped):
        Run(tmp_path, first.config, stop_after)(data)
    again = Run(tmp_path, first.config)
    result = again(data)
    assert result.weights_sha == expected.weights_sha and result.reused_epochs == stop_after
    assert [r["replayed"] for r in again.reports] == [epoch <= stop_after for epoch in range(1, 6)]
    made, wanted = pairs_of(again, result), pairs_of(first, expected)
    assert np.array_equal(made.images, wanted.images) and np.array_equal(made.instances, wanted.instances)


def test_a_finished_stage_is_used_again_and_extended(whole: tuple[Run, TrainResult], data: PreparedData) -> None:
    run, _ = whole
    said: list[str] = []
    context = LocalContext(run.config.runtime, say=said.append)
    pairs = rendered_pairs(rendering("render.train_on_pairs=false"), data, context, run.store)
    assert len(pairs.images) == 6 and not said  # nothing was trained
    longer = rendered_pairs(rendering("render.epochs=4"), data, context, run.store)
    assert [line for line in said if "epoch" in line] == [line for line in said if "epoch 4 of 4" in line] != []
    assert len(longer.origin["history"]) == 4 and not np.array_equal(longer.images, pairs.images)


def test_workers_that_look_at_different_times_take_the_same_pairs(
    whole: tuple[Run, TrainResult], tmp_path: Path
) -> None:
    """Another run writes the pairs after rank 1 has looked, and before rank 0 does."""
    run, result = whole
    key = rendered_pairs_key(run.config, result.stage_keys["render"])
    rank_1_has_looked = threading.Event()

    class Worker(LocalContext):
        world_size = 2

        def all_reduce(self, tensor: Tensor) -> Tensor:
            if self.rank:
                rank_1_has_looked.set()
            return self.reduce(tensor)  # type: ignore[attr-defined, no-any-return]

    def work(rank: int, reduce: object) -> MadePairs | None:
        context = Worker(run.config.runtime)
        context.rank, context.reduce = rank, reduce  # type: ignore[attr-defined]
        if rank == 0:
            assert rank_1_has_looked.wait(20)
            shutil.copytree(Path(run.store.root) / key, tmp_path / key)
        return stored_pairs(StageStore(tmp_path), key, context)

    first, second = run_two_workers(work)
    assert first is not None and second is not None
    assert np.array_equal(first.images, second.images) and np.array_equal(first.masks, second.masks)


def test_pairs_that_another_run_is_rendering_are_waited_for(
    whole: tuple[Run, TrainResult], data: PreparedData, tmp_path: Path
) -> None:
    """The materials have learnt, and the pairs are not there yet: to render them twice would be hours of work twice."""
    run, result = whole
    key = result.stage_keys["render"]
    shutil.copytree(Path(run.store.root) / key, tmp_path / key)
    with stage_lease(StageStore(tmp_path), key, lambda: False), pytest.raises(StageBusy):
        rendered_pairs(run.config, data, LocalContext(run.config.runtime, stage_patience_s=0), StageStore(tmp_path))


def test_what_cannot_matter_splits_no_keys_and_what_can_does() -> None:
    def key(*sets: str) -> str:
        return render_stage_key(rendering(*sets), "f", "s", {"device": "cpu", "workers": 1})

    same = ("render.samples=3", "render.pairs=9", "render.epochs=9", "pretrain.lr=1", "segmenter.width=8")
    assert {key(one) for one in same} == {key()}
    other = ("render.noise_limits=[0.001,0.2]", "render.free=[noise]", "seed=1", "render.shapes=[rod]", "render.lr=1")
    assert len({key(one) for one in other} | {key()}) == 1 + len(other)
    assert key("render.engine=mitsuba", "render.samples=3") != key("render.engine=mitsuba")
    names = "[particle_base_color,particle_tilt,particle_edge,stage_base_color,stage_shade,noise]"
    assert key(f"render.free={names}") == key()
    without = "render.histogram_weight=0"
    assert key("render.histogram=image") != key() and key(without, "render.histogram=image") == key(without)


def test_distances_from_all_real_images_are_smaller_than_from_one_at_a_time(
    data: PreparedData, whole: tuple[Run, TrainResult], tmp_path: Path
) -> None:
    _, of_all = whole
    of_one = Run(tmp_path, rendering("render.histogram=image"))(data)
    distances = [[line["train/histogram_distance"] for line in found.history[:3]] for found in (of_all, of_one)]
    assert all(ours < theirs for ours, theirs in zip(*distances, strict=True))


def test_a_config_without_rendering_keeps_its_names_and_one_with_it_has_others() -> None:
    plain = tiny_config(preset="tiny_attention_unet")
    assert "render" not in plain.identity()
    assert list(stage_keys(plain, "f", "s", {})) == ["pretrain"]
    one, two = (stage_keys(rendering(f"render.pairs={n}"), "f", "s", {}) for n in (6, 7))
    assert one["render"] == two["render"] and one["pretrain"] != two["pretrain"]
    assert rendering().num_epochs == 5 and plain.num_epochs == plain.pretrain.epochs


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (("adversarial.epochs=1",), "trains phase 1 alone"),
        (("render.epochs=0",), "set render.epochs to at least 1"),
        (("render.free=[particle_roughness]",), "engine shader has no particle_roughness"),
        (("render.noise_limits=[0.2, 0.1]",), "low <= high"),
        (("render.shapes=[]",), "shapes is empty"),
        (("render.adversarial_weight=0", "render.histogram_weight=0"), "nothing would be learnt"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(sets: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError, match=said):
        rendering(*sets)


def test_a_table_that_is_not_there_is_refused_before_training() -> None:
    with pytest.raises(UserError, match="no such file"):
        check_renderer(rendering("render.sizes=fitted", "render.sizes_table=/nowhere.csv"), "cpu")


@pytest.mark.parametrize(
    ("rows", "said"), [("9\nwide\n", "is not of numbers"), ("9\n" * 4, "too few .*4 of known size, 5 needed")]
)
def test_a_table_that_no_sizes_can_be_fitted_to_is_refused_before_training(
    rows: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "sizes.csv").write_text(f"equivalent_diameter_px\n{rows}")
    with pytest.raises(UserError, match=f"{said}.*: render.sizes_table=.*sizes.csv"):
        check_renderer(rendering("render.sizes=fitted", f"render.sizes_table={tmp_path / 'sizes.csv'}"), "cpu")


def test_numbers_of_hidden_particles_are_closed_up() -> None:
    assert renumbered(np.array([[0, 4], [2, 4]], np.int32)).tolist() == [[0, 2], [1, 2]]


@pytest.mark.skipif(missing_for_mitsuba("cpu") is not None, reason="no Mitsuba or no LLVM here")
def test_the_path_tracer_trains_and_goes_on(data: PreparedData, tmp_path: Path) -> None:
    sets = ("render.engine=mitsuba", "render.samples=2", "render.epochs=2", "render.sizes=fitted", "pretrain.epochs=1")
    stopped = Run(tmp_path, rendering(*sets), stop_after=1)
    with pytest.raises(RunStopped):
        stopped(data)
    again = Run(tmp_path, stopped.config)
    result = again(data)
    assert [r["replayed"] for r in again.reports] == [True, False, False]
    pairs = pairs_of(again, result)
    assert torch.isfinite(torch.from_numpy(pairs.images).float()).all() and pairs.images.std() > 1
    assert set(pairs.origin["sizes_from_masks_of"]) == set(pairs.origin["trained_on"])
