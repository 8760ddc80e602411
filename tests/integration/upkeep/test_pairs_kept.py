"""Stages that extra pairs need: a plan counts them, an open study keeps them, and forgetting it frees them."""

from __future__ import annotations

from pathlib import Path

from study_cases import Study, tiny_space
from tiny_cases import tiny_config

from sage_ray.record.home import Home
from sage_ray.runtime.launch import run
from sage_ray.search.planned_runs import StudyData, count_epochs, planned_runs
from sage_ray.stages.store import StageStore
from sage_ray.study.design import load_design
from sage_ray.upkeep.forget import forget
from sage_ray.upkeep.garbage import collect_garbage
from sage_ray.upkeep.stage_needs import needs_of

GAN = (
    "preset:tiny_sage_gan?pairs=12&pretrain.epochs=1&adversarial.epochs=1&segmenter.width=4&segmenter.depth=2"
    "&generator.width=4&generator.depth=2&generator.style_dim=4&discriminators.width=4&discriminators.heads=1"
)


def test_a_plan_counts_a_gan_once_for_the_arms_of_a_seed(tmp_path: Path) -> None:
    design = load_design("ablate_synthetic_tiny", ["runtime.threads=1"])
    runs = [each.run for each in planned_runs(design, design.fixed, StudyData(Home(tmp_path)))]
    found = count_epochs(runs, StageStore(tmp_path / "stages"))
    # A seed: six segmenters of 8 epochs, twice a GAN of 8 + 16, whose phase 1 is that of the arm `real`, one renderer.
    assert found.without_reuse == 2 * (6 * 8 + 2 * 24 + 6)
    assert found.with_reuse == 2 * (6 * 8 + 16 + 6)
    assert len(found.stages) == 2 * 8


def test_an_open_study_keeps_the_gan_and_the_pairs_and_forgetting_it_frees_them(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    sets = {"data.extra_pairs": GAN, "pretrain.synthetic_share": 0.5, "adversarial.epochs": 0, "pretrain.epochs": 1}
    space = tiny_space(tmp_path, base=sets, space={"segmentation_loss.alpha": {"categorical": [0.3, 0.5]}}, trials=2)
    study = Study(home, space, running=1)
    record = study.train(0).read()
    assert record.finished and list(record.pair_stages) == ["pretrain", "adversarial", "pairs"]
    assert record.extra_pairs is not None and record.extra_pairs["trained_epochs"] == 2
    stored = {path.name for path in home.stages.iterdir() if path.is_dir()}
    assert stored == {*record.pair_stages.values(), *record.stage_keys.values()}

    needs = needs_of(home, StageStore(home.stage_store), but=[record.run_id])
    assert set(record.pair_stages.values()) <= set(needs.stages)  # known before any run of it
    assert not collect_garbage(home, ends=True).items
    forget(space.name, home, remove=True)
    assert not [path for path in home.stages.glob("*") if path.is_dir()]


def test_forgetting_a_run_that_rendered_frees_its_pairs_too(tmp_path: Path) -> None:
    few = ("render.epochs=1", "render.scenes=1", "render.pairs=4", "render.particles=[1, 2]", "pretrain.epochs=1")
    home = Home(tmp_path / "home")
    record = run(tiny_config(*few, preset="tiny_diffrender"), home, "rendered", mirror=False, launcher="inline")
    assert record.finished and len([path for path in home.stages.iterdir() if not path.name.startswith(".")]) == 3
    forget("rendered", home, remove=True)
    assert not [path for path in home.stages.iterdir() if not path.name.startswith(".")]
