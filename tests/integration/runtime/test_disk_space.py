"""Disk: the forecast of a plan against what a study leaves, and what happens when there is too little of it."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from study_cases import Study, tiny_space
from sweep_cases import write_space
from tiny_cases import SMALLEST, as_sets, tiny_config

from sage_ray.config import ExperimentConfig, resolve, shipped
from sage_ray.errors import NoSpace
from sage_ray.record.home import Home
from sage_ray.runtime import disk_space
from sage_ray.runtime.disk_space import EPOCH_BYTES, Need, check_space, kept_bytes, result_bytes, run_need
from sage_ray.runtime.launch import run
from sage_ray.search import trainable
from sage_ray.search.driver import sweep
from sage_ray.search.plan import plan
from sage_ray.search.study_budgets import StudyBudgets
from sage_ray.search.trainable import TrialRun, TrialTask
from sage_ray.stages.store import StageStore
from sage_ray.study.space import load_space
from sage_ray.terminal.cli import call
from sage_ray.training.footprint import REGRESSOR_BYTES, StageFootprint, footprints

WIDE = {"segmenter.width": 12, "generator.width": 12, "runtime.pictures": False, "runtime.snapshot_seconds": 0}
TOLERANCE = 0.15
"""Of the forecast: best weights that two snapshots share, and the size of records, are not known beforehand."""
Usage = namedtuple("Usage", "total used free")


def tiny(*sets: str) -> ExperimentConfig:
    return tiny_config("pretrain.epochs=2", "adversarial.epochs=3", "runtime.pictures=false", *sets)


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes that the disk has left; change the one entry."""
    left = [10**15]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**15, 0, left[0]))
    return left


@pytest.mark.parametrize("preset", [name for name in shipped("preset") if name.startswith("tiny_")])
@pytest.mark.parametrize("sets", [(), ("evaluation.ema_decay=0.9",)])
def test_the_footprint_of_a_stage_is_that_of_its_snapshot(home: Home, preset: str, sets: tuple[str, ...]) -> None:
    if preset == "tiny_gan":  # it has no segmenter to average
        sets = ()
    words = as_sets(SMALLEST | {"runtime.pictures": False})
    config = resolve(preset, sets=[*words, *sets]).config
    config = config.with_values({f"{p}.epochs": min(1, config.phase(p).epochs) for p in ("pretrain", "adversarial")})
    if config.adversarial.epochs:
        config = config.with_values({"adversarial.freeze_epochs": 0})
    if config.render.train_on_pairs:
        config = config.with_values({"render.epochs": 1, "render.pairs": 2, "pretrain.batch_size": 2})
    record = run(config, home, "r", mirror=False)
    for phase, key in record.stage_keys.items():
        want = footprints(config)[phase]
        state = (home.stages / key / "1" / "state.safetensors").stat().st_size
        best = [path.stat().st_size for path in (home.stages / key).glob("best-*")]
        assert phase == "render" or state == pytest.approx(want.state, rel=0.05)
        assert sum(best) == pytest.approx(want.best, rel=0.05) and len(best) == (phase != "render")
        # What learns the materials is small beside any adversary but a test's, and rounded up.
        assert phase != "render" or 0 < want.state - state < REGRESSOR_BYTES


def test_what_makes_extra_pairs_needs_its_room_until_it_is_there(home: Home) -> None:
    plain = tiny_config(preset="tiny_attention_unet")
    paired = {
        preset: plain.with_values({"data.extra_pairs": f"preset:{preset}?pairs=9", "pretrain.synthetic_share": 0.5})
        for preset in ("tiny_sage_gan", "tiny_diffrender")
    }
    own = run_need(plain, home)
    gan, renderer = (run_need(config, home) for config in paired.values())
    maker = run_need(resolve("tiny_sage_gan", sets=["data.image_size=[32,32]"]).config, home)
    pairs = 9 * 32 * 32 * 2  # an image and a mask each
    assert gan.stages == own.stages + maker.stages + pairs and gan.writing == maker.writing
    assert own.stages < renderer.stages < gan.stages
    there = run_need(paired["tiny_sage_gan"], home, made=lambda phase, epochs: True)
    assert there == own


