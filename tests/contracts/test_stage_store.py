"""What the stage store keeps on a folder and in a bucket alike; what differs is counted: requests and copies."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from s3_cases import S3Server

from sage_ray import bucket_client
from sage_ray.errors import SnapshotFailed, StoreFailed
from sage_ray.stages.inventory import inventory
from sage_ray.stages.store import DAMAGED, META, STATE, Snapshot, StageStore
from sage_ray.stages.writer import SnapshotWriter


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path, s3: S3Server) -> str:
    return str(tmp_path) if request.param == "folder" else f"{s3.uri}/{tmp_path.name}"


def snapshot(epoch: int, best: int = 1, keep: bool = False, key: str = "k", shift: float = 0.0) -> Snapshot:
    tensors = {"network.a": torch.full((64,), epoch + shift), "best.a": torch.full((64,), float(best))}
    return Snapshot(key, epoch, tensors, {"epoch": epoch, "best_epoch": best}, keep)


def holds(found: Snapshot | None, epoch: int, best: int = 1, shift: float = 0.0) -> bool:
    assert found is not None
    values = found.tensors["network.a"][0].item(), found.tensors["best.a"][0].item()
    return (found.epoch, found.meta["epoch"], *values) == (epoch, epoch, epoch + shift, best)


def objects(store: StageStore) -> list[str]:
    return [entry.name for entry in store.objects.names("k")]


def best_files(store: StageStore) -> list[str]:
    return [name for name in objects(store) if name.startswith("k/best-")]


def test_snapshots_are_found_pruned_kept_and_dropped(root: str) -> None:
    store = StageStore(root)
    assert store.load_latest("k", 9) is None and store.epochs("k") == []
    for epoch in range(1, 12):
        store.save(snapshot(epoch, keep=epoch == 3))
        store.prune("k")
    other = StageStore(root)
    assert other.epochs("k") == [3, 10, 11] and other.kept("k", 3) and not other.kept("k", 10)
    assert [other.latest("k", limit) for limit in (2, 3, 10, 99)] == [0, 3, 10, 11]
    assert holds(other.load_latest("k", 10), 10) and holds(other.load_latest("k", 9), 3)
    other.keep("k", 10)
    other.keep("k", 5)
    assert other.kept("k", 10) and other.epochs("k") == [3, 10, 11] and not other.kept("k", 5)
    other.drop("k", [3, 10, 11])
    assert objects(other) == [] and other.load_latest("k", 99) is None


def test_best_weights_are_stored_once_per_change_and_go_with_their_last_snapshot(root: str) -> None:
    writer, store = SnapshotWriter(StageStore(root)), StageStore(root)
    for epoch, best in [(1, 1), (2, 1), (3, 1), (4, 4), (5, 4), (6, 6)]:
        writer.put(snapshot(epoch, best))
        writer.flush()
        assert holds(store.load_latest("k", 9), epoch, best)
        assert len(best_files(store)) == len({{1: 1, 2: 1, 3: 1, 4: 4, 5: 4, 6: 6}[e] for e in store.epochs("k")})
    writer.close()
    assert store.epochs("k") == [5, 6] and len(best_files(store)) == 2
    assert f"k/{store.best_file('k', 6)}" in best_files(store)


def test_best_weights_of_a_snapshot_of_another_worker_stay(root: str) -> None:
    one, other = StageStore(root), StageStore(root)
    for epoch in (1, 2):
        one.save(snapshot(epoch, best=1))
    other.save(snapshot(3, best=1))
    one.save(snapshot(4, best=4))
    one.drop("k", [1, 2])
    assert holds(StageStore(root).load_latest("k", 3), 3) and len(best_files(one)) == 2


@pytest.mark.parametrize("damage", ["truncated", "flipped", "no state", "meta", "best", "no best"])
@pytest.mark.parametrize("newest", [True, False])
def test_a_damaged_snapshot_goes_is_said_and_is_replaced(root: str, damage: str, newest: bool) -> None:
    said: list[str] = []
    store = StageStore(root, say=said.append)
    for epoch, best in [(1, 1), (2, 2), (3, 3)]:
        store.save(snapshot(epoch, best, keep=epoch == 2))
    hurt = 3 if newest else 2
    harm(store, damage, hurt)
    assert holds(store.load_latest("k", hurt), hurt - 1, hurt - 1)
    assert len(said) == 1 and f"epoch {hurt}: damaged" in said[0]
    assert store.epochs("k") == [epoch for epoch in (1, 2, 3) if epoch != hurt]
    again = StageStore(root)
    again.save(snapshot(hurt, hurt))
    assert holds(StageStore(root).load_latest("k", hurt), hurt, hurt)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "no state", "meta", "best", "no best"])
def test_a_damaged_snapshot_that_nobody_has_read_is_replaced_by_who_computes_its_epoch(root: str, damage: str) -> None:
    """Two workers of a stage: the second one's snapshot is not taken for a duplicate of what is damaged."""
    StageStore(root).save(snapshot(2, 2, keep=True))
    harm(StageStore(root), damage, 2)
    second = StageStore(root)
    second.save(snapshot(2, 2))
    assert holds(StageStore(root).load_latest("k", 2), 2, 2) and second.kept("k", 2)
    assert not [name for name in objects(second) if name.split("/")[1] == "2" and DAMAGED in name]


