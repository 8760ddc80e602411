"""The stage store, its keys and its leases."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from sage_ray.config import resolve
from sage_ray.errors import SnapshotFailed
from sage_ray.stages import keys as keys_module
from sage_ray.stages.host_copy import HostCopy
from sage_ray.stages.keys import stage_keys
from sage_ray.stages.lease import held, lease_if_free, stage_lease
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


OFF = "adversarial.cycle_image_while_frozen=false"


def test_the_cycle_image_while_frozen_is_in_the_key_only_where_a_frozen_step_has_it() -> None:
    assert keys(OFF)["adversarial"] != keys()["adversarial"] and keys(OFF)["pretrain"] == keys()["pretrain"]
    for sets in (
        ["adversarial.freeze_epochs=0"],
        ["adversarial.lambda_cycle=0"],
        ["adversarial.mask_path=argmax"],
        ["adversarial.perceptual=none", "adversarial.weights.rec_image_l1=0"],
        ["adversarial.epochs=0"],
    ):
        assert keys(*sets, OFF) == keys(*sets), sets
    vgg = ["adversarial.perceptual=vgg19", "adversarial.weights.rec_image_l1=0"]
    assert keys(*vgg, OFF) != keys(*vgg)


@pytest.mark.parametrize("norm", ["batch", "group", "frozen"])
def test_batch_statistics_of_an_average_are_a_change_of_code_where_there_are_any(
    norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    averaged = [f"segmenter.norm={norm}", "evaluation.ema_decay=0.9"]
    now, plain = keys(*averaged), keys(averaged[0])
    others = tuple(change for change in keys_module.CODE_CHANGES if change.version != 3)
    monkeypatch.setattr(keys_module, "CODE_CHANGES", others)
    assert keys(averaged[0]) == plain
    assert all((now[phase] == key) == (norm != "batch") for phase, key in keys(*averaged).items())


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


def test_a_waiter_goes_on_when_the_stage_is_done(tmp_path: Path) -> None:
    answers = iter([False, True])
    with stage_lease(StageStore(tmp_path), "k", lambda: False):
        entered = False
        with stage_lease(StageStore(tmp_path), "k", lambda: next(answers)):
            entered = True
        assert entered and held(StageStore(tmp_path), "k")
    assert not held(StageStore(tmp_path), "k")


# best weights, once


def with_best(epoch: int, best_epoch: int) -> Snapshot:
    tensors = {"network.a": torch.full((64,), float(epoch)), "best.a": torch.full((64,), float(best_epoch))}
    return Snapshot("k", epoch, tensors, {"epoch": epoch, "best_epoch": best_epoch})


def best_files(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "k").glob("best-*"))


def test_best_weights_are_stored_once_a_change_and_go_with_their_last_snapshot(store: StageStore) -> None:
    assert store.local_root is not None
    writer = SnapshotWriter(store)
    for epoch, best in [(1, 1), (2, 1), (3, 1), (4, 4), (5, 4)]:
        writer.put(with_best(epoch, best))
        writer.flush()
        found = store.load_latest("k", 9)
        assert found is not None and found.epoch == epoch
        assert found.tensors["best.a"][0] == best and found.tensors["network.a"][0] == epoch
        assert len(best_files(store.local_root)) == len({1 if e < 4 else 4 for e in store.epochs("k")})
    writer.close()
    assert store.epochs("k") == [4, 5] and len(best_files(store.local_root)) == 1
    assert store.best_file("k", 4) == store.best_file("k", 5) == best_files(store.local_root)[0]


def test_a_damaged_file_of_best_weights_damages_its_snapshots_and_is_written_again(tmp_path: Path) -> None:
    said: list[str] = []
    store = StageStore(tmp_path, say=said.append)
    for epoch, best in [(1, 1), (2, 2), (3, 2)]:
        store.save(with_best(epoch, best))
    file = tmp_path / "k" / str(store.best_file("k", 3))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    found = store.load_latest("k", 9)
    assert found is not None and found.epoch == 1 and found.tensors["best.a"][0] == 1
    assert ["epoch 3" in said[0], "epoch 2" in said[1], store.epochs("k")] == [True, True, [1]]
    store.save(with_best(2, 2), best_sha=store_sha(file))
    again = store.load_latest("k", 9)
    assert again is not None and again.epoch == 2 and again.tensors["best.a"][0] == 2


def store_sha(path: Path) -> str:
    """A sha256 that begins as the name of a file of best weights, as a writer remembers it."""
    return path.stem.removeprefix("best-").ljust(64, "0")


def test_killed_between_best_weights_and_snapshot_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = StageStore(tmp_path)
    store.save(with_best(1, 1))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "_put_in_place", killed)
    with pytest.raises(KeyboardInterrupt):
        store.save(with_best(2, 2))
    monkeypatch.undo()
    assert len(best_files(tmp_path)) == 2 and store.epochs("k") == [1]
    found = store.load_latest("k", 9)
    assert found is not None and found.epoch == 1
    store.save(with_best(2, 2))
    assert len(best_files(tmp_path)) == 2 and store.load_latest("k", 9).tensors["best.a"][0] == 2  # type: ignore[union-attr]


def test_an_epoch_that_is_stored_already_gets_the_mark_all_the_same(store: StageStore) -> None:
    store.save(snapshot(1))
    store.save(snapshot(1, keep=True))
    for epoch in (2, 3, 4):
        store.save(snapshot(epoch))
    store.prune("k")
    assert store.epochs("k") == [1, 3, 4] and store.kept("k", 1)


def test_snapshots_of_the_first_release_load(tmp_path: Path) -> None:
    """Format 1: best weights stood in every state."""
    folder = tmp_path / "k" / "3"
    folder.mkdir(parents=True)
    state = save({"network.a": torch.ones(2), "best.a": torch.full((2,), 7.0)})
    (folder / STATE).write_bytes(state)
    meta = {"format_version": 1, "key": "k", "epoch": 3, "sha256": hashlib.sha256(state).hexdigest(), "meta": {"x": 1}}
    (folder / META).write_text(json.dumps(meta))
    (folder / "keep").touch()
    store = StageStore(tmp_path)
    found = store.load_latest("k", 9)
    assert found is not None and found.meta == {"x": 1} and found.tensors["best.a"].tolist() == [7, 7]
    for epoch in (4, 5, 6):
        store.save(with_best(epoch, 4))
        store.prune("k")
    assert store.epochs("k") == [3, 5, 6] and len(best_files(tmp_path)) == 1


# copies to the host


def test_a_snapshot_holds_what_was_put_while_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = StageStore(tmp_path)
    weights, history = torch.zeros(1000), [{"epoch": 1}]
    gate, save_now = threading.Event(), store.save

    def slow(*words: Any) -> str | None:
        assert gate.wait(30)
        return save_now(*words)

    monkeypatch.setattr(store, "save", slow)
    writer = SnapshotWriter(store)
    writer.put(Snapshot("k", 1, {"network.a": weights}, {"history": history}))
    weights += 1
    history.append({"epoch": 2})
    gate.set()
    writer.close()
    found = store.load_latest("k", 9)
    assert found is not None and not found.tensors["network.a"].any() and found.meta["history"] == [{"epoch": 1}]


def test_host_buffers_are_used_again_and_let_go() -> None:
    host = HostCopy()
    first = host.take({"a": torch.ones(3), "best.a": torch.ones(2)})()
    second = host.take({"a": torch.full((3,), 2.0), "best.a": torch.full((2,), 5.0)}, unchanged={"best.a"})()
    assert second["a"] is first["a"] and second["a"].tolist() == [2, 2, 2]
    assert second["best.a"] is first["best.a"] and second["best.a"].tolist() == [1, 1]
    other = host.take({"a": torch.ones(4), "b": torch.ones(1)}, unchanged={"a"})()
    assert other["a"].tolist() == [1, 1, 1, 1] and set(other) == {"a", "b"}
    layout = torch.ones(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    assert host.take({"a": layout})()["a"].stride() == layout.stride()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_copies_from_a_gpu_are_pinned_and_hold_the_state_of_their_moment() -> None:
    host = HostCopy()
    state = {"a": torch.zeros(64 << 20, device="cuda"), "step": torch.tensor(3.0)}
    for round_number in range(3):
        state["a"].fill_(round_number)
        wait = host.take(state)
        state["a"].fill_(99)  # launched at once, after the copy on the device
        whole = wait()
        assert whole["a"].is_pinned() and bool((whole["a"] == round_number).all())
        assert whole["step"].item() == 3


def test_a_lease_is_taken_if_free_and_a_dead_ones_is_taken_over(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    with lease_if_free(store, "k") as free:
        assert not free  # there is no such stage
    (tmp_path / "k").mkdir()
    with stage_lease(store, "k", lambda: False):
        assert held(store, "k")
        with lease_if_free(store, "k") as free:
            assert not free
    (tmp_path / "k" / "lease.json").write_text(json.dumps({"owner": "x", "host": socket.gethostname(), "pid": 2**30}))
    assert not held(store, "k")
    with lease_if_free(store, "k") as free:
        assert free and held(store, "k")
    assert not (tmp_path / "k" / "lease.json").exists()