def test_full_width_snapshots_have_the_size_that_was_measured() -> None:
    sizes = footprints(resolve("sage_gan_paper").config)
    assert {phase: round((part.state + part.best) / 1e9, 2) for phase, part in sizes.items()} == {
        "pretrain": 0.5, "adversarial": 1.08,
    }  # fmt: skip


def test_the_forecast_of_a_plan_is_what_the_study_leaves(home: Home, tmp_path: Path) -> None:
    budgets = {"pretrain.epochs": {"categorical": [1, 4]}, "adversarial.lambda_cycle": {"categorical": [1.0, 2.0]}}
    words = {"space": budgets, "points": [], "sampler": {"name": "grid"}, "trials": None}
    spec = load_space(write_space(tmp_path, base=WIDE | {"adversarial.epochs": 3}, **words))
    before = plan(spec, home)
    assert before.disk_free_gb is not None and before.disk_free_gb > 0
    study = Study(home, spec, running=4)
    StudyBudgets(study.folder, spec).open([])
    for number in range(4):
        study.train(number)
    assert size(home.stages) / 1e9 == pytest.approx(before.disk_parts["snapshots"], rel=TOLERANCE)
    assert size(home.stages) <= before.disk_parts["snapshots"] * 1e9 * 1.02
    unmirrored = before.disk_gb - 1e-3  # MLflow's database
    assert size(home.path) / 1e9 == pytest.approx(unmirrored, rel=TOLERANCE)
    after = plan(spec, home)
    assert after.disk_parts["snapshots"] == 0 and after.epochs_stored == before.epochs_with_reuse


def test_kept_are_the_newest_two_and_starts() -> None:
    footprint = StageFootprint(state=100, best=10)
    assert [kept_bytes(footprint, epochs) for epochs in (1, 2, 9)] == [
        count * (110 + epochs * EPOCH_BYTES) for count, epochs in ((1, 1), (2, 2), (2, 9))
    ]
    assert kept_bytes(footprint, 9, [3, 8, 9, 12]) == 3 * (110 + 9 * EPOCH_BYTES)


def test_a_run_that_does_not_fit_is_refused_before_it_trains(home: Home, free: list[int]) -> None:
    need = run_need(tiny(), home)
    free[0] = need.stages + need.writing + need.results - 1
    reports: list[object] = []
    with pytest.raises(
        NoSpace, match=r"not enough disk space: .*stages \(0\.00 GB free, 0\.00 GB needed\).*sage-ray gc"
    ):
        run(tiny(), home, "r", on_report=reports.append, mirror=False)
    assert not reports and not list(home.stages.glob("*/*"))
    free[0] += 1
    record = run(tiny(), home, "r", mirror=False)
    assert record.state == "COMPLETE"
    # What is stored needs no room again.
    free[0] = result_bytes(tiny(), home)
    assert run(tiny(), home, "again", mirror=False).reused_epochs == 5


