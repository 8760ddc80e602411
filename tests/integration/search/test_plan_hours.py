"""Hours of a plan from recorded runs and from a pilot, its budget, and the forecast that a study keeps."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from design_cases import ARMS, changed, load
from study_cases import Study, tiny_space
from sweep_cases import BASE
from tiny_cases import tiny_config

from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.runtime.devices import this_machine
from sage_ray.runtime.launch import run
from sage_ray.search import pilot as pilot_module
from sage_ray.search import plan as plan_module
from sage_ray.search.epoch_cost import Images, Measured
from sage_ray.search.forecast import note_forecast
from sage_ray.search.pilot import pilot
from sage_ray.search.placement import placed
from sage_ray.search.plan import plan
from sage_ray.search.planned_runs import START_S, Clock, trial_place
from sage_ray.search.planned_taken import FILE, planned_and_taken
from sage_ray.search.recorded_epochs import recorded_epochs
from sage_ray.study.space import Space, load_space
from sage_ray.terminal.plan_answers import time_lines


def with_seconds(run: RunFolder, seconds: dict[int, float], total: float) -> None:
    """Give a run's epochs these seconds, as if another machine had trained them, and the run `total` of them."""
    path = run.path / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    text = [json.dumps(line | {"seconds": seconds.get(line["epoch"], line["seconds"])}) for line in lines]
    path.write_text("\n".join(text) + "\n")
    run.update(seconds=total)


def place_of(space: Space) -> dict[str, Any]:
    spec, placement = placed(space, this_machine())
    return trial_place(spec.base, placement)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Space]:
    """A home with one finished trial of 2 + 3 epochs, and the space of it, of 4 trials, one at a time."""
    folder = tmp_path_factory.mktemp("trained")
    space = tiny_space(folder, concurrency=1)
    space = load_space(folder / "tiny.yaml", ["pretrain.epochs=2", "adversarial.epochs=3"])
    space, _ = placed(space, this_machine())
    study = Study(Home(folder / "home"), space, running=1)
    with_seconds(study.train(0), {1: 100.0, 2: 10.0, 3: 200.0, 4: 20.0, 5: 22.0}, total=100.0 + 10 + 200 + 20 + 22 + 5)
    return study.home, space


def test_without_a_run_the_time_is_not_known(home: Home, tmp_path: Path) -> None:
    found = plan(tiny_space(tmp_path), home, price=2.0)
    assert (found.gpu_hours, found.worker_hours, found.wall_hours, found.price) == (None, None, None, None)
    with pytest.raises(UserError, match="give --pilot too"):
        plan(tiny_space(tmp_path), home, budget_hours=1.0)


def test_first_epochs_are_left_out_and_the_rest_of_a_run_counts(trained: tuple[Home, Space]) -> None:
    home, space = trained
    found = {m.kind: m for m in recorded_epochs(home, place_of(space))}
    assert {kind: m.seconds for kind, m in found.items()} == {"pretrain": 10.0, "adversarial": 21.0}
    assert {kind: m.epochs for kind, m in found.items()} == {"pretrain": 1, "adversarial": 2}
    assert all(m.rest_s == pytest.approx(5.0) for m in found.values())


def test_what_a_run_spent_on_its_extra_pairs_is_no_rest_of_it(trained: tuple[Home, Space]) -> None:
    home, space = trained
    run = RunFolder(home.runs / "tiny-t0000-s0")
    run.update(extra_pairs={"source": "stage:aa", "key": "aa", "spent_seconds": 3.0})
    found = recorded_epochs(home, place_of(space))
    run.update(extra_pairs=None)
    assert all(m.rest_s == pytest.approx(2.0) for m in found)


def test_hours_are_those_of_the_stages_that_are_left(trained: tuple[Home, Space]) -> None:
    home, space = trained
    found = plan(space, home, price=2.0)
    # Trial 0 is stored; phase 1 is too; each of the 3 others has a phase 2 of 3 epochs.
    held = 3 * 3 * 21.0 + 4 * 5.0
    assert found.worker_hours == pytest.approx(held / 3600, rel=1e-3) and found.gpu_hours == 0
    assert found.wall_hours == pytest.approx((held + START_S) / 3600, rel=1e-3)
    assert found.price == pytest.approx(2.0 * held / 3600, rel=1e-3) and found.price_per == "hour of a worker (1 CPU)"
    assert found.time_basis == ["3 epochs of tiny-t0000-s0"]


