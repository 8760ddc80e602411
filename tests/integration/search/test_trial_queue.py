"""Whether a trial that left its place can go on: asked of real stages, leases and records."""

from __future__ import annotations

from pathlib import Path

import torch
from study_cases import Study, tiny_space
from tiny_cases import tiny_config

from sage_ray.record.home import Home
from sage_ray.search.trial_queue import StagesOfTrials
from sage_ray.stages.lease import stage_lease
from sage_ray.stages.pair_stages import ends_of, pair_stages
from sage_ray.stages.pairs_in_work import being_made
from sage_ray.stages.store import Snapshot, StageStore


def test_a_trial_waits_for_the_stage_that_somebody_computes_and_for_nothing_else(home: Home, tmp_path: Path) -> None:
    study = Study(home, tiny_space(tmp_path), running=1)
    store, stages = StageStore(home.stages), StagesOfTrials(study.folder, study.space)
    assert stages.can_go_on(0), "it has no run yet"
    stopped = study.train(0, should_stop=lambda: True)
    key = stopped.read().stage_keys["adversarial"]
    assert stages.can_go_on(0), "nobody computes what it lacks"
    with stage_lease(store, key, lambda: False):
        assert not stages.can_go_on(0)
        record = (stopped.path / "record.json").read_bytes()
        for damaged in (record[:-20], b"", b"[]", b'{"state": 3}'):
            (stopped.path / "record.json").write_bytes(damaged)
            assert stages.can_go_on(0), "the trial itself says that its record is damaged"
        (stopped.path / "record.json").write_bytes(record)
        assert not stages.can_go_on(0)
    assert stages.can_go_on(0)


RENDERS = {
    "adversarial.epochs": 0,
    "render.train_on_pairs": True,
    "render.engine": "shader",
    "render.epochs": 1,
    "render.scenes": 1,
    "render.particles": [1, 2],
    "render.pairs": 4,
}


def test_a_trial_waits_until_the_pairs_are_rendered(home: Home, tmp_path: Path) -> None:
    """The last epoch of a stage of rendering is stored before its pairs are: its lease goes on."""
    study = Study(home, tiny_space(tmp_path, RENDERS, space={"pretrain.lr": {"float": [1e-5, 1e-3]}}), running=1)
    store, stages = StageStore(home.stages), StagesOfTrials(study.folder, study.space)
    stopped = study.train(0, should_stop=lambda: True)  # at the end of the only epoch, before a pair is rendered
    key = stopped.read().stage_keys["render"]
    assert store.latest(key, 1) == 1 and stages.can_go_on(0)
    with stage_lease(store, key, lambda: False):
        assert not stages.can_go_on(0)
    assert stages.can_go_on(0)


def test_extra_pairs_that_are_rendered_are_waited_for_likewise(tmp_path: Path) -> None:
    text = "preset:tiny_diffrender?pairs=4"
    config = tiny_config(f"data.extra_pairs={text}", "pretrain.synthetic_share=1", preset="tiny_attention_unet")
    store, keys = StageStore(tmp_path), pair_stages(config, "f", "s", {"device": "cpu"}).keys()
    assert list(keys) == ["render", "pairs"] and not being_made(config, keys, store)
    (key, end), *_ = ends_of(config, keys).values()
    store.save(Snapshot(key, end, {"a": torch.zeros(1)}, {}))
    with stage_lease(store, key, lambda: False):
        assert being_made(config, keys, store)
