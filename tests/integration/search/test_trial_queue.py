"""Whether a trial that left its place can go on: asked of real stages, leases and records."""

from __future__ import annotations

from pathlib import Path

from study_cases import Study, tiny_space

from sage_ray.record.home import Home
from sage_ray.search.trial_queue import StagesOfTrials
from sage_ray.stages.lease import stage_lease
from sage_ray.stages.store import StageStore


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
