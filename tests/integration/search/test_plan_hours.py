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

from sage_ray.errors import UserError
from sage_ray.record.home import Home
from sage_ray.record.run_folder import RunFolder
from sage_ray.runtime.devices import this_machine
from sage_ray.search import pilot as pilot_module
from sage_ray.search.forecast import note_forecast
from sage_ray.search.pilot import pilot
from sage_ray.search.placement import placed
from sage_ray.search.plan import plan
from sage_ray.search.planned_runs import START_S, trial_place
from sage_ray.search.planned_taken import FILE, planned_and_taken, planned_line
from sage_ray.search.recorded_epochs import recorded_epochs
from sage_ray.study.space import Space, load_space


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
    assert planned_line("later", home) is None
    note_forecast(space, study.folder, placement)
    path = study.folder.path / FILE
    written = path.read_bytes()
    noted = json.loads(written)
    # Phase 1 of 1 epoch and two phases 2 of 1 epoch; a shorter phase 1 is no part of what is stored.
    assert (noted["trials"], noted["epochs_without_reuse"], noted["epochs_with_reuse"]) == (2, 4, 3)
    assert noted["wall_hours"] > 0 and noted["measured"] == ["tiny-t0000-s0"]
    assert planned_line("later", home) is None  # no run has begun
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