def harm(store: StageStore, damage: str, epoch: int) -> None:
    state, meta, best = f"k/{epoch}/{STATE}", f"k/{epoch}/{META}", f"k/{store.best_file('k', epoch)}"
    content = store.objects.read(state)
    if damage == "truncated":
        store.objects.write(state, content[:-3])
    elif damage == "flipped":
        store.objects.write(state, content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "meta":
        store.objects.write(meta, b"{")
    elif damage == "best":
        store.objects.write(best, b"x" * len(store.objects.read(best)))
    else:
        store.objects.delete([state if damage == "no state" else best])


def test_a_sound_snapshot_of_the_same_epoch_is_no_reason_to_lose_its_mark(root: str) -> None:
    store = StageStore(root)
    store.save(snapshot(1, keep=True))
    store.save(snapshot(1))
    store.save(snapshot(2))
    store.save(snapshot(2, keep=True))
    for epoch in (3, 4, 5):
        store.save(snapshot(epoch))
        store.prune("k")
    assert store.epochs("k") == [1, 2, 4, 5] and holds(store.load_latest("k", 1), 1)


def test_what_a_later_release_wrote_is_neither_used_nor_removed(root: str) -> None:
    said: list[str] = []
    store = StageStore(root, say=said.append)
    store.save(snapshot(1))
    store.save(snapshot(2))
    meta = store.objects.read(f"k/2/{META}").replace(b'"format_version": 2', b'"format_version": 3')
    store.objects.write(f"k/2/{META}", meta)
    assert holds(store.load_latest("k", 9), 1) and not said and store.epochs("k") == [1, 2]


def test_two_workers_and_a_reader_of_one_stage(root: str) -> None:
    """Both workers store the same epochs and prune, while a third reads: nothing is taken for damaged, nothing lost."""
    said: list[str] = []
    failed: list[BaseException] = []
    reading = threading.Event()

    def work() -> None:
        try:
            writer = SnapshotWriter(StageStore(root, say=said.append))
            for epoch in range(1, 13):
                writer.put(snapshot(epoch, best=epoch // 3))
            writer.close()
        except BaseException as error:
            failed.append(error)

    def read() -> None:
        store = StageStore(root, say=said.append)
        while not reading.is_set():
            found = store.load_latest("k", 99)
            if found is not None and not holds(found, found.epoch, found.epoch // 3):
                failed.append(AssertionError(found))

    threads = [threading.Thread(target=target) for target in (work, work, read)]
    for thread in threads:
        thread.start()
    for thread in threads[:2]:
        thread.join()
    reading.set()
    threads[2].join()
    assert not failed and not said
    store = StageStore(root)
    store.prune("k")
    assert store.epochs("k")[-2:] == [11, 12] and holds(store.load_latest("k", 99), 12, 4)


# buckets alone


@pytest.fixture
def bucket(s3: S3Server, tmp_path: Path) -> StageStore:
    store = StageStore(f"{s3.uri}/{tmp_path.name}")
    s3.requests.clear()
    return store


def test_requests_per_snapshot_and_per_load(s3: S3Server, bucket: StageStore) -> None:
    writer = SnapshotWriter(bucket)
    counts = []
    for epoch in range(1, 21):
        s3.requests.clear()
        writer.put(snapshot(epoch, best=epoch - epoch % 5))
        writer.flush()
        counts.append(len(s3.requests))
    assert max(counts) <= 9 and sorted(counts)[len(counts) // 2] <= 5 and sum(counts) / len(counts) <= 6
    s3.requests.clear()
    fresh = StageStore(bucket.root)
    assert holds(fresh.load_latest("k", 99), 20, 20) and s3.kinds == {"GET": 4}
    s3.requests.clear()
    for epoch in (5, 19, 99):
        fresh.latest("k", epoch)
    assert s3.kinds == {"GET": 3}  # one listing each
    assert not [query for method, _, query in s3.requests if method == "COPY"]


def test_a_worker_killed_at_any_request_leaves_what_was_there(s3: S3Server, bucket: StageStore) -> None:
    bucket.save(snapshot(1))
    for number in range(1, 5):
        left = [number]

        def killed(method: str, path: str, left: list[int] = left) -> tuple[int, str, str] | None:
            left[0] -= 1
            return None if left[0] > 0 else (403, "AccessDenied", "")

        s3.refuse = killed
        with pytest.raises(SnapshotFailed, match="no right to do this"):
            StageStore(bucket.root).save(snapshot(2, best=2))
        s3.refuse = lambda method, path: None
        said: list[str] = []
        found = StageStore(bucket.root, say=said.append).load_latest("k", 9)
        assert found is not None and not said and holds(found, found.epoch, found.epoch)
        assert found.epoch == (2 if number == 4 else 1)
    assert holds(bucket.load_latest("k", 9), 2, 2)


def test_a_bucket_that_does_not_answer_damages_nothing(
    s3: S3Server, bucket: StageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    bucket.save(snapshot(1))
    monkeypatch.setattr(bucket_client, "PATIENCE_S", 0.5)
    monkeypatch.setenv("AWS_TEST", bucket.root)
    store = StageStore(bucket.root, say=said.append)
    for part in (STATE, META, "best-"):
        s3.refuse = lambda method, path, part=part: (503, "SlowDown", "") if part in path else None
        with pytest.raises(StoreFailed, match="503"):
            store.load_latest("k", 9)
    s3.refuse = lambda method, path: (503, "SlowDown", "")
    store.prune("k")  # the next one does it
    store.drop("k", [1])
    s3.refuse = lambda method, path: None
    assert not said and holds(store.load_latest("k", 9), 1)


def test_a_snapshot_that_is_being_replaced_is_looked_at_twice(
    s3: S3Server, bucket: StageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other bits of the same epoch, as GPUs give: the reader comes between state and notes."""
    monkeypatch.setattr("sage_ray.stages.store.SECOND_LOOK_S", 2.0)
    said: list[str] = []
    bucket.save(snapshot(1))
    other = {entry.name: bucket.objects.read(entry.name) for entry in bucket.objects.names("k")}
    bucket.save(snapshot(1, shift=0.5))
    bucket.objects.write(f"k/1/{META}", other[f"k/1/{META}"])
    timer = threading.Timer(0.02, lambda: bucket.save(snapshot(1, shift=0.5)))
    store = StageStore(bucket.root, say=said.append)
    timer.start()
    found = store.load_latest("k", 9)
    timer.join()
    assert not said and holds(found, 1, shift=0.5)


def test_an_inventory_lists_once_and_asks_for_each_note(s3: S3Server, bucket: StageStore) -> None:
    for key in ("k", "l"):
        for epoch in (1, 2, 3):
            bucket.save(snapshot(epoch, best=2, keep=epoch == 1, key=key))
    bucket.objects.write("k/9/state.safetensors", b"half of a snapshot")
    bucket.objects.write("not-a-stage", b"")
    s3.requests.clear()
    first, second = inventory(bucket)
    assert len([query for _, _, query in s3.requests if "list-type" in query]) == 1 and s3.kinds["GET"] == 7
    assert (first.key, second.key) == ("k", "l") and first.snapshots.keys() == {1, 2, 3} and first.marked == {1}
    assert set(first.refers.values()) == set(first.best) and len(first.best) == 1 and first.leftovers == {"9": 18}
    assert [stage.key for stage in inventory(bucket, ["l", "none"])] == ["l"]
