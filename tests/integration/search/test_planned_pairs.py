"""Studies whose runs train for extra pairs first: what was planned, taken and saved is of the same stages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from study_cases import Study, tiny_space
from tiny_cases import tiny_config

from sage_ray.record.home import Home
from sage_ray.reports.cost_and_origin import cost_parts
from sage_ray.reports.evidence import read_study
from sage_ray.reports.page_parts import Bullets
from sage_ray.runtime.devices import this_machine
from sage_ray.runtime.disk_space import pair_bytes, run_need
from sage_ray.search import pilot as pilot_module
from sage_ray.search.epoch_cost import Measured
from sage_ray.search.forecast import note_forecast
from sage_ray.search.placement import placed
from sage_ray.search.plan import plan
from sage_ray.search.planned_taken import planned_and_taken
from sage_ray.stages.store import StageStore

GAN = (
    "preset:tiny_sage_gan?pairs=11&pretrain.epochs=1&adversarial.epochs=2&segmenter.width=4&segmenter.depth=2"
    "&generator.width=4&generator.depth=2&generator.style_dim=4&discriminators.width=4&discriminators.heads=1"
    "&discriminators.head_dim=4&adversarial.freeze_epochs=0"
)
BASE = {
    **{"pretrain.epochs": 2, "adversarial.epochs": 0, "data.extra_pairs": GAN, "pretrain.synthetic_share": 0.5},
    **{"runtime.snapshot_seconds": 0},
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Two trials that share a GAN of 1 + 2 epochs; the first was stopped in the middle of it and went on."""
    folder = tmp_path_factory.mktemp("study")
    rates = {"pretrain.lr": {"categorical": [1e-3, 2e-3]}}
    space = tiny_space(folder, BASE, space=rates, sampler={"name": "grid"}, trials=2, concurrency=1)
    space, placement = placed(space, this_machine())
    made = Study(Home(folder / "home"), space, running=2)
    note_forecast(space, made.folder, placement)
    stops: Iterator[bool] = iter([False, True])
    begun = made.train(0, should_stop=lambda: next(stops)).read()
    assert begun.state == "PRUNED" and begun.epoch == 0
    made.train(0)
    made.train(1)
    return made


def test_planned_taken_and_saved_count_the_same_stages(study: Study) -> None:
    found = planned_and_taken("tiny", study.home)
    assert found is not None
    # The GAN's 3 epochs once and 2 of each trial; each trial by itself would take 3 + 2.
    assert (found.planned_epochs, found.epochs, found.needed_epochs, found.saved_epochs) == (7, 7, 10, 3)
    assert "planned 7 epochs" in found.line() and "took 7 epochs" in found.line()
    assert "reuse saved 3 of 10 epochs" in found.line()
    first, second = (run.read() for run in (study.folder.run_folders(study.space, n)[0] for n in (0, 1)))
    assert first.extra_pairs is not None and second.extra_pairs is not None
    # Of the attempt that finished: one epoch was there from the attempt before.
    assert (first.extra_pairs["trained_epochs"], first.extra_pairs["stored_epochs"]) == (1, 2)
    assert (second.extra_pairs["trained_epochs"], second.extra_pairs["stored_epochs"]) == (0, 3)
    told = [
        line for part in cost_parts(read_study("tiny", study.home)) if isinstance(part, Bullets) for line in part.items
    ]
    assert "Beside these, 3 epochs were trained for extra pairs." in told


def test_a_pilot_trains_nothing_for_extra_pairs(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pilot_module, "PILOT_S", 0.05)
    pairs = GAN.replace("adversarial.epochs=2", "adversarial.epochs=100000")
    sets = (f"data.extra_pairs={pairs}", "pretrain.synthetic_share=1.0", "pretrain.epochs=2")
    place = {"gpu": None}
    found: list[Measured] = pilot_module.pilot(
        tiny_config(*sets, preset="tiny_attention_unet"), home, place, lambda line: None
    )
    assert [m.kind for m in found] == ["pretrain"] and found[0].rest_s is not None
    rendered = tiny_config("render.epochs=100000", "pretrain.epochs=1", preset="tiny_diffrender")
    assert [m.kind for m in pilot_module.pilot(rendered, home, place, lambda line: None)] == ["pretrain"]


def stored_bytes(home: Home) -> int:
    return sum(path.stat().st_size for path in home.stages.rglob("*") if path.is_file())


def test_the_disk_forecast_has_what_makes_the_pairs_and_the_pairs(study: Study, home: Home) -> None:
    planned = plan(study.space, home)
    assert stored_bytes(study.home) < planned.disk_parts["snapshots"] * 1e9 < 1.2 * stored_bytes(study.home)
    assert plan(study.space, study.home).disk_parts["snapshots"] == 0
    first = study.folder.run_folders(study.space, 0)[0]
    need, own = run_need(first.config(), home), run_need(tiny_config(preset="tiny_attention_unet"), home)
    assert need.stages > own.stages and need.writing > own.writing
    store, record = StageStore(study.home.stage_store), first.read()
    assert run_need(first.config(), home, record.stored_in(store), made=record.pairs_stored_in(store)).stages == 0
    assert pair_bytes(first.config(), 0) == 11 * 32 * 32 * 2
