"""The stage store, its keys and its leases."""

from __future__ import annotations

import errno
import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch

from sage_ray.config import resolve
from sage_ray.errors import RunStopped, SnapshotFailed
from sage_ray.stages.keys import stage_keys
from sage_ray.stages.lease import stage_lease
from sage_ray.stages.store import META, STATE, Snapshot, StageStore
from sage_ray.stages.writer import SnapshotWriter

NUMERICS = {"device": "cpu", "precision": "fp32", "workers": 1, "threads": 1}


def snapshot(epoch: int, key: str = "k", keep: bool = False) -> Snapshot:
    return Snapshot(
        key, epoch, {"a": torch.full((3, 2), float(epoch)), "b": torch.tensor(epoch)}, {"epoch": epoch}, keep
    )


def keys(*sets: str, preset: str = "tiny_sage_gan") -> dict[str, str]:
    return stage_keys(resolve(preset=preset, sets=sets).config, "fingerprint", "split", NUMERICS)


@pytest.fixture(params=["folder", "uri"])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> StageStore:
    root = tmp_path / "stages"
    return StageStore(root if request.param == "folder" else root.as_uri())


def test_round_trip_and_latest(store: StageStore) -> None:
    for epoch in (1, 2, 5):
        store.save(snapshot(epoch))
    assert store.epochs("k") == [1, 2, 5]
    assert [store.latest("k", limit) for limit in (0, 1, 4, 5, 9)] == [0, 1, 2, 5, 5]
    found = store.load_latest("k", 4)
    assert found is not None and found.epoch == 2 and found.meta == {"epoch": 2}
    assert torch.equal(found.tensors["a"], torch.full((3, 2), 2.0)) and found.tensors["b"].item() == 2
    assert store.load_latest("other", 9) is None


@pytest.mark.parametrize("damage", ["truncate", "flip", "no_state", "no_meta"])
def test_damaged_snapshot_is_set_aside_and_an_older_one_used(tmp_path: Path, damage: str) -> None:
    said: list[str] = []
    store = StageStore(tmp_path, say=said.append)
    store.save(snapshot(1))
    store.save(snapshot(2))
    state = tmp_path / "k" / "2" / STATE
    if damage == "truncate":
        state.write_bytes(state.read_bytes()[:-3])
    elif damage == "flip":
        content = bytearray(state.read_bytes())
        content[-1] ^= 1
        state.write_bytes(bytes(content))
    elif damage == "no_state":
        state.unlink()
    else:
        (tmp_path / "k" / "2" / META).write_text("{")
    found = store.load_latest("k", 9)
    assert found is not None and found.epoch == 1
    assert len(said) == 1 and "epoch 2" in said[0]
    assert store.epochs("k") == [1]
    store.save(snapshot(2))
    assert store.latest("k", 9) == 2


def test_prune_keeps_marked_epochs_and_the_newest_two(store: StageStore) -> None:
    for epoch in range(1, 12):
        store.save(snapshot(epoch, keep=epoch == 3))
        store.prune("k")
    assert store.epochs("k") == [3, 10, 11]


def test_full_disk_leaves_the_old_snapshot_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = StageStore(tmp_path)
    store.save(snapshot(1))

    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    writer = SnapshotWriter(store)
    writer.put(snapshot(2))
    with pytest.raises(SnapshotFailed, match="No space left"):
        writer.close()
    monkeypatch.undo()
    assert store.epochs("k") == [1] and store.load_latest("k", 9) is not None
    assert [p.name for p in (tmp_path / "k").iterdir()] == ["1"]


def test_a_stage_key_ignores_its_own_epochs_and_what_cannot_matter() -> None:
    base = keys()
    assert keys("pretrain.epochs=3")["pretrain"] == base["pretrain"]
    assert keys("adversarial.epochs=3") == base
    assert keys("segmentation_loss.focal_gamma=3") == base  # w_focal is 0
    assert keys("adversarial.schedule.patience=3") == base  # the rule is constant
    assert keys("runtime.snapshot_seconds=7", "evaluation.select=last") == base
    assert keys("adversarial.lambda_cycle=3")["pretrain"] == base["pretrain"]
    assert keys("pretrain.handoff=last")["pretrain"] == base["pretrain"]


@pytest.mark.parametrize(
    "change",
    ["seed=1", "segmentation_loss.alpha=0.3", "pretrain.lr=1e-4", "segmenter.width=4", "data.mask_erosion=2"]
    + ["evaluation.ema_decay=0.9", "data.augment.hflip=0.1"],
)
def test_a_pretrain_key_feels_what_matters(change: str) -> None:
    base, changed = keys(), keys(change)
    assert changed["pretrain"] != base["pretrain"] and changed["adversarial"] != base["adversarial"]


@pytest.mark.parametrize("change", ["pretrain.epochs=3", "pretrain.handoff=last", "adversarial.lambda_cycle=2"])
def test_an_adversarial_key_feels_its_history(change: str) -> None:
    assert keys(change)["adversarial"] != keys()["adversarial"]


def test_numerics_data_and_split_are_in_the_key() -> None:
    config = resolve(preset="tiny_sage_gan").config
    base = stage_keys(config, "f", "s", NUMERICS)
    for other in (("g", "s", NUMERICS), ("f", "t", NUMERICS), ("f", "s", {**NUMERICS, "threads": 2})):
        assert stage_keys(config, *other)["pretrain"] != base["pretrain"]


def _hold(root: str, started: object, seconds: float) -> None:
    with stage_lease(StageStore(root), "k", lambda: False):
        started.set()  # type: ignore[attr-defined]
        time.sleep(seconds)


def test_a_lease_is_exclusive_and_passes_on_when_its_owner_is_killed(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("spawn")
    started = fork.Event()
    process = fork.Process(target=_hold, args=(str(tmp_path), started, 60.0))
    process.start()
    assert started.wait(120)
    said: list[str] = []
    with (
        pytest.raises(RunStopped),
        stage_lease(StageStore(tmp_path), "k", lambda: False, should_stop=lambda: bool(said), say=said.append),
    ):
        pytest.fail("the lease was given out twice")
    assert "waiting" in said[0]
    process.kill()
    process.join()
    with stage_lease(StageStore(tmp_path), "k", lambda: False):
        assert (tmp_path / "k" / "lease.json").exists()
    assert not (tmp_path / "k" / "lease.json").exists()


def test_a_waiter_goes_on_when_the_stage_is_done(tmp_path: Path) -> None:
    answers = iter([False, True])
    with stage_lease(StageStore(tmp_path), "k", lambda: False):
        entered = False
        with stage_lease(StageStore(tmp_path), "k", lambda: next(answers)):
            entered = True
        assert entered and (tmp_path / "k" / "lease.json").exists()