def test_the_command_says_so_in_one_line_and_ends_with_2(
    home: Home, free: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    free[0] = 0
    words = [word for text in as_sets(SMALLEST) for word in ("--set", text)]
    assert call(["train", "--preset", "tiny_sage_gan", *words, "--home", str(home.path), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("not enough disk space: ") and len(error.splitlines()) == 1


def test_stages_on_another_disk_are_asked_for_there(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = StageStore(tmp_path / "share")
    monkeypatch.setattr(disk_space, "_device", lambda folder: hash(folder))
    monkeypatch.setattr(disk_space, "free_bytes", lambda folder: 100 if folder == other.local_root else 10)
    check_space(Need(stages=60, writing=40, results=10), home, other)
    with pytest.raises(NoSpace, match="share"):
        check_space(Need(stages=61, writing=40, results=10), home, other)
    with pytest.raises(NoSpace, match="home"):
        check_space(Need(stages=1, writing=1, results=11), home, other)


def test_an_object_store_is_not_asked_and_that_is_said(home: Home, free: list[int]) -> None:
    store = StageStore(home.stages)
    store.local_root = None
    free[0] = 5
    said: list[str] = []
    check_space(Need(stages=10**9, writing=0, results=5), home, store, said.append)
    assert len(said) == 1 and "not checked" in said[0]


def test_a_trial_without_room_halts_the_study_instead_of_failing(
    home: Home, tmp_path: Path, free: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    space = tiny_space(tmp_path)
    (place, *_) = space.run_grid(0)
    one = TrialRun(run_id=place.run_id, arm=None, fold=None, config=space.config({}, 0))
    task = TrialTask(study="tiny", number=0, home=str(home.path), objectives=space.objectives, runs=(one,))
    told: list[dict[str, object]] = []
    monkeypatch.setattr(trainable.tune, "report", told.append)
    free[0] = 0
    trainable.run_trial({"task": task})
    assert [(t.get("trial_halted"), "not enough disk space" in str(t.get("study_fault"))) for t in told] == [(1, True)]


def test_a_sweep_without_room_is_refused_before_ray_starts(home: Home, tmp_path: Path, free: list[int]) -> None:
    free[0] = 0
    with pytest.raises(NoSpace, match="not enough disk space"):
        sweep(tiny_space(tmp_path), home)
    assert not home.run_ids()


GAN = (
    "preset:tiny_sage_gan?pairs=40&pretrain.epochs=1&adversarial.epochs=1&segmenter.width=12&segmenter.depth=2"
    "&generator.width=12&generator.depth=2&discriminators.width=8"
)


def of_pairs(source: str, *sets: str) -> ExperimentConfig:
    sets = (f"data.extra_pairs={source}", "pretrain.synthetic_share=0.5", *sets)
    return tiny_config("pretrain.epochs=1", "runtime.pictures=false", *sets, preset="tiny_attention_unet")


@pytest.mark.parametrize(
    "source",
    [GAN, "preset:tiny_diffrender?pairs=60&render.engine=shader&render.epochs=1", "synthetic://ordered?num=80&seed=9"],
)
def test_room_is_reserved_for_the_stages_that_extra_pairs_need(home: Home, source: str, free: list[int]) -> None:
    config = of_pairs(source)
    need, alone = (run_need(each, home, training_images=11) for each in (config, tiny_config(
        "pretrain.epochs=1", "runtime.pictures=false", preset="tiny_attention_unet"
    )))  # fmt: skip
    assert need.stages > alone.stages
    free[0] = need.stages + need.writing + need.results - 1
    with pytest.raises(NoSpace):
        run(config, home, "r", mirror=False)
    assert not list(home.stages.glob("*/*")), "nothing is trained first"
    free[0] += 1
    assert run(config, home, "r", mirror=False).state == "COMPLETE"
    assert size(home.stages) == pytest.approx(need.stages, rel=TOLERANCE)
    # What is stored needs no room again, neither what was trained first nor the pairs.
    more = config.with_values({"pretrain.epochs": 2})
    free[0] = run_need(more, home, made=lambda stage, epochs: True).stages + alone.writing + result_bytes(more, home)
    assert run(more, home, "more", mirror=False).state == "COMPLETE"


def test_a_plan_counts_the_pairs_and_what_makes_them(home: Home, tmp_path: Path) -> None:
    pairs = {"data.extra_pairs": GAN, "pretrain.synthetic_share": 0.5, "adversarial.epochs": 0}
    space = {"segmentation_loss.alpha": {"categorical": [0.3, 0.5]}}
    spec = tiny_space(tmp_path, base=WIDE | pairs, space=space, trials=2, points=[], sampler={"name": "grid"})
    before = plan(spec, home)
    study = Study(home, spec, running=2)
    StudyBudgets(study.folder, spec).open([])
    for number in range(2):
        study.train(number)
    assert size(home.stages) / 1e9 == pytest.approx(before.disk_parts["snapshots"], rel=TOLERANCE)
    assert plan(spec, home).disk_parts["snapshots"] == 0