def test_replayed_epochs_are_counted_where_they_were_trained(trained: tuple[Home, Space], tmp_path: Path) -> None:
    home, space = trained
    runs = len(recorded_epochs(home, place_of(space)))
    other = RunFolder(home.runs / "copy")
    (home.runs / "copy").mkdir()
    source = RunFolder(home.runs / "tiny-t0000-s0")
    for name in ("config.yaml", "record.json"):
        (other.path / name).write_bytes((source.path / name).read_bytes())
    other.artifacts.mkdir()
    (other.artifacts / "manifest.parquet").write_bytes((source.artifacts / "manifest.parquet").read_bytes())
    lines = [json.dumps(line | {"replayed": True}) for line in source.metrics()]
    (other.path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert len(recorded_epochs(home, place_of(space))) == runs
    (other.path / "record.json").write_text("{}")  # a damaged one is passed over
    assert len(recorded_epochs(home, place_of(space))) == runs


def test_a_budget_keeps_the_first_trials(trained: tuple[Home, Space]) -> None:
    home, space = trained
    each = 3 * 21.0 + 5.0
    fits = plan(space, home, budget_hours=(5.0 + 2 * each + 1) / 3600).trim
    assert fits is not None and (fits.trials, fits.of, fits.sets) == (3, 4, ("trials=3",))
    whole = plan(space, home, budget_hours=1.0).trim
    assert whole is not None and (whole.trials, whole.sets) == (4, ())
    with pytest.raises(UserError, match="the first trial takes .* hours: --budget-gpu-hours 0.0001"):
        plan(space, home, budget_hours=0.0001)


def test_an_ablation_is_trimmed_to_whole_seeds(trained: tuple[Home, Space], tmp_path: Path) -> None:
    home, _ = trained
    small = BASE | {"data.path": "synthetic://ordered?num=16&size=32&seed=0"}
    design = load(changed(ARMS, base__set=small, test=False, arms__dice=None, seeds=[4, 2, 7]), tmp_path)
    whole = plan(design, home)
    assert whole.worker_hours is not None
    trim = plan(design, home, budget_hours=0.7 * whole.worker_hours).trim
    assert trim is not None and (trim.seeds, trim.trials, trim.sets) == ((4, 2), 4, ("seeds=[4,2]",))
    with pytest.raises(UserError, match="one seed of all arms takes"):
        plan(design, home, budget_hours=0.1 * whole.worker_hours)


def test_a_pilot_measures_each_kind_of_epoch_and_leaves_nothing(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pilot_module, "PILOT_S", 0.2)
    space = tiny_space(tmp_path, concurrency=1)
    space = load_space(
        tmp_path / "tiny.yaml", ["pretrain.epochs=2", "adversarial.epochs=3", "adversarial.freeze_epochs=1"]
    )
    space, _ = placed(space, this_machine())
    found = pilot(space.base, home, place_of(space), lambda line: None)
    assert [m.kind for m in found] == ["pretrain", "frozen", "adversarial"]
    assert all(m.seconds > 0 and m.rest_s is not None and m.source == "a pilot" for m in found)
    assert [path.name for path in home.path.iterdir() if not path.name.startswith(".")] == ["cache"]
    with pytest.raises(UserError, match="the pilot would run on CPU, .*, the trials on NVIDIA H100: --pilot"):
        pilot(space.base, home, place_of(space) | {"gpu": "NVIDIA H100"}, lambda line: None)
    told = plan(space, home, pilot=True)
    assert told.worker_hours and told.time_basis == ["a pilot: a few steps of each phase of the base, one trial alone"]
    study = Study(home, space, running=1)
    study.train(0)
    measured = {m.kind: m.seconds for m in recorded_epochs(home, place_of(space))}
    for m in found:
        assert 0.1 < m.seconds / measured[m.kind] < 10, m.kind  # machines are shared: the order of magnitude


SMALL_GAN = (
    "preset:tiny_sage_gan?pairs=8&pretrain.epochs=1&adversarial.epochs=4&adversarial.freeze_epochs=0"
    "&generator.width=4&generator.depth=2&discriminators.width=4"
)
RENDERED = "preset:tiny_diffrender?pairs=8&render.engine=shader&render.epochs=3"


def recording(measured: list[Measured]) -> type[Clock]:
    """The clock of a plan, which notes what it was given."""

    class Noting(Clock):
        def __init__(self, spec: Any, placement: Any, given: Any, store: Any, **more: Any) -> None:
            measured.extend(given)
            super().__init__(spec, placement, given, store, **more)

    return Noting


def with_pairs(source: str) -> dict[str, Any]:
    return {"set": {"data.extra_pairs": source, "pretrain.synthetic_share": 0.5}}


def test_a_pilot_measures_what_makes_the_extra_pairs_of_an_arm_too(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pilot_module, "PILOT_S", 0.05)
    small = {**BASE, "pretrain.epochs": 2, "adversarial.epochs": 0}
    arms = {"full": {}, "generated": with_pairs(SMALL_GAN), "rendered": with_pairs(RENDERED)}
    design = load(changed(ARMS, base__set=small, arms=arms, test=False, seeds=[0]), tmp_path)
    lines: list[str] = []
    measured: list[Measured] = []
    monkeypatch.setattr(plan_module, "Clock", recording(measured))
    told = plan(design, home, pilot=True, say=lines.append)
    seconds = {m.kind: m.seconds for m in measured}
    rest = measured[0].rest_s
    assert set(seconds) == {"pretrain", "adversarial", "render"} and rest is not None
    least = 3 * 2 * seconds["pretrain"] + 4 * seconds["adversarial"] + 3 * seconds["render"] + 3 * rest
    assert told.worker_hours and told.worker_hours * 3600 == pytest.approx(least, rel=0.5) and told.not_in_hours == []
    (basis,) = told.time_basis
    assert "a pilot of what makes the pairs of arm generated" in basis and "arm rendered" in basis
    assert sum("a few steps of render " in line for line in lines) == 1
    assert not home.run_ids() and not list(home.stages.glob("*/*")), "nothing of a pilot is kept"


def test_what_nothing_was_measured_of_is_said_and_not_silently_left_out(home: Home, tmp_path: Path) -> None:
    small = {**BASE, "pretrain.epochs": 2, "adversarial.epochs": 0}
    arms = {"full": {}, "rendered": with_pairs(RENDERED)}
    design, _ = placed(load(changed(ARMS, base__set=small, arms=arms, test=False, seeds=[0]), tmp_path), this_machine())
    run(design.base, home, "recorded", mirror=False, launcher="inline")
    found = plan(design, home)
    assert found.worker_hours and found.not_in_hours == ["rendering by shader at 32x32, 3 epochs"]
    assert any("not in these hours" in line and "rendering by shader" in line for line in time_lines(found, None))


def test_a_pilot_of_a_base_with_extra_pairs_does_not_train_what_makes_them(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pilot_module, "PILOT_S", 0.05)
    pairs = {"data.extra_pairs": SMALL_GAN.replace("epochs=4", "epochs=4000"), "pretrain.synthetic_share": 0.5}
    space, _ = placed(tiny_space(tmp_path, base={**pairs, "adversarial.epochs": 0}), this_machine())
    found = pilot(space.base, home, place_of(space), lambda line: None)
    assert [m.kind for m in found] == ["pretrain"] and found[0].rest_s is not None and found[0].rest_s < 30


def test_a_system_without_a_segmenter_is_measured_too(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pilot_module, "PILOT_S", 0.05)
    space, _ = placed(tiny_space(tmp_path, concurrency=1), this_machine())
    gan = tiny_config("runtime.pictures=false", "adversarial.epochs=1", preset="tiny_gan")
    gan = gan.with_sections(runtime=space.base.runtime)
    found = pilot(gan, home, place_of(space), lambda line: None)
    assert [m.kind for m in found] == ["adversarial"] and found[0].seconds > 0


OTHERS = {
    "tiny_gan": ("adversarial.epochs=2",),
    "tiny_cyclegan": ("adversarial.epochs=2", "segmenter.blocks=1", "generator.blocks=1"),
    # With what makes its pairs, which would be trained first, a pilot would take as long as a run.
    "tiny_diffrender": ("render.epochs=1000000", "render.pairs=12", "pretrain.epochs=2"),
    "tiny_attention_unet": (
        *("data.extra_pairs=preset:tiny_sage_gan?adversarial.epochs=1000000", "pretrain.synthetic_share=0.5"),
        "pretrain.epochs=2",
    ),
}


@pytest.mark.parametrize("preset", OTHERS)
def test_a_pilot_knows_systems_without_segmenter_and_trains_nothing_that_makes_pairs(
    preset: str, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pilot_module, "PILOT_S", 0.01)
    config = tiny_config(*OTHERS[preset], "runtime.device=cpu", "runtime.precision=fp32", preset=preset)
    place = {"gpu": None}
    (found,) = pilot(config, home, place, lambda line: None)
    assert found.seconds > 0 and found.rest_s is not None
    assert found.kind == ("adversarial" if config.adversarial.epochs else "pretrain")
    wanted = 12 if preset == "tiny_diffrender" else 11
    assert found.likeness.aspects["number of images"] == Images(wanted, 2)


def test_a_pilot_of_long_steps_takes_a_part_of_each_image(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pilot_module, "PILOT_S", 0.05)
    monkeypatch.setattr(pilot_module, "STEP_S", 0.0)
    monkeypatch.setattr(pilot_module, "LEAST_SIDE", 16)
    space, _ = placed(tiny_space(tmp_path, concurrency=1), this_machine())
    found = pilot(space.base, home, place_of(space), lambda line: None)
    assert {m.source for m in found} == {"a pilot on 1/4 of the area of each image"}


def test_a_forecast_is_kept_and_compared(trained: tuple[Home, Space], tmp_path: Path) -> None:
    home, _ = trained
    space = tiny_space(tmp_path, name="later", trials=2)
    space, placement = placed(space, this_machine())
    study = Study(home, space, running=2)
    assert planned_and_taken("later", home) is None
    note_forecast(space, study.folder, placement)
    path = study.folder.path / FILE
    written = path.read_bytes()
    noted = json.loads(written)
    # Phase 1 of 1 epoch and two phases 2 of 1 epoch; a shorter phase 1 is no part of what is stored.
    assert (noted["trials"], noted["epochs_without_reuse"], noted["epochs_with_reuse"]) == (2, 4, 3)
    assert noted["wall_hours"] > 0 and noted["measured"] == ["tiny-t0000-s0"]
    assert planned_and_taken("later", home) is None  # no run has begun
    study.train(0)
    study.train(1)
    found = planned_and_taken("later", home)
    assert found is not None and found.epochs == found.planned_epochs and found.needed_epochs == 4
    assert f"took {found.epochs} epochs" in found.line() and f"saved {4 - found.epochs} of 4" in found.line()
    note_forecast(space, study.folder, placement)
    assert path.read_bytes() == written
    more, _ = placed(load_space(tmp_path / "later.yaml", ["trials=3"]), this_machine())
    note_forecast(more, study.folder, placement)
    noted = json.loads(path.read_bytes())
    # What was trained before the change is planned by now: it is no part of the new forecast, being stored.
    assert (noted["trials"], noted["epochs_before"]) == (3, found.epochs)
    after = planned_and_taken("later", home)
    assert after is not None and after.planned_epochs == found.epochs + 1 and after.epochs == found.epochs
    assert after.planned_hours is not None and after.planned_hours > noted["wall_hours"]
    # More seeds are a change of the forecast too, though not of the number of trials.
    seeds, _ = placed(load_space(tmp_path / "later.yaml", ["trials=3", "seeds=[0, 1]"]), this_machine())
    note_forecast(seeds, study.folder, placement)
    assert json.loads(path.read_bytes())["epochs_without_reuse"] == 12


def test_a_forecast_of_a_thousand_trials_is_quick_and_near_the_plan(
    trained: tuple[Home, Space], tmp_path: Path
) -> None:
    home, _ = trained
    space, placement = placed(tiny_space(tmp_path, name="long", trials=1000), this_machine())
    study = Study(home, space, running=0)
    started = time.process_time()
    note_forecast(space, study.folder, placement)
    assert time.process_time() - started < 3  # 0.2 s; without bounds it would be many times that
    noted, whole = json.loads((study.folder.path / FILE).read_text()), plan(space, home)
    assert noted["epochs_with_reuse"] == pytest.approx(whole.epochs_with_reuse, rel=0.02)
    assert noted["worker_hours"] == pytest.approx(whole.worker_hours, rel=0.05)
